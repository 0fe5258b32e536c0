"""``log.json`` as ``cod-retrieve`` writes it: ``{"logs": ["STUDY/SERIES/SOP", ...]}``. Reads and writes that file.

It is a list for other programs. Whether an image is there is never decided by it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path

from icf_utils.errors import InvalidSetting, storage_errors
from icf_utils.retrieve.saving import target_errors

LOG_NAME = "log.json"


def read_log(root: Path) -> tuple[str, ...]:
    """The images that the log of a directory names; empty without a log.

    Raises :class:`~icf_utils.errors.InvalidSetting` for a file of that name that is something else.
    """
    path = root / LOG_NAME
    with storage_errors(path, "read"):
        try:
            raw = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return ()
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        document = None
    logs = document.get("logs") if isinstance(document, dict) else None
    if not isinstance(logs, list) or not all(isinstance(item, str) for item in logs):
        raise InvalidSetting(str(path), 'expected {"logs": [...]} as cod-retrieve writes it; move the file away')
    return tuple(logs)


def update_log(root: Path, work: Path, saved: Collection[str], absent: Collection[str]) -> None:
    """Have the log name ``saved`` and not ``absent``; what it says of other images stays."""
    old = read_log(root)
    gone = set(absent)
    new = tuple(dict.fromkeys((*(item for item in old if item not in gone), *saved)))
    if new == old:
        return
    part, path = work / "log.part", root / LOG_NAME
    with target_errors(path, "write"), part.open("w", encoding="utf-8", errors="backslashreplace") as file:
        json.dump({"logs": new}, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
        os.replace(part, path)
