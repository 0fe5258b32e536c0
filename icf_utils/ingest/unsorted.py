"""A heap of DICOM files of many visits, told apart by their StudyInstanceUID. Reads the beginning of each file."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from icf_utils.dicom.charsets import character_sets
from icf_utils.dicom.confidentiality import TABLE, is_identifying
from icf_utils.dicom.elements import SPECIFIC_CHARACTER_SET, Scan
from icf_utils.dicom.header import STUDY_INSTANCE_UID, is_bare_dataset, is_dataset, read_head, uid_text
from icf_utils.dicom.values import keyword_tag, plain_value
from icf_utils.errors import IcfError, InputRefused, InvalidSetting, shown
from icf_utils.progress import SILENT, Progress
from icf_utils.receiver.identify import study_key
from icf_utils.results import Notice
from icf_utils.sources.selection import files_below

#: A field beside the keywords: text that follows from the StudyInstanceUID and does not tell it.
STUDY_KEY = "study_key"

_ALWAYS = frozenset({0x00080016, 0x00080018, STUDY_INSTANCE_UID, SPECIFIC_CHARACTER_SET})


@dataclass(frozen=True)
class HeapVisit:
    """The files of one StudyInstanceUID by relative name, sorted.

    ``values`` are those of the keywords that were asked for; ``differing`` the keywords that the files disagree about.
    """

    study_uid: str
    files: tuple[str, ...]
    values: Mapping[str, str]
    differing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Heap:
    """What a heap holds. ``visits`` are sorted by their first file, ``skipped`` names the files that are of none.

    ``unreadable`` are ``(name, reason)`` of files that nobody can tell anything about.
    """

    visits: tuple[HeapVisit, ...]
    skipped: tuple[Notice, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()


@dataclass
class _Found:
    files: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    differing: set[str] = field(default_factory=set)


def keyword_tags(keywords: Collection[str], allow_identifying: bool = False) -> dict[str, int]:
    """The tags of DICOM keywords, without our own ``study_key``.

    Raises :class:`~icf_utils.errors.InvalidSetting` for what is none, and for one that can identify a person unless
    that is allowed: identifiers are in file names and catalogs.
    """
    found = _tags([keyword for keyword in keywords if keyword != STUDY_KEY])
    for keyword, tag in found.items():
        if is_identifying(tag) and not allow_identifying:
            problem = f"{keyword} can identify a person ({TABLE}); use {{study_key}}, or say --allow-identifying"
            raise InvalidSetting("template", problem)
    return found


def _tags(keywords: Collection[str]) -> dict[str, int]:
    found = {keyword: keyword_tag(keyword) for keyword in keywords}
    if unknown := sorted(keyword for keyword, tag in found.items() if tag is None):
        raise InvalidSetting("template", f"'{shown(unknown[0])}' is no DICOM keyword (PS3.6), such as StudyDate")
    return {keyword: tag for keyword, tag in found.items() if tag is not None}


def look_through_heap(
    root: Path, keywords: Collection[str] = (), allow_identifying: bool = False, progress: Progress = SILENT
) -> Heap:
    """The visits in a folder, whatever its subfolders. ``keywords`` may have ``study_key`` among them.

    Raises :class:`~icf_utils.errors.InputRefused` where there is no image, and
    :class:`~icf_utils.errors.InvalidSetting` for keywords that are none.
    """
    tags = keyword_tags(keywords, allow_identifying)
    if not root.is_dir():
        raise InputRefused(root, [(str(root), "is no folder")])
    names = files_below(os.fspath(root))
    visits: dict[str, _Found] = {}
    skipped, unreadable = [], []
    with progress.task("looking", len(names), "files") as task:
        for name in names:
            found, problem = _look(root / name, frozenset(tags.values()) | _ALWAYS)
            study_uid = uid_text(found.elements.get(STUDY_INSTANCE_UID)) if found else ""
            if found and study_uid:
                _add(visits.setdefault(study_uid, _Found()), name, found, tags)
            elif problem:
                unreadable.append((name, problem))
            else:
                skipped.append(_why(name, found))
            task.advance(1)
    if not visits and not unreadable:
        raise InputRefused(root, [(str(root), "holds no DICOM image")], "Check that this is the folder you mean.")
    return Heap(
        tuple(
            HeapVisit(
                uid, tuple(found.files), {**found.values, STUDY_KEY: study_key(uid)}, tuple(sorted(found.differing))
            )
            for uid, found in visits.items()
        ),
        tuple(skipped),
        tuple(unreadable),
    )


def _look(path: Path, wanted: frozenset[int]) -> tuple[Scan | None, str]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            _, found = read_head(lambda size: file.read(size) or b"", os.fstat(descriptor).st_size, wanted)
    except OSError as error:
        return None, f"cannot be read ({os.strerror(error.errno or 0)})"
    is_image = (found.magic and is_dataset(found)) or is_bare_dataset(found)
    return (found, "") if is_image and not found.is_directory else (None, "")


def _why(name: str, found: Scan | None) -> Notice:
    if found:
        return Notice("heap-no-study", name, "has no usable StudyInstanceUID, so it belongs to no visit")
    return Notice("heap-no-image", name, "is no DICOM image (or a DICOMDIR) and belongs to no visit")


def _add(visit: _Found, name: str, found: Scan, tags: Mapping[str, int]) -> None:
    first = not visit.files
    visit.files.append(name)
    for keyword, tag in tags.items():
        value = _text(found, tag)
        if first:
            visit.values[keyword] = value
        elif visit.values[keyword] != value:
            visit.differing.add(keyword)


def _text(found: Scan, tag: int) -> str:
    """A value as text; empty where there is none, and for names of persons."""
    element = found.elements.get(tag)
    if element is None:
        return ""
    charset = found.elements.get(SPECIFIC_CHARACTER_SET)
    try:
        terms = character_sets(charset.raw) if charset else ()
        value = plain_value(tag, element.vr, element.raw, terms, found.big_endian).value
    except IcfError:
        return ""
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)
