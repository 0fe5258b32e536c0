"""Sending images by C-STORE: through as few associations as possible, with retries. Uses the network.

Data sets are sent byte by byte as they are in the files, never decoded, unless the receiver accepts implicit VR little
endian only: then uncompressed ones are converted. Each is read as a whole before it is sent, into memory, or into an
unnamed file in TMPDIR if the image is large: a file that cannot be read does not end the association.
"""

from __future__ import annotations

import os
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import BinaryIO

from icf_utils.dicom.part10 import write_file_meta
from icf_utils.errors import IcfError, InputRefused, storage_errors
from icf_utils.progress import SILENT, Progress, Task
from icf_utils.sender.association import NoAssociation, NoContextAccepted
from icf_utils.sender.images import SendableImage, SendPlan
from icf_utils.sender.model import (
    ImageOutcome,
    SendResult,
    may_change,
    outcome_from_status,
    presentation_contexts,
    split_by_contexts,
)
from icf_utils.sender.peer import Peer
from icf_utils.sender.store_scu import StoreAssociation, open_store_association
from icf_utils.sources.source import FileReader, Source

#: How often an image that failed is sent again, and an association is requested again.
RETRIES = 2
#: Seconds before each retry.
PAUSE = 5.0

_NOT_ACCEPTED = "the receiver does not accept this SOP class in the file's transfer syntax"
_ENDED = "the association ended before it was sent"
_NO_RESPONSE = "the receiver did not respond, or ended the association"

#: Up to this size in bytes an image is held in memory.
_IN_MEMORY = 64 << 20
_CHUNK = 1 << 20

_TRANSIENT = 0x02  # PS3.8 section 9.3.4: rejected-transient


def send(
    source: Source,
    plan: SendPlan,
    peer: Peer,
    *,
    retries: int = RETRIES,
    pause: float = PAUSE,
    progress: Progress = SILENT,
) -> SendResult:
    """Send the images of an open source; images that failed are sent again.

    One association is used, unless more than 128 presentation contexts are needed or it ends early. Images that could
    not be sent are part of the result. Raises :class:`~icf_utils.errors.RemoteFailure` if no association could be
    opened.
    """
    started = time.monotonic()
    run = _Sending(source, peer, retries, pause)
    with progress.task("sending", sum(image.entry.size for image in plan.images), "B") as task:
        for batch in split_by_contexts(plan.images):
            run.send(batch, task)
    damaged = [ImageOutcome(name, "failed", None, reason, 0) for name, reason in plan.damaged]
    outcomes = (*(run.outcomes[image.entry.name] for image in plan.images), *damaged)
    seconds = time.monotonic() - started
    return SendResult(peer.name, outcomes, plan.skipped, run.size, seconds, run.associations)


class _Sending:
    """What has been sent so far: ``outcomes`` has the latest outcome of each image by its name."""

    def __init__(self, source: Source, peer: Peer, retries: int, pause: float) -> None:
        self._source, self._peer, self._retries, self._pause = source, peer, retries, pause
        self._final: set[str] = set()  # images that are not sent again
        self.outcomes: dict[str, ImageOutcome] = {}
        self.size = self.associations = self._responses = 0

    def send(self, images: Sequence[SendableImage], task: Task) -> None:
        """Send images whose contexts fit into one association, until none is left that may be sent again.

        A receiver that does not respond at all is not asked more often, however many images there are.
        """
        pending, idle = list(images), 0
        while pending:
            responses = self._responses
            try:
                self._send_once(pending, task)
            except NoContextAccepted:
                self._note_refused(pending)
            except NoAssociation as problem:
                if not self.associations and not (problem.may_change and idle < self._retries):
                    raise
                self._note_unsent(pending, problem)
            idle = idle + 1 if self._responses == responses else 0
            pending = [image for image in pending if self._may_be_resent(image)]
            if idle > self._retries:
                break
            if pending:
                time.sleep(self._pause)

    def _may_be_resent(self, image: SendableImage) -> bool:
        outcome = self.outcomes[image.entry.name]
        if outcome.state != "failed" or image.entry.name in self._final:
            return False
        return outcome.tries <= self._retries and (outcome.status is None or may_change(outcome.status))

    def _send_once(self, pending: Sequence[SendableImage], task: Task) -> None:
        """Send each image once, through one association, until it ends."""
        contexts = list(dict.fromkeys(context for image in pending for context in presentation_contexts(image)))
        with open_store_association(self._peer, contexts) as association:
            self.associations += 1
            for number, image in enumerate(pending, 1):
                contexts_of = [context for context in presentation_contexts(image) if context in association.accepted]
                outcome = self._send_one(association, image, contexts_of[0] if contexts_of else None, number)
                self.outcomes[image.entry.name] = outcome
                if outcome.state != "failed":
                    self.size += image.entry.size
                    task.advance(image.entry.size)

    def _send_one(
        self, association: StoreAssociation, image: SendableImage, context: tuple[str, str] | None, number: int
    ) -> ImageOutcome:
        """Send an image in an accepted presentation context, ``None`` if there is none."""
        name, before = image.entry.name, self.outcomes.get(image.entry.name)
        tries = before.tries if before else 0
        if context is None:
            return self._give_up(name, _NOT_ACCEPTED, tries)
        if not association.is_established:
            return ImageOutcome(name, "failed", None, _ENDED, tries)
        try:
            is_own = context[1] == image.transfer_syntax
            with open_data_set(self._source, image) if is_own else open_converted(self._source, image) as (data, size):
                status = association.store(context, image.sop_instance, data, size, number % 65535 or 1)
        except InputRefused as error:
            return self._give_up(name, f"cannot be read: {error.refusals[0][1]}", tries)
        except IcfError as error:
            return self._give_up(name, str(error), tries)
        if status is None:
            return ImageOutcome(name, "failed", None, _NO_RESPONSE, tries + 1)
        self._responses += 1
        return replace(outcome_from_status(name, status, tries + 1), converted=not is_own)

    def _give_up(self, name: str, reason: str, tries: int) -> ImageOutcome:
        self._final.add(name)
        return ImageOutcome(name, "failed", None, reason, tries)

    def _note_refused(self, images: Sequence[SendableImage]) -> None:
        self.associations += 1
        for image in images:
            tries = self.outcomes[image.entry.name].tries if image.entry.name in self.outcomes else 0
            self.outcomes[image.entry.name] = self._give_up(image.entry.name, _NOT_ACCEPTED, tries)

    def _note_unsent(self, images: Sequence[SendableImage], problem: NoAssociation) -> None:
        for image in images:
            before = self.outcomes.get(image.entry.name)
            if before is None or before.status is None:
                tries = before.tries if before else 0
                self.outcomes[image.entry.name] = ImageOutcome(image.entry.name, "failed", None, problem.problem, tries)


@contextmanager
def open_data_set(source: Source, image: SendableImage) -> Iterator[tuple[BinaryIO, int]]:
    """An image's data set, byte by byte, and its size.

    Raises :class:`~icf_utils.errors.InputRefused` or :class:`~icf_utils.errors.StorageFailure`.
    """
    with _open_unnamed(image.entry.size) as file:
        with source.open(image.entry) as reader, storage_errors(tempfile.gettempdir(), "write a temporary file below"):
            size = _copy(reader, image.dataset_at, file)
            size += file.write(bytes(size % 2))  # only if deflated: a zero after the stream (PS3.5 section A.5)
        file.seek(0)
        yield file, size


@contextmanager
def open_converted(source: Source, image: SendableImage) -> Iterator[tuple[BinaryIO, int]]:
    """As :func:`open_data_set`, in implicit VR little endian; no value is changed.

    The whole image is in memory. Raises :class:`~icf_utils.errors.InputRefused` for one that pydicom cannot convert.
    """
    from pydicom import dcmread
    from pydicom.uid import ImplicitVRLittleEndian

    with open_data_set(source, image) as (data, _), BytesIO() as part10, BytesIO() as file:
        part10.write(write_file_meta(image.sop_class, image.sop_instance, image.transfer_syntax))
        part10.write(data.read())
        part10.seek(0)
        try:
            dataset = dcmread(part10)
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            dataset.save_as(file, implicit_vr=True, little_endian=True)
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, struct.error) as error:
            reason = f"cannot be converted to implicit VR little endian ({type(error).__name__})"
            raise InputRefused(source.label, [(image.entry.name, reason)]) from error
        file.seek(_META_START - 4)
        at = _META_START + int.from_bytes(file.read(4), "little")
        size = file.seek(0, os.SEEK_END) - at
        file.seek(at)
        yield file, size


#: The byte after the element FileMetaInformationGroupLength, whose value is in front of it (PS3.10 section 7.1).
_META_START = 144


def _open_unnamed(size: int) -> BinaryIO:
    return BytesIO() if size <= _IN_MEMORY else tempfile.TemporaryFile()


def _copy(reader: FileReader, skip: int, target: BinaryIO) -> int:
    """Copy all but the first ``skip`` bytes; returns the number of bytes copied."""
    length = 0
    while block := reader.read(_CHUNK):
        length += target.write(block[skip:])
        skip = max(0, skip - len(block))
    return length
