"""The body of an upload: a session's files, of known length, read while they are sent. Reads inputs; writes nothing.

A zip that XNAT can read, and a visit's archive, are sent unchanged. Everything else is sent as a TAR that is made
while it is sent: the length of a TAR follows from the sizes of its members. A zip would have to contain the checksum of
each member before the member, or be compressed, for Java to read it; either takes a second reading or a temporary copy.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from icf_utils.archive.checksum import read_checksum
from icf_utils.archive.tar_headers import BLOCK, content_padding, end_of_archive
from icf_utils.dicom.constants import PATIENT_ID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID
from icf_utils.dicom.header import IMAGE_UIDS, odd_uids, patient_id
from icf_utils.dicom.uids import describe_odd_uids
from icf_utils.errors import DepositDamaged, DepositMissing, InputRefused, storage_errors
from icf_utils.formatting import format_count
from icf_utils.results import Notice
from icf_utils.sources.digests import digest_file
from icf_utils.sources.images import scan_files
from icf_utils.sources.open import open_source
from icf_utils.sources.selection import open_selection, select_visit
from icf_utils.sources.source import InputFile, Source
from icf_utils.sources.tree import TreeVisit
from icf_utils.store.layout import Visit
from icf_utils.xnat.identity import ImageDigest

ZIP, TAR = "application/zip", "application/x-tar"

_CHUNK = 1 << 20
_WANTED = IMAGE_UIDS | {PATIENT_ID}
_ZIP_STREAMED, _ZIP_ENCRYPTED = 8, 1

#: XNAT takes members with these names for archives, and unpacks them.
_ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".gz", ".xar")


@dataclass(frozen=True)
class UploadContents:
    """The files of a session, and the StudyInstanceUID of its images.

    ``copies`` have the same bytes as one of the images; XNAT keeps one of them. ``notices`` name what is unusual.
    """

    images: tuple[InputFile, ...]
    others: tuple[InputFile, ...]
    copies: tuple[InputFile, ...]
    study_uid: str
    source: Source
    notices: tuple[Notice, ...] = ()

    @cached_property
    def digests(self) -> tuple[ImageDigest, ...]:
        """Size and MD5 of each image; the first use reads all of them."""
        return tuple(ImageDigest(*digest_file(self.source, entry)) for entry in self.images)

    @property
    def fingerprint(self) -> str:
        """A text that changes when an image is added, removed or changed."""
        lines = sorted(f"{image.md5} {image.size}" for image in self.digests)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class UploadBody:
    """The bytes of an upload, which can be read again from the beginning.

    ``has_others`` says that they contain files that are not images.
    """

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
    """A session to upload: the labels that it gets, and how its body is opened, which reads all headers.

    ``where`` names it in messages; ``journal`` is the folder of its upload journal.
    """

    subject: str
    label: str
    where: str
    journal: Path
    open: Callable[[], AbstractContextManager[UploadBody]]


@contextmanager
def open_folder_body(visit: TreeVisit, refuse: Collection[str] = ()) -> Iterator[UploadBody]:
    """The images of a visit's folder, except those of scans that are left out.

    ``refuse`` may contain ``several-patients``; so it may for the other kinds of bodies.
    """
    yield _pack_images(open_selection(select_visit(visit)), refuse)


@contextmanager
def open_file_body(path: Path, refuse: Collection[str] = ()) -> Iterator[UploadBody]:
    """A zip or tar file."""
    with tempfile.TemporaryDirectory(prefix="icf-utils-") as spool, open_source(path, Path(spool)) as source:
        kind = _readable_type(path)
        if not kind:
            yield _pack_images(source, refuse)
            return
        contents = _list_contents(source, refuse)
        size = _size(path)
        yield UploadBody(kind, size, lambda: _file_chunks(path, size, ""), contents, bool(contents.others))


@contextmanager
def open_packed_images(path: Path) -> Iterator[UploadBody]:
    """The images of a zip or tar file, without its other files."""
    with tempfile.TemporaryDirectory(prefix="icf-utils-") as spool, open_source(path, Path(spool)) as source:
        yield _pack_images(source, ())


@contextmanager
def open_visit_body(visit: Visit, refuse: Collection[str] = ()) -> Iterator[UploadBody]:
    """The archive of a visit in the store; the bytes sent are compared with its recorded checksum."""
    expected = _recorded_md5(visit)
    with tempfile.TemporaryDirectory(prefix="icf-utils-") as spool, open_source(visit.archive, Path(spool)) as source:
        contents = _list_contents(source, refuse)
        size = _size(visit.archive)
        yield UploadBody(
            TAR, size, lambda: _file_chunks(visit.archive, size, expected), contents, bool(contents.others)
        )


def _recorded_md5(visit: Visit) -> str:
    remedy = "run 'icf-utils make_studyvisit_archive' first"
    if not visit.archive.is_file():
        raise DepositMissing(visit.archive, remedy)
    return read_checksum(visit, remedy)


def _size(path: Path) -> int:
    with storage_errors(path, "examine"):
        return path.stat().st_size


def _readable_type(path: Path) -> str:
    """The media type of a file that XNAT can read unchanged, else an empty text."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            members = packed.infolist()
        return ZIP if all(map(_java_reads, members)) else ""
    with path.open("rb") as file:
        return TAR if file.read(BLOCK)[257:262] == b"ustar" else ""


def _java_reads(member: zipfile.ZipInfo) -> bool:
    """Whether Java's ``ZipInputStream`` can read a member, and XNAT does not take it for an archive."""
    streamed = bool(member.flag_bits & _ZIP_STREAMED) and member.compress_type == zipfile.ZIP_STORED
    known = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    nested = member.filename.lower().endswith(_ARCHIVE_SUFFIXES)
    return known and not streamed and not nested and not member.flag_bits & _ZIP_ENCRYPTED


def _file_chunks(path: Path, size: int, md5: str) -> Iterator[bytes]:
    """A file's bytes. The last of them are withheld until the length, and the MD5 if given, are verified."""
    digest, left, kept = hashlib.md5(usedforsecurity=False), size, b""
    with storage_errors(path, "read"), path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
            left -= len(data)
            if kept:
                yield kept
            kept = data
    if left:
        found, remedy = str(size - left), "it changed while it was sent; try again"
        raise DepositDamaged(path, format_count(size, "byte"), found, remedy)
    if md5 and digest.hexdigest() != md5:
        remedy = "it was not uploaded; run 'icf-utils verify', and restore the archive from a copy"
        raise DepositDamaged(path, f"the recorded MD5 {md5}", digest.hexdigest(), remedy)
    yield kept


def _pack_images(source: Source, refuse: Collection[str]) -> UploadBody:
    """The images of a source as a TAR that is made while it is sent."""
    contents = _list_contents(source, refuse)
    total = sum(
        len(_header(at, entry)) + entry.size + len(content_padding(entry.size)) for at, entry in _numbered(contents)
    )
    size = total + len(end_of_archive(total))
    return UploadBody(TAR, size, lambda: _tar_chunks(source, contents), contents, has_others=False)


def _numbered(contents: UploadContents) -> Iterator[tuple[int, InputFile]]:
    return enumerate(contents.images, 1)


def _header(at: int, entry: InputFile) -> bytes:
    """The header of a member. Members are numbered: file names may identify a patient, and XNAT does not use them."""
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
                    raise InputRefused(source.label, [(entry.name, "became shorter while it was being read")])
                left -= len(data)
                yield data
        padding = content_padding(entry.size)
        if padding:
            yield padding
        sent += len(header) + entry.size + len(padding)
    yield end_of_archive(sent)


def _list_contents(source: Source, refuse: Collection[str]) -> UploadContents:
    """Which files are images.

    Raises :class:`~icf_utils.errors.InputRefused` where there are none, where one is damaged, for two files with one
    SOPInstanceUID and other content, of which XNAT would keep one, and for images of several studies, of which XNAT
    would make several sessions with one label; and for images of several patients where ``refuse`` says so.
    """
    images, others, uids, damaged, notices = [], [], [], [], []
    studies: dict[str, str] = {}
    patients: dict[bytes, str] = {}
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
        if odd := odd_uids(file.header):
            notices.append(Notice("odd-uid", entry.name, f"{describe_odd_uids(odd)}; it is uploaded unchanged"))
        studies.setdefault(file.header.uid(STUDY_INSTANCE_UID), entry.name)
        if patient := patient_id(file.header):
            patients.setdefault(patient, entry.name)
    copies, clashes = _split_repeated(source, images, uids)
    damaged += [(entry.name, "has the SOPInstanceUID of another file here, and differs from it") for entry in clashes]
    if damaged:
        raise InputRefused(source.label, damaged, "Repair these files, or leave them out.")
    if not images:
        raise InputRefused(source.label, [(source.label, "contains no DICOM image")])
    _refuse_several_studies(source.label, studies)
    if len(patients) > 1 and "several-patients" in refuse:
        found = [(name, "has another PatientID than the others here") for name in list(patients.values())[1:]]
        advice = "Check that this is one visit. If it is, upload it with --allow several-patients."
        raise InputRefused(source.label, found, advice)
    kept = tuple(entry for entry in images if entry not in copies)
    return UploadContents(kept, tuple(others), tuple(copies), next(iter(studies)), source, tuple(notices))


def _split_repeated(
    source: Source, images: Sequence[InputFile], uids: Sequence[str]
) -> tuple[list[InputFile], list[InputFile]]:
    """Of files with one SOPInstanceUID: those that are copies of the first, and all where one differs."""
    copies, clashes = [], []
    files: dict[str, list[InputFile]] = {}
    for entry, uid in zip(images, uids, strict=True):
        if uid:
            files.setdefault(uid, []).append(entry)
    for repeated in files.values():
        if len(repeated) > 1:
            is_same = len({digest_file(source, entry) for entry in repeated}) == 1
            copies += repeated[1:] if is_same else []
            clashes += [] if is_same else repeated
    return copies, clashes


def _refuse_several_studies(label: str, first: Mapping[str, str]) -> None:
    """``first`` contains a file of each study. An image without StudyInstanceUID counts: XNAT would guess its study."""
    if len(first) > 1:
        found = [(name, f"belongs to study {uid}" if uid else "has no StudyInstanceUID") for uid, name in first.items()]
        advice = "XNAT would make a session of each study, all with one label: use one folder or file for each study."
        raise InputRefused(label, found, advice)
