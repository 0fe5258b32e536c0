"""Repair: rebuild from the archive what a verification found to be wrong, then verify again. Writes to the store.

The archive itself is never changed, and nothing is rebuilt from an archive that its checksum records contradict
(:mod:`icf_utils.verify.evidence`). A damaged file of a visit is kept in ``STORE/STUDY/.icf/damaged``; the right one
takes its name in one step, so that the name is never missing. An interrupted repair is completed by repeating it.
The catalog's files are derived and are replaced by the catalog stage.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.archive.checksum import RESTORE_ADVICE, format_checksum
from icf_utils.catalog import writer
from icf_utils.catalog.page import read_entry
from icf_utils.catalog.rebuild import is_study_page_lost, reset_study_page
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.catalog.visit_list import build_visit_list, write_visit_list
from icf_utils.dataset.annex_url import create_folder, deposit_paths, has_annex_deposit
from icf_utils.dataset.build import build_annex_deposit, build_dataset
from icf_utils.dataset.git_check import check_with_git
from icf_utils.dataset.reader import kept_archives, read_dataset
from icf_utils.dataset.store_address import find_store_address
from icf_utils.dataset.study_stage import write_study_dataset
from icf_utils.errors import DepositDamaged, IcfError, StorageFailure, printable, storage_errors
from icf_utils.formatting import format_count
from icf_utils.metadata.describe import ArchiveDescription
from icf_utils.metadata.records import VisitMetadata
from icf_utils.metadata.stage import build_visit_metadata, choose_allow_list, encode_metadata_files
from icf_utils.progress import SILENT, Progress
from icf_utils.regular_files import kind_of_special, read_regular
from icf_utils.settings import Settings, load_settings
from icf_utils.store.elsewhere import find_elsewhere
from icf_utils.store.files import make_folders, new_file, new_part, replace_with_part, sync_file, sync_folder
from icf_utils.store.layout import Study, Visit, find_deposit
from icf_utils.store.locks import catalog_lock, remove_dead_locks, visit_lock
from icf_utils.store.sums import format_sums
from icf_utils.verify.checks import Finding, VisitCheck, check_archive, finding_from_error, read_metadata
from icf_utils.verify.evidence import Standing, collect_evidence, weigh_evidence
from icf_utils.verify.history import recover_history
from icf_utils.verify.recover import (
    StoreOptions,
    find_catalogued_store,
    find_confirmation,
    keep_proved_tags,
    recover_lineage,
    recover_origin,
    recover_tags,
)
from icf_utils.verify.shared import check_shared
from icf_utils.verify.signatures import is_list_signed
from icf_utils.verify.sums import repaired_sums
from icf_utils.verify.verify import CheckOptions, check_visit, check_visits

#: The folder of files that a repair has replaced, below a study's work folder.
DAMAGED_FOLDER = "damaged"


@dataclass(frozen=True)
class Repair:
    """A file that was rebuilt; ``kept`` is where the damaged one is now, ``None`` if there was none."""

    path: Path
    action: str
    kept: Path | None = None


@dataclass(frozen=True)
class VisitRepair:
    """What was rebuilt for a visit, and its verification afterwards; the findings of ``check`` could not be
    repaired.
    """

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
    accept_archive: bool = False,
    signers: Path | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> RepairResult:
    """Repair every visit of a store, or those that ``targets`` select; raises as ``verify_store`` does.

    ``accept_archive``, ``signers``: see :func:`repair_visit`.
    """

    root = Path(store_dir)
    chosen = load_settings(root) if settings is None else settings
    doubtful: set[str] = set()  # the studies that have an archive which is not proved

    def one(study: str, visit: str) -> VisitRepair:
        options = StoreOptions(store_url, store_id)
        repaired = _repair_visit(Visit(root, study, visit), options, accept_archive, signers, chosen, progress)
        if _is_doubtful(repaired, Visit(root, study, visit)):
            doubtful.add(study)
        return repaired

    def failed(check: VisitCheck) -> VisitRepair:
        return VisitRepair(check.study, check.visit, (), check)

    def shared(study: Study) -> VisitRepair:
        return _repair_shared(study, chosen, progress, is_doubtful=study.study in doubtful)

    found = check_visits(root, targets, one, failed, shared)
    return RepairResult(tuple(item for item in found if item.visit or item.repairs or item.check.findings))


def repair_visit(
    store_dir: str | os.PathLike[str],
    study: str,
    visit: str,
    *,
    store_url: str | None = None,
    store_id: str | None = None,
    accept_archive: bool = False,
    signers: Path | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> VisitRepair:
    """Verify a visit, rebuild from its archive what is wrong, and verify it again.

    ``store_url`` and ``store_id`` say what a dataset was made for, in case nothing that is left shows it. With
    ``accept_archive``, an archive that nothing proves is relied on, unless something contradicts it. With ``signers``
    (see :func:`verify_visit`), a list of SHA-256s that one of them has signed decides by itself. Raises
    what ``verify_visit`` raises, :class:`~icf_utils.errors.Busy`, and :class:`~icf_utils.errors.StorageFailure` for
    a store that cannot be written to.
    """
    place = Visit(Path(store_dir), study, visit)
    chosen = load_settings(place.root) if settings is None else settings

    options = StoreOptions(store_url, store_id)
    repaired = _repair_visit(place, options, accept_archive, signers, chosen, progress)
    shared = _repair_shared(place.of_study, chosen, progress, [visit], is_doubtful=_is_doubtful(repaired, place))
    check = replace(
        repaired.check,
        findings=(*repaired.check.findings, *shared.check.findings),
        notices=(*repaired.check.notices, *shared.check.notices),
    )
    return replace(repaired, repairs=(*repaired.repairs, *shared.repairs), check=check)


def _repair_visit(
    place: Visit,
    options: StoreOptions,
    accept_archive: bool,
    signers: Path | None,
    settings: Settings,
    progress: Progress,
) -> VisitRepair:
    """Repair what belongs to one visit alone."""

    def verified() -> VisitCheck:
        return check_visit(place, settings, CheckOptions(options.url, options.id, signers=signers), progress)

    remove_dead_locks(place.of_study)
    before = verified()
    if not before.findings and not any(notice.code == "no-sums" for notice in before.notices):
        return VisitRepair(place.study, place.visit, (), before)
    repairer = _VisitRepairer(place, settings, options, before, progress, signers)
    try:
        with visit_lock(place, progress):
            problem = repairer.repair_files(accept_archive)
    except StorageFailure as error:
        if not repairer.done:
            raise
        problem = finding_from_error(place.archive, error)  # what was repaired before is still reported
    if problem and problem.path == place.archive:
        known = [finding for finding in before.findings if not _says(problem, finding)]
        return VisitRepair(place.study, place.visit, (), replace(before, findings=(*known, problem)))
    problem = problem or repairer.repair_catalog()
    try:
        after = verified()
    except StorageFailure as error:  # what was repaired before is still reported
        after, problem = before, finding_from_error(place.archive, error)
    left = after.findings if problem is None else tuple(dict.fromkeys((*after.findings, problem)))
    return VisitRepair(place.study, place.visit, tuple(repairer.done), replace(after, findings=left))


def _is_doubtful(repaired: VisitRepair, place: Visit) -> bool:
    """Whether something is wrong with the visit's archive, so that the list of visits may be the record to keep."""
    return any(finding.path == place.archive for finding in repaired.check.findings)


def _repair_shared(
    study: Study,
    settings: Settings,
    progress: Progress,
    visits: Sequence[str] | None = None,
    *,
    is_doubtful: bool,
) -> VisitRepair:
    """Repair what the visits of a study share: the list of visits, if it is wrong about any of ``visits``.

    If an archive is doubtful, the list is checked and left: it may be the record that is right.
    """
    findings, notices = check_shared(study, settings.catalog, visits)
    repairs: tuple[Repair, ...] = ()
    if (findings or notices) and not is_doubtful:
        with catalog_lock(study, progress):
            if write_study_dataset(study, settings.store.id):
                repairs = (Repair(study.refs, "brought up to date with the visits' datasets"),)
            if kind_of_special(study.visit_list):  # it cannot be read, and its lines are made anew
                keep_damaged_file(study, study.visit_list)
            if write_visit_list(study, build_visit_list(study, settings.catalog)):
                repairs += (Repair(study.visit_list, "rebuilt from the visits' metadata"),)
        findings, notices = check_shared(study, settings.catalog, visits)
    return VisitRepair(study.study, "", repairs, VisitCheck(study.study, "", 0, (), tuple(findings), notices))


_SIGNED = (
    "is signed, and lists other SHA-256s for {}: restore these files from a copy. If the rebuilt files are right, "
    "remove '{}', repair again, and sign again"
)
_ACCEPT = "compare it with a copy, and repair with --accept-archive if it is the right one"


def _says(problem: Finding, other: Finding) -> bool:
    """Whether the problem says all that another finding about the same file does."""
    return problem.path == other.path and problem.problem.startswith(other.problem)


class _VisitRepairer:
    """Repairs one visit, file by file: each is rebuilt from the ones before."""

    def __init__(
        self,
        place: Visit,
        settings: Settings,
        options: StoreOptions,
        before: VisitCheck,
        progress: Progress,
        signers: Path | None,
    ) -> None:
        self._place, self._settings, self._options = place, settings, options
        self._before, self._progress, self._signers = before, progress, signers
        self.done: list[Repair] = []

    def repair_files(self, accept_archive: bool) -> Finding | None:
        """Repair checksum, metadata and dataset; returns what prevents that, if anything."""
        place = self._place
        recorded, _ = read_metadata(place)
        tags, source = recover_tags(place, recorded.images, choose_allow_list(place, None, self._settings))
        if address := find_elsewhere(place, self._settings):
            text = f"is at {address}; files are rebuilt from it only if it is in this store. Nothing was changed"
            return Finding(place.archive, "", text)
        found, problems = check_archive(place, recorded, self._progress, tags)
        if found is None:
            text = f"cannot be read as this visit's archive; {RESTORE_ADVICE}. Nothing was changed"
            return Finding(place.archive, "", text) if problems else None
        verdict = weigh_evidence(found, collect_evidence(place, self._signers), self._confirmation)
        reason = verdict.reason
        if verdict.standing is Standing.UNPROVED:
            if not accept_archive:
                return Finding(place.archive, "", f"{reason}. Nothing was changed; {_ACCEPT}")
            reason = f"accepted by --accept-archive, as {reason}"
        elif not verdict.is_sound:
            return Finding(place.archive, "", f"{reason}. Nothing was changed")
        self._replace(place.checksum, format_checksum(found.md5, place.archive.name), f"from the archive; {reason}")
        found.images[:] = keep_proved_tags(place, source, found.images)
        metadata = self._repair_metadata(found, source)
        problem = None
        try:
            self._repair_dataset(metadata)
            self._repair_annex_deposit(metadata)
            self._repair_history(found.md5)
        except IcfError as error:
            problem = finding_from_error(place.export, error, remedy=True)
        return self._repair_sums(found, reason, is_dataset_proved=problem is None) or problem

    def _confirmation(self, found: ArchiveDescription) -> str:
        return find_confirmation(self._place, found, self._options, self._settings)

    def _is_lost(self, stage: str, path: Path) -> bool:
        """Whether a stage without files was made once, as a finding shows."""
        return stage not in self._before.absent or self._blames(path)

    def _repair_metadata(self, found: ArchiveDescription, tags: str) -> VisitMetadata:
        metadata = build_visit_metadata(self._place, found)
        if not self._is_lost("metadata", self._place.dicoms_json):
            return metadata
        for path, data in encode_metadata_files(self._place, metadata):
            self._replace(path, data, f"from the archive, with {tags}")
        return metadata

    def _repair_dataset(self, metadata: VisitMetadata) -> None:
        place = self._place
        if not (self._is_lost("dataset", place.refs) or self._blames(place.annex_url)):
            return
        origin, source = recover_origin(place, metadata, self._options, self._settings)
        built = build_dataset(metadata, place, origin, recover_lineage(place))
        check_with_git(built.export, built.refs, str(place.dicoms_json))
        for path, data in ((place.export, built.export), (place.refs, built.refs)):
            self._replace(path, data, f"from the metadata, for {source}")

    def _repair_annex_deposit(self, metadata: VisitMetadata) -> None:
        """Repair the deposit for ``annex::`` addresses, if there is any of it."""
        place, dataset = self._place, read_dataset(self._place)
        if dataset is None or not has_annex_deposit(place):
            return
        lineage = dataset.lineage(kept_archives(place))
        built = build_annex_deposit(metadata, place, dataset.origin, lineage)
        check_with_git(built.export, built.refs, str(place.dicoms_json))
        for path, data in deposit_paths(place, built.files):
            create_folder(place, path.parent)
            self._replace(path, data, "from the metadata, for the dataset's store")

    def _repair_history(self, md5: str) -> None:
        """Repair the visit's history, if it is blamed and the dataset shows all of it."""
        place = self._place
        data = recover_history(place, md5) if self._blames(place.history) else None
        if data is not None:
            self._replace(place.history, data, "from the dataset's commits")

    def _repair_sums(self, found: ArchiveDescription, reason: str, *, is_dataset_proved: bool) -> Finding | None:
        """Repair the SHA-256 sums, which list what was repaired before; a signature of them stays.

        Lines that are signed are intact, and stay. Returns what to do about a file that differs from such a line.
        """
        place, doubtful = self._place, {finding.path for finding in self._before.findings}
        raw = find_deposit(place.sums)
        is_signed = raw is not None and place.signature.exists() and is_list_signed(place, raw) is not False
        unproved = () if is_dataset_proved else (place.refs, place.export, place.annex_url, place.history)
        sums = repaired_sums(place, found, doubtful, unproved, keeps_lines=is_signed)
        self._replace(place.sums, format_sums(sums), f"from the visit's files; {reason}")
        right = repaired_sums(place, found, doubtful, unproved, keeps_lines=False) if is_signed else sums
        if others := sorted(name for name in sums if sums[name] != right.get(name)):
            names = ", ".join(f"'{printable(name)}'" for name in others)
            return Finding(place.sums, "", _SIGNED.format(names, place.signature.name))
        return None

    def repair_catalog(self) -> Finding | None:
        """Repair the visit's pages and the study's shared files; returns what prevents that, if anything."""
        if "catalog" in self._before.absent:
            return None
        catalog = self._place.of_study.catalog
        self._remove_special_files()
        try:
            count = _update_catalog(self._place, self._options, self._settings, self._progress)
        except IcfError as error:
            return finding_from_error(catalog, error, remedy=True)
        if count:
            self.done.append(Repair(catalog, f"rebuilt from the metadata ({format_count(count, 'file')})"))
        return None

    def _remove_special_files(self) -> None:
        """Move pipes, sockets and devices out of the catalog, which could not be read or replaced."""
        study = self._place.of_study
        for folder, _, names in os.walk(study.catalog):
            for path in (Path(folder, name) for name in sorted(names)):
                if kind := kind_of_special(path):
                    kept = keep_damaged_file(study, path)
                    self.done.append(Repair(path, f"removed, as it is {kind}, not a file", kept))

    def _blames(self, path: Path) -> bool:
        return any(finding.path == path for finding in self._before.findings)

    def _replace(self, path: Path, data: bytes, how: str) -> None:
        """Give ``path`` its right content, unless it has it; the damaged file is kept."""
        with storage_errors(path, "read"):
            there = read_regular(path) if path.is_file() else None
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
        self.done.append(Repair(path, f"rebuilt {how}", kept))


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
        with new_file(kept, like=path) as copy, open(path, "rb") as file:
            shutil.copyfileobj(file, copy)
            sync_file(copy, kept)


def _names(path: Path) -> Iterator[Path]:
    """Yield ``path``, then ``path.1``, ``path.2`` and so on."""
    yield path
    number = 0
    while True:
        number += 1
        yield path.with_name(f"{path.name}.{number}")


def _update_catalog(place: Visit, options: StoreOptions, settings: Settings, progress: Progress) -> int:
    """Add a visit to the catalog again; if the study's page is lost, all visits that have pages.

    Returns the number of files written. Raises what the catalog stage raises, and
    :class:`~icf_utils.errors.DepositDamaged` if nothing shows which store the visit's pages should name.
    """
    study = place.of_study
    stores = {place.visit: options if options.is_given else _store_from_catalog(place, settings)}
    if is_study_page_lost(study):
        stores = {**_visits_with_pages(study, settings), **stores}
    reset_study_page(study, progress)
    count = 0
    for visit, store in sorted(stores.items()):
        result = catalogify_studyvisit_from_meta(
            place.root, study.study, visit, store_url=store.url, store_id=store.id, settings=settings, progress=progress
        )
        count += result.files_written
    return count


def _store_from_catalog(place: Visit, settings: Settings) -> StoreOptions:
    """The store that a visit's pages name. Not needed if the dataset says it, as the catalog stage then finds it
    there.
    """
    with suppress(IcfError):
        if read_dataset(place) is not None:
            return StoreOptions(None, None)
    found = find_catalogued_store(place, settings)
    if found is None and read_entry(place) is not None:
        raise DepositDamaged(
            place.of_study.catalog,
            "pages that show for which store they were made",
            "none that proves it",
            "repair it with the --store-url and --store-id that it was made with",
        )
    return found or StoreOptions(None, None)


def _visits_with_pages(study: Study, settings: Settings) -> dict[str, StoreOptions]:
    """The visits that the lost page must have shown, and the stores that their pages name."""
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
