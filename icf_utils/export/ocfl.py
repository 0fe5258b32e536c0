"""A visit as an object of the Oxford Common File Layout 1.1, with one version. Pure.

The object's version has the time of the visit's dataset, so that the same visit gives the same object.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timezone

from icf_utils.export.model import PayloadFile

#: The folder of the visit's files in an object.
PAYLOAD = "v1/content"

#: The file that declares a storage root, and what is in it.
ROOT_DECLARATION = ("0=ocfl_1.1", b"ocfl_1.1\n")

_OBJECT_DECLARATION = ("0=ocfl_object_1.1", b"ocfl_object_1.1\n")


def object_files(identifier: str, files: Mapping[str, PayloadFile], time: int) -> dict[str, bytes]:
    """The files of an object besides its content, by name; ``identifier`` is a URI, ``time`` in seconds since 1970."""
    by_digest: dict[str, list[str]] = {}
    for name, file in files.items():
        by_digest.setdefault(file.sha256, []).append(name)
    created = datetime.fromtimestamp(time, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    state = {digest: by_digest[digest] for digest in sorted(by_digest)}
    inventory = {
        "digestAlgorithm": "sha256",
        "head": "v1",
        "id": identifier,
        "manifest": {digest: [f"{PAYLOAD}/{name}" for name in names] for digest, names in state.items()},
        "type": "https://ocfl.io/1.1/spec/#inventory",
        "versions": {
            "v1": {
                "created": created,
                "message": "exported by icf-utils",
                "state": state,
                "user": {"name": "icf-utils", "address": "https://pypi.org/project/icf-utils"},
            }
        },
    }
    data = json.dumps(inventory, indent=1).encode("ascii") + b"\n"
    sidecar = f"{hashlib.sha256(data).hexdigest()} inventory.json\n".encode("ascii")
    both = {"inventory.json": data, "inventory.json.sha256": sidecar}
    name, declaration = _OBJECT_DECLARATION
    return {name: declaration, **both, **{f"v1/{file}": content for file, content in both.items()}}
