"""What a command did, as frozen values. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Notice:
    """A warning or remark: a file that was treated in a special way or left out, and why.

    ``code`` is a short stable word for scripts (listed in ``docs/errors.md``), ``subject`` the file or value that it
    is about (raw, not escaped), ``message`` a sentence without its subject. It never has header values, except for the
    UIDs of several studies in one visit.
    """

    code: str
    subject: str
    message: str


def name_visit(study: str, visit: str, notices: Iterable[Notice]) -> Iterator[Notice]:
    """Name the visit in the subjects of notices, for output about several visits."""
    name = f"{study}/{visit}" if visit else study
    return (replace(notice, subject=f"{name}: {notice.subject}") for notice in notices)


@dataclass(frozen=True)
class Written:
    """A file of the store after a command: ``written`` now, or ``unchanged`` because it had the same bytes."""

    path: Path
    state: Literal["written", "unchanged"]


def to_json_value(value: object) -> object:
    """Convert a result to values that JSON has: dataclasses become objects, tuples arrays, paths text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json_value(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): to_json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_value(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value
