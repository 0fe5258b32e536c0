"""Rows of the journal's tables: their numbers as ids, and conditions on them. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icf_utils.intake.sessions import SessionFilter


def id_of(number: int) -> str:
    """The id of the session in a row."""
    return f"s{number:06d}"


def number_of(session_id: str) -> int:
    """The row of a session; 0, which none has, for any other text."""
    digits = session_id[1:]
    known = session_id[:1] == "s" and digits.isascii() and digits.isdecimal() and 6 <= len(digits) <= 18
    return int(digits) if known and id_of(int(digits)) == session_id else 0


def suffix_of(path: Path) -> str:
    """``.zip``, ``.tar`` or ``.tar.gz``: by which an input is recognised."""
    suffixes = path.suffixes[-2:]
    return "".join(suffixes) if len(suffixes) == 2 and suffixes[0] == ".tar" else path.suffix


def conditions(wanted: SessionFilter) -> tuple[str, list[Any]]:
    """What follows WHERE, and the values for its places; no text of a user's is part of it."""
    columns = {
        "calling_ae": wanted.sender,
        "called_ae": wanted.called_ae,
        "study": wanted.study,
        "visit": wanted.visit,
        "rule": wanted.rule,
    }
    given = {name: value for name, value in columns.items() if value}
    parts, values = [f"{name} = ?" for name in given], list[Any](given.values())
    if wanted.states:
        parts.append(f"state IN ({', '.join('?' * len(wanted.states))})")
        values += wanted.states
    if not wanted.deleted:
        parts.append("NOT deleted")
    return " AND ".join(parts) or "1", values
