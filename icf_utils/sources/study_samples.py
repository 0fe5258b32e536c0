"""A quick look at which DICOM studies an input belongs to, and at visits that share one. Reads some headers.

Folders that were taken for visits although they are parts of one (a wrong depth of a tree) share a StudyInstanceUID. To
find that before anything is written, the first image of each folder is enough; nothing else is read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from icf_utils.dicom.constants import PATIENT_ID, STUDY_INSTANCE_UID
from icf_utils.dicom.elements import Header
from icf_utils.dicom.header import patient_id
from icf_utils.errors import IcfError
from icf_utils.sources.images import OpenableFiles, scan_file
from icf_utils.sources.leave_out import DEFAULT, LeftOut
from icf_utils.sources.open import is_compressed, open_source
from icf_utils.sources.source import InputFile

#: How many files of one folder are examined to find an image.
_FILES_EXAMINED = 20

_Value = TypeVar("_Value", str, bytes)


def sample_study_uids(path: Path, leave_out: LeftOut = DEFAULT) -> frozenset[str]:
    """The StudyInstanceUIDs of the first image of each folder of an input; as :func:`sample_uids`."""
    return sample_uids(path, STUDY_INSTANCE_UID, leave_out)


def sample_uids(path: Path, tag: int, leave_out: LeftOut = DEFAULT) -> frozenset[str]:
    """The UIDs that the first image of each folder of an input has as the value of ``tag``.

    Empty for what cannot be read, which whoever archives it reports, and for a compressed tar, which would have to be
    unpacked.
    """
    return _sample_input(path, tag, lambda header: header.uid(tag), leave_out)


def sample_patients(path: Path) -> frozenset[bytes]:
    """The PatientIDs of the first image of each folder of an input, as encoded; as :func:`sample_uids`."""
    return _sample_input(path, PATIENT_ID, patient_id, DEFAULT)


def _sample_input(path: Path, tag: int, value_of: Callable[[Header], _Value], leave_out: LeftOut) -> frozenset[_Value]:
    try:
        if path.is_file() and is_compressed(path):
            return frozenset()
        with open_source(path, Path(tempfile.gettempdir()), 0, leave_out) as source:
            return frozenset(_sample(source, source.entries, tag, value_of))
    except (IcfError, OSError):
        return frozenset()


def is_skipped_image(root: Path, name: str, leave_out: LeftOut = DEFAULT) -> bool:
    """Whether a skipped file of a tree is a DICOM image, or a skipped folder contains one.

    A link to something in the tree is none: its images are found there.
    """
    path = root / name
    if path.is_symlink() and path.resolve().is_relative_to(root.resolve()):
        return False
    return bool(sample_study_uids(path, leave_out)) if path.is_dir() else _is_image(path)


def _is_image(path: Path) -> bool:
    from icf_utils.sources.selection import open_selection, select_files

    try:
        source = open_selection(select_files(path.parent, [path.name]))
        return all(scan_file(source, entry, frozenset()).is_image for entry in source.entries)
    except (IcfError, OSError):
        return False


def _sample(
    source: OpenableFiles, entries: Iterable[InputFile], tag: int, value_of: Callable[[Header], _Value]
) -> set[_Value]:
    examined: dict[str, int] = {}
    found: set[_Value] = set()
    for entry in entries:
        folder = entry.name.rpartition("/")[0]
        if examined.get(folder, 0) >= _FILES_EXAMINED:
            continue
        examined[folder] = examined.get(folder, 0) + 1
        file = scan_file(source, entry, frozenset({tag}))
        if file.is_image and (value := value_of(file.header)):
            found.add(value)
            examined[folder] = _FILES_EXAMINED
    return found


def find_shared_studies(samples: Mapping[str, Collection[str]]) -> dict[str, tuple[str, ...]]:
    """Which visits share a StudyInstanceUID, each with the others; ``samples`` has the UIDs of each.

    >>> find_shared_studies({"a": ["1.2"], "b": ["1.2"], "c": ["1.3"]})
    {'a': ('b',), 'b': ('a',)}
    """
    visits: dict[str, list[str]] = {}
    for name, uids in samples.items():
        for uid in uids:
            visits.setdefault(uid, []).append(name)
    shared: dict[str, set[str]] = {}
    for names in visits.values():
        for name in names if len(names) > 1 else ():
            shared.setdefault(name, set()).update(names)
    return {name: tuple(sorted(others - {name})) for name, others in sorted(shared.items())}
