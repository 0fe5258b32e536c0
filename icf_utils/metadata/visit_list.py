"""A study's list of visits, ``STUDY/visits.json``, for clients of a web store, which cannot list a folder. Pure.

One JSON array with an object for each visit, each on its own line, in the order of the identifiers. A visit has a line
as soon as it is published. The list is derived: it is written last whenever a visit changes, so that what a line says
of an archive is never ahead of the archive, and it can be made anew from the other files.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from icf_utils.errors import DepositDamaged
from icf_utils.metadata.records import encode_json

_REMEDY = "run 'icf-utils catalog build' for this study"
_BEGIN, _END = b"[\n", b"\n]\n"
_EMPTY = b"[]\n"
_MD5 = re.compile(r"[0-9a-f]{32}")
_VISIT = re.compile(rb'\{"visit": "([A-Za-z0-9_][A-Za-z0-9._-]*)", ')
_DATED = b', "date": "'


@dataclass(frozen=True)
class VisitLine:
    """A visit of the list.

    ``version`` counts from 1. ``size`` (bytes) and ``md5`` are the archive's, ``images`` and ``series`` are counts.
    ``date`` (``YYYY-MM-DD``) is empty where it is unknown or the study shows no dates; the line has no such key then.
    """

    visit: str
    version: int
    size: int
    md5: str
    images: int
    series: int
    modalities: tuple[str, ...]
    date: str = ""


def encode_visit_list(lines: Iterable[VisitLine]) -> bytes:
    """Encode ``visits.json`` in its canonical form."""
    ordered = sorted(lines, key=lambda line: line.visit)
    return _join([_encode_line(line) for line in ordered])


def parse_visit_list(raw: bytes, source: str) -> tuple[VisitLine, ...]:
    """Parse the bytes of a ``visits.json``; ``source`` names the file in errors. Keys that are not known are ignored.

    Raises :class:`~icf_utils.errors.DepositDamaged`.
    """
    try:
        value = json.loads(raw.decode("utf-8"))
        if not isinstance(value, list):
            raise TypeError("not an array")
        return tuple(_parse_line(item) for item in value)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        found = f"something else ({type(error).__name__}: {error})"
        raise DepositDamaged(source, "the list of a study's visits", found, _REMEDY) from error


def with_line(raw: bytes, line: VisitLine) -> bytes | None:
    """Put a visit's line into an encoded list, in place of an older one; ``None`` if ``raw`` is not such a list.

    The other lines are taken over as they are, which makes this fast for lists of thousands of visits.
    """
    lines = _split(raw)
    if lines is None:
        return None
    names, texts = lines
    at = bisect_left(names, name := line.visit.encode("ascii"))
    texts[at : at + (names[at : at + 1] == [name])] = [_encode_line(line)]
    return _join(texts)


def without_line(raw: bytes, visit: str) -> bytes | None:
    """Remove a visit's line from an encoded list; ``None`` if ``raw`` is not such a list."""
    lines = _split(raw)
    if lines is None:
        return None
    names, texts = lines
    name = visit.encode("ascii")
    return _join([text for known, text in zip(names, texts, strict=True) if known != name])


def without_dates(raw: bytes, source: str) -> bytes:
    """Remove the dates of all visits. Raises :class:`~icf_utils.errors.DepositDamaged`."""
    if _DATED not in raw:
        return raw
    return encode_visit_list(replace(line, date="") for line in parse_visit_list(raw, source))


def _split(raw: bytes) -> tuple[list[bytes], list[bytes]] | None:
    """The identifiers and the lines of an encoded list; ``None`` if it is not canonical as far as that shows it."""
    if raw == _EMPTY:
        return [], []
    if not (raw.startswith(_BEGIN) and raw.endswith(_END)):
        return None
    texts = raw[len(_BEGIN) : -len(_END)].split(b",\n")
    found = [_VISIT.match(text) for text in texts]
    names = [match[1] for match in found if match]
    if len(names) < len(texts) or any(one >= other for one, other in pairwise(names)):
        return None
    return names, texts


def _join(texts: list[bytes]) -> bytes:
    return _BEGIN + b",\n".join(texts) + _END if texts else _EMPTY


def _encode_line(line: VisitLine) -> bytes:
    fields: dict[str, Any] = {
        "visit": line.visit,
        "version": line.version,
        "size": line.size,
        "md5": line.md5,
        "images": line.images,
        "series": line.series,
        "modalities": list(line.modalities),
    }
    return encode_json({**fields, "date": line.date} if line.date else fields)


def _parse_line(item: Mapping[str, Any]) -> VisitLine:
    texts = {key: _of_type(item.get(key, ""), str) for key in ("visit", "md5", "date")}
    numbers = {key: _of_type(item[key], int) for key in ("version", "size", "images", "series")}
    if not texts["visit"] or not _MD5.fullmatch(texts["md5"]) or min(numbers.values()) < 0:
        raise ValueError("a line without identifier, MD5 or counts")
    modalities = tuple(_of_type(modality, str) for modality in item["modalities"])
    return VisitLine(**texts, **numbers, modalities=modalities)


def _of_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected, {type(value).__name__} found")
    return value
