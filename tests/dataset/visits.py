"""Small visits as earlier stages leave them in a store: a PAX archive with float times, and its two JSON files."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icf_utils.dicom.values import Value
from icf_utils.metadata.records import (
    STANDARD_TAGS,
    UID_TAGS,
    ImageRecord,
    TarballRecord,
    VisitMetadata,
    encode_images,
    encode_tarball,
)
from icf_utils.store.layout import Visit

#: 2021-03-04T05:06:07Z; the members' times are fractions of a second around it.
TIME = 1614834367


@dataclass(frozen=True)
class Member:
    """A file for the archive, named relative to the visit's folder; an image if it has tags."""

    name: str
    content: bytes
    tags: Mapping[str, Value] | None = field(default_factory=dict)
    mtime: float = TIME + 0.5


SMALL = (
    Member(
        "anat/1.2.840.113.dcm", b"first image", {"SeriesNumber": 1, "SeriesDescription": "t1 mprage", "Modality": "MR"}
    ),
    Member("anat/IM0002", b"second image", {"SeriesNumber": 1, "ProtocolName": "T1w", "ImageType": ["ORIGINAL", "M"]}),
    Member("func/x.IMA", b"third image", {"SeriesNumber": 2.5, "ProtocolName": "!rest"}, TIME - 100.25),
    Member("func/again.113.dcm", b"first image", {"SeriesNumber": 3, "Modality": "MR"}),
    Member("notes.txt", b"not an image", None),
)


def make_visit(root: Path, members: Sequence[Member] = SMALL, study: str = "study", visit: str = "v1") -> Visit:
    """Write the archive and its metadata below ``root``."""
    place = Visit(root, study, visit)
    place.archive.parent.mkdir(parents=True)
    raw, metadata = archive_and_metadata(place, members)
    place.archive.write_bytes(raw)
    place.tarball_json.write_bytes(encode_tarball(metadata.tarball))
    place.dicoms_json.write_bytes(encode_images(metadata.images))
    return place


def archive_and_metadata(place: Visit, members: Sequence[Member]) -> tuple[bytes, VisitMetadata]:
    """The bytes of an archive, and what its metadata says."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for member in members:
            info = tarfile.TarInfo(f"{place.member_root}/{member.name}")
            info.size, info.mtime, info.uname, info.gname = len(member.content), member.mtime, "root", "root"
            archive.addfile(info, io.BytesIO(member.content))
    raw = buffer.getvalue()
    return raw, VisitMetadata(_tarball(place, raw), _records(raw, {m.name: m.tags for m in members}, place))


def _tarball(place: Visit, raw: bytes) -> TarballRecord:
    return TarballRecord(len(raw), hashlib.md5(raw).hexdigest(), place.dspath, place.storepath)


def _records(raw: bytes, tags: Mapping[str, Mapping[str, Value] | None], place: Visit) -> tuple[ImageRecord, ...]:
    with tarfile.open(fileobj=io.BytesIO(raw), encoding="utf-8") as archive:
        found = [(info, tags[info.name[len(place.member_root) + 1 :]]) for info in archive]
    return tuple(_record(raw, info, given) for info, given in found if given is not None)


def _record(raw: bytes, info: tarfile.TarInfo, tags: Mapping[str, Value]) -> ImageRecord:
    content = raw[info.offset_data : info.offset_data + info.size]
    return ImageRecord(
        path=info.name,
        md5=hashlib.md5(content).hexdigest(),
        size=info.size,
        offset=info.offset_data,
        tags={**dict.fromkeys(STANDARD_TAGS, ""), **tags},
        uids=dict.fromkeys(UID_TAGS, "1.2.3"),
    )


#: Names that file systems allow and that something on the way could stumble over.
ODD_NAMES = (
    "with space.dcm",
    " lead and trail ",
    "Größe-日本語.dcm",
    "new\nline.dcm",
    "carriage\rreturn.dcm",
    "back\\slash.dcm",
    "-dash.dcm",
    "100%.dcm",
    "a%20b%2Fc.dcm",
    "num#ber.dcm",
    "amper&sand.dcm",
    "all%#&of.dcm",
    "\"quotes'.dcm",
    "semi;colon:|<>?*.dcm",
    "tab\tand\x01control\x7f.dcm",
    "u2028\u2028nel\u0085vt\x0bff\x0c.dcm",
    "~tilde~1",
    "$HOME`id`.dcm",
    "l" * 251 + ".dcm",
    "/".join(["deep"] * 60) + "/x.dcm",
    "latin1-\udce4\udcf6.dcm",
    "ext.d\udcffm",
    ".hidden",
    "..dots..",
    "a.tar.gz",
    "UPPER.DCM",
    "dl+archive:x",
    "!bang",
    "path=x",
)

#: Names that cannot be in a git tree.
GIT_NAMES = (
    ".git/x.dcm",
    "a/.GIT/x.dcm",
    ".git",
    "b/.gi\u200dt",
    "c/git~1/x.dcm",
    "d/.git . ",
    "e/.gitmodules",
    "f\\.git",
)
