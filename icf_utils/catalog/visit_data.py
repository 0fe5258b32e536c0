"""What the page of a visit shows, in ``data/visits/<visit>.json``: one file, found by the visit's name. Pure.

The file names the records of datalad-catalog that belong to the visit: the page's own, and one for each series' files.
"""

from __future__ import annotations

from typing import Any

from icf_utils.catalog.commands import clone_rows
from icf_utils.catalog.records import VisitPage, archive_commands, node_path, previews_folder
from icf_utils.store.layout import CATALOG_VISITS

#: Where the identifier of a visit belongs in a command that the pages complete.
VISIT_PLACE = "icf-identifier-of-the-visit"
_FORMAT = 1


def visit_path(visit: str) -> str:
    """The path of a visit's file below the catalog's folder."""
    return f"{CATALOG_VISITS}/{visit}.json"


def visit_data(page: VisitPage) -> dict[str, Any]:
    """The content of a visit's file. Sizes are in bytes."""
    tarball = page.metadata.tarball
    return {
        "format": _FORMAT,
        "study": page.study,
        "visit": page.visit,
        "record": node_path(page.dataset_id, page.version),
        **({"version": page.number} if page.number > 1 else {}),
        "store": page.url.rstrip("/"),
        "modalities": page.modalities,
        "images": len(page.metadata.images),
        "archive": {"file": page.archive_name, "bytes": tarball.size, "md5": tarball.md5, "url": page.archive_url},
        "commands": archive_commands(page),
        "clone": clone_rows(page.place, page.annex, page.has_dataset),
        "series": [_series(page, at) for at in range(len(page.series))],
    }


def _series(page: VisitPage, at: int) -> dict[str, Any]:
    series, preview = page.series[at], page.previews.get((at, 0))
    larger = {str(place): name for place in (1, 2, 3) if (name := page.previews.get((at, place)))}
    slices = {place: f"{previews_folder(page)}/{name}" for place, name in larger.items()}
    return {
        "number": series.number,
        "folder": series.folder,
        "modality": series.modality,
        "images": len(series.images),
        "bytes": series.size,
        "files": node_path(page.dataset_id, page.version, series.folder),
        **({"preview": f"{previews_folder(page)}/{preview}"} if preview else {}),
        **({"slices": slices} if slices else {}),
        "paths": {"folders": series.paths.folders, "alone": series.paths.alone, "names": series.paths.names},
        "values": dict(series.kind),
    }
