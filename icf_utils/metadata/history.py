"""The versions of a visit, ``<visit>_history.json``: there where a visit has more than one. Reads that file alone.

One JSON array with an object for each version, each on its own line, the first version first. The last one is the
version that is in the store. It says why and when a visit was changed in the words of who changed it; there is neither
a clock nor a header's value in it. Encoding and parsing are pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icf_utils.errors import DepositDamaged
from icf_utils.metadata.records import encode_json
from icf_utils.store.layout import Visit, find_deposit

_REMEDY = "run 'icf-utils verify --repair' for this visit, or restore the file from a copy"
_MD5 = re.compile(r"[0-9a-f]{32}")
_COMMIT = re.compile(r"(?:[0-9a-f]{40})?")
_DATE = re.compile(r"(?:\d{4}-\d\d-\d\d)?", re.ASCII)
_FORMER = re.compile(
    r"(?:.* \()?(?:merged with |renamed from (?P<study>[A-Za-z0-9._-]+)/)(?P<visit>[A-Za-z0-9._-]+)\)?", re.ASCII
)


@dataclass(frozen=True)
class VersionRecord:
    """One version of a visit.

    ``version`` counts from 1. ``md5`` and ``size`` (bytes) are the archive's. ``commit`` is the last commit of this
    version on the dataset's branch ``main``, empty without a dataset. ``reason`` and ``date`` (``YYYY-MM-DD``) are
    those that were given for the change, empty for a first deposit. ``kept`` names the file of an earlier version's
    archive if that was kept.
    """

    version: int
    md5: str
    size: int
    commit: str = ""
    reason: str = ""
    date: str = ""
    kept: str = ""


def merged_with(visit: str, reason: str = "") -> str:
    """The reason of a version that another visit of the study was merged into, after the words of who merged them.

    >>> merged_with("v1_2", "late images")
    'late images (merged with v1_2)'
    """
    return _noted(f"merged with {visit}", reason)


def renamed_from(study: str, visit: str, reason: str = "") -> str:
    """The reason of a version that has another name than the version before, after the words of who renamed it.

    >>> renamed_from("study-a", "v1")
    'renamed from study-a/v1'
    """
    return _noted(f"renamed from {study}/{visit}", reason)


def _noted(note: str, reason: str) -> str:
    return f"{reason} ({note})" if reason else note


@dataclass(frozen=True)
class FormerName:
    """A name under which a visit, or one that was merged into it, was in the store before."""

    study: str
    visit: str
    is_merged: bool


def former_names(study: str, versions: Iterable[VersionRecord]) -> list[FormerName]:
    """The former names of a visit of ``study``, as the reasons of its versions say them, the last one first."""
    found = []
    for version in reversed(tuple(versions)):
        if match := _FORMER.fullmatch(version.reason):
            is_merged = match["study"] is None
            study = match["study"] or study
            found.append(FormerName(study, match["visit"], is_merged))
    return found


def encode_history(versions: Iterable[VersionRecord]) -> bytes:
    """Encode ``<visit>_history.json`` in its canonical form."""
    return b"[\n" + b",\n".join(encode_json(_fields(version)) for version in versions) + b"\n]\n"


def _fields(version: VersionRecord) -> dict[str, Any]:
    fields = {key: getattr(version, key) for key in ("version", "md5", "size", "commit", "reason", "date")}
    return {**fields, "kept": version.kept} if version.kept else fields


def parse_history(raw: bytes, source: str) -> tuple[VersionRecord, ...]:
    """Parse the bytes of a history; ``source`` names the file in errors.

    Raises :class:`~icf_utils.errors.DepositDamaged`.
    """
    try:
        value = json.loads(raw.decode("utf-8"))
        if not isinstance(value, list):
            raise TypeError("not an array")
        found = tuple(_parse_version(item) for item in value)
        if [version.version for version in found] != list(range(1, len(found) + 1)) or len(found) < 2:
            raise ValueError("versions that are not numbered from 1 to at least 2")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DepositDamaged(source, "the versions of a visit", f"something else ({error})", _REMEDY) from error
    return found


def _parse_version(item: Mapping[str, Any]) -> VersionRecord:
    patterns = {"md5": _MD5, "commit": _COMMIT, "date": _DATE}
    texts = {key: item.get(key, "") for key in ("md5", "commit", "reason", "date", "kept")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError("a field that is not text")
    if wrong := [key for key, pattern in patterns.items() if not pattern.fullmatch(texts[key])]:
        raise ValueError(f"another form of '{wrong[0]}'")
    numbers = {key: item[key] for key in ("version", "size")}
    if not all(type(number) is int and number >= 0 for number in numbers.values()):
        raise TypeError("a field that is not a number")
    return VersionRecord(**numbers, **texts)


def read_history(visit: Visit) -> tuple[VersionRecord, ...]:
    """Read the versions of a visit; empty for a visit that has only its first one.

    Raises :class:`~icf_utils.errors.DepositDamaged`.
    """
    raw = read_history_bytes(visit)
    return () if raw is None else parse_history(raw, str(visit.history))


def read_history_bytes(visit: Visit) -> bytes | None:
    """Read the file's bytes; ``None`` where there is none."""
    return find_deposit(visit.history)


def current_version(visit: Visit) -> int:
    """The number of the version that is in the store; 1 where the history cannot be read, which ``verify`` reports."""
    try:
        return max(len(read_history(visit)), 1)
    except DepositDamaged:
        return 1


def kept_archive(visit: Visit, version: int) -> Path:
    """The file of an earlier version's archive, if it is kept."""
    return visit.archive.with_name(f"{visit.visit}_dicom.v{version}.tar")
