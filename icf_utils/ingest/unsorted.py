"""A heap of DICOM files of many visits, told apart by their StudyInstanceUID. Reads the beginning of each file."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from icf_utils.dicom.charsets import parse_character_sets
from icf_utils.dicom.confidentiality import TABLE, is_identifying
from icf_utils.dicom.constants import SPECIFIC_CHARACTER_SET, STUDY_INSTANCE_UID
from icf_utils.dicom.elements import Header
from icf_utils.dicom.values import convert_value, tag_for_keyword
from icf_utils.errors import IcfError, InputRefused, InvalidSetting, printable
from icf_utils.progress import SILENT, Progress
from icf_utils.receiver.identify import study_key
from icf_utils.results import Notice
from icf_utils.sources.images import ScannedFile, scan_files
from icf_utils.sources.selection import list_files
from icf_utils.sources.source import FileReader, InputFile

#: A field beside the keywords: text that follows from the StudyInstanceUID and does not tell it.
STUDY_KEY = "study_key"

_ALWAYS = frozenset({STUDY_INSTANCE_UID, SPECIFIC_CHARACTER_SET})


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
    found = {keyword: tag_for_keyword(keyword) for keyword in keywords}
    if unknown := sorted(keyword for keyword, tag in found.items() if tag is None):
        raise InvalidSetting("template", f"'{printable(unknown[0])}' is no DICOM keyword (PS3.6), such as StudyDate")
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
    visits: dict[str, _Found] = {}
    skipped: list[Notice] = []
    unreadable: list[tuple[str, str]] = []

    def refused(entry: InputFile, error: IcfError) -> None:
        unreadable.append((entry.name, error.refusals[0][1] if isinstance(error, InputRefused) else str(error)))

    wanted = frozenset(tags.values()) | _ALWAYS
    for file in scan_files(_HeapFiles(root), wanted, progress=progress, on_failure=refused):
        study_uid = file.header.uid(STUDY_INSTANCE_UID)
        if file.is_image and study_uid:
            _add(visits.setdefault(study_uid, _Found()), file.entry.name, file.header, tags)
        else:
            skipped.append(_why(file))
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


class _HeapFiles:
    """All files of a folder, links followed; what cannot be read is refused when it is opened, one by one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.entries = tuple(InputFile(name, self._size(name)) for name in list_files(os.fspath(root)))

    def _size(self, name: str) -> int:
        try:
            return os.stat(self._root / name).st_size
        except OSError:
            return 0  # opening it says why

    @contextmanager
    def open(self, entry: InputFile) -> Iterator[FileReader]:
        """Open a file; a named pipe does not block."""
        try:
            descriptor = os.open(self._root / entry.name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                yield _HeapReader(file)
        except OSError as error:
            refusal = (entry.name, f"cannot be read ({os.strerror(error.errno or 0)})")
            raise InputRefused(self._root, [refusal]) from error


class _HeapReader:
    def __init__(self, file: FileIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return self._file.read(size) or b""


def _why(file: ScannedFile) -> Notice:
    if file.is_image:
        return Notice("heap-no-study", file.entry.name, "has no usable StudyInstanceUID, so it belongs to no visit")
    message = "is not a DICOM image (or is a DICOMDIR) and belongs to no visit"
    return Notice("heap-no-image", file.entry.name, message)


def _add(visit: _Found, name: str, found: Header, tags: Mapping[str, int]) -> None:
    first = not visit.files
    visit.files.append(name)
    for keyword, tag in tags.items():
        value = _text(found, tag)
        if first:
            visit.values[keyword] = value
        elif visit.values[keyword] != value:
            visit.differing.add(keyword)


def _text(found: Header, tag: int) -> str:
    """A value as text; empty where there is none, and for names of persons."""
    element = found.elements.get(tag)
    if element is None:
        return ""
    charset = found.elements.get(SPECIFIC_CHARACTER_SET)
    try:
        terms = parse_character_sets(charset.raw) if charset else ()
        value = convert_value(tag, element.vr, element.raw, terms, found.big_endian).value
    except IcfError:
        return ""
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)
