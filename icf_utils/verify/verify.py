"""Verification: check again, from the bytes, that a visit's files agree with each other. Reads the store; changes
nothing.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from icf_utils.archive.stage import compare_archive
from icf_utils.catalog.check import check_catalog, is_in_catalog
from icf_utils.catalog.content import load_application
from icf_utils.catalog.page import catalogued_visits, read_entry, visit_date
from icf_utils.catalog.visit_list import line_of_metadata
from icf_utils.catalog.writer import has_pages
from icf_utils.dataset.reader import DepositedDataset, read_dataset
from icf_utils.dataset.store_address import StoreAddress, address_from_settings, find_store_address
from icf_utils.errors import (
    Busy,
    DepositMissing,
    IcfError,
    InvalidIdentifier,
    InvalidSetting,
    MissingRequirement,
    StorageFailure,
    printable,
    storage_errors,
)
from icf_utils.metadata.allowlist import AllowList, tags_of_images
from icf_utils.metadata.describe import ArchiveDescription
from icf_utils.metadata.records import VisitMetadata
from icf_utils.metadata.stage import build_visit_metadata, choose_allow_list
from icf_utils.metadata.visit_list import VisitLine
from icf_utils.outputs.deposit import check_kept_output, check_output
from icf_utils.outputs.listing import kept_by_visit, outputs_by_visit
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.settings import Settings, load_settings
from icf_utils.store.address import check_store_id, check_store_url
from icf_utils.store.elsewhere import find_elsewhere, other_archives
from icf_utils.store.existing import refuse_no_store
from icf_utils.store.layout import (
    Study,
    Visit,
    check_identifier,
    list_study_folders,
    store_identity,
    visit_uuid,
)
from icf_utils.store.locks import settle_changes
from icf_utils.store.transaction import has_decided_changes
from icf_utils.verify.checks import (
    HALF_MISSING,
    Finding,
    MetadataParts,
    VerifyResult,
    VisitCheck,
    check_archive,
    check_dataset,
    check_no_annex_deposit,
    check_visit_metadata,
    finding_from_error,
    read_metadata,
)
from icf_utils.verify.elsewhere import ONLY_SIZE, ElsewhereOptions, check_elsewhere
from icf_utils.verify.evidence import Standing, collect_evidence, images_unknown_to_dataset, weigh_evidence
from icf_utils.verify.history import check_history
from icf_utils.verify.proof import Proof, proved_files, read_proof
from icf_utils.verify.recover import StoreOptions, find_catalogued_store, find_confirmation, recover_tags
from icf_utils.verify.shared import check_shared
from icf_utils.verify.signatures import check_signature
from icf_utils.verify.sums import check_sums

__all__ = ["Finding", "VerifyResult", "VisitCheck", "verify_store", "verify_visit"]

_NOT_CHECKED = "was not checked: the address that it should name is in the dataset, which is damaged or lost"


@dataclass(frozen=True)
class _ExpectedStore:
    """The store that the visit's catalog pages should name; ``certain`` is false if the dataset, which says it, is
    unreadable.
    """

    place: StoreAddress
    certain: bool


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
    elsewhere: ElsewhereOptions = ONLY_SIZE,
    signers: Path | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> VisitCheck:
    """Verify one visit: archive, checksum, metadata, dataset and catalog against each other.

    ``rebuild`` is an input that must still give the same archive, with ``time_zone`` and ``strip`` as for
    ``make_studyvisit_archive``. An archive that is in another store (``[store] archives``) must be there with its size;
    ``elsewhere`` says whether it is fetched whole. With a ``signers`` file, somebody whom it names must have signed the
    visit. Whatever is wrong is returned as findings; that the catalog could not be checked, as datalad-catalog is not
    installed, as a notice. Raises only :class:`~icf_utils.errors.DepositMissing` for a visit with no file in the store,
    :class:`~icf_utils.errors.InvalidIdentifier`, :class:`~icf_utils.errors.InvalidSetting`,
    :class:`~icf_utils.errors.StorageFailure` for a store that cannot be read, and refusals of ``rebuild``.
    """
    place = Visit(Path(store_dir), study, visit)
    chosen = load_settings(place.root) if settings is None else settings
    options = CheckOptions(store_url, store_id, elsewhere, signers)
    examined = examine_visit(place, chosen, options, progress)
    check = examined.check
    if rebuild is not None and _exists(place.archive):
        problems = _check_rebuild(place, rebuild, time_zone, strip, progress)
        check = replace(check, findings=tuple(dict.fromkeys((*check.findings, *problems))))
    known = {visit: examined.line} if examined.line else {}
    findings, notices = check_shared(place.of_study, chosen.catalog, [visit], known)
    return replace(check, findings=(*check.findings, *findings), notices=(*check.notices, *notices))


@dataclass(frozen=True)
class CheckOptions:
    """How a visit is verified; see :func:`verify_visit`.

    With ``uses_proof``, what an earlier verification proved of the same bytes (:mod:`icf_utils.verify.proof`) is not
    checked again.
    """

    store_url: str | None = None
    store_id: str | None = None
    elsewhere: ElsewhereOptions = ONLY_SIZE
    signers: Path | None = None
    uses_proof: bool = False


@dataclass(frozen=True)
class ExaminedVisit:
    """The verification of what belongs to one visit alone.

    ``sums`` are the bytes of the list of SHA-256s that its files were compared with. ``line`` is its line in the list
    of visits, with its date, and ``proof`` what was proved of it. Each is ``None`` if it is not known.
    """

    check: VisitCheck
    sums: bytes | None = None
    line: VisitLine | None = None
    proof: Proof | None = None


def check_visit(place: Visit, settings: Settings, options: CheckOptions, progress: Progress) -> VisitCheck:
    """Verify what belongs to one visit alone; errors are those of :func:`verify_visit`."""
    return examine_visit(place, settings, options, progress).check


def examine_visit(place: Visit, settings: Settings, options: CheckOptions, progress: Progress) -> ExaminedVisit:
    """Verify what belongs to one visit alone, and return what the verification has learnt of it.

    Errors are those of :func:`verify_visit`.
    """
    if has_decided_changes(place.of_study):
        settle_changes(place.of_study, progress)
    proof = read_proof(place) if options.uses_proof and options.store_url is options.store_id is None else None
    if proof and (proved := _check_proved(place, settings, proof, options.signers)):
        return proved
    while True:
        before = _stamps(place)
        examined = _examine_visit(place, settings, options, progress)
        if not examined.check.findings or before == _stamps(place):
            return examined


def _stamps(place: Visit) -> list[tuple[int, int, int]]:
    """What shows whether a visit's files were replaced while they were read."""
    found = []
    for path in _files(place):
        with suppress(OSError):
            status = path.stat()
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return found


def _check_proved(place: Visit, settings: Settings, proof: Proof, signers: Path | None) -> ExaminedVisit | None:
    """Verify a visit whose bytes were proved before; ``None`` if something differs, so that all must be checked.

    The catalog, which depends on settings and on other visits, is checked as always.
    """
    with proved_files(place, proof, sha256=signers is not None) as archive:
        if archive is None or find_elsewhere(place, settings):
            return None
        catalogued = is_in_catalog(place, proof.address.dataset_id)
        notices = _missing_application(place.of_study, settings) if catalogued else ()
        if catalogued is ("catalog" in proof.absent):
            return None
        if catalogued and not notices:
            metadata = read_metadata(place)[0].whole
            where = _ExpectedStore(proof.address, certain=True)
            if metadata is None or _check_catalog(place, metadata, where, settings, dataset_is_lost=False):
                return None
        signer, problem = check_signature(place, archive.sums, signers) if signers else ("", None)
        if problem or not archive.is_as_proved():
            return None
    notices = (*notices, *_open_files(place))
    check = VisitCheck(place.study, place.visit, proof.images, proof.absent, (), notices, signer)
    return ExaminedVisit(check, archive.sums, proof.line, proof)


class _DatasetReader:
    """Reads a visit's dataset once for several checks, unless it is so large that memory matters more."""

    def __init__(self) -> None:
        self._known: list[DepositedDataset | None] = []

    def read(self, place: Visit) -> DepositedDataset | None:
        """What :func:`~icf_utils.dataset.reader.read_dataset` returns."""
        if self._known:
            return self._known[0]
        found = read_dataset(place)
        if found is None or len(found.objects) < _MANY_OBJECTS:
            self._known.append(found)
        return found


#: A dataset with more objects (files, folders and commits of git) is read each time that it is needed.
_MANY_OBJECTS = 100_000


def _examine_visit(place: Visit, settings: Settings, options: CheckOptions, progress: Progress) -> ExaminedVisit:
    datasets = _DatasetReader()
    where = _expected_store(place, options.store_url, options.store_id, settings, datasets)
    catalogued = is_in_catalog(place, where.place.dataset_id)
    if not catalogued and not any(map(_exists, _files(place))):
        raise DepositMissing(place.archive, "the store has no file of this visit")
    notices = _missing_application(place.of_study, settings) if catalogued else ()
    absent, findings = _presence(place, catalogued)
    parts, problems = read_metadata(place)
    metadata = parts.whole
    if "metadata" not in absent:
        findings += problems
    if url := find_elsewhere(place, settings):
        found, problems = check_elsewhere(place, metadata, url, options.elsewhere, progress)
    else:
        found, problems = check_archive(place, parts, progress, _tags_to_describe(place, parts, settings))
    findings += problems
    if found:
        findings += check_visit_metadata(place, parts, found)
    lost: list[Finding] = []
    if metadata and _exists(place.refs) and _exists(place.export):
        archives = options.store_url and (other_archives(settings) or options.store_url)
        findings += check_dataset(place, metadata, archives, options.store_id, datasets.read)
    elif "dataset" in absent:
        lost = _lost_dataset(place, metadata or (build_visit_metadata(place, found) if found else None))
        findings += [*check_no_annex_deposit(place), *lost]
    findings += check_history(place, found, datasets.read)
    del datasets
    if metadata and catalogued and not notices:
        findings += _check_catalog(place, metadata, where, settings, dataset_is_lost=bool(lost))
    findings += _check_outputs(place, found.md5 if found else metadata.tarball.md5 if metadata else "")
    named = {finding.path for finding in findings}
    sums = check_sums(place, found, named, is_elsewhere=bool(url))
    findings += sums.findings
    notices = (*notices, *sums.notices)
    signer, problem = check_signature(place, sums.raw, options.signers) if options.signers else ("", None)
    findings += [problem] if problem else []
    if found and findings:
        findings += _judge_archive(place, found, findings, options, settings, is_compared=metadata is not None)
    described = found or (metadata if url else None)
    images = len(described.images) if described else 0
    notices = (*notices, *_open_files(place))
    check = VisitCheck(place.study, place.visit, images, absent, tuple(dict.fromkeys(findings)), notices, signer)
    line = _line(place, metadata, where.place) if metadata and not findings else None
    proof = None
    if found and sums.raw and line and where.certain:
        digest = hashlib.sha256(sums.raw).hexdigest()
        proof = Proof(found.md5, found.sha256, digest, images, absent, where.place, line)
    return ExaminedVisit(check, sums.raw, line, proof)


def _line(place: Visit, metadata: VisitMetadata, where: StoreAddress) -> VisitLine | None:
    """The visit's line; ``None`` if the time of its dataset is not known, because options name another store."""
    if where.time is None and _exists(place.refs):
        return None
    return line_of_metadata(place, metadata, where.time or 0)


def _tags_to_describe(place: Visit, metadata: MetadataParts, settings: Settings) -> AllowList:
    """The tags of the metadata; where that is lost, those that a repair would record."""
    if metadata.images is not None:
        return tags_of_images(metadata.images)
    return recover_tags(place, None, choose_allow_list(place, None, settings))[0]


def _judge_archive(
    place: Visit,
    found: ArchiveDescription,
    findings: Sequence[Finding],
    options: CheckOptions,
    settings: Settings,
    *,
    is_compared: bool,
) -> list[Finding]:
    """Find out what the files that are left say of the archive, unless a finding about it has said so.

    ``is_compared``: the archive was compared with its metadata, and that with the other files, so that findings name
    every contradiction.
    """
    store = StoreOptions(options.store_url, options.store_id)
    said = collect_evidence(place, options.signers)
    verdict = weigh_evidence(found, said, lambda found: find_confirmation(place, found, store, settings))
    images = [Finding(place.archive, path, _OTHER_IMAGE) for path in images_unknown_to_dataset(found, said)]
    is_named = is_compared or any(finding.path == place.archive for finding in findings)
    if verdict.is_sound or (is_named and verdict.standing is not Standing.UNPROVED):
        return images
    return [*images, Finding(place.archive, "", verdict.reason)]


_OTHER_IMAGE = "is not one of the images that the dataset records: its MD5 is another one"


def _open_files(place: Visit) -> tuple[Notice, ...]:
    """Name files of the visit that every user of the machine may change."""
    found = []
    for path in _files(place):
        with suppress(OSError):
            mode = path.stat().st_mode
            if stat.S_ISREG(mode) and mode & stat.S_IWOTH:
                found.append(Notice("world-writable", str(path), "every user of this machine may change it"))
    return tuple(found)


def _expected_store(
    place: Visit, store_url: str | None, store_id: str | None, settings: Settings, datasets: _DatasetReader
) -> _ExpectedStore:
    """Decide which store the visit's files should name; the options are checked first, whatever exists."""
    if store_url is not None:
        check_store_url(store_url)
    if store_id is not None:
        check_store_id(store_id)
    try:
        found = find_store_address(place, settings, store_url, store_id, datasets.read)
        if store_url is not None or store_id is not None or found.time is not None:
            return _ExpectedStore(found, certain=True)
    except InvalidSetting:
        if store_url is not None or settings.store.url:
            raise
    except IcfError:  # found again, and reported, where the dataset is checked
        if store_url is not None or store_id is not None:
            return _ExpectedStore(
                address_from_settings(place, settings, store_url, store_id), certain=store_url is not None
            )
    found_store = find_catalogued_store(place, settings)  # without a dataset, the catalog may show it
    url, name = (found_store.url, found_store.id) if found_store else (None, None)
    known = found_store is not None or not (_exists(place.refs) or _exists(place.export) or read_entry(place))
    if not url and not settings.store.url:  # nothing says which store it should be
        identity = store_identity("", store_id or settings.store.id)
        nowhere = StoreAddress("", str(visit_uuid(identity, place.study, place.visit, "dataset")))
        return _ExpectedStore(nowhere, certain=False)
    return _ExpectedStore(address_from_settings(place, settings, url, name), certain=known)


def _lost_dataset(place: Visit, metadata: VisitMetadata | None) -> list[Finding]:
    """The date of a visit in a catalog is its dataset's unless the metadata has it: a date without either means a
    lost dataset.
    """
    entry = read_entry(place) if metadata else None
    if metadata is None or entry is None or entry.date in ("", visit_date(place, metadata)):
        return []
    return [Finding(place.refs, "", "is missing, like the export, although the catalog shows the dataset's date")]


def _exists(path: Path) -> bool:
    with storage_errors(path, "examine"):
        return path.exists()


def _files(place: Visit) -> tuple[Path, ...]:
    return (place.archive, place.checksum, place.dicoms_json, place.tarball_json, place.export, place.refs, place.sums)


def _missing_application(study: Study, settings: Settings) -> tuple[Notice, ...]:
    """Find out whether the catalog can be checked at all: its pages are compared with datalad-catalog's.

    A small installation, for those who only read, does not have that.
    """
    try:
        load_application(study, settings.catalog)
    except StorageFailure:  # a file of the store; found again when the catalog is checked
        return ()
    except MissingRequirement as error:
        return (Notice("catalog-not-checked", str(study.catalog), f"was not checked: {error}"),)
    return ()


def verify_store(
    store_dir: str | os.PathLike[str],
    targets: Sequence[str] = (),
    *,
    store_url: str | None = None,
    store_id: str | None = None,
    elsewhere: ElsewhereOptions = ONLY_SIZE,
    signers: Path | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> VerifyResult:
    """Verify every visit of a store, including visits that only a catalog shows.

    ``targets`` (``STUDY`` or ``STUDY/VISIT``) select visits. Raises :class:`~icf_utils.errors.InvalidSetting` for
    a folder that is not a store, and for a target that names no visit.
    """
    root = Path(store_dir)
    chosen = load_settings(root) if settings is None else settings

    options = CheckOptions(store_url, store_id, elsewhere, signers)
    lines: dict[tuple[str, str], VisitLine] = {}

    def one(study: str, visit: str) -> VisitCheck:
        examined = examine_visit(Visit(root, study, visit), chosen, options, progress)
        if examined.line:
            lines[study, visit] = examined.line
        return examined.check

    def shared(study: Study) -> VisitCheck:
        known = {visit: line for (name, visit), line in lines.items() if name == study.study}
        findings, notices = check_shared(study, chosen.catalog, known=known)
        return VisitCheck(study.study, "", 0, (), tuple(findings), notices)

    checks = check_visits(root, targets, one, lambda failed: failed, shared)
    return VerifyResult(tuple(check for check in checks if check.visit or check.findings or check.notices))


_T = TypeVar("_T")


def check_visits(
    root: Path,
    targets: Sequence[str],
    one: Callable[[str, str], _T],
    of_failed: Callable[[VisitCheck], _T],
    shared: Callable[[Study], _T],
) -> list[_T]:
    """Apply ``one`` to the selected visits, including those that only a catalog shows; returns the results.

    ``shared`` is applied to a study after its visits, unless single visits of it were selected. If a visit cannot be
    read, or another process has locked it, ``of_failed`` makes its result, and the other visits are checked. Raises as
    :func:`verify_store` does.
    """
    done: list[_T] = []
    for study, group in groupby(select_visits(root, targets), key=itemgetter(0)):
        is_readable = True
        for _, visit in group:
            if isinstance(visit, StorageFailure):
                is_readable = False
                done.append(of_failed(VisitCheck(study.study, "", 0, (), (finding_from_error(study.folder, visit),))))
            else:
                done.append(_checked(Visit(root, study.study, visit), one, of_failed))
        if is_readable and (not targets or study.study in targets):
            done.append(shared(study))
    if not done:
        refuse_no_store(root)
    return done


def select_visits(root: Path, targets: Sequence[str]) -> list[tuple[Study, str | StorageFailure]]:
    """List the visits that ``targets`` name, all without targets; an error takes the place of an unreadable study's."""
    selected: list[tuple[Study, str | StorageFailure]] = []
    known: set[str] = set()
    for study in list_study_folders(root):
        try:
            visits = _list_visits(study, targets)
        except StorageFailure as error:
            selected.append((study, error))
            known |= {target for target in targets if target.partition("/")[0] == study.study}
            continue
        for visit in visits:
            names = {study.study, f"{study.study}/{visit}"}
            if not targets or names & set(targets):
                selected.append((study, visit))
                known |= names
    if unknown := sorted(set(targets) - known):
        raise InvalidSetting("STUDY[/VISIT]", f"no such visit in the store: {', '.join(map(printable, unknown))}")
    return selected


def _checked(place: Visit, one: Callable[[str, str], _T], of_failed: Callable[[VisitCheck], _T]) -> _T:
    try:
        return one(place.study, place.visit)
    except (StorageFailure, Busy) as error:
        return of_failed(VisitCheck(place.study, place.visit, 0, (), (finding_from_error(place.archive, error),)))


def _list_visits(study: Study, targets: Sequence[str]) -> list[str]:
    """The visits of a study; none if no target is in it, as the study then does not have to be readable."""
    if targets and study.study not in {target.partition("/")[0] for target in targets}:
        return []
    if has_decided_changes(study):  # a visit may be gone, or have another name, then
        with suppress(Busy):  # found again where the visit is checked
            settle_changes(study, SILENT)
    return sorted({*study.visits(), *filter(_is_identifier, catalogued_visits(study))})


def _is_identifier(visit: str) -> bool:
    try:
        check_identifier("visit", visit)
    except InvalidIdentifier:
        return False
    return True


def _presence(place: Visit, catalogued: bool) -> tuple[tuple[str, ...], list[Finding]]:
    """The stages that have not been made yet, and findings about files whose other half is missing."""
    absent, findings = [], []
    for stage, files in (
        ("metadata", (place.dicoms_json, place.tarball_json)),
        ("dataset", (place.export, place.refs)),
    ):
        missing = [path for path in files if not _exists(path)]
        if len(missing) == len(files):
            absent.append(stage)
        elif stage == "dataset":  # missing files of the metadata are reported when they are read
            findings += [Finding(path, "", HALF_MISSING) for path in missing]
    if not catalogued:
        absent.append("catalog")
    if "metadata" in absent and len(absent) < 3:
        why = "a dataset was made from it" if "dataset" not in absent else "a catalog shows the visit"
        findings.append(Finding(place.dicoms_json, "", f"is missing although {why}"))
    return tuple(absent), findings


def _check_catalog(
    place: Visit, metadata: VisitMetadata, where: _ExpectedStore, settings: Settings, *, dataset_is_lost: bool
) -> list[Finding]:
    catalog, expected = place.of_study.catalog, where.place
    try:
        if not where.certain and not has_pages(place.of_study, expected.dataset_id):
            return [Finding(catalog, "", _NOT_CHECKED)]
        problems = check_catalog(
            place,
            metadata,
            expected,
            settings.catalog,
            dataset_is_lost=dataset_is_lost,
        )
    except IcfError as error:
        return [finding_from_error(catalog, error)]
    return [Finding(Path(path), "", problem) for path, problem in problems]


def _check_outputs(place: Visit, archive_md5: str) -> list[Finding]:
    """Check what processings made of the visit."""
    status = os.stat(place.of_study.folder)
    names = outputs_by_visit(place.of_study, status.st_mtime_ns).get(place.visit, ())
    kept = kept_by_visit(place.of_study, status.st_mtime_ns).get(place.visit, ())
    problems = [problem for name in names for problem in check_output(place, name, archive_md5)]
    problems += [problem for name, number in kept for problem in check_kept_output(place, name, number)]
    return [Finding(problem.path, "", problem.problem) for problem in problems]


def _check_rebuild(
    place: Visit, rebuild: str | os.PathLike[str], time_zone: str, strip: int, progress: Progress
) -> list[Finding]:
    try:
        how = compare_archive(rebuild, place, time_zone=time_zone, strip=strip, progress=progress)
    except StorageFailure as error:
        if error.path != os.fspath(place.archive):
            raise
        return [finding_from_error(place.archive, error)]
    return [Finding(place.archive, "", f"is not what '{printable(rebuild)}' gives: {how}")] if how else []
