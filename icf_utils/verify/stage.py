"""Check again, from the bytes, every promise between a store's files. Reads the store; changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

from icf_utils.archive.stage import archive_differs
from icf_utils.catalog.check import check_catalog, is_in_catalog
from icf_utils.config import Settings, load_settings
from icf_utils.dataset.where import StorePlace, place_from_settings, store_place
from icf_utils.errors import DepositDamaged, DepositMissing, IcfError, shown
from icf_utils.metadata.records import VisitMetadata
from icf_utils.progress import SILENT, Progress
from icf_utils.store import Visit, stored_studies
from icf_utils.verify.dataset import check_dataset
from icf_utils.verify.findings import Finding, VerifyResult, VisitCheck, finding_of
from icf_utils.verify.metadata import check_archive, check_metadata, read_metadata

__all__ = ["Finding", "VerifyResult", "VisitCheck", "verify_store", "verify_visit"]


def verify_visit(
    store_dir: str | os.PathLike[str],
    study: str,
    visit: str,
    *,
    store_url: str | None = None,
    store_id: str | None = None,
    rebuild: str | os.PathLike[str] | None = None,
    time_zone: str = "UTC",
    strip: int = 0,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> VisitCheck:
    """Verify one visit: archive, checksum, metadata, dataset and catalog against each other.

    ``rebuild`` is an input that must still give the same archive. What is wrong comes back as findings; raised are
    only :class:`~icf_utils.errors.DepositMissing` for a visit of which there is nothing,
    :class:`~icf_utils.errors.InvalidIdentifier`, :class:`~icf_utils.errors.InvalidSetting` and refusals of ``rebuild``.
    """
    place = Visit(Path(store_dir), study, visit)
    if not any(path.exists() for path in _files(place)):
        raise DepositMissing(place.archive, "there is nothing of this visit in the store")
    chosen = load_settings(place.root) if settings is None else settings
    absent, findings = _presence(place)
    metadata = None
    if "metadata" not in absent:
        metadata, problems = read_metadata(place)
        findings += problems
    found, problems = check_archive(place, metadata, progress)
    findings += problems
    if metadata and found:
        findings += check_metadata(place, metadata, found)
    if metadata and place.refs.exists() and place.export.exists():
        findings += check_dataset(place, metadata, store_url)
    if metadata:
        where = _where(place, store_url, store_id, chosen)
        if is_in_catalog(place, where.dataset_id):
            findings += _check_catalog(place, metadata, where, chosen)
        else:
            absent += ("catalog",)
    if rebuild is not None:
        findings += _check_rebuild(place, rebuild, time_zone, strip, progress)
    return VisitCheck(study, visit, len(found.images) if found else 0, absent, tuple(dict.fromkeys(findings)))


def _where(place: Visit, store_url: str | None, store_id: str | None, settings: Settings) -> StorePlace:
    """Which store the visit's catalog pages should speak of; a damaged dataset, found elsewhere, is not asked."""
    try:
        return store_place(place, settings, store_url, store_id)
    except (DepositDamaged, DepositMissing):
        return place_from_settings(place, settings, store_url, store_id)


def _files(place: Visit) -> tuple[Path, ...]:
    return (place.archive, place.checksum, place.dicoms_json, place.tarball_json, place.export, place.refs)


def verify_store(
    store_dir: str | os.PathLike[str],
    *,
    store_url: str | None = None,
    store_id: str | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> VerifyResult:
    """Verify every visit of every study in a store.

    Raises :class:`~icf_utils.errors.DepositMissing` where there is no visit at all.
    """
    root = Path(store_dir)
    checks = []
    for study in stored_studies(root):
        for visit in study.visits():
            check = verify_visit(
                root, study.study, visit, store_url=store_url, store_id=store_id, settings=settings, progress=progress
            )
            checks.append(check)
    if not checks:
        raise DepositMissing(root, "there is no visit in this store; name another with -o/--store-dir")
    return VerifyResult(tuple(checks))


def _presence(place: Visit) -> tuple[tuple[str, ...], list[Finding]]:
    """Which steps were not made yet, and files that lack their other half."""
    absent, findings = [], []
    for step, files in (("metadata", (place.dicoms_json, place.tarball_json)), ("dataset", (place.export, place.refs))):
        missing = [path for path in files if not path.exists()]
        if len(missing) == len(files):
            absent.append(step)
        elif step == "dataset":  # the metadata's are named when they are read
            findings += [Finding(path, "", "is missing: the step was interrupted, or it was lost") for path in missing]
    if "metadata" in absent and "dataset" not in absent:
        findings.append(Finding(place.dicoms_json, "", "is missing although there is a dataset made from it"))
    return tuple(absent), findings


def _check_catalog(place: Visit, metadata: VisitMetadata, where: StorePlace, settings: Settings) -> list[Finding]:
    try:
        problems = check_catalog(place, metadata, where.url, where.dataset_id, settings.catalog)
    except IcfError as error:
        return [finding_of(place.of_study.catalog, error)]
    return [Finding(Path(path), "", problem) for path, problem in problems]


def _check_rebuild(
    place: Visit, rebuild: str | os.PathLike[str], time_zone: str, strip: int, progress: Progress
) -> list[Finding]:
    how = archive_differs(rebuild, place, time_zone=time_zone, strip=strip, progress=progress)
    return [Finding(place.archive, "", f"is not what '{shown(rebuild)}' gives: {how}")] if how else []
