"""Build again from the archive what a verification found to be wrong. Reads the store, and writes below it.

The archive itself is never touched. Nothing is built from one that its witnesses speak against
(:mod:`icf_utils.verify.evidence`). A damaged file of a visit is kept in ``<store>/<study>/.icf/damaged``, and the
right one takes its name in one step, so that at no time it is missing; what was cut off in the middle is done again.
The catalog's files hold nothing of their own and are replaced.


Bring a damaged catalog up to date again. Writes to the catalog only, under its lock, as its own stage does.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.archive.checksum import format_checksum
from icf_utils.catalog import writer
from icf_utils.catalog.check import read_entry
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta, read_study_page
from icf_utils.catalog.study import study_id, study_path
from icf_utils.dataset.annex_url import create_folder, deposit_paths, has_annex_deposit
from icf_utils.dataset.build import build_annex_deposit, build_dataset
from icf_utils.dataset.git_check import check_with_git
from icf_utils.dataset.reader import read_dataset
from icf_utils.dataset.store_address import find_store_address
from icf_utils.errors import DepositDamaged, IcfError, StorageFailure, storage_errors
from icf_utils.formatting import format_count
from icf_utils.metadata.describe import ArchiveDescription
from icf_utils.metadata.records import VisitMetadata
from icf_utils.metadata.stage import build_visit_metadata, choose_allow_list, encode_metadata_files
from icf_utils.progress import SILENT, Progress
from icf_utils.settings import Settings, load_settings
from icf_utils.store.files import make_folders, new_part, replace_with_part, sync_file, sync_folder
from icf_utils.store.layout import Study, Visit
from icf_utils.store.locks import catalog_lock, clear_dead, visit_lock
from icf_utils.verify.checks import Finding, VisitCheck, check_archive, finding_from_error, read_metadata
from icf_utils.verify.evidence import collect_evidence, weigh_evidence
from icf_utils.verify.recover import StoreOptions, find_catalogued_store, recover_origin, recover_tags
from icf_utils.verify.verify import check_visits, verify_visit

#: Below a study's work folder: files that a repair has replaced.
DAMAGED_FOLDER = "damaged"


@dataclass(frozen=True)
class Repair:
    """A file that was built again. ``kept`` is where the one before lies now, ``None`` where there was none to keep."""

    path: Path
    action: str
    kept: Path | None = None


@dataclass(frozen=True)
class VisitRepair:
    """What was done for a visit, and its verification afterwards; ``check`` says what could not be repaired."""

    study: str
    visit: str
    repairs: tuple[Repair, ...]
    check: VisitCheck


@dataclass(frozen=True)
class RepairResult:
    """The repair of a store or of one visit."""

    visits: tuple[VisitRepair, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that is still wrong."""
        return tuple(finding for visit in self.visits for finding in visit.check.findings)


def repair_store(
    store_dir: str | os.PathLike[str],
    targets: Sequence[str] = (),
    *,
    store_url: str | None = None,
    store_id: str | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> RepairResult:
    """Repair every visit of a store, or those that ``targets`` select; raises as ``verify_store`` does."""

    def one(study: str, visit: str) -> VisitRepair:
        return repair_visit(
            store_dir, study, visit, store_url=store_url, store_id=store_id, settings=settings, progress=progress
        )

    def failed(check: VisitCheck) -> VisitRepair:
        return VisitRepair(check.study, check.visit, (), check)

    return RepairResult(tuple(check_visits(Path(store_dir), targets, one, failed)))


def repair_visit(
    store_dir: str | os.PathLike[str],
    study: str,
    visit: str,
    *,
    store_url: str | None = None,
    store_id: str | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> VisitRepair:
    """Verify a visit, build again from its archive what is wrong, and verify it again.

    ``store_url`` and ``store_id`` say what a dataset was made for, where that cannot be found out any more. Raises what
    ``verify_visit`` raises, :class:`~icf_utils.errors.Busy`, and :class:`~icf_utils.errors.StorageFailure` for a store
    that cannot be written to.
    """
    place = Visit(Path(store_dir), study, visit)
    chosen = load_settings(place.root) if settings is None else settings

    def verified() -> VisitCheck:
        return verify_visit(
            place.root, study, visit, store_url=store_url, store_id=store_id, settings=chosen, progress=progress
        )

    clear_dead(place.of_study)
    before = verified()
    if not before.findings:
        return VisitRepair(study, visit, (), before)
    work = _VisitRepairer(place, chosen, StoreOptions(store_url, store_id), before, progress)
    try:
        with visit_lock(place, progress):
            problem = work.mend_files()
    except StorageFailure as error:
        if not work.done:
            raise
        problem = finding_from_error(place.archive, error)  # and what was done before is said
    if problem and problem.path == place.archive:
        return VisitRepair(study, visit, (), replace(before, findings=(*before.findings, problem)))
    problem = problem or work.mend_catalog()
    try:
        after = verified()
    except StorageFailure as error:  # what was done before is said all the same
        after, problem = before, finding_from_error(place.archive, error)
    left = after.findings if problem is None else tuple(dict.fromkeys((*after.findings, problem)))
    return VisitRepair(study, visit, tuple(work.done), replace(after, findings=left))


class _VisitRepairer:
    """The repair of one visit, step by step; each step builds on the one before."""

    def __init__(
        self, place: Visit, settings: Settings, options: StoreOptions, before: VisitCheck, progress: Progress
    ) -> None:
        self._place, self._settings, self._options = place, settings, options
        self._before, self._progress = before, progress
        self.done: list[Repair] = []

    def mend_files(self) -> Finding | None:
        """Checksum, metadata and dataset; what stands in the way of that, if anything."""
        place = self._place
        recorded, _ = read_metadata(place)
        tags, source = recover_tags(place, recorded, choose_allow_list(place, None, self._settings))
        found, problems = check_archive(place, recorded, self._progress, tags)
        if found is None:
            text = "cannot be read as the archive that it should be; bring it back from a copy. Nothing was changed"
            return Finding(place.archive, "", text) if problems else None
        verdict = weigh_evidence(found, collect_evidence(place, recorded))
        if not verdict.is_sound:
            return Finding(place.archive, "", f"{verdict.reason}. Nothing was changed")
        self._replace(
            place.checksum, format_checksum(found.md5, place.archive.name), f"from the archive; {verdict.reason}"
        )
        metadata = self._mend_metadata(found, source)
        try:
            self._mend_dataset(metadata)
            self._mend_plain(metadata)
        except IcfError as error:
            return finding_from_error(place.export, error, remedy=True)
        return None

    def _is_lost(self, step: str, path: Path) -> bool:
        """Whether a step that shows no file was made, as a finding says, and did not only not come yet."""
        return step not in self._before.absent or self._blames(path)

    def _mend_metadata(self, found: ArchiveDescription, tags: str) -> VisitMetadata:
        metadata = build_visit_metadata(self._place, found)
        if not self._is_lost("metadata", self._place.dicoms_json):
            return metadata
        for path, data in encode_metadata_files(self._place, metadata):
            self._replace(path, data, f"from the archive, with {tags}")
        return metadata

    def _mend_dataset(self, metadata: VisitMetadata) -> None:
        place = self._place
        if not (self._is_lost("dataset", place.refs) or self._blames(place.annex_url)):
            return
        origin, source = recover_origin(place, metadata, self._options, self._settings)
        built = build_dataset(metadata, place, origin)
        check_with_git(built.export, built.refs, str(place.dicoms_json))
        for path, data in ((place.export, built.export), (place.refs, built.refs)):
            self._replace(path, data, f"from the metadata, for the store that {source}")

    def _mend_plain(self, metadata: VisitMetadata) -> None:
        """The deposit for git-annex alone, where there is any of it."""
        place, dataset = self._place, read_dataset(self._place)
        if dataset is None or not has_annex_deposit(place):
            return
        built = build_annex_deposit(metadata, place, dataset.origin)
        check_with_git(built.export, built.refs, str(place.dicoms_json))
        for path, data in deposit_paths(place, built.files):
            create_folder(place, path.parent)
            self._replace(path, data, "from the metadata, for the dataset's store")

    def mend_catalog(self) -> Finding | None:
        """The visit's pages and what the study's visits share; what stands in the way of that, if anything."""
        if "catalog" in self._before.absent:
            return None
        catalog = self._place.of_study.catalog
        try:
            count = repair_catalog(self._place, self._options, self._settings, self._progress)
        except IcfError as error:
            return finding_from_error(catalog, error, remedy=True)
        if count:
            self.done.append(Repair(catalog, f"built again from the metadata ({format_count(count, 'file')})"))
        return None

    def _blames(self, path: Path) -> bool:
        return any(finding.path == path for finding in self._before.findings)

    def _replace(self, path: Path, data: bytes, how: str) -> None:
        """Give ``path`` its right content, if it has another; the old file is kept."""
        with storage_errors(path, "read"):
            there = path.read_bytes() if path.is_file() else None
        if there == data:
            return
        study = self._place.of_study
        with new_part(study, path) as handle:
            with storage_errors(path, "write"):
                handle.write(data)
            sync_file(handle, path)
            kept = keep_damaged_file(study, path) if os.path.lexists(path) else None
            replace_with_part(study, path)
        sync_folder(path.parent)
        self.done.append(Repair(path, f"built again {how}", kept))


def keep_damaged_file(study: Study, path: Path) -> Path:
    """Give a file a second name in the folder of damaged files, so that it can be replaced."""
    folder = study.workdir / DAMAGED_FOLDER
    with storage_errors(folder, "keep the damaged file in"):
        make_folders(study.root, folder)
        kept = next(name for name in _names(folder / path.name) if not os.path.lexists(name))
        if path.is_file() and not path.is_symlink():
            _second_name(path, kept)
        else:
            os.rename(path, kept)
    sync_folder(folder)
    return kept


def _second_name(path: Path, kept: Path) -> None:
    try:
        os.link(path, kept)
    except OSError:  # a file system without hard links
        shutil.copy2(path, kept)


def _names(path: Path) -> Iterator[Path]:
    """``path``, then ``path.1``, ``path.2`` and so on."""
    yield path
    number = 0
    while True:
        number += 1
        yield path.with_name(f"{path.name}.{number}")


#: A day on a study's page.
_DATE = re.compile(rb'"date":"\d')


def repair_catalog(place: Visit, options: StoreOptions, settings: Settings, progress: Progress) -> int:
    """Write again what is not as it should be; returns how many files that were. Raises what the stage raises, and
    :class:`~icf_utils.errors.DepositDamaged` where nothing tells which store the visit's pages should speak of.
    """
    study = place.of_study
    stores = {place.visit: options if options.is_given else _said_by_catalog(place, settings)}
    if _is_page_lost(study):
        stores = {**_visits_with_pages(study, settings), **stores}
    with catalog_lock(study, progress):
        _repair_marker(study)
        if _is_page_lost(study):
            _remove_page(study)
    count = 0
    for visit, store in sorted(stores.items()):
        result = catalogify_studyvisit_from_meta(
            place.root, study.study, visit, store_url=store.url, store_id=store.id, settings=settings, progress=progress
        )
        count += result.files_written
    return count


def _said_by_catalog(place: Visit, settings: Settings) -> StoreOptions:
    """The store of a visit whose dataset does not tell; of one whose dataset does, nothing has to be said."""
    with suppress(IcfError):
        if read_dataset(place) is not None:
            return StoreOptions(None, None)
    found = find_catalogued_store(place, settings)
    if found is None and read_entry(place) is not None:
        raise DepositDamaged(
            place.of_study.catalog,
            "pages that tell which store they were made for",
            "none that can be proven",
            "repair it with the --store-url and --store-id that it was made with",
        )
    return found or StoreOptions(None, None)


def _is_page_lost(study: Study) -> bool:
    """Whether the study's page cannot be read any more, although the catalog has pages of visits."""
    try:
        raw = writer.read_file(study, study_path(study_id(study.study)))
        read_study_page(study)
    except DepositDamaged:
        return True
    return raw is None


def _visits_with_pages(study: Study, settings: Settings) -> dict[str, StoreOptions]:
    """The visits that the lost page must have shown, and which store their pages speak of."""
    found = {}
    for visit in study.visits():
        place = Visit(study.root, study.study, visit)
        try:
            store, dataset_id = StoreOptions(None, None), find_store_address(place, settings, None, None).dataset_id
        except IcfError:
            dataset_id = ""
        if not (dataset_id and writer.has_pages(study, dataset_id)):
            known = find_catalogued_store(place, settings)
            if known is None:
                continue
            store = known
        found[visit] = store
    return found


def _repair_marker(study: Study) -> None:
    """Say again whose catalog it is, if the study's own pages in it leave no doubt.

    That dates are hidden is believed from whatever is left of the marker and the page. Where too little is left of
    both, they stay hidden: a date that was shown can be shown again.
    """
    catalog_id = study_id(study.study)
    if not (study.catalog / "metadata" / catalog_id).is_dir() or writer.read_marker(study, catalog_id) is not None:
        return
    marker = writer.read_file(study, writer.MARKER) or b""
    page = writer.read_file(study, study_path(catalog_id)) or b""
    hides = b"hides" in marker or b'"hides"' in page or not (page.endswith(b"}\n") or _DATE.search(page))
    writer.replace_file(study, writer.MARKER, writer.marker_bytes(catalog_id, hides))


def _remove_page(study: Study) -> None:
    page = study.catalog / study_path(study_id(study.study))
    with storage_errors(page, "remove"):
        if os.path.lexists(page):
            page.unlink()
