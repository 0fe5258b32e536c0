"""What is sent: a session's files as one body of known length, read as it goes. Reads inputs and nothing else.

A zip that XNAT can read, and an archive of the store, go as they are. Everything else goes as a TAR that is made on the
way: the length of a TAR follows from the sizes of its members, whereas a zip that Java reads must have the checksum of
a member before the member, or be compressed; either means to read everything twice, or a copy on the disk.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from icf_utils.archive.tar_headers import BLOCK, content_padding, end_of_archive
from icf_utils.dicom.constants import SOP_INSTANCE_UID, STUDY_INSTANCE_UID
from icf_utils.errors import DepositDamaged, DepositMissing, InputRefused, storage_errors
from icf_utils.formatting import format_count
from icf_utils.sources.images import scan_files
from icf_utils.sources.open import open_source
from icf_utils.sources.selection import select_visit, selection_source
from icf_utils.sources.source import Entry, Source
from icf_utils.sources.tree import TreeVisit
from icf_utils.store.layout import Visit

ZIP, TAR = "application/zip", "application/x-tar"

_CHUNK = 1 << 20
_WANTED = frozenset({SOP_INSTANCE_UID, STUDY_INSTANCE_UID})
_ZIP_STREAMED, _ZIP_ENCRYPTED = 8, 1
#: Within an upload XNAT opens what is called like an archive.
_ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".gz", ".xar")


@dataclass(frozen=True)
class UploadContents:
    """What a session's files are. ``fingerprint`` is the same as long as the images are."""

    images: tuple[Entry, ...]
    others: tuple[Entry, ...]
    fingerprint: str


@dataclass(frozen=True)
class UploadBody:
    """The bytes of an upload; can be read again from the beginning. ``has_others``: not all of it are images."""

    content_type: str
    size: int
    chunks: Callable[[], Iterator[bytes]]
    contents: UploadContents
    has_others: bool

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks()


@dataclass(frozen=True)
class SessionUpload:
    """One session to be: the labels it gets, and how its body is opened (which is a look through its files).

    ``where`` names it in messages; ``journal`` is the folder that remembers what became of it.
    """

    subject: str
    label: str
    where: str
    journal: Path
    open: Callable[[], AbstractContextManager[UploadBody]]


@contextmanager
def open_folder_body(visit: TreeVisit) -> Iterator[UploadBody]:
    """The images of a visit's folder, but those of scans that are left out."""
    yield _pack_images(selection_source(select_visit(visit)))


@contextmanager
def open_file_body(path: Path) -> Iterator[UploadBody]:
    """A zip or tar file."""
    with tempfile.TemporaryDirectory(prefix="icf-utils-") as spool, open_source(path, Path(spool)) as source:
        kind = _readable_type(path)
        if not kind:
            yield _pack_images(source)
            return
        contents = _list_contents(source)
        size = _size(path)
        yield UploadBody(kind, size, lambda: _file_chunks(path, size, ""), contents, bool(contents.others))


@contextmanager
def open_visit_body(visit: Visit) -> Iterator[UploadBody]:
    """The archive of a visit in the store, whose checksum is held against the bytes that go."""
    expected = _recorded_md5(visit)
    with tempfile.TemporaryDirectory(prefix="icf-utils-") as spool, open_source(visit.archive, Path(spool)) as source:
        contents = _list_contents(source)
        size = _size(visit.archive)
        yield UploadBody(
            TAR, size, lambda: _file_chunks(visit.archive, size, expected), contents, bool(contents.others)
        )


def _recorded_md5(visit: Visit) -> str:
    for path in (visit.archive, visit.checksum):
        if not path.is_file():
            raise DepositMissing(path, "run 'icf-utils make_studyvisit_archive' first")
    with storage_errors(visit.checksum, "read"):
        return visit.checksum.read_text(encoding="utf-8", errors="replace")[:32]


def _size(path: Path) -> int:
    with storage_errors(path, "examine"):
        return path.stat().st_size


def _readable_type(path: Path) -> str:
    """The media type of a file that XNAT can read without a change, else empty text."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            members = packed.infolist()
        return ZIP if all(map(_java_reads, members)) else ""
    with path.open("rb") as file:
        return TAR if file.read(BLOCK)[257:262] == b"ustar" else ""


def _java_reads(member: zipfile.ZipInfo) -> bool:
    """Whether Java's ``ZipInputStream`` gets along with a member, and XNAT does not take it for an archive."""
    streamed = bool(member.flag_bits & _ZIP_STREAMED) and member.compress_type == zipfile.ZIP_STORED
    known = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    nested = member.filename.lower().endswith(_ARCHIVE_SUFFIXES)
    return known and not streamed and not nested and not member.flag_bits & _ZIP_ENCRYPTED


def _file_chunks(path: Path, size: int, md5: str) -> Iterator[bytes]:
    """A file's bytes; the last ones are kept back until length, and the MD5 if given, have proved right."""
    digest, left, kept = hashlib.md5(usedforsecurity=False), size, b""
    with storage_errors(path, "read"), path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
            left -= len(data)
            if kept:
                yield kept
            kept = data
    if left:
        raise DepositDamaged(
            path, f"{format_count(size, 'byte')}", f"{size - left}", "it changed while it was sent; try again"
        )
    if md5 and digest.hexdigest() != md5:
        remedy = "it was not uploaded; see 'icf-utils verify', and restore it from a copy"
        raise DepositDamaged(path, f"the recorded MD5 {md5}", digest.hexdigest(), remedy)
    yield kept


def _pack_images(source: Source) -> UploadBody:
    """The images of a source as a TAR that is made while it is sent."""
    contents = _list_contents(source)
    total = sum(
        len(_header(at, entry)) + entry.size + len(content_padding(entry.size)) for at, entry in _numbered(contents)
    )
    size = total + len(end_of_archive(total))
    return UploadBody(TAR, size, lambda: _tar_chunks(source, contents), contents, has_others=False)


def _numbered(contents: UploadContents) -> Iterator[tuple[int, Entry]]:
    return enumerate(contents.images, 1)


def _header(at: int, entry: Entry) -> bytes:
    """XNAT names files by their UIDs; names from the disk, which may hold anything, stay here."""
    info = tarfile.TarInfo(f"{at:08}.dcm")
    info.size = entry.size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _tar_chunks(source: Source, contents: UploadContents) -> Iterator[bytes]:
    sent = 0
    for at, entry in _numbered(contents):
        header = _header(at, entry)
        yield header
        with source.open(entry) as reader:
            left = entry.size
            while left:
                data = reader.read(min(left, _CHUNK))
                if not data:
                    raise InputRefused(source.label, [(entry.name, "became shorter while it was read")])
                left -= len(data)
                yield data
        padding = content_padding(entry.size)
        if padding:
            yield padding
        sent += len(header) + entry.size + len(padding)
    yield end_of_archive(sent)


def _list_contents(source: Source) -> UploadContents:
    """Which files are images. Raises ``InputRefused`` for none, for damaged ones, and for one image in two files.

    XNAT names its files by SOPInstanceUID: of two it would keep one. Nor may they be of several studies, of which XNAT
    would make as many sessions with one label.
    """
    images, others, uids, damaged = [], [], [], []
    studies: dict[str, str] = {}
    for file in scan_files(source, _WANTED):
        entry = file.entry
        if not file.is_image:
            others.append(entry)
            continue
        uid = file.header.uid(SOP_INSTANCE_UID)
        if file.header.is_damaged or not uid:
            damaged.append((entry.name, "is cut off or damaged" if uid else "has no usable SOPInstanceUID"))
        images.append(entry)
        uids.append(uid)
        studies.setdefault(file.header.uid(STUDY_INSTANCE_UID), entry.name)
    twice = {uid for uid, count in Counter(uids).items() if uid and count > 1}
    damaged += [
        (entry.name, "has the SOPInstanceUID of another file here; XNAT would keep only one of them")
        for entry, uid in zip(images, uids, strict=True)
        if uid in twice
    ]
    if damaged:
        raise InputRefused(source.label, damaged, "Put this right, or leave these files out.")
    if not images:
        raise InputRefused(source.label, [(source.label, "holds no DICOM image")])
    _refuse_several_studies(source.label, studies)
    lines = sorted(f"{uid} {entry.size}" for uid, entry in zip(uids, images, strict=True))
    return UploadContents(tuple(images), tuple(others), hashlib.sha256("\n".join(lines).encode()).hexdigest())


def _refuse_several_studies(label: str, first: Mapping[str, str]) -> None:
    """``first`` holds a file of each study. An image without a study's UID makes XNAT guess, too."""
    if len(first) > 1:
        found = [(name, f"is of the study {uid}" if uid else "names no study") for uid, name in first.items()]
        advice = "XNAT would make a session of each study, all with one label: give each its own folder or file."
        raise InputRefused(label, found, advice)
