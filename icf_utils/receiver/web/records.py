"""A session as JSON: the fields of icf-utils, and those of MagickBox under their names and types.

Pure, apart from :func:`event_records`, which reads the journal.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from email.utils import formatdate
from typing import get_args

from icf_utils.errors import InvalidSetting, printable
from icf_utils.receiver.event_table import Delivery, DeliveryState
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import Association, Session, format_session_id
from icf_utils.receiver.processings import SessionProcessing
from icf_utils.receiver.quarantine import QuarantinedImage
from icf_utils.receiver.routing import TargetState
from icf_utils.results import to_json_value

#: The fields that clients of MagickBox read (its getScratch.php).
MAGICKBOX_FIELDS = (
    *("CallerIP", "AETitleCalled", "AETitleCaller", "received", "scratchdir", "pid", "lastChangedTime"),
    *("processingTime", "processingLogSize", "processingLast"),
)


def session_record(
    session: Session,
    log_size: int,
    log_time: float | None,
    now: float,
    processings: Sequence[SessionProcessing] = (),
    sends: Sequence[TargetState] = (),
) -> dict[str, object]:
    """The record of a session. ``log_size`` is in bytes, ``log_time`` the time of the log's last change.

    All times are POSIX seconds, except in MagickBox's fields: ``received`` is written as date(1) prints it,
    ``lastChangedTime`` as in RFC 5322, both in UTC. ``processingTime``, in whole seconds, is absent before processing
    has started.
    """
    return {
        "id": session.id,
        "state": session.state,
        "rule": session.rule,
        "study": session.study,
        "visit": session.visit,
        "revision": session.revision,
        "change": session.change,
        "completed_by": session.completed_by,
        "images": session.images,
        "expected": session.expected,
        "duplicates": session.duplicates,
        "quarantined": session.quarantined,
        "refused": session.refused,
        "size": session.size,
        "first_received": session.first_received,
        "last_received": session.last_received,
        "processing_start": session.processing_start,
        "processing_end": session.processing_end,
        "failure": session.failure,
        "notes": list(session.notes),
        "processings": to_json_value(tuple(processings)),
        "sends": to_json_value(tuple(sends)),
        **_magickbox(session, log_size, log_time, now),
    }


def rejection_record(item: Association) -> dict[str, object]:
    """The record of an association that was rejected; ``time`` is in POSIX seconds."""
    return {
        "time": item.started,
        "address": item.address,
        "AETitleCaller": item.calling_ae,
        "AETitleCalled": item.called_ae,
        "reason": item.reason,
    }


#: Deliveries of events that are listed at most.
MOST_EVENTS = 1000


def event_records(journal: Journal, state: str) -> list[dict[str, object]]:
    """The records of the last deliveries in a state, or in any for an empty text.

    Raises :class:`~icf_utils.errors.InvalidSetting` for an unknown state.
    """
    states: tuple[DeliveryState, ...] = get_args(DeliveryState)
    chosen = [known for known in states if known == state or not state]
    if not chosen:
        raise InvalidSetting("state", f"expected {', '.join(states)}, found '{printable(state[:40])}'")
    return [event_record(item) for item in journal.events.deliveries(chosen, MOST_EVENTS)]


def event_record(item: Delivery) -> dict[str, object]:
    """The record of a delivery. ``time`` and ``due``, of the next attempt, are in POSIX seconds."""
    return {
        "id": item.key,
        "type": item.kind,
        "time": item.time,
        "session": format_session_id(item.session) if item.session else None,
        "target": item.target,
        "state": item.state,
        "attempts": item.attempts,
        "due": item.due if item.state == "waiting" else None,
        "message": item.message,
    }


def quarantine_record(item: QuarantinedImage) -> dict[str, object]:
    """The record of an image in quarantine; ``received`` is in POSIX seconds, ``size`` in bytes."""
    return {
        "image": item.image,
        "size": item.size,
        "received": item.received,
        "latest": item.is_latest,
        "differs": list(item.differs),
    }


def _magickbox(session: Session, log_size: int, log_time: float | None, now: float) -> dict[str, object]:
    changed = session.last_received if log_time is None else log_time
    fields: dict[str, object] = {
        "CallerIP": session.address,
        "AETitleCalled": session.called_ae or session.rule,
        "AETitleCaller": session.calling_ae,
        "received": _like_date(session.first_received),
        "scratchdir": session.id,
        "pid": f"scp_{session.study_uid}" if session.study_uid else session.id,
        "lastChangedTime": formatdate(changed).replace("-0000", "+0000"),
        "processingLogSize": log_size,
        "processingLast": max(0, int(now - changed)),
    }
    seconds = processing_seconds(session, now)
    return fields if seconds is None else {**fields, "processingTime": int(seconds)}


def processing_seconds(session: Session, now: float) -> float | None:
    """How long a session has been processed, in seconds; ``None`` before that has started."""
    if session.processing_start is None:
        return None
    return max(0.0, (session.processing_end or now) - session.processing_start)


def _like_date(moment: float) -> str:
    """A time as date(1) prints it in the C locale."""
    day = time.gmtime(moment)
    names, months = (
        ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"],
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"],
    )
    clock = time.strftime("%H:%M:%S", day)
    return f"{names[day.tm_wday]} {months[day.tm_mon - 1]} {day.tm_mday:2} {clock} UTC {day.tm_year}"
