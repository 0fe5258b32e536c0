"""What each C-STORE request is answered, and where its image goes. Writes the spool through the session manager.

An image is written to the spool as it comes, and identified, synced and given its name before it is answered with
success. Everything else that can happen to it has a status of its own; nothing is kept of an image that is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from icf_utils.dicom.dimse import (
    CANNOT_UNDERSTAND,
    CONFLICT,
    NO_IDENTIFIER,
    NO_RULE,
    OUT_OF_RESOURCES,
    SUCCESS,
    Command,
    StoreResponse,
)
from icf_utils.dicom.part10 import write_file_meta
from icf_utils.errors import IcfError, StorageFailure, printable
from icf_utils.formatting import format_size
from icf_utils.progress import Progress
from icf_utils.receiver.admission import OpenAssociation
from icf_utils.receiver.association import IncomingImage
from icf_utils.receiver.identify import (
    ImageIdentity,
    ImageRejection,
    find_rule,
    identify,
    image_key,
    read_damaged_header,
    read_header,
    sop_uids,
)
from icf_utils.receiver.sessions import RefusedImage, SessionManager
from icf_utils.receiver.spool import KEPT_HEAD, PartialImage, Spool, is_disk_full


class StoreHandler:
    """Handles the C-STORE requests of admitted associations. Safe for threads."""

    def __init__(
        self,
        spool: Spool,
        sessions: SessionManager,
        progress: Progress,
        write_association: Callable[[OpenAssociation], None],
    ) -> None:
        """``write_association`` writes an association to the journal."""
        self._spool, self._sessions, self._progress = spool, sessions, progress
        self._write_association = write_association

    def begin(self, association: OpenAssociation, request: Command, transfer_syntax: str) -> IncomingImage:
        """Return what receives the image of a request."""
        association.transfer_syntaxes.add(transfer_syntax)
        part, problem = self._new_part(association)
        if part is None:
            return _NoSpace(self, association, request, transfer_syntax, problem)
        part.write(write_file_meta(request.sop_class, request.sop_instance, transfer_syntax))
        return _SpooledImage(self, association, request, part)

    def _new_part(self, association: OpenAssociation) -> tuple[PartialImage | None, str]:
        """A file for an image; or ``None``, and what prevents it."""
        try:
            problem = self._spool.space_problem()
            return (None, problem) if problem else (self._spool.new_part(association.rule.name), "")
        except OSError as error:
            return None, "the disk is full" if is_disk_full(error) else f"cannot write to the spool: {error.strerror}"

    def refuse_unwritten(
        self, association: OpenAssociation, request: Command, head: bytes, problem: str
    ) -> StoreResponse:
        """The response to an image of which nothing was written; ``head`` is its beginning."""
        response = self._refuse(association, OUT_OF_RESOURCES, problem)
        self._record_refusal(association, request, response, lambda at, count: head[at : at + count], len(head))
        return response

    def finish(self, association: OpenAssociation, request: Command, part: PartialImage) -> StoreResponse:
        """Store an image that has come completely; the response says what became of it."""
        try:
            response = self._store(association, request, part)
        except StorageFailure as error:
            response = self._refuse_for_error(association, error.errno, str(error))
        except OSError as error:
            response = self._refuse_for_error(association, error.errno, f"cannot store an image: {error.strerror}")
        except Exception as error:  # noqa: BLE001 - a bug must not end the association
            response = self._refuse_for_error(association, None, f"internal error ({type(error).__name__})")
        if response.status not in (SUCCESS, CONFLICT):
            self._record_refusal(association, request, response, part.read_at, part.size)
            part.discard()
        association.has_changed = True
        return response

    def _record_refusal(
        self,
        association: OpenAssociation,
        request: Command,
        response: StoreResponse,
        read_at: Callable[[int, int], bytes],
        size: int,
    ) -> None:
        """Let the session know that one of its images was refused; ``read_at`` reads what there is of the image."""
        association.counts["refused"] += 1
        association.has_changed = True
        try:
            header = read_damaged_header(read_at, size, association.rules)
            rule = find_rule(header, association.rules)
            identity = identify(header, rule, association.sender, *sop_uids(header)) if rule else None
        except Exception:  # noqa: BLE001 - of a header that is malformed in any way
            rule, identity = None, None
        refused = RefusedImage(
            image_key(request.sop_instance), identity if isinstance(identity, ImageIdentity) else None
        )
        reason = f"{response.comment} (0x{response.status:04X})"
        with suppress(IcfError, OSError):  # the disk is full: the session manager records it later
            association.sessions.add(
                self._sessions.refuse(rule or association.rule, association.sender, association.id, refused, reason)
            )

    def _store(self, association: OpenAssociation, request: Command, part: PartialImage) -> StoreResponse:
        if part.error:
            return self._refuse_for_error(
                association, part.error.errno, f"cannot write to the spool: {part.error.strerror}"
            )
        header = read_header(part.read_at, part.size, association.rules)
        if header is None:
            return self._refuse(association, CANNOT_UNDERSTAND, "the data set cannot be parsed")
        rule = find_rule(header, association.rules)
        if rule is None:
            return self._refuse(association, NO_RULE, "the image matches no rule")
        identity = identify(header, rule, association.sender, request.sop_class, request.sop_instance)
        if isinstance(identity, ImageRejection):
            status = NO_IDENTIFIER if identity.lacks_identifier else CANNOT_UNDERSTAND
            return self._refuse(association, status, identity.reason)
        part.sync()
        if part.error:
            raise part.error
        session, disposition = self._sessions.store(rule, association.sender, association.id, identity, part)
        association.counts[disposition] += 1
        association.counts["size"] += part.size
        if session not in association.sessions:  # the journal must know, in case the receiver is killed
            association.sessions.add(session)
            self._write_association(association)
        if disposition == "quarantined":
            return StoreResponse(CONFLICT, "different content under a known SOPInstanceUID")
        return StoreResponse()

    def _refuse(self, association: OpenAssociation, status: int, reason: str) -> StoreResponse:
        sender = association.sender
        name = f"{printable(sender.calling_ae) or '-'} ({printable(sender.address)})"
        text = f"refused an image of {name} with status 0x{status:04X}: {reason}"
        self._progress.message(f"{text}; {format_size(self._spool.free_space())} free")
        return StoreResponse(status, reason)

    def _refuse_for_error(self, association: OpenAssociation, number: int | None, reason: str) -> StoreResponse:
        is_full = number is not None and is_disk_full(OSError(number, ""))
        return self._refuse(association, OUT_OF_RESOURCES, "the disk is full" if is_full else reason)


class _SpooledImage:
    """An image that is being written to the spool."""

    def __init__(
        self, handler: StoreHandler, association: OpenAssociation, request: Command, part: PartialImage
    ) -> None:
        self._handler, self._association, self._request, self._part = handler, association, request, part

    def write(self, piece: memoryview) -> None:
        self._part.write(piece)

    def finish(self) -> StoreResponse:
        return self._handler.finish(self._association, self._request, self._part)

    def discard(self) -> None:
        self._part.discard()


class _NoSpace:
    """An image for which the disk has no space: its bytes are dropped, except for those that say where it belongs."""

    def __init__(
        self, handler: StoreHandler, association: OpenAssociation, request: Command, transfer_syntax: str, problem: str
    ) -> None:
        self._handler, self._association, self._request = handler, association, request
        self._problem = problem
        self._head = bytearray(write_file_meta(request.sop_class, request.sop_instance, transfer_syntax))

    def write(self, piece: memoryview) -> None:
        self._head += piece[: max(0, KEPT_HEAD - len(self._head))]

    def finish(self) -> StoreResponse:
        return self._handler.refuse_unwritten(self._association, self._request, bytes(self._head), self._problem)

    def discard(self) -> None:
        pass
