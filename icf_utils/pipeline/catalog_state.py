"""The state of a study's catalog, for decisions about the catalog stage. Reads the catalog's folder; writes nothing.

The pages of a visit are outputs of its catalog stage. The files that all visits share, the application's and the
study's page, are examined once per study: each visit has an entry on the page, and the rest is intact or not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache

from icf_utils.catalog import writer
from icf_utils.catalog.application import FOLDERS
from icf_utils.catalog.feed import FEED_PATH
from icf_utils.catalog.html_pages import INDEX_LINK, INDEX_PAGE, LISTS
from icf_utils.catalog.index_link import has_index_page
from icf_utils.catalog.records import VisitEntry
from icf_utils.catalog.study import SUPER_PATH, StudyPage, parse_study_page, study_config_path, study_id, study_path
from icf_utils.catalog.study_description import CITATIONS, study_catalog
from icf_utils.catalog.study_index import INDEX_PATH, NO_SERIES, PROTOCOLS_PATH, VISITS_PATH, series_digest
from icf_utils.catalog.writer import read_file, read_logo
from icf_utils.errors import DepositDamaged
from icf_utils.pipeline.fingerprints import Fingerprinter
from icf_utils.pipeline.state import WHOLE_STUDY, StageRecord, read_record
from icf_utils.settings import CatalogSettings
from icf_utils.store.layout import Study

#: Raised whenever the files that all visits share are written with other bytes.
VERSION = 6


@dataclass(frozen=True)
class CatalogState:
    """The catalog as of now.

    ``entries`` maps visits to digests of their entries on the study's page. ``problem`` says why the catalog stage
    has to run for the files that visits share; it is empty if they are intact. ``record`` is the record of these
    files.
    """

    entries: Mapping[str, str]
    problem: str
    record: StageRecord


def read_catalog_state(study: Study, settings: CatalogSettings, paranoid: bool = False) -> CatalogState:
    """Examine the catalog and compare it with its record."""
    settings = study_catalog(study, settings)
    recorded = read_record(study, WHOLE_STUDY, "catalog")
    found = Fingerprinter(study.folder, recorded.outputs if recorded else {}, paranoid).fingerprints(_shared(study))
    files = {name: read_file(study, name) for name in _of_all_visits(study)}
    facts = {name: hashlib.md5(data or b"", usedforsecurity=False).hexdigest() for name, data in files.items()}
    record = StageRecord(VERSION, _parameters(study, settings), outputs=found, facts=facts)
    raw, index = files[study_path(study_id(study.study))], files[INDEX_PATH]
    shown = _page(study, raw, index)
    problem = _problem(recorded, record) or _page_problem(study, files, shown, recorded, record, settings)
    if not problem and not study.visit_list.exists():
        problem = "the study's list of visits does not exist yet"
    return CatalogState(_entry_digests(shown.entries) if shown else {}, problem, record)


def _entry_digests(entries: Iterable[VisitEntry]) -> dict[str, str]:
    known: dict[int, str] = {}
    return {
        entry.visit: _digest([asdict(replace(entry, columns=NO_SERIES)), series_digest(entry.columns, known)])
        for entry in entries
    }


def _page(study: Study, raw: bytes | None, index: bytes | None) -> StudyPage | None:
    """Parse the study's page; ``None`` if there is none, or none that can be read."""
    try:
        return parse_study_page(raw, study.study, index) if raw is not None else None
    except DepositDamaged:
        return None


def _page_problem(
    study: Study,
    files: Mapping[str, bytes | None],
    shown: StudyPage | None,
    recorded: StageRecord | None,
    record: StageRecord,
    settings: CatalogSettings,
) -> str:
    """Check that the pages are what the entries give: other commands may have added visits since they were recorded."""
    if files[study_path(study_id(study.study))] is None:
        return "the study's page does not exist yet"
    if recorded and recorded.facts == record.facts and _links_to_index(files) == has_index_page(study.root):
        return ""
    from icf_utils.catalog.content import study_files

    catalog_id = study_id(study.study)
    expected = study_files(study.study, catalog_id, shown, settings) if shown else {}
    whole = bool(expected) and all(read_file(study, name) == data for name, data in expected.items())
    return "" if whole else "the study's page does not match its entries"


def _links_to_index(files: Mapping[str, bytes | None]) -> bool:
    return INDEX_LINK.encode("ascii") in (files[INDEX_PAGE] or b"")


def _of_all_visits(study: Study) -> list[str]:
    """The catalog's files that change whenever a visit does."""
    lists = (f"{LISTS}/{name}" for name in writer.list_names(study, LISTS))
    pages = (INDEX_PAGE, FEED_PATH, *lists, *CITATIONS, study_path(study_id(study.study)))
    return [INDEX_PATH, VISITS_PATH, PROTOCOLS_PATH, *pages]


def _shared(study: Study) -> list[str]:
    """The catalog's files that belong to no visit, apart from the study's page, relative to the study's folder."""
    own = (writer.MARKER, SUPER_PATH, "config.json", study_config_path(study_id(study.study)))
    return [f"{study.catalog.name}/{name}" for name in (*FOLDERS, *own)]


def _parameters(study: Study, settings: CatalogSettings) -> dict[str, str]:
    logo = read_logo(study.root, settings.logo) if settings.logo else None
    own = asdict(settings)
    if "in_index" in own:
        own["in_index"] = False  # no setting; the page itself shows whether it links to the page of all studies
    return {
        "catalog settings": _digest(own),
        "logo": hashlib.md5(logo or b"", usedforsecurity=False).hexdigest(),
        "datalad-catalog": _catalog_version(),
    }


@cache
def _catalog_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("datalad-catalog")
    except PackageNotFoundError:
        return "none"


def _problem(recorded: StageRecord | None, now: StageRecord) -> str:
    if recorded is None:
        return "no record of the study's catalog"
    if recorded.version != now.version:
        return f"version of the catalog's shared files {recorded.version} -> {now.version}"
    for name, value in now.parameters.items():
        if recorded.parameters.get(name) != value:
            return f"{name} changed"
    for name, fingerprint in recorded.outputs.items():
        if name not in now.outputs:
            return f"output missing: {name}"
        if now.outputs[name].digest != fingerprint.digest:
            return f"output changed: {name}"
    return ""


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True).encode("utf-8")
    return hashlib.md5(text, usedforsecurity=False).hexdigest()
