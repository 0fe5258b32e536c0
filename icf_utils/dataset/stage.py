"""The stage that deposits a visit's dataset. Reads the metadata and the archive's headers; writes two files.

A dataset that can also be cloned without DataLad has three more.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.archive.reader import latest_time
from icf_utils.dataset.annex_url import (
    annex_address,
    check_annex_scheme,
    create_folders,
    deposit_paths,
    has_annex_deposit,
)
from icf_utils.dataset.build import BuiltAnnexDeposit, BuiltDataset, build_annex_deposit, build_dataset
from icf_utils.dataset.git_check import check_with_git
from icf_utils.dataset.origin import (
    LATEST_TIME,
    DatasetOrigin,
    clone_url,
    limit_time,
    make_origin,
    parse_commit_date,
)
from icf_utils.dataset.reader import DepositedDataset, kept_archives, read_dataset
from icf_utils.errors import DepositDamaged, DepositDiffers, DepositMissing, IcfError, StorageFailure
from icf_utils.metadata.records import TarballRecord, read_visit_metadata
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice, Written
from icf_utils.settings import Settings, load_settings
from icf_utils.store.address import check_store_url
from icf_utils.store.elsewhere import other_archives
from icf_utils.store.files import compare_existing
from icf_utils.store.layout import Visit
from icf_utils.store.locks import visit_lock
from icf_utils.store.sums import publish_with_sums

_NO_ARCHIVE = "the dataset takes its time from the archive; restore the archive, or give a time with --commit-date"


@dataclass(frozen=True)
class DatasetResult:
    """A deposited dataset. ``images`` counts its images; ``clone_url`` needs quotes in a shell.

    ``annex_url`` is the address for git and git-annex without DataLad; empty without such a deposit.
    """

    study: str
    visit: str
    dataset_id: str
    main_commit: str
    annex_commit: str
    images: int
    files: tuple[Written, ...]
    clone_url: str
    notices: tuple[Notice, ...]
    annex_url: str = ""


def deposit_visit_dataset(
    store_dir: str | os.PathLike[str],
    study: str,
    visit: str,
    *,
    store_url: str | None = None,
    store_id: str | None = None,
    commit_date: str | None = None,
    annex_url: bool | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> DatasetResult:
    """Build the DataLad dataset of a visit from its metadata and publish it next to the archive.

    ``store_url`` is the store address, ``store_id`` the store identity; both default to the store's settings.
    ``commit_date`` (ISO 8601, UTC unless it has an offset, from 1970 to 2514) replaces the time of the archive's latest
    member in commits and git-annex's records. ``annex_url`` adds the deposit for git-annex's ``annex::`` addresses; it
    defaults to the store's settings. A visit that has one keeps it.

    Raises an :class:`~icf_utils.errors.IcfError`: ``InvalidIdentifier``, ``InvalidSetting``, ``DepositMissing``,
    ``DepositDamaged``, ``DepositDiffers``, ``InputRefused``, ``MissingRequirement``, ``StorageFailure``, ``Busy``.
    """
    place = Visit(Path(store_dir), study, visit)
    chosen = settings or load_settings(place.root)
    url, identity = _first(store_url, chosen.store.url), _first(store_id, chosen.store.id)
    archives = other_archives(chosen)
    has_annex = has_annex_deposit(place) or (chosen.dataset.annex_url if annex_url is None else annex_url)
    if has_annex:
        check_annex_scheme(url)
    metadata = read_visit_metadata(place)
    former = _changed_dataset(place) if commit_date is None else None
    notices: tuple[Notice, ...] = ()
    if former:
        origin, lineage = (
            replace(former.origin, store_url=archives or check_store_url(url)),
            former.lineage(kept_archives(place)),
        )
    else:
        time, notices = _time(place, metadata.tarball, commit_date)
        origin, lineage = make_origin(url, identity, place, time, archives), None
    with progress.task("dataset", len(metadata.images), "image") as task:
        built = build_dataset(metadata, place, origin, lineage)
        check_with_git(built.export, built.refs, str(place.dicoms_json))
        annex = build_annex_deposit(metadata, place, origin, lineage) if has_annex else None
        if annex:
            check_with_git(annex.export, annex.refs, str(place.dicoms_json))
        task.advance(len(metadata.images))
    with visit_lock(place, progress):
        files = _publish(place, built, annex, origin)
    result = _result(place, built, origin, files, notices)
    address = annex_address(place, origin) if annex else ""
    return replace(result, clone_url=clone_url(check_store_url(url), place), annex_url=address)


def _changed_dataset(place: Visit) -> DepositedDataset | None:
    """The visit's dataset if it has commits that follow earlier ones: they keep what the first ones were made from."""
    try:
        found = read_dataset(place)
    except (DepositDamaged, DepositMissing):  # reported when the files are compared
        return None
    return found if found and found.main.parent else None


def _first(option: str | None, setting: str) -> str:
    return setting if option is None else option


def _time(visit: Visit, tarball: TarballRecord, commit_date: str | None) -> tuple[int, tuple[Notice, ...]]:
    """Determine the dataset's time in seconds since 1970."""
    if commit_date is not None:
        return parse_commit_date(commit_date), ()
    try:
        latest = latest_time(visit.archive, tarball.size)
    except StorageFailure as error:
        if isinstance(error.__cause__, FileNotFoundError):
            if time := _time_of_dataset(visit):
                return time, ()
            raise DepositMissing(visit.archive, _NO_ARCHIVE) from error
        raise
    if 0 <= latest < LATEST_TIME + 1:
        return int(latest), ()
    text = "its latest time is outside the range of git; the dataset has the nearest time within it"
    return limit_time(latest), (Notice("commit-date-limited", visit.archive.name, text),)


def _time_of_dataset(visit: Visit) -> int:
    """The time of the dataset that the visit has; 0 without one, or if it cannot be read."""
    with suppress(DepositDamaged, DepositMissing):
        found = read_dataset(visit)
        return found.origin.time if found else 0
    return 0


def _publish(
    visit: Visit, built: BuiltDataset, annex: BuiltAnnexDeposit | None, origin: DatasetOrigin
) -> tuple[Written, ...]:
    """Publish the files; the refs come last and complete the dataset. The ``annex::`` deposit has its own last file."""
    files = [(visit.export, built.export), (visit.refs, built.refs)]
    try:
        if annex:
            compare_existing(files)
            create_folders(visit, annex.files)
            files += deposit_paths(visit, annex.files)
        return publish_with_sums(visit, files)
    except DepositDiffers as error:
        raise DepositDiffers(error.path, error.how + _likely_cause(visit, origin)) from error


def _likely_cause(visit: Visit, origin: DatasetOrigin) -> str:
    """Say what the existing dataset was built from, as far as that differs."""
    try:
        existing = read_dataset(visit)
    except IcfError as error:
        return f"; it also cannot be read ({error})"
    if existing is None:
        return ""
    old = existing.origin
    causes = [
        (old.store_url != origin.store_url, f"its store URL is '{old.store_url}' instead of '{origin.store_url}'"),
        (old.uuids != origin.uuids, "it was made for another store identity (--store-id, or the store URL)"),
        (old.time != origin.time, "it has another commit date"),
    ]
    return "".join(f"; {text}" for differs, text in causes if differs)


def _result(
    visit: Visit,
    built: BuiltDataset,
    origin: DatasetOrigin,
    files: tuple[Written, ...],
    notices: tuple[Notice, ...],
) -> DatasetResult:
    return DatasetResult(
        study=visit.study,
        visit=visit.visit,
        dataset_id=str(origin.uuids.dataset),
        main_commit=built.main_commit,
        annex_commit=built.annex_commit,
        images=built.images,
        files=files,
        clone_url="",
        notices=(*notices, *built.notices),
    )
