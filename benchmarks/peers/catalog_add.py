"""The catalog by datalad-catalog's own ``catalog_add``: a visit's record and one record per image.

catalog_add.py CATALOG METADATA_DICOMS.json VISIT [ADD_TO_STUDY]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import datalad.api as dl

SOURCES = {"sources": [{"source_name": "benchmark", "source_version": "1"}]}


def main(catalog: Path, dicoms: Path, visit: str) -> None:
    """Add one visit with its files, and list it on the study's page."""
    if not catalog.exists():
        dl.catalog_create(catalog=str(catalog), result_renderer="disabled")
    study_id, visit_id = str(uuid5(NAMESPACE_URL, "study")), str(uuid5(NAMESPACE_URL, visit))
    study = _dataset(study_id, "study")
    study["subdatasets"] = [{"dataset_id": visit_id, "dataset_version": "1", "dataset_path": visit}]
    records = [study, _dataset(visit_id, visit)]
    for item in json.loads(dicoms.read_text()):
        records.append(
            {
                "type": "file",
                "dataset_id": visit_id,
                "dataset_version": "1",
                "path": item["path"],
                "contentbytesize": item["size"],
                "metadata_sources": SOURCES,
            }
        )
    lines = catalog.parent / f"{catalog.name}.jsonl"
    lines.write_text("".join(json.dumps(record) + "\n" for record in records))
    dl.catalog_add(catalog=str(catalog), metadata=str(lines), result_renderer="disabled")


def _dataset(dataset_id: str, name: str) -> dict[str, object]:
    return {
        "type": "dataset",
        "dataset_id": dataset_id,
        "dataset_version": "1",
        "name": name,
        "authors": [],
        "metadata_sources": SOURCES,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
