"""The records of a study: its page, the start page, the application's settings. Pure.

The study's page contains one short entry per visit (``subdatasets``) and is made from these entries alone: a visit
is added without reading the records of other visits, and the order of additions does not matter. A search needs
nothing but the entries.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from icf_utils.catalog.records import SOURCES, Record, VisitEntry, node_path, page_config, version_folder
from icf_utils.catalog.study_description import record_author, record_fields, study_settings
from icf_utils.catalog.study_index import INDEX_PATH, IndexedVisit, parse_index
from icf_utils.errors import DepositDamaged, InvalidSetting
from icf_utils.formatting import format_size
from icf_utils.settings import CatalogSettings
from icf_utils.store.layout import study_uuid

#: The study's page keeps its address whatever is added, so its version is a fixed word.
STUDY_VERSION = "latest"

#: The path of the file that says what the application shows first.
SUPER_PATH = "metadata/super.json"

_LINKS = ("about", "documentation", "github", "mastodon", "x")
_COLOR = re.compile(r"#[0-9a-fA-F]{3,8}|[a-zA-Z]{3,30}")
_LOGO_SUFFIXES = (".svg", ".png", ".jpg", ".jpeg", ".gif", ".webp")
_REMEDY = "run 'icf-utils catalog build' for this study"


def study_id(study: str) -> str:
    """The id of the study's page and of the catalog; it stays the same when the store moves."""
    return str(study_uuid("", study, "catalog"))


def study_path(dataset_id: str) -> str:
    """The path of the study's page below the catalog's folder."""
    return node_path(dataset_id, STUDY_VERSION)


def study_config_path(dataset_id: str) -> str:
    """The path of the settings of the study's page below the catalog's folder."""
    return f"{version_folder(dataset_id, STUDY_VERSION)}/config.json"


def study_config() -> Record:
    """The settings of the study's page: it opens with the list of visits."""
    return page_config("subdatasets")


def super_record(dataset_id: str) -> Record:
    """The record ``metadata/super.json``: what the application shows first."""
    return {"dataset_id": dataset_id, "dataset_version": STUDY_VERSION}


def study_description(study: str, settings: CatalogSettings) -> str:
    """What the study's page says below its name."""
    return settings.description or _description(study)


def catalog_name(study: str, settings: CatalogSettings) -> str:
    """The name of the catalog and of the study's page."""
    return settings.name or f"Study {study}"


@dataclass(frozen=True)
class StudyPage:
    """What the study's page shows. ``hides_dates``: a user has asked that it shows no dates, now and later."""

    entries: tuple[VisitEntry, ...] = ()
    hides_dates: bool = False

    def with_entry(self, new: VisitEntry) -> StudyPage:
        """The page with ``new`` in place of an older entry of the same visit, sorted by visit."""
        return self.with_entries([new])

    def with_entries(self, new: Iterable[VisitEntry]) -> StudyPage:
        """The page with ``new`` in place of older entries of the same visits, sorted by visit."""
        entries = {entry.visit: entry for entry in (*self.entries, *new)}
        return replace(self, entries=tuple(sorted(entries.values(), key=lambda entry: entry.visit)))

    def visible_entries(self, settings: CatalogSettings) -> tuple[VisitEntry, ...]:
        """The entries as they may be written: without dates if these are hidden."""
        if not (self.hides_dates or settings.hide_dates):
            return self.entries
        return tuple(replace(entry, date="") for entry in self.entries)


def study_node(study: str, dataset_id: str, page: StudyPage, settings: CatalogSettings) -> Record:
    """The record of the study's page with its visits in order, as datalad-catalog defines it."""
    entries = page.visible_entries(settings)
    return {
        "type": "dataset",
        "dataset_id": dataset_id,
        "dataset_version": STUDY_VERSION,
        "name": catalog_name(study, settings),
        "description": study_description(study, settings),
        "authors": [record_author(author) for author in study_settings(settings).authors],
        "keywords": list(dict.fromkeys((*study_settings(settings).keywords, *_modalities(entries)))),
        **record_fields(study_settings(settings)),
        "top_display": _badges(entries),
        "subdatasets": [entry_record(entry) for entry in entries],
        **({"hides": ["dates"]} if page.hides_dates else {}),
        "metadata_sources": SOURCES,
    }


def _description(study: str) -> str:
    return (
        f"The visits of study {study}. Each one is an archive of DICOM images "
        "that can be downloaded as a whole or cloned as a DataLad dataset."
    )


def _modalities(entries: Iterable[VisitEntry]) -> list[str]:
    return sorted({modality for entry in entries for modality in entry.modalities})


def _badges(entries: Sequence[VisitEntry]) -> list[Record]:
    values: dict[str, int | str] = {
        "Visits": len(entries),
        "Series": sum(entry.series for entry in entries),
        "Images": sum(entry.images for entry in entries),
        "Size": format_size(sum(entry.size for entry in entries)),
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def entry_record(entry: VisitEntry) -> Record:
    """A visit in ``subdatasets``, with more fields than the three of the schema.

    datalad-catalog's own page takes the visit's name from ``dirs_from_path``.
    """
    return {
        "dataset_id": entry.dataset_id,
        "dataset_version": entry.version,
        "dataset_path": entry.visit,
        "dirs_from_path": [entry.visit],
        "date": entry.date,
        "series": entry.series,
        "images": entry.images,
        "bytes": entry.size,
        "modalities": list(entry.modalities),
    }


def index_visit(entry: VisitEntry) -> IndexedVisit:
    """The visit's line in the index."""
    about = entry.visit, entry.date, entry.size, entry.store, entry.has_dataset
    return IndexedVisit(*about, entry.columns, entry.archives, entry.number)


def parse_study_page(raw: bytes, source: str, index: bytes | None = None, index_source: str = INDEX_PATH) -> StudyPage:
    """Parse the bytes of a study's page, and of its index if given; the sources name the files in errors.

    An index that is missing or has other visits leaves entries without their series: catalogs of earlier versions have
    none. Adding a visit again completes its entry.

    Raises :class:`~icf_utils.errors.DepositDamaged`.
    """
    try:
        record = json.loads(raw.decode("utf-8"))
        entries = tuple(_entry(item) for item in record["subdatasets"])
        hides_dates = "dates" in record.get("hides", [])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        found = f"something else ({type(error).__name__}: {error})"
        raise DepositDamaged(source, "the page of a study as icf-utils writes it", found, _REMEDY) from error
    indexed = parse_index(index, index_source) if index is not None else {}
    return StudyPage(tuple(_with_series(entry, indexed.get(entry.visit)) for entry in entries), hides_dates)


def _with_series(entry: VisitEntry, indexed: IndexedVisit | None) -> VisitEntry:
    if indexed is None or indexed.size != entry.size:
        return entry
    return replace(
        entry,
        store=indexed.store,
        has_dataset=indexed.has_dataset,
        columns=indexed.series,
        archives=indexed.archives,
        number=indexed.version,
    )


def _entry(item: Any) -> VisitEntry:
    """An entry without its series; those of earlier versions have no date."""
    texts = {key: _of_type(item[key], str) for key in ("dataset_path", "dataset_id", "dataset_version")}
    numbers = {key: _of_type(item[key], int) for key in ("series", "images", "bytes")}
    return VisitEntry(
        visit=texts["dataset_path"],
        dataset_id=texts["dataset_id"],
        version=texts["dataset_version"],
        series=numbers["series"],
        images=numbers["images"],
        size=numbers["bytes"],
        modalities=tuple(_of_type(modality, str) for modality in item["modalities"]),
        date=_of_type(item.get("date", ""), str),
    )


def _of_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected, {type(value).__name__} found")
    return value


def config_record(study: str, settings: CatalogSettings) -> Record:
    """The application's ``config.json``. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    return {
        "catalog_name": catalog_name(study, settings),
        "link_color": _color("link_color", settings.link_color),
        "link_hover_color": _color("link_hover_color", settings.link_hover_color),
        "logo_path": logo_target(settings) or "artwork/catalog_logo.svg",
        "social_links": {name: _web_link(name, getattr(settings, name)) for name in _LINKS},
        "dataset_options": {"include_metadata_export": True},
        "property_sources": {"dataset": {}},  # datalad-catalog's own commands require it
    }


def social_links(settings: CatalogSettings) -> dict[str, str]:
    """The configured links by their names. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    links = {name: _web_link(name, getattr(settings, name)) for name in _LINKS}
    return {name: link for name, link in links.items() if link}


def link_colors(settings: CatalogSettings) -> tuple[str, str]:
    """The colours of links, and of links under the pointer. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    return _color("link_color", settings.link_color), _color("link_hover_color", settings.link_hover_color)


def logo_target(settings: CatalogSettings) -> str:
    """The path of the configured logo below the catalog's folder; empty text without one.

    Raises :class:`~icf_utils.errors.InvalidSetting` for a path outside the store, or a name that is not an image's.
    """
    if not settings.logo:
        return ""
    path = PurePosixPath(settings.logo)
    if path.is_absolute() or ".." in path.parts:
        raise InvalidSetting("[catalog] logo", "must be a path relative to the store's folder, without '..'")
    if path.suffix.lower() not in _LOGO_SUFFIXES:
        raise InvalidSetting("[catalog] logo", f"must be an image that browsers can show ({', '.join(_LOGO_SUFFIXES)})")
    return f"artwork/logo{path.suffix.lower()}"


def _color(name: str, value: str) -> str:
    if not _COLOR.fullmatch(value):
        raise InvalidSetting(f"[catalog] {name}", "must be a colour such as '#0b5fa5' or 'navy'")
    return value


def _web_link(name: str, value: str) -> str | None:
    if value and not value.startswith(("https://", "http://")):
        raise InvalidSetting(f"[catalog] {name}", "must be an address that starts with 'https://' or 'http://'")
    return value or None
