"""What the receiver's journal records: sessions and associations, as frozen values. Pure.

A session is one visit, or one revision of it, on its way into the store. An association is one DICOM connection. It may
bring images of several sessions, and the images of a session may come over several associations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from icf_utils.formatting import format_count

SessionState = Literal["receiving", "held", "queued", "running", "success", "failed", "partial"]
VisitChange = Literal["new", "late", "corrected"]
AssociationState = Literal["open", "released", "aborted", "lost", "rejected", "interrupted"]

_STAGE = re.compile("archive|metadata|dataset|catalog|xnat|process [A-Za-z0-9._-]+")

#: The states of a session in their order. ``receiving``: more images may come. ``held``: complete; somebody decides
#: whether it is added to its visit (``late = "hold"``). ``queued``: complete; waits for a worker. ``running``: the
#: stages run. ``success``: in the store. ``failed``: a stage or the upload to XNAT failed. ``partial``: in the store,
#: but images are missing or may be missing, or some were quarantined or refused.
SESSION_STATES: tuple[SessionState, ...] = get_args(SessionState)

#: Notes which say that images may be missing; a session with one of them is ``partial``.
ASSOCIATION_LOST = "an association was lost; images may be missing"
FORCED = "closed by 'force' while an association was open; images may be missing"
#: The note about a processing that says 'partial' itself.
PARTIAL_OUTPUT = "a processing reported that a part of its work failed; see its log"
#: The note about images of a visit that was complete already.
LATE = "these images arrived after the visit was complete"
#: The note about quarantined images.
CONFLICTING = "an image was sent again with different content; it is in the session's quarantine"
#: The note of a session whose visit lacks images, because another session with images of it has failed.
OTHER_FAILED = "the visit lacks images: another session with images of it has failed"

#: Notes whose text does not depend on the session.
FIXED_NOTES = (ASSOCIATION_LOST, FORCED, PARTIAL_OUTPUT, CONFLICTING, LATE, OTHER_FAILED)

#: States that a session leaves only when it is retried or deleted.
FINISHED: tuple[SessionState, ...] = ("success", "failed", "partial")

#: Notes by which a session is ``partial`` until another session has brought what the visit lacked.
_LACKING = frozenset({ASSOCIATION_LOST, FORCED, OTHER_FAILED})


@dataclass(frozen=True)
class Session:
    """Images of one visit on their way into the store. Times are POSIX seconds, ``None`` for what has not happened.

    ``id`` is a short text (``s000017``) that is never reused. ``visit`` is the identifier in the store: ``base_visit``,
    with a suffix if ``revision`` is above 1. ``change`` says what the images are for the visit: ``new``, or its next
    version, as images that came ``late`` or as ``corrected`` ones. ``folder`` holds all that the receiver keeps of the
    session. ``input`` is what is archived: a folder or a zip in ``folder``, or a user's own folder elsewhere. ``log``
    is a text file.

    ``images`` counts the images in ``input``, ``duplicates`` those that were sent again, ``quarantined`` those that
    were sent again with different content, ``refused`` those that were answered with a failure and have not come since.
    ``size`` is in bytes.
    ``expected`` is 0 if no number is expected. ``study_uid`` is the StudyInstanceUID, empty for what did not come by
    C-STORE. ``failure`` says why the session failed, and ``notes`` are further sentences for the user. ``completed_by``
    is the id of a later session that brought what the visit lacked; empty if there is none.
    """

    id: str
    rule: str
    study: str
    visit: str
    base_visit: str
    revision: int
    change: VisitChange
    state: SessionState
    study_uid: str
    called_ae: str
    calling_ae: str
    address: str
    first_received: float
    last_received: float
    images: int
    duplicates: int
    quarantined: int
    refused: int
    size: int
    expected: int
    folder: Path
    input: Path
    log: Path
    processing_start: float | None
    processing_end: float | None
    failure: str
    notes: tuple[str, ...]
    completed_by: str
    deleted: bool

    @property
    def name(self) -> str:
        """``STUDY/VISIT``."""
        return f"{self.study}/{self.visit}"

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    @property
    def can_be_deleted(self) -> bool:
        """Whether nothing is being done with it."""
        return self.is_finished or self.state == "held"

    @property
    def is_short(self) -> bool:
        """Whether its visit lacks images, or may lack some."""
        is_lacking = self.expected > self.images or bool(_LACKING & set(self.notes))
        return is_lacking and not self.completed_by

    @property
    def quarantine(self) -> Path:
        """The folder of images that were sent again with different content; it may not exist."""
        return self.folder / "quarantine"


@dataclass(frozen=True)
class Association:
    """One DICOM connection. Times are POSIX seconds, ``size`` is in bytes; ``ended`` is ``None`` while it is open.

    ``state``: ``open``, ``released`` (the regular end), ``aborted`` (by either side), ``lost`` (the connection broke),
    ``rejected`` (never accepted; ``reason`` says why), ``interrupted`` (the receiver ended while it was open).
    ``transfer_syntaxes`` are the UIDs of those in which images came; ``sessions`` are session ids.
    """

    id: int
    called_ae: str
    calling_ae: str
    address: str
    started: float
    ended: float | None
    state: AssociationState
    reason: str
    transfer_syntaxes: tuple[str, ...]
    images: int
    duplicates: int
    quarantined: int
    refused: int
    size: int
    sessions: tuple[str, ...]


@dataclass(frozen=True)
class SessionFilter:
    """Which sessions to list: those that match every field that is not empty.

    ``sender`` is the calling AE title; ``*`` in ``study`` or ``visit`` matches any text. A session
    matches ``states`` if it is in one of them. Deleted sessions are listed only with ``deleted``.
    """

    sender: str = ""
    called_ae: str = ""
    study: str = ""
    visit: str = ""
    rule: str = ""
    states: tuple[SessionState, ...] = ()
    deleted: bool = False


def visit_of_revision(visit: str, revision: int) -> str:
    """The visit identifier of a revision: the first has no suffix.

    >>> visit_of_revision("visit-01", 1), visit_of_revision("visit-01", 2)
    ('visit-01', 'visit-01-r2')
    """
    return visit if revision == 1 else f"{visit}-r{revision}"


def final_state(session: Session, failure: str, has_partial_output: bool = False) -> SessionState:
    """The state of a session that has been processed; ``failure`` is empty if nothing failed."""
    if failure:
        return "failed"
    is_partial = session.is_short or has_partial_output or session.quarantined or session.refused
    return "partial" if is_partial else "success"


def format_session_id(number: int) -> str:
    """The id of the session of a row of the journal.

    >>> format_session_id(17)
    's000017'
    """
    return f"s{number:06d}"


def failed_stage(failure: str) -> str:
    """Where a session failed, by its failure: the stage, ``process NAME`` or ``xnat``; ``receiver`` for anything else.

    >>> failed_stage("process dcm2niix: exit code 1"), failed_stage("the process that worked on it ended")
    ('process dcm2niix', 'receiver')
    """
    place = failure.partition(":")[0]
    return place if _STAGE.fullmatch(place) else "receiver"


def refusal_note(refusal: tuple[str, int]) -> str:
    """The note about images that were refused for a reason.

    >>> refusal_note(("the disk is full", 15))
    '15 images were refused: the disk is full'
    """
    reason, count = refusal
    return f"{format_count(count, 'image')} {'was' if count == 1 else 'were'} refused: {reason}"


def has_lost_association(associations: Iterable[Association]) -> bool:
    """Whether one of a session's associations was not released, and none that started later was.

    A later one that was released is taken for the sender's next attempt. Open ones do not count yet.
    """
    ended = [item for item in associations if item.ended is not None]
    bad = max((item.ended or 0.0 for item in ended if item.state != "released"), default=None)
    return bad is not None and not any(item.state == "released" and item.started >= bad for item in ended)


def in_one_line(message: str) -> str:
    r"""Join the lines of a message, such as a list of refused files, for a log or a table.

    >>> in_one_line("refused:\n  'a': is cut\n  'b': is cut")
    "refused: 'a': is cut; 'b': is cut"
    """
    whole = ""
    for line in filter(None, map(str.strip, message.splitlines())):
        gap = " " if whole.endswith((":", ".")) else "; "
        whole += f"{gap if whole else ''}{line}"
    return whole
