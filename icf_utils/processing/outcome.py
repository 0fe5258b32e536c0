"""Decide how a processing ended: from how its program ended, and from what it says in its output. Pure.

A program can leave ``proc.json``, as MagickBox's do: an object, or a list of them, with ``success`` (``success``,
``partial`` or ``failed``, or true and false) and ``message``. It can leave ``result.json``, as mercure's do, whose
``__mercure_notification`` has a ``text``; a ``state`` there counts like ``success``. The worst of these and of the exit
code counts: a program that exits with another code than 0 has failed, whatever it wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from signal import Signals
from typing import Any

from icf_utils.formatting import format_count, format_size
from icf_utils.processing.model import Outcome, OutcomeState, ProgramEnd

#: The files in the output with which a program says how it ended.
STATE_FILES = ("proc.json", "result.json")

#: A longer one is not read (bytes).
LARGEST_STATE_FILE = 1 << 20

#: The longest message of a program that is shown, in characters.
_LONGEST_WORDS = 1000

_STATES: Mapping[Any, OutcomeState] = {
    **dict.fromkeys(("success", "succeeded", "ok", "complete", True), "success"),
    **dict.fromkeys(("partial", "partially"), "partial"),
    **dict.fromkeys(("failed", "failure", "error", False), "failed"),
}
_ORDER: tuple[OutcomeState, ...] = ("failed", "partial", "success")


def program_outcome(end: ProgramEnd, timeout: int, files: Mapping[str, bytes | None]) -> Outcome:
    """The outcome of a program.

    ``files`` are those of :data:`STATE_FILES` that it left, ``None`` where one is too large. ``timeout`` in seconds.
    """
    if failure := _failure(end, timeout):
        words = " ".join(filter(None, (_statement(name, raw)[1] for name, raw in files.items())))
        return Outcome("failed", *failure, words[:_LONGEST_WORDS])
    statements = [_statement(name, raw) for name, raw in files.items()]
    if unreadable := [name for (state, _), name in zip(statements, files, strict=True) if state is None]:
        return Outcome("failed", "state-unreadable", f"its '{unreadable[0]}' is not JSON that says how it ended")
    words = " ".join(text for _, text in statements if text)[:_LONGEST_WORDS]
    state = next(name for name in _ORDER if name == "success" or name in {found for found, _ in statements})
    if state == "success":
        return Outcome("success", "success", "it ended with exit code 0", words)
    return Outcome(state, f"says-{state}", f"its {' or '.join(files)} says '{state}'", words)


def _failure(end: ProgramEnd, timeout: int) -> tuple[str, str] | None:
    """The code and sentence for a program that did not end by itself with exit code 0."""
    ended_because = {
        "timeout": f"it ran longer than its limit of {format_count(timeout, 'second')} and was ended",
        "no-space": "the disk of its scratch folder was nearly full, and it was ended; set TMPDIR to another one",
        "stopped": "it was ended because icf-utils was asked to end; the next run starts it again",
        "left-running": f"{format_count(end.left, 'process', 'processes')} that it started could not be ended",
    }
    if end.reason:
        return end.reason, ended_because[end.reason]
    if end.signal is not None:
        memory = ", as the system does when memory runs out" if end.signal == 9 else ""
        return "signal", f"it was ended by signal {end.signal} ({_signal_name(end.signal)}){memory}"
    if end.exit_code:
        number = end.exit_code - 128  # how shells and bubblewrap report a signal
        by_signal = f" (128 + {number}: signal {_signal_name(number)})" if 0 < number < 65 else ""
        return "exit-code", f"it ended with exit code {end.exit_code}{by_signal}"
    return None


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return "not a standard one"


def _statement(name: str, raw: bytes | None) -> tuple[OutcomeState | None, str]:
    """What one file says: the state, none where it cannot be read, and the message."""
    try:
        value = json.loads(raw.decode("utf-8-sig")) if raw is not None else None
    except (ValueError, RecursionError):
        return None, ""
    if name == "result.json":
        return _of_result(value)
    objects = [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, dict)]
    if not objects or (isinstance(value, list) and len(objects) < len(value)):
        return None, ""
    found = [_state_of(entry.get("success", entry.get("state", "success"))) for entry in objects]
    if None in found:
        return None, ""
    words = " ".join(_texts(entry.get("message") for entry in objects))
    return next(state for state in _ORDER if state in found), words


def _of_result(value: Any) -> tuple[OutcomeState | None, str]:
    """A ``result.json`` can have any keys."""
    if not isinstance(value, dict):
        return None, ""
    notification = value.get("__mercure_notification")
    text = notification.get("text") if isinstance(notification, dict) else None
    state = value.get("state", "success")
    return _state_of(state) or "success", " ".join(_texts([value.get("message"), text]))


def _state_of(value: Any) -> OutcomeState | None:
    word = value.strip().lower() if isinstance(value, str) else value
    return _STATES.get(word) if isinstance(word, (str, bool)) else None


def _texts(values: Any) -> Iterator[str]:
    return (value.strip() for value in values if isinstance(value, str) and value.strip())


def refused_outcome(refusals: tuple[tuple[str, str], ...]) -> Outcome:
    """The outcome of a program whose output cannot be stored; the names are in ``words``."""
    first = refusals[0][1]
    message = f"its output has {format_count(len(refusals), 'file')} that cannot be stored: one {first}"
    words = "; ".join(f"{name!r} {reason}" for name, reason in refusals[:20])
    return Outcome("failed", "output-refused", message, words)


def describe_log(size: int, limit: int) -> str:
    """Say that a log was cut; empty for one that was not."""
    if size <= limit:
        return ""
    return f"it printed {format_size(size)}; the middle of the log was left out"
