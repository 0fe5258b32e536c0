"""The state of a study's catalog, for decisions about the catalog stage. Reads the catalog's folder; writes nothing.

The pages of a visit are outputs of its catalog stage. The files that all visits share, the application's and the
study's page, are examined once per study: each visit has an entry on the page, and the rest is intact or not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache

from icf_utils.catalog import writer
from icf_utils.catalog.application import FOLDERS
from icf_utils.catalog.study import SUPER_PATH, StudyPage, parse_study_page, study_config_path, study_id, study_path
from icf_utils.catalog.writer import read_file, read_logo
from icf_utils.errors import DepositDamaged
from icf_utils.pipeline.fingerprints import Fingerprinter
from icf_utils.pipeline.state import WHOLE_STUDY, StageRecord, read_record
from icf_utils.settings import CatalogSettings
from icf_utils.store.layout import Study

#: Raised whenever the files that all visits share are written with other bytes.
VERSION = 2


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
    recorded = read_record(study, WHOLE_STUDY, "catalog")
    found = Fingerprinter(study.folder, recorded.outputs if recorded else {}, paranoid).fingerprints(_shared(study))
    raw = read_file(study, study_path(study_id(study.study)))
    page = {"page": hashlib.md5(raw or b"", usedforsecurity=False).hexdigest()}
    record = StageRecord(VERSION, _parameters(study, settings), outputs=found, facts=page)
    shown = _page(study, raw)
    problem = _problem(recorded, record) or _page_problem(study, raw, shown, recorded, record, settings)
    if not problem and not study.visit_list.exists():
        problem = "the study's list of visits does not exist yet"
    return CatalogState(
        {entry.visit: _digest(asdict(entry)) for entry in shown.entries} if shown else {}, problem, record
    )


def _page(study: Study, raw: bytes | None) -> StudyPage | None:
    """Parse the study's page; ``None`` if there is none, or none that can be read."""
    try:
        return parse_study_page(raw, study.study) if raw is not None else None
    except DepositDamaged:
        return None


def _page_problem(
    study: Study,
    raw: bytes | None,
    shown: StudyPage | None,
    recorded: StageRecord | None,
    record: StageRecord,
    settings: CatalogSettings,
) -> str:
    """Check that the page is what its entries give: other commands may have added visits since it was recorded."""
    if raw is None:
        return "the study's page does not exist yet"
    if recorded and recorded.facts == record.facts:
        return ""
    from icf_utils.catalog.content import study_files

    catalog_id = study_id(study.study)
    whole = shown is not None and study_files(study.study, catalog_id, shown, settings)[study_path(catalog_id)] == raw
    return "" if whole else "the study's page does not match its entries"


def _shared(study: Study) -> list[str]:
    """The catalog's files that belong to no visit, apart from the study's page, relative to the study's folder."""
    own = (writer.MARKER, SUPER_PATH, "index.html", "config.json", study_config_path(study_id(study.study)))
    return [f"{study.catalog.name}/{name}" for name in (*FOLDERS, *own)]


def _parameters(study: Study, settings: CatalogSettings) -> dict[str, str]:
    logo = read_logo(study.root, settings.logo) if settings.logo else None
    return {
        "catalog settings": _digest(asdict(settings)),
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
