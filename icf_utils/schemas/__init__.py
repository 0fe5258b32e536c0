"""JSON Schemas (2020-12) of the JSON files of a store: one file each, named as what it describes."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def file_schemas() -> list[str]:
    """The names of the files that have a schema."""
    found = files(__name__).iterdir()
    return sorted(path.name.removesuffix(".json") for path in found if path.name.endswith(".json"))


def file_schema(name: str) -> dict[str, Any]:
    """The schema of a kind of file. Raises ``KeyError`` for a name that is not in :func:`file_schemas`."""
    if name not in file_schemas():
        raise KeyError(name)
    found: dict[str, Any] = json.loads((files(__name__) / f"{name}.json").read_text(encoding="utf-8"))
    return found
