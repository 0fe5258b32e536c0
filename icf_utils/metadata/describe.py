"""Describe an archive: one pass over the TAR computes all digests and reads each image's header.

Reads that one file, writes nothing.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from icf_utils.archive.hashing import BackgroundDigest
from icf_utils.archive.reader import ArchiveMember, ArchivePass
from icf_utils.dicom.charsets import parse_character_sets
from icf_utils.dicom.constants import SPECIFIC_CHARACTER_SET
from icf_utils.dicom.elements import HEAD_LIMIT, SEQUENCES, Element, Header
from icf_utils.dicom.functional_groups import find_elements
from icf_utils.dicom.header import IDENTITY_TAGS, FileKind, check_pixels, file_kind, read_head
from icf_utils.dicom.values import Value, convert_value, tag_for_keyword
from icf_utils.errors import DepositDamaged, storage_errors
from icf_utils.metadata.allowlist import AllowList
from icf_utils.metadata.records import STANDARD_TAGS, UID_TAGS, ImageRecord
from icf_utils.progress import Progress
from icf_utils.regular_files import open_regular
from icf_utils.results import Notice

_CHUNK = 1 << 20


@dataclass
class ArchiveDescription:
    """The content of an archive: ``md5`` and ``size`` (bytes) of the file, ``images`` in their order.

    ``sha256`` is empty unless it was asked for. ``others`` has a notice for each member that is not a DICOM image, with
    the reason.
    """

    md5: str = ""
    size: int = 0
    sha256: str = ""
    images: list[ImageRecord] = field(default_factory=list)
    others: list[Notice] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)


@dataclass(frozen=True)
class Tags:
    """Tag numbers by keyword; ``wanted`` are all that a scan must return."""

    values: dict[str, int]
    uids: dict[str, int]
    wanted: frozenset[int]
    allow_identifying: bool


def describe_archive(
    path: Path, root: str, allowed: AllowList, progress: Progress, *, sha256: bool = False
) -> ArchiveDescription:
    """Read an archive once and describe each image; all members must be below the folder ``root``.

    ``sha256``: also compute the archive's SHA-256.

    Two more threads compute digests, one of the archive and one of its members, which keeps two cores busy.

    Raises :class:`~icf_utils.errors.DepositDamaged` if the archive is cut off, is not a TAR, or is another visit's.
    """
    tags = tags_to_scan(allowed)
    done = ArchiveDescription()
    with (
        storage_errors(path, "read"),
        open_regular(path) as handle,
        progress.task("metadata", path.stat().st_size, "B") as task,
        closing(ArchivePass(handle, path, task, sha256)) as archive,
        closing(BackgroundDigest()) as digests,
    ):
        names: list[str] = []
        for member in archive.members():
            if not member.is_file and member.name.rstrip("/") == root:
                continue  # the top folder itself, as 'tar -cf' stores it
            if not member.name.startswith(root + "/"):
                raise DepositDamaged(
                    path,
                    f"members below '{root}/'",
                    "members of another visit",
                    "check the study and visit identifiers",
                )
            names.append(member.name)
            describe_member(member, _read(member, archive, handle.fileno(), tags, digests), tags, done)
        (done.md5, done.sha256), done.size = archive.finish()
        md5_of = dict(zip(names, digests.finish_items(), strict=True))
    done.images = [replace(image, md5=md5_of[image.path]) for image in done.images]
    return done


def tags_to_scan(allowed: AllowList) -> Tags:
    """The tags of an allow-list, and all that are always recorded."""

    def number(keyword: str) -> int:
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        return tag

    values = {keyword: number(keyword) for keyword in STANDARD_TAGS} | dict(allowed.tags)
    uids = {keyword: number(keyword) for keyword in UID_TAGS}
    wanted = IDENTITY_TAGS | SEQUENCES | {*values.values(), *uids.values(), SPECIFIC_CHARACTER_SET}
    return Tags(values, uids, wanted, allowed.allow_identifying)


_NOT_AN_IMAGE = {
    FileKind.DIRECTORY: Notice("dicomdir", "", "is a DICOMDIR, not an image"),
    FileKind.UNREADABLE: Notice("unreadable-dicom", "", "begins like DICOM, but its header cannot be read"),
    FileKind.OTHER: Notice("not-dicom", "", "is not DICOM"),
}


def describe_member(member: ArchiveMember, found: Header, tags: Tags, done: ArchiveDescription) -> None:
    """Add a member to a description, by the scan of its header; the MD5 of an image stays empty."""
    if not member.is_file:
        done.others.append(
            Notice("not-a-file", member.name, "is a link or another special member, as older tools stored them")
        )
        return
    kind = file_kind(found)
    if kind is FileKind.BARE_IMAGE:
        message = "is DICOM without preamble; its header was read anyway"
        done.notices.append(Notice("no-preamble", member.name, message))
    if kind.is_image:
        _add_image(member, found, tags, done)
    else:
        done.others.append(replace(_NOT_AN_IMAGE[kind], subject=member.name))


def _read(
    member: ArchiveMember, archive: ArchivePass, descriptor: int, tags: Tags, digests: BackgroundDigest
) -> Header:
    """Scan the head of a member's content, and hand the content to the hashing thread."""
    head, found = read_head(archive.content, member.size if member.is_file else 0, tags.wanted)
    if head:
        digests.update([head])
    while block := archive.content(_CHUNK):
        digests.update([block])
    digests.next_item()
    if len(head) < member.size:
        check_pixels(found, lambda at, count: _read_at(member, descriptor, at, count))
    return found


def _read_at(member: ArchiveMember, descriptor: int, at: int, count: int) -> bytes:
    return os.pread(descriptor, max(0, min(count, member.size - at)), member.offset + at)


def _add_image(member: ArchiveMember, found: Header, tags: Tags, done: ArchiveDescription) -> None:
    if found.is_damaged:
        message = "is cut off or malformed; what could be read reliably is recorded"
        done.notices.append(Notice("cut-dicom", member.name, message))
    elif found.state == "more":
        message = f"has a header longer than {HEAD_LIMIT >> 20} MiB; tags after that point are not recorded"
        done.notices.append(Notice("long-header", member.name, message))
    charset = found.elements.get(SPECIFIC_CHARACTER_SET)
    charsets = parse_character_sets(charset.raw) if charset else ()
    values: dict[str, Value] = {}
    grouped = _grouped(found, tags)
    for keyword, tag in tags.values.items():
        element = _element(found, tag) or grouped.get(tag)
        if element is None:
            values[keyword] = ""
            continue
        made = convert_value(tag, element.vr, element.raw, charsets, found.big_endian, tags.allow_identifying)
        values[keyword] = made.value
        if made.problem:
            done.notices.append(Notice("odd-value", member.name, f"{keyword}: {made.problem}"))
    uids = {keyword: found.uid(tag) for keyword, tag in tags.uids.items()}
    done.images.append(ImageRecord(member.name, "", member.size, member.offset, values, uids))


def _grouped(found: Header, tags: Tags) -> dict[int, Element]:
    """The elements that an enhanced multi-frame image has in its functional groups only."""
    if SEQUENCES.isdisjoint(found.elements):
        return {}
    return find_elements(found, [tag for tag in tags.values.values() if tag not in found.elements])


def _element(found: Header, tag: int) -> Element | None:
    """Return an element of the data set, or of the file meta information (group 0002)."""
    if tag >> 16 == 2 and tag in found.meta:
        return Element(None, found.meta[tag])
    return found.elements.get(tag)
