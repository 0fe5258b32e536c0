"""One pass over an input: headers read, members written, checksum computed, each input byte read once.

Reads the source and writes to the output it is handed; decides nothing about names in the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import tzinfo

from icf_utils.archive.headers import BLOCK, content_padding, end_of_archive, member_header
from icf_utils.archive.outputs import Output
from icf_utils.dicom.facts import FACT_TAGS, FileFacts, file_facts
from icf_utils.dicom.head import read_head
from icf_utils.errors import InputRefused, shown
from icf_utils.progress import Task
from icf_utils.results import Notice
from icf_utils.sources.entries import Entry, Reader, Source

_CHUNK = 1 << 20

#: How many of several studies are named, each by its UID and its first file, which are what tells them apart.
_STUDIES_NAMED = 5

#: Members without a time of their own get this one where no file of the visit has any.
NO_TIME = 0.0


class HeaderLengthChanged(Exception):
    """A provisional header has not the right one's length (a name at a block's edge); start again with ``time``."""

    def __init__(self, time: float) -> None:
        self.time = time
        super().__init__()


@dataclass
class Packing:
    """What one pass has found: ``time`` is the visit's latest study time in seconds since 1970.

    ``studies`` has the first file of each StudyInstanceUID.
    """

    dicom_files: int = 0
    other_files: int = 0
    time: float | None = None
    studies: dict[str, str] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)
    waiting: list[tuple[int, int, Entry]] = field(default_factory=list)


class Packer:
    """Packs one input below the folder ``root`` of an archive; study times are taken in ``zone``.

    ``assumed_time`` stands in the provisional headers of members that have no time of their own.
    """

    def __init__(self, source: Source, root: str, zone: tzinfo, assumed_time: float = NO_TIME) -> None:
        self._source, self._root, self._zone, self._assumed_time = source, root, zone, assumed_time

    def run(self, output: Output, task: Task) -> Packing:
        """Write all members and the end mark to ``output``.

        Raises :class:`HeaderLengthChanged`, ``InputRefused`` for an input that changes meanwhile, and what
        ``output`` raises.
        """
        done = Packing()
        for entry in self._source.entries:
            with self._source.open(entry) as reader:
                self._pack_file(entry, reader, output, task, done)
        output.write(end_of_archive(output.position), "end mark", self._root)
        self._patch_headers(output, done)
        self._source.check_unchanged()
        done.notices += _visit_notices(self._source, done)
        return done

    def _pack_file(self, entry: Entry, reader: Reader, output: Output, task: Task, done: Packing) -> None:
        head, found = read_head(reader.read, entry.size, FACT_TAGS)
        facts = file_facts(found, self._zone)
        _note(entry, facts, done)
        if facts.time is None:
            header = self._provisional_header(entry, output)
            done.waiting.append((output.position, len(header), entry))
            output.provisional(header)
        else:
            output.write(self._header(entry, facts.time), "header", entry.name)
        self._copy(entry, reader, head, output, task)

    def _copy(self, entry: Entry, reader: Reader, head: bytes, output: Output, task: Task) -> None:
        block, left = head, entry.size
        while True:
            output.write(block, "content", entry.name)
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

    def _patch_headers(self, output: Output, done: Packing) -> None:
        time = NO_TIME if done.time is None else done.time
        for position, length, entry in done.waiting:
            header = self._header(entry, time)
            if len(header) != length and output.is_new:
                raise HeaderLengthChanged(time)
            output.patch(position, header, entry.name)

    def _provisional_header(self, entry: Entry, output: Output) -> bytes:
        """As long as the right one, if the archive is there already and is the same."""
        header = self._header(entry, self._assumed_time)
        there = output.time_there(len(header) + BLOCK)
        return header if there is None else self._header(entry, there)

    def _header(self, entry: Entry, time: float) -> bytes:
        return member_header(f"{self._root}/{entry.name}", entry.size, time)


def _note(entry: Entry, facts: FileFacts, done: Packing) -> None:
    if facts.is_dicom and not facts.is_directory:
        done.dicom_files += 1
        if facts.study_uid:
            done.studies.setdefault(facts.study_uid, entry.name)
    else:
        done.other_files += 1
    if facts.time is not None:
        done.time = facts.time if done.time is None else max(done.time, facts.time)
    elif facts.is_directory:
        done.notices.append(Notice("dicomdir", entry.name, "is a DICOMDIR and is kept like a file that is not DICOM"))
    elif facts.is_dicom:
        message = "has no usable StudyDate and StudyTime and gets the visit's latest time"
        done.notices.append(Notice("no-study-time", entry.name, message))
    elif facts.looks_bare:
        message = "is DICOM without preamble and gets the visit's latest time, like a file that is not DICOM"
        done.notices.append(Notice("no-preamble", entry.name, message))
    if facts.is_cut:
        done.notices.append(
            Notice("cut-dicom", entry.name, "is a DICOM file that was cut or is malformed; kept as it is")
        )


def _visit_notices(source: Source, done: Packing) -> list[Notice]:
    notices = []
    if not done.dicom_files:
        notices.append(Notice("no-dicom", source.label, "holds no DICOM file"))
    if done.time is None:
        notices.append(Notice("no-time", source.label, "has no study time at all; every file gets 1970-01-01 00:00:00"))
    if len(done.studies) > 1:
        named = [f"{uid} from '{shown(name)}' on" for uid, name in list(done.studies.items())[:_STUDIES_NAMED]]
        message = f"holds {len(done.studies)} studies, not one visit; StudyInstanceUID {', '.join(named)}"
        notices.append(Notice("several-studies", source.label, message))
    return notices
