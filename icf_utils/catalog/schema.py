"""Are records what datalad-catalog expects? Reads the schema files of the installed package; nothing is fetched.

A catalog has records of datasets and of files (JSON Schema 2020-12); folders of the file tree have no schema of
their own. ``jsonschema`` is imported on first use, it is needed by no other command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from icf_utils.catalog.assets import package_folder
from icf_utils.catalog.entries import Record
from icf_utils.errors import storage_errors

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

_ROOT = "https://datalad.org/catalog.schema.json"


@lru_cache(maxsize=1)
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator  # here: it takes a tenth of a second
    from referencing import Registry, Resource

    schemas = _schemas()
    registry: Registry[Any] = Registry().with_resources(
        (name, Resource.from_contents(schema)) for name, schema in schemas.items()
    )
    return Draft202012Validator(schemas[_ROOT], registry=registry)


def _schemas() -> dict[str, Any]:
    folder = package_folder() / "schema"
    with storage_errors(folder, "read"):
        loaded = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("jsonschema_*.json"))]
    return {schema["$id"]: schema for schema in loaded}


def problems(record: Mapping[str, Any]) -> list[str]:
    """What the schema says against a record of a dataset or file, each with the place in the record; ideally nothing.

    Never quotes a value: headers of images are in there.
    """
    errors = sorted(_validator().iter_errors(record), key=lambda error: str(error.json_path))
    return [f"{error.json_path} breaks the rule '{error.validator}' of the catalog's schema" for error in errors]


def file_record(directory: Record, child: Record) -> Record:
    """A file of a folder's ``children`` as a record of its own: in the tree, the folder says what is common."""
    common = {key: directory[key] for key in ("dataset_id", "dataset_version", "metadata_sources")}
    return {**child, **common}
