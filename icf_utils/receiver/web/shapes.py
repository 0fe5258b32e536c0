"""The shape of records that come from another machine, before anything relies on it. Pure.

A server that is asked for sessions may be anything. A field that is missing, of another type or out of range is found
here, so that no command fails on it later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_id(value: object) -> bool:
    """Whether it can be part of an address and of a file's name."""
    return isinstance(value, str) and value.isascii() and value.isalnum() and len(value) < 20


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_moment(value: object) -> bool:
    """Whether it is a POSIX time of the years 1970 to 9999."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 253_402_300_800


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


#: Which of a record's fields must be there, and what each must be.
Shape = Mapping[str, Callable[[object], bool]]

SESSION: Shape = MappingProxyType(
    {
        **dict.fromkeys(("state", "study", "visit", "failure", "AETitleCaller"), _is_text),
        **dict.fromkeys(("images", "size", "quarantined", "refused"), _is_count),
        "id": _is_id,
        "notes": _is_texts,
    }
)
REJECTION: Shape = MappingProxyType(
    {**dict.fromkeys(("address", "AETitleCaller", "AETitleCalled", "reason"), _is_text), "time": _is_moment}
)
SPACE: Shape = MappingProxyType({"problem": _is_text})
EVENT: Shape = MappingProxyType(
    {
        **dict.fromkeys(("id", "type", "target", "state", "message"), _is_text),
        "time": _is_moment,
        "session": _is_text_or_none,
        "attempts": _is_count,
    }
)
QUARANTINED: Shape = MappingProxyType(
    {"image": _is_text, "received": _is_moment, "size": _is_count, "differs": _is_texts}
)


def has_shape(value: Any, shape: Shape) -> bool:
    """Whether a value of JSON is an object with the fields of a shape."""
    return isinstance(value, dict) and all(name in value and fits(value[name]) for name, fits in shape.items())
