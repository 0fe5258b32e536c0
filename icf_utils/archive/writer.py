"""Write an archive in one pass over an input: headers are read, members written, the checksum computed.

Each input byte is read once. The output is a new file, or an existing archive that is compared byte by byte; this
module reads the source and touches that one file, and decides nothing about names in the store.

A member whose time is not known yet gets a provisional header, which is corrected at the end (``patch``). Hashing stops
in front of the first such header and is completed from the file afterwards.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import tzinfo
from functools import partial
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol

from icf_utils.archive.hashing import BackgroundDigests, Digests
from icf_utils.archive.reader import ArchiveMember, read_header_time
from icf_utils.archive.tar_headers import BLOCK, content_padding, end_of_archive, member_header
from icf_utils.dicom.elements import Header
from icf_utils.dicom.header import FACT_TAGS, FileFacts, FileKind, file_facts, read_head
from icf_utils.dicom.uids import describe_odd_uids
from icf_utils.errors import DepositDiffers, InputRefused, printable, storage_errors
from icf_utils.formatting import format_count
from icf_utils.progress import Task
from icf_utils.results import Notice
from icf_utils.sources.source import FileReader, InputFile, Source
from icf_utils.store.layout import Visit

_CHUNK = 1 << 20

#: How many of several studies a notice names, each by its UID and its first file.
_STUDIES_NAMED = 5

#: The time of all members if no file of the visit has one.
NO_TIME = 0.0


class HeaderLengthChanged(Exception):
    """A provisional header differs in length from the final one (a name at a block's edge); restart with ``time``."""

    def __init__(self, time: float) -> None:
        self.time = time
        super().__init__()


@dataclass
class PackingResult:
    """The result of one pass. ``time`` is the visit's latest study time in seconds since 1970.

    ``studies`` and ``patients`` have the first file of each StudyInstanceUID and PatientID, ``instances`` that of each
    SOPInstanceUID, and ``repeated`` the other files of one with the first. ``waiting`` has position, length and file of
    each provisional header.
    """

    dicom_files: int = 0
    other_files: int = 0
    time: float | None = None
    studies: dict[str, str] = field(default_factory=dict)
    patients: dict[bytes, str] = field(default_factory=dict)
    instances: dict[str, InputFile] = field(default_factory=dict)
    repeated: list[tuple[InputFile, InputFile]] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    waiting: list[tuple[int, int, InputFile]] = field(default_factory=list)


class MemberObserver(Protocol):
    """Gets each member of an archive while it is written, so that the archive need not be read again.

    For each member, :meth:`take_content` is called until all of it was given, then :meth:`end_member`.
    """

    @property
    def wanted(self) -> frozenset[int]:
        """The tags that a scan of a file's header must return."""

    def begin(self) -> None:
        """Forget what was given: the archive is written from its beginning, perhaps again."""

    def take_content(self, block: bytes) -> None:
        """Take the next bytes of the current member's content."""

    def end_member(self, member: ArchiveMember, found: Header, read_at: Callable[[int, int], bytes] | None) -> None:
        """Take what was found in the head of the member whose content was given.

        ``read_at(position, n)`` returns up to ``n`` bytes of the content; ``None`` if the head was all of it.
        """

    def on_published(self, place: Visit, digests: Digests, size: int) -> None:
        """Take note that the archive, of ``size`` bytes, is complete and has its name."""

    def close(self) -> None:
        """Release what it holds; safe to call again."""


class Packer:
    """Packs one input below the folder ``root`` of an archive; ``zone`` is the time zone of study times.

    ``assumed_time`` is the time in provisional headers. ``observer`` gets each member.
    """

    def __init__(
        self,
        source: Source,
        root: str,
        zone: tzinfo,
        assumed_time: float = NO_TIME,
        observer: MemberObserver | None = None,
    ) -> None:
        self._source, self._root, self._zone, self._assumed_time = source, root, zone, assumed_time
        self._observer = observer
        self._wanted = FACT_TAGS | observer.wanted if observer else FACT_TAGS

    def run(self, output: ArchiveOutput, task: Task) -> PackingResult:
        """Write all members and the end mark to ``output``.

        Raises :class:`HeaderLengthChanged`, ``InputRefused`` for an input that changes meanwhile, and the errors of
        ``output``.
        """
        done = PackingResult()
        for entry in self._source.entries:
            with self._source.open(entry) as reader:
                self._pack_file(entry, reader, output, task, done)
        output.write(end_of_archive(output.position), "end mark", self._root)
        self._patch_headers(output, done)
        done.notices += self._repeated_instances(done)
        self._source.check_unchanged()
        done.notices += _visit_notices(self._source, done)
        return done

    def _repeated_instances(self, done: PackingResult) -> list[Notice]:
        """Name the images with the SOPInstanceUID of another one, but other content. Only these are read again."""
        return [
            Notice("repeated-instance", entry.name, f"has the SOPInstanceUID of '{printable(first.name)}', but differs")
            for entry, first in done.repeated
            if entry.size != first.size or self._md5(entry) != self._md5(first)
        ]

    def _md5(self, entry: InputFile) -> bytes:
        digest = hashlib.md5(usedforsecurity=False)
        with self._source.open(entry) as reader:
            while data := reader.read(_CHUNK):
                digest.update(data)
        return digest.digest()

    def _pack_file(
        self, entry: InputFile, reader: FileReader, output: ArchiveOutput, task: Task, done: PackingResult
    ) -> None:
        head, found = read_head(reader.read, entry.size, self._wanted)
        facts = file_facts(found, self._zone)
        _record_facts(entry, facts, done)
        if facts.time is None:
            header = self._provisional_header(entry, output)
            done.waiting.append((output.position, len(header), entry))
            output.provisional(header)
        else:
            output.write(self._header(entry, facts.time), "header", entry.name)
        offset = output.position
        self._copy(entry, reader, head, output, task)
        if self._observer:
            member = ArchiveMember(f"{self._root}/{entry.name}", entry.size, offset, facts.time or NO_TIME, True)
            is_all = len(head) == entry.size
            self._observer.end_member(member, found, None if is_all else partial(output.read_back, member))

    def _copy(self, entry: InputFile, reader: FileReader, head: bytes, output: ArchiveOutput, task: Task) -> None:
        block, left = head, entry.size
        while True:
            output.write(block, "content", entry.name)
            if self._observer:
                self._observer.take_content(block)
            task.advance(len(block))
            left -= len(block)
            if not left:
                break
            block = reader.read(min(_CHUNK, left))
            if not block:
                break
        if left or reader.read(1):
            refusals = [(entry.name, "changed its size while it was read")]
            raise InputRefused(self._source.label, refusals, "Wait until nothing writes to the input.")
        output.write(content_padding(entry.size), "padding", entry.name)

    def _patch_headers(self, output: ArchiveOutput, done: PackingResult) -> None:
        time = NO_TIME if done.time is None else done.time
        for position, length, entry in done.waiting:
            header = self._header(entry, time)
            if len(header) != length and output.is_new:
                raise HeaderLengthChanged(time)
            output.patch(position, header, entry.name)

    def _provisional_header(self, entry: InputFile, output: ArchiveOutput) -> bytes:
        """Make a header that is as long as the final one if an equal archive already exists."""
        header = self._header(entry, self._assumed_time)
        existing = output.existing_time(len(header) + BLOCK)
        return header if existing is None else self._header(entry, existing)

    def _header(self, entry: InputFile, time: float) -> bytes:
        return member_header(f"{self._root}/{entry.name}", entry.size, time)


def examine_files(source: Source, zone: tzinfo, task: Task) -> PackingResult:
    """Find what packing ``source`` would find in the headers of its files. Reads these; writes nothing."""
    found = PackingResult()
    for entry in source.entries:
        with source.open(entry) as reader:
            _, header = read_head(reader.read, entry.size, FACT_TAGS)
        _record_facts(entry, file_facts(header, zone), found)
        task.advance(1)
    found.notices += _visit_notices(source, found)
    return found


def _record_facts(entry: InputFile, facts: FileFacts, done: PackingResult) -> None:
    if facts.kind.is_image:
        _record_image(entry, facts, done)
    else:
        done.other_files += 1
    if facts.time is not None:
        done.time = facts.time if done.time is None else max(done.time, facts.time)
    elif facts.kind is FileKind.DIRECTORY:
        done.notices.append(
            Notice("dicomdir", entry.name, "is a DICOMDIR and is archived like a file that is not DICOM")
        )
    elif facts.kind is FileKind.IMAGE:
        message = "has no usable StudyDate and StudyTime; it gets the visit's latest time"
        done.notices.append(Notice("no-study-time", entry.name, message))
    elif facts.kind is FileKind.BARE_IMAGE:
        message = "is DICOM without preamble; it gets the visit's latest time, like a file that is not DICOM"
        done.notices.append(Notice("no-preamble", entry.name, message))
    if facts.is_cut:
        done.notices.append(
            Notice("cut-dicom", entry.name, "is a DICOM file that is cut off or malformed; it is archived unchanged")
        )


def _record_image(entry: InputFile, facts: FileFacts, done: PackingResult) -> None:
    done.dicom_files += 1
    if facts.study_uid:
        done.studies.setdefault(facts.study_uid, entry.name)
    if facts.patient_id:
        done.patients.setdefault(facts.patient_id, entry.name)
    if facts.sop_uid and (first := done.instances.setdefault(facts.sop_uid, entry)) is not entry:
        done.repeated.append((entry, first))
    if facts.odd_uids:
        message = f"{describe_odd_uids(facts.odd_uids)}; it is archived unchanged"
        done.notices.append(Notice("odd-uid", entry.name, message))


def _visit_notices(source: Source, done: PackingResult) -> list[Notice]:
    notices = []
    if not done.dicom_files:
        notices.append(Notice("no-dicom", source.label, "contains no DICOM files"))
    if done.time is None:
        notices.append(Notice("no-time", source.label, "has no usable study time; every file gets 1970-01-01 00:00:00"))
    if len(done.studies) > 1:
        named = [f"{uid} (first file '{printable(name)}')" for uid, name in list(done.studies.items())[:_STUDIES_NAMED]]
        message = (
            f"contains {format_count(len(done.studies), 'study')} instead of one: StudyInstanceUID {', '.join(named)}"
        )
        notices.append(Notice("several-studies", source.label, message))
    if len(done.patients) > 1:
        named = [f"'{printable(name)}'" for name in list(done.patients.values())[:_STUDIES_NAMED]]
        message = f"contains images of {len(done.patients)} PatientIDs; the first files are {', '.join(named)}"
        notices.append(Notice("several-patients", source.label, message))
    return notices


_BATCH = 1 << 20
_MOST_BUFFERS = 512


class ArchiveOutput(ABC):
    """The output of packing; ``position`` is the number of bytes taken so far.

    ``is_new``: its layout is not fixed yet, so that packing may start again.
    """

    is_new: ClassVar[bool]

    def __init__(self, handle: BinaryIO, path: Path) -> None:
        self.path = path
        self.position = 0
        self._descriptor = handle.fileno()
        self._digests = BackgroundDigests()
        self._held_from: int | None = None

    def write(self, data: bytes, part: str, name: str) -> None:
        """Take the next bytes: the ``part`` of member ``name`` (both for messages)."""
        self._take(data, part, name)
        self.position += len(data)

    def provisional(self, header: bytes) -> None:
        """Take a header that will be patched; from here on, hashing is postponed."""
        self._flush()
        if self._held_from is None:
            self._held_from = self.position
        self._take_unchecked(header)
        self.position += len(header)

    def existing_time(self, most: int) -> float | None:
        """Return the time in the existing header at ``position``, of at most ``most`` bytes; ``None`` without one."""
        return None

    def patch(self, position: int, header: bytes, name: str) -> None:
        """Replace a provisional header by the final one of the same length."""
        self._flush()
        self._replace(position, header, name)

    def read_back(self, member: ArchiveMember, at: int, count: int) -> bytes:
        """Read up to ``count`` bytes from position ``at`` of the content of a member that was written."""
        self._flush()
        with storage_errors(self.path, "read back"):
            return os.pread(self._descriptor, max(0, min(count, member.size - at)), member.offset + at)

    def finish(self) -> Digests:
        """Complete the output; returns the digests of all bytes."""
        self._flush()
        if self._held_from is not None:
            self._hash_again(self._held_from)
        self._check_end()
        return self._digests.finish()

    def close(self) -> None:
        """End the background threads; needed after an error as well."""
        self._digests.close()

    def _hash(self, batch: list[bytes]) -> None:
        if self._held_from is None:
            self._digests.update(batch)

    def _hash_again(self, position: int) -> None:
        while position < self.position:
            with storage_errors(self.path, "read back"):
                block = os.pread(self._descriptor, min(_BATCH, self.position - position), position)
            if not block:
                raise DepositDiffers(self.path, f"it ends at byte {position}")
            self._digests.update([block])
            position += len(block)

    @abstractmethod
    def _take(self, data: bytes, part: str, name: str) -> None: ...

    @abstractmethod
    def _take_unchecked(self, data: bytes) -> None: ...

    @abstractmethod
    def _replace(self, position: int, data: bytes, name: str) -> None: ...

    @abstractmethod
    def _flush(self) -> None: ...

    @abstractmethod
    def _check_end(self) -> None: ...


class NewArchive(ArchiveOutput):
    """Writes to a new file in batches of about a megabyte."""

    is_new = True

    def __init__(self, handle: BinaryIO, path: Path) -> None:
        super().__init__(handle, path)
        self._batch: list[bytes] = []
        self._batch_size = 0

    def _take(self, data: bytes, part: str, name: str) -> None:
        self._take_unchecked(data)

    def _take_unchecked(self, data: bytes) -> None:
        self._batch.append(data)
        self._batch_size += len(data)
        if self._batch_size >= _BATCH or len(self._batch) >= _MOST_BUFFERS:
            self._flush()

    def _flush(self) -> None:
        batch, self._batch, self._batch_size = self._batch, [], 0
        if not batch:
            return
        with storage_errors(self.path, "write"):
            written, total = os.writev(self._descriptor, batch), sum(map(len, batch))
            while written < total:  # a nearly full disk or a signal: continue until the system reports an error
                written += os.write(self._descriptor, memoryview(b"".join(batch))[written:])
        self._hash(batch)

    def _replace(self, position: int, data: bytes, name: str) -> None:
        with storage_errors(self.path, "write"):
            os.pwrite(self._descriptor, data, position)

    def _check_end(self) -> None:
        pass


class ExistingArchive(ArchiveOutput):
    """Compares with an existing file; the first difference raises :class:`~icf_utils.errors.DepositDiffers`."""

    is_new = False

    def existing_time(self, most: int) -> float | None:
        with storage_errors(self.path, "read"):
            return read_header_time(os.pread(self._descriptor, most, self.position))

    def _take(self, data: bytes, part: str, name: str) -> None:
        self._compare(self.position, data, part, name)
        self._hash([data])

    def _take_unchecked(self, data: bytes) -> None:
        pass

    def _replace(self, position: int, data: bytes, name: str) -> None:
        self._compare(position, data, "header", name)

    def _flush(self) -> None:
        pass

    def _compare(self, position: int, data: bytes, part: str, name: str) -> None:
        with storage_errors(self.path, "read"):
            found = os.pread(self._descriptor, len(data), position)
            if found == data:
                return
            size = os.fstat(self._descriptor).st_size
        if len(found) < len(data) and data.startswith(found):
            raise DepositDiffers(self.path, f"it ends at byte {size}, within the {part} of '{printable(name)}'")
        place = f"between bytes {position} and {position + len(data)}"
        raise DepositDiffers(self.path, f"the {part} of '{printable(name)}' differs ({place})")

    def _check_end(self) -> None:
        with storage_errors(self.path, "examine"):
            size = os.fstat(self._descriptor).st_size
        if size != self.position:
            raise DepositDiffers(self.path, f"it has {format_count(size, 'byte')}, this input gives {self.position}")
