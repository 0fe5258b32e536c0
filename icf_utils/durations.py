"""Durations as people write them: ``30s``, ``5m``, ``2h``, ``7d``. Pure."""

from __future__ import annotations

import re

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,9})([smhd]?)", re.ASCII)

#: The rule, for messages.
DURATION_RULE = "a duration such as 30s, 5m, 2h or 7d"


def parse_duration(text: str) -> int:
    """The seconds of a duration; a number without a unit is seconds. Raises ``ValueError``.

    >>> parse_duration("5m"), parse_duration("2h"), parse_duration("0")
    (300, 7200, 0)
    """
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError(f"expected {DURATION_RULE}, found '{text}'")
    return int(found[1]) * _SECONDS[found[2]]


def format_duration(seconds: float) -> str:
    """A duration in its largest whole unit, rounded down.

    >>> format_duration(59.9), format_duration(300), format_duration(86400 * 3)
    ('59 s', '5 min', '3 d')
    """
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def format_seconds(seconds: float) -> str:
    """How long something took, in one or two units.

    >>> format_seconds(0.054), format_seconds(7.25), format_seconds(59.9), format_seconds(75), format_seconds(7260)
    ('0.05 s', '7.2 s', '59 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds >= 60:
        return format_minutes(seconds)
    if seconds >= 10:
        return f"{int(seconds)} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"


def format_minutes(seconds: float) -> str:
    """A duration of a minute or more in its two largest units, rounded down.

    >>> format_minutes(75.9), format_minutes(7260)
    ('1 min 15 s', '2 h 1 min')
    """
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
