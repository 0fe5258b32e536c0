"""The records of a visit: its page, a node for each folder of its file tree, its entry on the study's page.

The records are those of datalad-catalog 1.x (``schema/jsonschema_dataset.json`` and ``jsonschema_file.json``), plain
dictionaries with keys in a fixed order. The path of a node follows ``getFilePath`` of its web application. The
version of a visit is the MD5 of its archive; no clock and no UID enters a record. The pages show the same fields
that datalad-catalog defines.

Making records is pure. :func:`schema_problems` validates them against the schemas (JSON Schema 2020-12) of the
installed datalad-catalog, which it reads from that package; folders of the file tree have no schema. ``jsonschema``
is imported on first use, as no other command needs it.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from icf_utils.catalog.application import find_datalad_catalog
from icf_utils.catalog.commands import VisitAddress, clone_rows, clone_url
from icf_utils.catalog.privacy import NameRule
from icf_utils.catalog.series import Series, group_series, list_modalities, make_distinct
from icf_utils.catalog.study_index import NO_SERIES, SeriesColumns, series_columns
from icf_utils.errors import storage_errors
from icf_utils.formatting import format_count, format_size
from icf_utils.metadata.records import VisitMetadata

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator


#: A record as the catalog stores it.
Record = dict[str, Any]

#: The source of all records; the version is that of the records' form, not of the program.
SOURCES: Record = {"sources": [{"source_name": "icf-utils", "source_version": "1"}]}

_URL_TYPE = "https://schema.org/URL"


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """Serialize a record: one line of JSON in UTF-8 without spaces, keys in the given order."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"


def node_path(dataset_id: str, version: str, path: str = "") -> str:
    """The path of a node below the catalog's folder; ``path`` is that of a folder in the dataset.

    >>> node_path("a", "1")
    'metadata/a/1/737/c191aed52450b9c655083c9971bdd.json'
    """
    name = f"{dataset_id}-{version}-{path}" if path else f"{dataset_id}-{version}"
    digest = hashlib.md5(name.encode("utf-8"), usedforsecurity=False).hexdigest()
    return f"{version_folder(dataset_id, version)}/{digest[:3]}/{digest[3:]}.json"


def version_folder(dataset_id: str, version: str) -> str:
    """The folder of all nodes of one version of a dataset, below the catalog's folder."""
    return f"metadata/{dataset_id}/{version}"


#: A picture of a series: the position of the series on the page, and 0 for the small picture of the middle image, or 1,
#: 2, 3 for larger ones of the first, middle and last image.
PictureKey = tuple[int, int]


@dataclass(frozen=True)
class VisitPage:
    """The content of a visit's page.

    ``url`` is the store's address and ``dataset_id`` that of the DataLad dataset. ``date`` is the visit's
    (``YYYY-MM-DD``, empty if unknown). ``annex`` is the address for git-annex alone, empty without a deposit for it.
    ``previews`` names the pictures of series. ``has_dataset`` says whether the visit can be cloned. ``number`` is that
    of the visit's version. ``archives`` is the address of another store that has the archive; empty if this one has it.
    """

    study: str
    visit: str
    url: str
    dataset_id: str
    metadata: VisitMetadata
    date: str = ""
    annex: str = ""
    names: NameRule = "plain"
    previews: Mapping[PictureKey, str] = field(default_factory=dict)
    has_dataset: bool = True
    number: int = 1
    archives: str = ""

    @property
    def version(self) -> str:
        return self.metadata.tarball.md5

    @cached_property
    def series(self) -> tuple[Series, ...]:
        return group_series(self.metadata.images, self.names)

    @property
    def archive_url(self) -> str:
        return f"{(self.archives or self.url).rstrip('/')}/{self.metadata.tarball.storepath}"

    @property
    def archive_name(self) -> str:
        return f"{self.visit}_dicom.tar"

    @property
    def modalities(self) -> list[str]:
        return list_modalities(self.series)

    @property
    def place(self) -> VisitAddress:
        return VisitAddress(self.url.rstrip("/"), self.study, self.visit)


@dataclass(frozen=True)
class VisitEntry:
    """A visit's entry on the study's page and in its index; ``size`` is the archive's, in bytes.

    ``store`` is the store's address, ``archives`` that of another one that has the archive, if any; ``number`` is that
    of the visit's version. Entries of earlier catalogs have no ``columns``, the series of the visit.
    """

    visit: str
    dataset_id: str
    version: str
    series: int
    images: int
    size: int
    modalities: tuple[str, ...]
    date: str = ""
    store: str = ""
    has_dataset: bool = True
    columns: SeriesColumns = NO_SERIES
    archives: str = ""
    number: int = 1


def visit_entry(page: VisitPage) -> VisitEntry:
    """The visit's entry on the study's page."""
    return VisitEntry(
        visit=page.visit,
        dataset_id=page.dataset_id,
        version=page.version,
        series=len(page.series),
        images=len(page.metadata.images),
        size=page.metadata.tarball.size,
        modalities=tuple(page.modalities),
        date=page.date,
        store=page.url.rstrip("/"),
        has_dataset=page.has_dataset,
        columns=series_columns(page.series),
        archives=page.archives,
        number=page.number,
    )


def previews_folder(page: VisitPage) -> str:
    """The folder of a visit's pictures below the catalog's folder, among the pages of its version."""
    return f"{version_folder(page.dataset_id, page.version)}/previews"


def visit_records(page: VisitPage) -> dict[str, Record]:
    """All records of a visit by their path; the one that refers to the others comes last."""
    records = {_node_path(page, series.folder): directory_node(page, series) for series in page.series}
    records[f"{version_folder(page.dataset_id, page.version)}/config.json"] = page_config("series")
    records[_node_path(page)] = visit_node(page)
    return records


def _node_path(page: VisitPage, path: str = "") -> str:
    return node_path(page.dataset_id, page.version, path)


def page_config(default_tab: str) -> Record:
    """The settings that the application requests for each dataset; without them, browsers log an error."""
    options = {"include_metadata_export": True, "default_tab": default_tab}
    # datalad-catalog reads "property_sources" when it adds to a record
    return {"dataset_options": options, "property_sources": {"dataset": {}}}


def visit_node(page: VisitPage) -> Record:
    """The record of the visit's page."""
    return {
        "type": "dataset",
        "dataset_id": page.dataset_id,
        "dataset_version": page.version,
        "name": f"{page.study} / {page.visit}",
        "description": _description(page),
        # text, not a list: in a list, the application treats any address that contains 'github' as a repository there
        "url": clone_url(page.place),
        "authors": [],
        "keywords": _keywords(page.series),
        "top_display": _badges(page),
        "additional_display": [_series_tab(page), _archive_tab(page), _clone_tab(page)],
        "children": [_archive_child(page), *(_directory_child(page, series) for series in page.series)],
        "metadata_sources": SOURCES,
    }


def _description(page: VisitPage) -> str:
    series, images = format_count(len(page.series), "series"), format_count(len(page.metadata.images), "DICOM image")
    size = format_size(page.metadata.tarball.size)
    return (
        f"Visit {page.visit} of study {page.study}: {series} with {images}, {size} in one archive. "
        "It can be downloaded, or cloned as a dataset to get single images."
    )


def _keywords(series: Iterable[Series]) -> list[str]:
    return sorted({word for one in series for word in (one.protocol, *one.modality.split("/"))} - {""})


def _badges(page: VisitPage) -> list[Record]:
    values: dict[str, int | str] = {
        "Version": page.number if page.number > 1 else "",
        "Series": len(page.series),
        "Images": len(page.metadata.images),
        "Size": format_size(page.metadata.tarball.size),
        "Modalities": ", ".join(page.modalities),
    }
    return [{"name": name, "value": value} for name, value in values.items() if value]


def _series_tab(page: VisitPage) -> Record:
    keys = make_distinct((f"Series {one.number or '-'}" for one in page.series), "{name} [{number}]")
    rows = {key: _series_row(page, at) for at, key in enumerate(keys)}
    return {"name": "Series", "icon": "fas fa-layer-group", "content": rows}


def _series_row(page: VisitPage, at: int) -> Record:
    series, preview = page.series[at], page.previews.get((at, 0))
    row: Record = {
        "Description": series.description,
        "Protocol": series.protocol,
        "Modality": series.modality,
        "Images": len(series.images),
        "Bytes": series.size,
    }
    return {**row, "Preview": f"{previews_folder(page)}/{preview}"} if preview else row


def _archive_tab(page: VisitPage) -> Record:
    tarball = page.metadata.tarball
    rows: Record = {
        "@context": {},  # makes the application read types, so that the address becomes a link
        "File": page.archive_name,
        "Size in bytes": tarball.size,
        "MD5": tarball.md5,
        "Download": _link(page.archive_url),
        "Checksum file": _link(f"{page.archive_url}.md5sum"),
        "Download command": archive_commands(page)["download"],
        "Check command": archive_commands(page)["check"],
    }
    return {"name": "Archive", "icon": "fas fa-file-archive", "content": rows}


def archive_commands(page: VisitPage) -> dict[str, str]:
    """The commands that download the archive and its checksum file, and check it."""
    url = shlex.quote(page.archive_url)
    checksum = shlex.quote(f"{page.archive_url}.md5sum")
    return {
        "download": f"curl --netrc-optional -fLO {checksum} -fLO {url}",
        "check": f"md5sum -c {page.archive_name}.md5sum",
    }


def _link(url: str) -> Record | str:
    """A link if a browser can follow the address; other addresses stay text."""
    return {"@type": _URL_TYPE, "@value": url} if url.startswith(("https://", "http://")) else url


def _clone_tab(page: VisitPage) -> Record:
    return {"name": "Clone", "icon": "fas fa-terminal", "content": clone_rows(page.place, page.annex, page.has_dataset)}


def _archive_child(page: VisitPage) -> Record:
    tarball = page.metadata.tarball
    return {
        "type": "file",
        "name": page.archive_name,
        "path": tarball.dspath,
        "contentbytesize": tarball.size,
        "url": [page.archive_url],
    }


def _directory_child(page: VisitPage, series: Series) -> Record:
    return {
        "type": "directory",
        "name": series.folder,
        "path": series.folder,
        "dataset_id": page.dataset_id,
        "dataset_version": page.version,
    }


def directory_node(page: VisitPage, series: Series) -> Record:
    """A folder of the file tree with its images. They have no address: no image is served as a file of its own."""
    children = [
        {"type": "file", "name": image.name, "path": f"{series.folder}/{image.name}", "contentbytesize": image.size}
        for image in series.images
    ]
    return {**_directory_child(page, series), "children": children, "metadata_sources": SOURCES}


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
    folder = find_datalad_catalog() / "schema"
    with storage_errors(folder, "read"):
        loaded = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("jsonschema_*.json"))]
    return {schema["$id"]: schema for schema in loaded}


def schema_problems(record: Mapping[str, Any]) -> list[str]:
    """Validate a record of a dataset or file; returns each problem with its place in the record.

    The problems quote no values, since these come from image headers.
    """
    errors = sorted(_validator().iter_errors(record), key=lambda error: str(error.json_path))
    return [f"{error.json_path} breaks the rule '{error.validator}' of the catalog's schema" for error in errors]


def file_record(directory: Record, child: Record) -> Record:
    """A file in a folder's ``children`` as a complete record: the folder holds what its files have in common."""
    common = {key: directory[key] for key in ("dataset_id", "dataset_version", "metadata_sources")}
    return {**child, **common}
