"""How a program's end and its own words make an outcome."""

from __future__ import annotations

import json

import pytest

from icf_utils.processing.model import ProgramEnd
from icf_utils.processing.outcome import program_outcome


def end(code: int | None = 0, signal: int | None = None, reason: str = "") -> ProgramEnd:
    return ProgramEnd(code, signal, reason, None, 0, 0, 0.1)


@pytest.mark.parametrize(
    ("name", "value", "state", "words"),
    [
        ("proc.json", {"success": "success"}, "success", ""),
        ("proc.json", {"success": "partial", "message": "half"}, "partial", "half"),
        ("proc.json", [{"success": "success"}, {"success": "failed", "message": "no"}], "failed", "no"),
        ("proc.json", {"success": False}, "failed", ""),
        ("proc.json", {"message": "fine"}, "success", "fine"),
        ("result.json", {"any": [1]}, "success", ""),
        ("result.json", {"state": "partial", "__mercure_notification": {"text": "half"}}, "partial", "half"),
        ("result.json", {"__mercure_notification": 3}, "success", ""),
    ],
)
def test_what_a_program_says(name: str, value: object, state: str, words: str) -> None:
    found = program_outcome(end(), 10, {name: json.dumps(value).encode()})
    assert (found.state, found.words) == (state, words)


def test_an_exit_code_counts_more_than_words() -> None:
    found = program_outcome(end(2), 10, {"proc.json": b'{"success": "success", "message": "fine"}'})
    assert (found.state, found.code, found.words) == ("failed", "exit-code", "fine")


@pytest.mark.parametrize("raw", [b"{", b"\xff", b"3", b'"x"', b"[3]", b'{"success": 3}', None, b"[" * 100_000])
def test_unreadable_words(raw: bytes | None) -> None:
    assert program_outcome(end(), 10, {"proc.json": raw}).code == "state-unreadable"


@pytest.mark.parametrize(
    ("ended", "code", "text"),
    [
        (end(137), "exit-code", "137 (128 + 9: signal SIGKILL)"),
        (end(None, 9), "signal", "as the system does when memory runs out"),
        (end(None, 15, "timeout"), "timeout", "10 seconds"),
        (end(None, 15, "no-space"), "no-space", "TMPDIR"),
    ],
)
def test_how_a_program_ended(ended: ProgramEnd, code: str, text: str) -> None:
    found = program_outcome(ended, 10, {})
    assert (found.state, found.code) == ("failed", code)
    assert text in found.message
