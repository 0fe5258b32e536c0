"""Add images to a visit: what arrived after it was archived, or corrected images. Reads the input, writes to the store.

Images are known by SOPInstanceUID and content, not by file names. The next version of the visit has its present files
and the new images; what it has already is left out, whatever it is called. The file meta information (PS3.10 section
7.1) is not content: every program that writes a file makes its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from icf_utils.archive.checksum import refuse_damaged_archive
from icf_utils.archive.members import digest_members
from icf_utils.archive.rewrite import rewrite_archive
from icf_utils.archive.stage import make_studyvisit_archive
from icf_utils.curation.replace import prepared_change, put_if_accepted
from icf_utils.curation.version import ChangeNote, CurrentVisit, read_current, tags_of
from icf_utils.dicom.constants import TRANSFER_SYNTAX_UID
from icf_utils.dicom.part10 import read_file_meta
from icf_utils.errors import InputRefused, storage_errors
from icf_utils.formatting import format_count
from icf_utils.metadata.describe import describe_archive
from icf_utils.metadata.records import ImageRecord
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.settings import Settings, load_settings
from icf_utils.store.layout import Visit
from icf_utils.store.locks import remove_dead_locks, visit_lock

_ARRIVED = "images"

#: Bytes in which the file meta information is looked for, and that are compared at once.
_HEAD, _BLOCK = 1 << 16, 1 << 20
_CLASH = "has the name of another file of the visit"


@dataclass(frozen=True)
class AddResult:
    """What became of images that were added to a visit.

    ``version`` is the one in the store afterwards. ``added`` counts new images, ``corrected`` those that took the place
    of one with the same SOPInstanceUID. Left out were images that the visit has already: ``conflicts`` are the names
    in the input of those with other content, ``rewritten`` those with the same content and other file meta information.
    """

    version: int
    added: int = 0
    corrected: int = 0
    conflicts: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()


@dataclass
class _Selection:
    """What the next version does not take of the visit and of the input: names below the top folder.

    The remaining fields are those of :class:`AddResult`.
    """

    of_visit: set[str] = field(default_factory=set)
    of_input: set[str] = field(default_factory=set)
    added: int = 0
    corrected: int = 0
    conflicts: list[str] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)


def add_images(
    input_path: str | os.PathLike[str],
    store_dir: str | os.PathLike[str],
    study: str,
    visit: str,
    *,
    correct: bool = False,
    time_zone: str = "UTC",
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> AddResult:
    """Make the next version of a visit, which has the images of an input as well; none if it has them all.

    An image that the visit has with other content is left out and named as a conflict; with ``correct``, it takes the
    place of the one in the visit. The remaining arguments, and the errors, are those of
    :func:`~icf_utils.curation.replace.replace_visit`. Also raises :class:`~icf_utils.errors.InputRefused` for a file
    whose name another file of the visit has.
    """
    place = Visit(Path(store_dir), study, visit)
    chosen = load_settings(place.root) if settings is None else settings
    remove_dead_locks(place.of_study)
    with visit_lock(place, progress):
        current = read_current(place)
        refuse_damaged_archive(place)
        with prepared_change(place) as (change, staged):
            arrived = Visit(change.root / f"+{_ARRIVED}", study, visit)
            made = make_studyvisit_archive(
                input_path, arrived.root, study, visit, time_zone=time_zone, progress=progress
            )
            found = _select(current, arrived, correct, chosen, progress)
            if not found.added and not found.corrected:
                return _result(current.version, found, made.notices)
            left_out = {place.archive: found.of_visit, arrived.archive: found.of_input}
            rewrite_archive([place.archive, arrived.archive], staged, progress, left_out)
            result = put_if_accepted(
                change,
                current,
                staged,
                None,
                note=ChangeNote(_reason(found)),
                settings=chosen,
                progress=progress,
                notices=made.notices,
            )
    return _result(result.version, found, result.notices)


def _result(version: int, found: _Selection, notices: tuple[Notice, ...]) -> AddResult:
    return AddResult(version, found.added, found.corrected, tuple(found.conflicts), tuple(found.rewritten), notices)


def _reason(found: _Selection) -> str:
    parts = [f"{format_count(found.added, 'image')} added"] if found.added else []
    parts += [f"{format_count(found.corrected, 'image')} corrected"] if found.corrected else []
    return ", ".join(parts)


def _select(current: CurrentVisit, arrived: Visit, correct: bool, settings: Settings, progress: Progress) -> _Selection:
    """Compare the images of both archives by SOPInstanceUID and content, and the other files by name and MD5."""
    place, tags = current.place, tags_of(current, settings)
    if current.metadata is None:
        present: Iterable[ImageRecord] = describe_archive(place.archive, place.member_root, tags, progress).images
    else:
        present = current.metadata.images
    by_uid: dict[str, list[ImageRecord]] = {}
    for image in present:
        by_uid.setdefault(image.uids.get("SOPInstanceUID", ""), []).append(image)
    new = describe_archive(arrived.archive, arrived.member_root, tags, progress).images
    found = _Selection()
    for image in new:
        uid, name = image.uids.get("SOPInstanceUID", ""), _below_root(image.path)
        same_uid = by_uid.get(uid, []) if uid else []
        if any(other.md5 == image.md5 for other in same_uid):
            found.of_input.add(name)
        elif not same_uid:
            found.added += 1
        elif any(_have_same_data_set(place.archive, other, arrived.archive, image) for other in same_uid):
            found.rewritten.append(name)
            found.of_input.add(name)
        elif correct:
            found.corrected += 1
            found.of_visit.update(_below_root(other.path) for other in same_uid)
        else:
            found.conflicts.append(name)
            found.of_input.add(name)
    _leave_out_other_files(place, arrived, {_below_root(image.path) for image in new}, found)
    return found


def _have_same_data_set(one_archive: Path, one: ImageRecord, other_archive: Path, other: ImageRecord) -> bool:
    """Whether two images have the same bytes after their file meta information, in the same transfer syntax."""
    with ExitStack() as files:
        sides = []
        for path, image in ((one_archive, one), (other_archive, other)):
            files.enter_context(storage_errors(path, "read"))
            descriptor = files.enter_context(open(path, "rb", buffering=0)).fileno()
            head = read_file_meta(os.pread(descriptor, min(_HEAD, image.size), image.offset), image.size)
            size = image.size - head.end
            sides.append((descriptor, image.offset + head.end, size, head.elements.get(TRANSFER_SYNTAX_UID)))
        if sides[0][2:] != sides[1][2:]:
            return False
        return all(
            len({os.pread(descriptor, min(_BLOCK, size - at), start + at) for descriptor, start, size, _ in sides}) == 1
            for at in range(0, sides[0][2], _BLOCK)
        )


def _leave_out_other_files(place: Visit, arrived: Visit, images: set[str], found: _Selection) -> None:
    """Leave out files that both have, and refuse different files of one name."""
    names = digest_members(arrived.archive, lambda member: _below_root(member.name) not in found.of_input)
    present = digest_members(place.archive, lambda member: _below_root(member.name) in names)
    clashes = []
    for name in sorted(names.keys() & present.keys() - found.of_visit):
        if names[name] == present[name] and name not in images:
            found.of_input.add(name)
        else:
            clashes.append((name, _CLASH))
    if clashes:
        raise InputRefused(arrived.archive, clashes, "Make one folder of both, and use 'visit replace'.")


def _below_root(path: str) -> str:
    return path.partition("/")[2]
