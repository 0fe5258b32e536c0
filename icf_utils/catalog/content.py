"""What a catalog's folder should hold, as bytes by path, each group in the order of writing.

Writing and checking use the same plan, so that a check says exactly what a new run would change.
Pure, but for the schema files of datalad-catalog that all records are held against.
"""

from __future__ import annotations

from collections.abc import Mapping

from icf_utils.catalog.application import ApplicationFiles
from icf_utils.catalog.records import Record, VisitPage, file_record, record_bytes, schema_problems, visit_records
from icf_utils.catalog.study import (
    SUPER_PATH,
    StudyPage,
    config_record,
    logo_target,
    study_config,
    study_config_path,
    study_node,
    study_path,
    super_record,
)
from icf_utils.errors import DepositDamaged
from icf_utils.settings import CatalogSettings


def visit_files(page: VisitPage) -> dict[str, bytes]:
    """The files of a visit. Raises :class:`~icf_utils.errors.DepositDamaged` if they break the catalog's schema."""
    records = visit_records(page)
    for name, record in records.items():
        for sample in _validated(record):
            _refuse_invalid(name, sample)
    return {name: record_bytes(record) for name, record in records.items()}


def _validated(record: Record) -> list[Record]:
    """The records inside a node that have a schema; of a folder's files, which are all built alike, the first."""
    if record.get("type") == "dataset":
        return [record]
    return [file_record(record, child) for child in record.get("children", [])[:1]]


def _refuse_invalid(name: str, record: Mapping[str, object]) -> None:
    for problem in schema_problems(record):
        raise DepositDamaged(name, "a record that the catalog's schema accepts", problem, "please report this")


def application_files(
    study: str, settings: CatalogSettings, assets: ApplicationFiles, logo: bytes | None
) -> dict[str, bytes]:
    """The files of the web application with its settings; ``logo`` is the configured one's content."""
    files = dict(assets.files)
    if logo is not None:
        files[logo_target(settings)] = logo
    return {**files, "config.json": record_bytes(config_record(study, settings))}


def study_files(study: str, dataset_id: str, page: StudyPage, settings: CatalogSettings) -> dict[str, bytes]:
    """The files of the study's page for all its visits."""
    node = study_node(study, dataset_id, page, settings)
    # entries all have the same form and were checked when they came in: one stands for a thousand
    _refuse_invalid(study_path(dataset_id), {**node, "subdatasets": node["subdatasets"][:1]})
    return {study_config_path(dataset_id): record_bytes(study_config()), study_path(dataset_id): record_bytes(node)}


def super_files(dataset_id: str) -> dict[str, bytes]:
    """The file that makes a catalog complete."""
    return {SUPER_PATH: record_bytes(super_record(dataset_id))}
