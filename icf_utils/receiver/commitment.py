"""Storage commitment (PS3.4 annex J): requests, their results, and which images are committed.

An image is committed when the archive of its visit is in the store and its checksum was computed, and if what the
sender sent last is what was archived: an image that was quarantined or refused is not. Reads the journal, the spool and
the store; the messages are made and parsed without I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from icf_utils.dicom.constants import IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE
from icf_utils.dicom.dimse import INVALID_ARGUMENT, NO_SUCH_ACTION, NO_SUCH_INSTANCE, Command
from icf_utils.dicom.uids import uid_text
from icf_utils.receiver.identify import image_key
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import Session, SessionFilter
from icf_utils.receiver.spool import images_below
from icf_utils.store.layout import Visit

#: The action type of a request, and the event types of its result (PS3.4 section J.3).
REQUEST_ACTION, ALL_COMMITTED, SOME_FAILED = 1, 1, 2

#: Reasons why an image is not committed (PS3.3 section C.14.1.1).
PROCESSING_FAILED, NO_SUCH_OBJECT = 0x0110, 0x0112


class Reference(NamedTuple):
    """An image that a request names."""

    sop_class: str
    sop_instance: str


@dataclass(frozen=True)
class CommitmentRequest:
    """What a sender wants to be committed."""

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class CommitmentResult:
    """Which images are committed, and the reason for each that is not."""

    committed: tuple[Reference, ...]
    failed: Mapping[Reference, int]


def parse_request(command: Command, data: bytes, transfer_syntax: str) -> CommitmentRequest | int:
    """Parse an N-ACTION request; returns the status of the response if it is not one for storage commitment."""
    if command.sop_instance != STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE:
        return NO_SUCH_INSTANCE
    if command.kind != REQUEST_ACTION:
        return NO_SUCH_ACTION
    from pydicom.filereader import read_dataset

    try:
        found = read_dataset(BytesIO(data), transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN, is_little_endian=True)
        references = tuple(
            Reference(_uid(item.ReferencedSOPClassUID), _uid(item.ReferencedSOPInstanceUID))
            for item in found.ReferencedSOPSequence
        )
        transaction = _uid(found.TransactionUID)
    except Exception:  # noqa: BLE001 - of a data set that is malformed in any way
        return INVALID_ARGUMENT
    return CommitmentRequest(transaction, tuple(dict.fromkeys(references))) if references else INVALID_ARGUMENT


def _uid(value: object) -> str:
    """The text of a UID, valid or not. Raises ``ValueError`` for what cannot be one."""
    text = uid_text(value.encode("ascii")) if isinstance(value, str) else ""
    if not text:
        raise ValueError("not a UID")
    return text


def make_report(request: CommitmentRequest, result: CommitmentResult) -> tuple[int, Any]:
    """The event type and the data set, as pydicom has it, of the report on a request (PS3.4 table J.3-2)."""
    from pydicom import Dataset

    report = Dataset()
    report.TransactionUID = request.transaction_uid
    if result.committed:
        report.ReferencedSOPSequence = [_item(reference) for reference in result.committed]
    if result.failed:
        items = [_item(reference) for reference in result.failed]
        for item, reason in zip(items, result.failed.values(), strict=True):
            item.FailureReason = reason
        report.FailedSOPSequence = items
    return SOME_FAILED if result.failed else ALL_COMMITTED, report


def _item(reference: Reference) -> Any:
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
    return item


def encode_report(report: Any, transfer_syntax: str) -> bytes:
    """The bytes of a report."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN
    write_dataset(stream, report)
    return stream.getvalue()


def find_result(journal: Journal, store: Path, request: CommitmentRequest) -> CommitmentResult | None:
    """The result of a request; ``None`` while some of its images are on their way into the store."""
    keys = {image_key(reference.sop_instance): reference for reference in request.references}
    on_their_way = journal.sessions(SessionFilter(states=("receiving", "queued", "running")))
    if any(key in keys for session in on_their_way for key in images_below(session.input)):
        return None
    archived = _archived_images(journal, store, keys)
    known = {key for session in journal.sessions(SessionFilter(states=("failed", "held"))) for key in _files(session)}
    failed = {
        reference: PROCESSING_FAILED if key in known else NO_SUCH_OBJECT
        for key, reference in keys.items()
        if key not in archived
    }
    return CommitmentResult(tuple(reference for key, reference in keys.items() if key in archived), failed)


def _archived_images(journal: Journal, store: Path, keys: Iterable[str]) -> set[str]:
    """Those of some images, by their keys, that are in archives with a checksum."""
    in_store: dict[str, bool] = {}
    rejected: dict[str, set[str]] = {}
    found = set()
    for key, session in journal.archived_images(keys):
        if session.id not in in_store:
            visit = Visit(store, session.study, session.visit)
            in_store[session.id] = visit.archive.exists() and visit.checksum.exists()
            rejected[session.id] = {path.stem[:16] for path in session.quarantine.glob("*.dcm")}
            rejected[session.id] |= journal.refused_images(session.id).keys()
        if in_store[session.id] and key not in rejected[session.id]:
            found.add(key)
    return found


def _files(session: Session) -> Sequence[str]:
    return [*images_below(session.input)] if session.input.is_dir() else []
