"""What the answer to a request for bytes means (RFC 9110), and which statuses are transient. Pure, no input or output.

An object is pinned to one state (:class:`ObjectState`): a range of another state than the first answer's is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from icf_utils.fetch.errors import FetchFailure, Kind, RangesRefused
from icf_utils.formatting import format_count

#: Statuses that may be different the next time (RFC 9110, 15.5.9 and 15.6; RFC 6585, 4).
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})

#: Statuses by which a server says that it has not begun (RFC 9110, 15.6.4; RFC 6585, 4).
UNTOUCHED = frozenset({429, 503})

#: The same as :data:`TRANSIENT` for an XNAT, which answers 423 while it is at work on a session.
TRANSIENT_XNAT = TRANSIENT | {423}

#: Positions and sizes with more than 18 digits are refused; Python does not convert very long ones.
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,18})")
_NUMBER = re.compile(r"[0-9]{1,18}")

_REFUSALS: Mapping[int, tuple[Kind, str, str]] = {
    403: ("forbidden", "access denied (403)", "ask the server's administrator for access"),
    404: ("missing", "not found (404)", "check the address"),
    410: ("missing", "it was removed (410)", "check the address"),
    412: ("changed", "it was replaced during the transfer (412)", "run the same command again"),
}


@dataclass(frozen=True)
class RequestedRange:
    """The requested bytes: ``size`` from ``start`` (``None``: all the rest), of which ``done`` have arrived."""

    start: int
    size: int | None
    done: int = 0

    @property
    def at(self) -> int:
        """The position of the next byte."""
        return self.start + self.done

    @property
    def left(self) -> int | None:
        return None if self.size is None else self.size - self.done


@dataclass(frozen=True)
class ObjectState:
    """One state of an object. ``mark``: generation, ETag or Last-Modified, whichever the server sends; may be empty.

    ``size`` in bytes, ``None`` where the server does not say.
    """

    mark: str
    size: int | None

    def agrees(self, other: ObjectState) -> bool:
        marks = self.mark == other.mark or not (self.mark and other.mark)
        sizes = self.size == other.size or None in (self.size, other.size)
        return marks and sizes


@dataclass(frozen=True)
class BodyPart:
    """The part of a body to read: ``length`` bytes (``None``: up to the end) after the first ``skip``."""

    identity: ObjectState
    skip: int
    length: int | None


def state_of(headers: Mapping[str, str], size: int | None) -> ObjectState:
    """The state of the object in an answer."""
    mark = headers.get("x-goog-generation") or headers.get("ETag") or headers.get("Last-Modified") or ""
    return ObjectState(mark, size)


def range_condition(headers_mark: str) -> dict[str, str]:
    """The header by which a range is sent only if the object is unchanged; empty for marks that cannot be used.

    ``If-Range`` takes strong entity tags (RFC 9110, 13.1.5).
    """
    return {"If-Range": headers_mark} if headers_mark.startswith('"') else {}


def whole_size(headers: Mapping[str, str]) -> int | None:
    """The size of a whole object, if the headers of a 200 contain it."""
    text = headers.get("Content-Length", "")
    return int(text) if _NUMBER.fullmatch(text) and not _encoding(headers) else None


def interpret(where: str, status: int, headers: Mapping[str, str], asked: RequestedRange) -> BodyPart:
    """How to read this answer. Raises :class:`~icf_utils.fetch.errors.FetchFailure` for one without the bytes.

    Answers in :data:`TRANSIENT` are the caller's to repeat.
    """
    if status == 206:
        return _part(where, headers, asked)
    if status == 200:
        return _whole(where, headers, asked)
    if status == 416:
        return _beyond(where, headers, asked)
    raise failure_for(where, status)


def failure_for(where: str, status: int) -> FetchFailure:
    """What a status means; for 401 see :func:`unauthorised`."""
    other: tuple[Kind, str, str] = ("refused", f"the server answered {status}", "check the address")
    kind, problem, remedy = _REFUSALS.get(status, other)
    return FetchFailure(where, problem, remedy, kind=kind, status=status)


def unauthorised(where: str, headers: Mapping[str, str], url: str, sent: str, advice: str) -> FetchFailure:
    """What a 401 from ``url`` means.

    ``sent`` says what the request carried (empty: nothing), ``advice`` what to do where that is nothing.
    """
    problem = f"the server rejects the {sent} (401)" if sent else "the server requires authentication (401)"
    remedy = f"check the {sent}" if sent else advice
    challenge = headers.get("WWW-Authenticate", "")
    return FetchFailure(where, problem, remedy, kind="unauthorised", status=401, challenge=challenge, challenger=url)


def _part(where: str, headers: Mapping[str, str], asked: RequestedRange) -> BodyPart:
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if not found or int(found[1]) != asked.at or not _is_range(found, asked):
        raise FetchFailure(
            where,
            f"expected the bytes from {asked.at}, the answer has no range or another one",
            "report it to the administrator of the server or proxy",
            kind="refused",
            status=206,
        )
    if _encoding(headers):
        raise _encoded(where, headers)
    total = None if found[3] == "*" else int(found[3])
    if asked.size is not None and total is not None and asked.start + asked.size > total:
        raise _too_short(where, asked.start + asked.size, total)
    length = int(found[2]) - int(found[1]) + 1
    return BodyPart(state_of(headers, total), 0, length if asked.left is None else min(length, asked.left))


def _is_range(found: re.Match[str], asked: RequestedRange) -> bool:
    """Whether the answer's range has a byte, is in the object, and ends where it must: at its end if all was asked."""
    first, last = int(found[1]), int(found[2])
    if found[3] == "*":
        return first <= last and asked.size is not None
    return first <= last < int(found[3])


def _whole(where: str, headers: Mapping[str, str], asked: RequestedRange) -> BodyPart:
    """The whole object: bytes that have arrived before are skipped; a part that starts later is not waited for."""
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml"):
        raise web_page(where)
    total = whole_size(headers)
    if asked.start:
        raise RangesRefused(where, total)
    if _encoding(headers) and asked.size is not None:
        raise _encoded(where, headers)
    if asked.size is not None and total is not None and asked.size > total:
        raise _too_short(where, asked.size, total)
    length = asked.left if asked.left is not None else None if total is None else total - asked.done
    return BodyPart(state_of(headers, total), asked.done, length)


def web_page(where: str) -> FetchFailure:
    """A web page instead of a file."""
    return FetchFailure(
        where,
        "the server sent a web page instead of the file, perhaps a login page",
        "check the address and the credentials",
        kind="page",
        status=200,
    )


def _beyond(where: str, headers: Mapping[str, str], asked: RequestedRange) -> BodyPart:
    """416: right at the end of an object; elsewhere the object is shorter than expected."""
    found = _UNSATISFIED.fullmatch(headers.get("Content-Range", "").strip())
    total = int(found[1]) if found else None
    if asked.size is None and asked.at == total:
        return BodyPart(state_of(headers, total), 0, 0)
    raise _too_short(where, asked.start + (asked.size or 0), total)


def _too_short(where: str, expected: int, total: int | None) -> FetchFailure:
    found = "fewer" if total is None else str(total)
    return FetchFailure(
        where,
        f"expected at least {format_count(expected, 'byte')}, found {found}",
        "it is another file, or damaged",
        kind="size",
    )


def _encoded(where: str, headers: Mapping[str, str]) -> FetchFailure:
    return FetchFailure(
        where,
        f"the server compresses what it sends ({_encoding(headers)}), so that ranges are useless",
        "configure the server to send this file uncompressed",
        kind="encoded",
    )


def _encoding(headers: Mapping[str, str]) -> str:
    name = headers.get("Content-Encoding", "").strip().lower()
    return "" if name == "identity" else name
