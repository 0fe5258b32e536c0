"""What the journal of the intake holds: sessions and associations, as plain frozen values. No input or output here.

A session is one visit (or one revision of it) on its way into the store. An association is one DICOM connection; it may
bring images of several sessions, and a session may come over several associations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

SessionState = Literal["receiving", "queued", "running", "success", "failed", "partial"]
AssociationState = Literal["open", "released", "aborted", "lost", "rejected", "interrupted"]

#: The states of a session in their order. ``receiving``: images may still come. ``queued``: complete, waits for a
#: worker. ``running``: the chain works on it. ``success``: in the store. ``failed``: the chain (or XNAT) refused it.
#: ``partial``: in the store, but images are missing that were expected, may be missing, or were quarantined or refused.
SESSION_STATES: tuple[SessionState, ...] = get_args(SessionState)

#: Notes that say that images may be missing; a session with one of them is ``partial``.
BROKEN_OFF = "an association was lost; images may be missing"
FORCED = "it was closed by 'force' while an association was open; images may be missing"
CONTRADICTED = "an image came again with other content; it is in the session's quarantine"

#: States in which a session rests until somebody asks for it again.
FINISHED: tuple[SessionState, ...] = ("success", "failed", "partial")


@dataclass(frozen=True)
class Session:
    """One visit on its way into the store. Times are POSIX seconds; ``None`` where it has not happened.

    ``id`` is a short text (``s000017``) that is never used again. ``visit`` is the identifier in the store, with its
    suffix where ``revision`` is above 1. ``folder`` holds everything the intake keeps of the session, ``input`` is what
    is archived: a folder of images below it, a zip below it, or a folder of the user's elsewhere. ``log`` is a text
    file. ``images`` counts what is in ``input``, ``duplicates`` what came again, ``quarantined`` what came with other
    content under the same SOPInstanceUID, ``refused`` what could not be stored; ``size`` is in bytes. ``expected`` is 0
    where nothing was. ``study_uid`` is the StudyInstanceUID, empty for what was not received by DICOM.
    ``notes`` are sentences about what a user should know.
    """

    id: str
    rule: str
    study: str
    visit: str
    revision: int
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
    deleted: bool

    @property
    def name(self) -> str:
        """``study/visit``, as targets of ``icf-utils run`` are written."""
        return f"{self.study}/{self.visit}"

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    @property
    def quarantine(self) -> Path:
        """The folder of images that contradict others; it may not exist."""
        return self.folder / "quarantine"


@dataclass(frozen=True)
class Association:
    """One DICOM connection. Times are POSIX seconds, ``size`` in bytes; ``ended`` is ``None`` while it is open.

    ``state``: ``open``, ``released`` (the regular end), ``aborted`` (by either side), ``lost`` (the connection broke),
    ``rejected`` (never accepted, ``reason`` says why), ``interrupted`` (the receiver ended while it was open).
    ``transfer_syntaxes`` are UIDs that images came in; ``sessions`` are ids.
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
    """Which sessions to list: those that fit everything that is given (empty: anything).

    ``sender`` is the calling AE; ``states`` any of them; deleted ones only with ``deleted``.
    """

    sender: str = ""
    called_ae: str = ""
    study: str = ""
    visit: str = ""
    rule: str = ""
    states: tuple[SessionState, ...] = ()
    deleted: bool = False


def visit_of_revision(visit: str, revision: int) -> str:
    """The visit identifier of a revision: the first has none, later ones a suffix.

    >>> visit_of_revision("visit-01", 1), visit_of_revision("visit-01", 2)
    ('visit-01', 'visit-01-r2')
    """
    return visit if revision == 1 else f"{visit}-r{revision}"


def final_state(session: Session, failure: str) -> SessionState:
    """What a processed session is in the end. Pure."""
    if failure:
        return "failed"
    is_short = session.expected > session.images or bool({BROKEN_OFF, FORCED} & set(session.notes))
    return "partial" if is_short or session.quarantined or session.refused else "success"


def is_broken_off(associations: Iterable[Association]) -> bool:
    """Whether an association of a session came to a bad end, and none that began afterwards to the regular one. Pure.

    Those that are still open say nothing yet.
    """
    ended = [item for item in associations if item.ended is not None]
    bad = max((item.ended or 0.0 for item in ended if item.state != "released"), default=None)
    return bad is not None and not any(item.state == "released" and item.started >= bad for item in ended)


def in_one_line(message: str) -> str:
    r"""A message of several lines, such as a list of files that were refused, for a log or a table.

    >>> in_one_line("refused:\n  'a': is cut\n  'b': is cut")
    "refused: 'a': is cut; 'b': is cut"
    """
    whole = ""
    for line in filter(None, map(str.strip, message.splitlines())):
        gap = " " if whole.endswith((":", ".")) else "; "
        whole += f"{gap if whole else ''}{line}"
    return whole
