"""Unsorted DICOM files of many visits, grouped by their StudyInstanceUID. Reads the header of each file."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from icf_utils.dicom.confidentiality import TABLE, is_identifying
from icf_utils.dicom.constants import SPECIFIC_CHARACTER_SET, STUDY_INSTANCE_UID
from icf_utils.dicom.elements import Header
from icf_utils.dicom.header_text import header_text
from icf_utils.dicom.values import tag_for_keyword
from icf_utils.errors import IcfError, InputRefused, InvalidSetting, printable
from icf_utils.progress import SILENT, Progress
from icf_utils.receiver.identify import study_key
from icf_utils.results import Notice
from icf_utils.sources.images import ScannedFile, scan_files
from icf_utils.sources.leave_out import DEFAULT, LeftOut
from icf_utils.sources.selection import list_files
from icf_utils.sources.source import FileReader, InputFile

#: A field of templates in addition to keywords: text that is computed from the StudyInstanceUID.
STUDY_KEY = "study_key"

_ALWAYS = frozenset({STUDY_INSTANCE_UID, SPECIFIC_CHARACTER_SET})


@dataclass(frozen=True)
class UnsortedVisit:
    """The files of one StudyInstanceUID by their relative names, sorted.

    ``values`` are those of the requested keywords; ``differing`` the keywords for which the files have several values.
    """

    study_uid: str
    files: tuple[str, ...]
    values: Mapping[str, str]
    differing: tuple[str, ...] = ()


@dataclass(frozen=True)
class GroupedFiles:
    """The files of a folder. ``visits`` are sorted by their first file, ``skipped`` names files that belong to none.

    ``unreadable`` are ``(name, reason)`` of files that cannot be read.
    """

    visits: tuple[UnsortedVisit, ...]
    skipped: tuple[Notice, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()


@dataclass
class _Group:
    files: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    differing: set[str] = field(default_factory=set)


def keyword_tags(keywords: Collection[str], allow_identifying: bool = False) -> dict[str, int]:
    """The tags of DICOM keywords; ``study_key`` is left out.

    Raises :class:`~icf_utils.errors.InvalidSetting` for a text that is not a keyword, and for a keyword that can
    identify a person unless that is allowed: the values become part of file names and catalogs.
    """
    found = _tags([keyword for keyword in keywords if keyword != STUDY_KEY])
    for keyword, tag in found.items():
        if is_identifying(tag) and not allow_identifying:
            problem = f"{keyword} can identify a person ({TABLE}); use {{study_key}}, or --allow-identifying"
            raise InvalidSetting("template", problem)
    return found


def _tags(keywords: Collection[str]) -> dict[str, int]:
    found = {keyword: tag_for_keyword(keyword) for keyword in keywords}
    if unknown := sorted(keyword for keyword, tag in found.items() if tag is None):
        raise InvalidSetting("template", f"'{printable(unknown[0])}' is not a DICOM keyword (PS3.6) such as StudyDate")
    return {keyword: tag for keyword, tag in found.items() if tag is not None}


def group_by_study(
    root: Path,
    keywords: Collection[str] = (),
    allow_identifying: bool = False,
    leave_out: LeftOut = DEFAULT,
    progress: Progress = SILENT,
) -> GroupedFiles:
    """Group the files of a folder and its subfolders into visits. ``keywords`` may include ``study_key``.

    Raises :class:`~icf_utils.errors.InputRefused` if the folder has no images, and what :func:`keyword_tags` raises.
    """
    tags = keyword_tags(keywords, allow_identifying)
    if not root.is_dir():
        raise InputRefused(root, [(str(root), "is not a folder")])
    visits: dict[str, _Group] = {}
    skipped: list[Notice] = []
    unreadable: list[tuple[str, str]] = []

    def refused(entry: InputFile, error: IcfError) -> None:
        unreadable.append((entry.name, error.refusals[0][1] if isinstance(error, InputRefused) else str(error)))

    wanted = frozenset(tags.values()) | _ALWAYS
    for file in scan_files(_FolderFiles(root, leave_out), wanted, progress=progress, on_failure=refused):
        study_uid = file.header.uid(STUDY_INSTANCE_UID)
        if file.is_image and study_uid:
            _add(visits.setdefault(study_uid, _Group()), file.entry.name, file.header, tags)
        else:
            skipped.append(_skip_notice(file))
    if not visits and not unreadable:
        raise InputRefused(root, [(str(root), "contains no DICOM images")], "Check the path.")
    return GroupedFiles(
        tuple(
            UnsortedVisit(
                uid, tuple(found.files), {**found.values, STUDY_KEY: study_key(uid)}, tuple(sorted(found.differing))
            )
            for uid, found in visits.items()
        ),
        tuple(skipped),
        tuple(unreadable),
    )


class _FolderFiles:
    """All files of a folder, following links. Opening one that cannot be read raises an error about this one."""

    def __init__(self, root: Path, leave_out: LeftOut) -> None:
        self._root = root
        names = [name for name in list_files(os.fspath(root)) if not leave_out.path(name)]
        self.entries = tuple(InputFile(name, self._size(name)) for name in names)

    def _size(self, name: str) -> int:
        try:
            return os.stat(self._root / name).st_size
        except OSError:
            return 0  # opening it raises the error

    @contextmanager
    def open(self, entry: InputFile) -> Iterator[FileReader]:
        """Open a file, without waiting for the writer of a named pipe."""
        try:
            descriptor = os.open(self._root / entry.name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                yield _FileReader(file)
        except OSError as error:
            refusal = (entry.name, f"cannot be read ({os.strerror(error.errno or 0)})")
            raise InputRefused(self._root, [refusal]) from error


class _FileReader:
    def __init__(self, file: FileIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return self._file.read(size) or b""


def _skip_notice(file: ScannedFile) -> Notice:
    if file.is_image:
        return Notice("heap-no-study", file.entry.name, "has no valid StudyInstanceUID and belongs to no visit")
    message = "is not a DICOM image (or is a DICOMDIR) and belongs to no visit"
    return Notice("heap-no-image", file.entry.name, message)


def _add(visit: _Group, name: str, found: Header, tags: Mapping[str, int]) -> None:
    first = not visit.files
    visit.files.append(name)
    for keyword, tag in tags.items():
        value = header_text(found, tag)
        if first:
            visit.values[keyword] = value
        elif visit.values[keyword] != value:
            visit.differing.add(keyword)
