"""The values that the page templates show: no patient names, no header values, no UIDs. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from flask import Flask

from icf_utils.durations import format_duration, format_seconds
from icf_utils.formatting import format_size
from icf_utils.receiver.model import SESSION_STATES, Association, Session, SessionFilter, SessionState, in_one_line
from icf_utils.receiver.processings import SessionProcessing
from icf_utils.receiver.quarantine import QuarantinedImage
from icf_utils.receiver.routing import TargetState
from icf_utils.receiver.web.queries import Query
from icf_utils.receiver.web.records import processing_seconds

#: Sessions on one page.
PAGE = 100
#: Seconds after which a page reloads itself while a session is not finished.
_RELOAD = 10
_ACTIVE: tuple[SessionState, ...] = ("receiving", "queued", "running")
#: Characters of the log's end that a session's page shows.
_LOG = 20_000


@dataclass(frozen=True)
class StateChoice:
    """A choice above the list: a state, the number of sessions in it, and the URL of the list of these."""

    state: str
    count: int
    href: str
    chosen: bool


#: Rejected associations that the list's page shows.
SHOWN_REJECTED = 10

#: Images in quarantine that a page lists.
_SHOWN_IMAGES = 200


def list_page(
    sessions: Sequence[Session],
    counts: Mapping[SessionState, int],
    query: Query,
    now: float,
    has_more: bool,
    catalogs: Mapping[str, str],
) -> dict[str, Any]:
    """The values of the page with the list of sessions; ``catalogs`` are addresses in catalogs by sessions' ids."""
    chosen = query.wanted.states
    chips = [StateChoice("all", sum(counts.values()), _list_url(query, states=()), not chosen)]
    chips += [
        StateChoice(state, counts[state], _list_url(query, states=(state,)), chosen == (state,))
        for state in SESSION_STATES
    ]
    is_active = any(counts[state] for state in _ACTIVE)
    return {
        "sessions": [_row(session, now, catalogs.get(session.id, "")) for session in sessions],
        "here": _list_url(query, offset=query.offset),
        "is_filtered": query.wanted != SessionFilter(),
        "chips": chips,
        "query": query.wanted,
        "reload": _RELOAD if is_active and not query.offset else 0,
        "newer": _list_url(query, offset=max(0, query.offset - PAGE)) if query.offset else "",
        "older": _list_url(query, offset=query.offset + PAGE) if has_more else "",
        "now": now,
    }


def quarantine_rows(images: Sequence[QuarantinedImage]) -> list[dict[str, Any]]:
    """The rows of images in quarantine, the first ones only."""
    return [
        {
            "image": item.image,
            "received": item.received,
            "size": format_size(item.size),
            "differs": ", ".join(item.differs),
        }
        for item in images[:_SHOWN_IMAGES]
    ]


def rejected_rows(associations: Sequence[Association]) -> list[dict[str, Any]]:
    """The rows of associations that were rejected."""
    return [
        {
            "time": item.started,
            "address": item.address,
            "calling": item.calling_ae or "-",
            "called": item.called_ae or "-",
            "reason": in_one_line(item.reason),
        }
        for item in associations
    ]


def session_page(
    session: Session,
    log: str,
    forms: Mapping[str, str],
    now: float,
    processings: Sequence[SessionProcessing] = (),
    sends: Sequence[TargetState] = (),
    *,
    catalog: str = "",
) -> dict[str, Any]:
    """The values of a session's page; ``forms`` are the tokens of its forms by their actions."""
    return {
        "session": session,
        "row": _row(session, now, catalog),
        "log": log[-_LOG:],
        "is_cut": len(log) > _LOG,
        "forms": forms,
        "processings": processings,
        "sends": sends,
        "reload": _RELOAD if session.state in _ACTIVE else 0,
        "now": now,
    }


def _row(session: Session, now: float, catalog: str) -> dict[str, Any]:
    seconds = processing_seconds(session, now)
    return {
        "id": session.id,
        "state": session.state,
        "name": session.name,
        "study": session.study,
        "visit": session.visit,
        "sender": session.calling_ae or "-",
        "called": session.called_ae or session.rule,
        "received": session.first_received,
        "images": session.images,
        "expected": session.expected,
        "size": format_size(session.size),
        "took": "" if seconds is None else format_seconds(seconds),
        "problem": in_one_line(session.failure),
        "notes": len(session.notes),
        "quarantined": session.quarantined,
        "catalog": catalog,
        "has_input": session.state != "receiving",
        "has_output": session.state in ("success", "partial"),
    }


def _list_url(query: Query, **changes: Any) -> str:
    """The URL of the list with other states or another offset; other states start at the first page."""
    wanted = query.wanted
    states = changes.get("states", wanted.states)
    words = {
        "sender": wanted.sender,
        "called": wanted.called_ae,
        "study": wanted.study,
        "visit": wanted.visit,
        "rule": wanted.rule,
        "state": ",".join(states),
        "offset": str(changes.get("offset", 0) or ""),
    }
    text = urlencode({word: value for word, value in words.items() if value})
    return f"/?{text}" if text else "/"


def _moment(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))


def format_age(seconds: float) -> str:
    """Format how long ago something was.

    >>> format_age(59), format_age(7300)
    ('59 s ago', '2 h ago')
    """
    return f"{format_duration(max(0.0, seconds))} ago"


def add_filters(app: Flask) -> None:
    """Add the filters that the templates use."""
    app.add_template_filter(_moment, "moment")
    app.add_template_filter(format_size, "size")
    app.add_template_filter(format_age, "age")
