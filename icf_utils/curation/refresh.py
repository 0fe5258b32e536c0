"""Bring what follows from a visit's archive to the store's present settings: metadata, dataset, catalog.

The archive is not changed, and not read if the facts that the metadata records are enough. The dataset keeps its id and
gets commits after the present ones. A store that moved, or that is to record more tags, is brought up to date so, and
so are deposits of other tools. Reads and writes the store.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.archive.reader import latest_time
from icf_utils.catalog.content import load_application
from icf_utils.catalog.study import study_id
from icf_utils.catalog.study_description import study_catalog
from icf_utils.catalog.writer import refuse_foreign
from icf_utils.curation.replace import prepared_change
from icf_utils.curation.version import (
    CurrentVisit,
    commit_version,
    is_same,
    later_time,
    read_current,
    state_files,
    write_history,
)
from icf_utils.dataset.annex_url import create_folder, deposit_paths, has_annex_deposit
from icf_utils.dataset.build import build_annex_deposit, build_dataset
from icf_utils.dataset.git_check import check_with_git
from icf_utils.dataset.lineage import REFRESHED_MESSAGE, Lineage
from icf_utils.dataset.origin import DatasetOrigin, limit_time, make_origin
from icf_utils.dataset.reader import kept_keys, read_dataset
from icf_utils.errors import DepositDamaged, ExistingFileDiffers, MissingRequirement
from icf_utils.metadata.allowlist import AllowList, recorded_tags
from icf_utils.metadata.records import STANDARD_TAGS, VisitMetadata, read_visit_metadata
from icf_utils.metadata.stage import (
    build_visit_metadata,
    choose_allow_list,
    describe_verified_archive,
    encode_metadata_files,
)
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.settings import Settings, load_settings
from icf_utils.store.address import check_store_url
from icf_utils.store.elsewhere import archives_address, find_elsewhere, other_archives, refuse_elsewhere
from icf_utils.store.files import publish_bytes
from icf_utils.store.layout import Study, Visit
from icf_utils.store.locks import remove_dead_locks, visit_lock

_FOREIGN = "was made by another program and was replaced; existing clones cannot be updated, clone it again"


@dataclass(frozen=True)
class RefreshOptions:
    """What a refresh is for, as far as it is not the store's settings; ``read_archive`` reads it in any case."""

    store_url: str | None = None
    tags: Path | None = None
    annex_url: bool | None = None
    read_archive: bool = False


@dataclass(frozen=True)
class RefreshResult:
    """What became of a visit: ``changes`` says in words what was brought up to date; empty if nothing had to be."""

    study: str
    visit: str
    changes: tuple[str, ...]
    notices: tuple[Notice, ...] = ()


def refresh_visit(
    store_dir: str | os.PathLike[str],
    study: str,
    visit: str,
    *,
    options: RefreshOptions | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> RefreshResult:
    """Bring a visit's metadata, dataset and pages to the store's settings, or to ``options``, in one transaction.

    Stages that the visit does not have are not made. ``dry_run`` says what would change, and changes nothing. Raises an
    :class:`~icf_utils.errors.IcfError`: ``DepositMissing``, ``DepositDamaged``, ``InvalidSetting``,
    ``StorageFailure``, ``Busy``.
    """
    place = Visit(Path(store_dir), study, visit)
    chosen = load_settings(place.root) if settings is None else settings
    remove_dead_locks(place.of_study)
    with visit_lock(place, progress), prepared_change(place) as (change, staged):
        work = _Refresh(place, staged, chosen, options or RefreshOptions(), progress)
        work.prepare()
        foreign = _notice_of_foreign_catalog(place.of_study)
        work.notices += foreign
        application = {} if foreign else _other_application(work.current, chosen)
        work.changes += ["catalog: the files of its pages"] if application else []
        if work.current.metadata is not None and not dry_run:
            states = [path for path in state_files(place) if not path.name.endswith(".archive.json")]
            work.notices += commit_version(
                change,
                work.current,
                staged,
                settings=replace(chosen, store=replace(chosen.store, url=work.url)),
                progress=progress,
                pictures="keep",
                application=application,
                remove=states if work.changes else (),
            )
    return RefreshResult(study, visit, tuple(work.changes), tuple(work.notices))


def _notice_of_foreign_catalog(study: Study) -> tuple[Notice, ...]:
    try:
        refuse_foreign(study, study_id(study.study))
    except ExistingFileDiffers as error:
        message = f"{error.how}, and was not touched. Move it away; 'icf-utils run' makes a new one"
        return (Notice("foreign-catalog", study.catalog.name, message),)
    return ()


def _other_application(current: CurrentVisit, settings: Settings) -> dict[str, bytes]:
    """The files of the catalog's pages themselves that are not those of this version; none without datalad-catalog."""
    study = current.place.of_study
    if not current.is_catalogued:
        return {}
    try:
        wanted = load_application(study, study_catalog(study, settings.catalog))
    except MissingRequirement:
        return {}
    return {name: data for name, data in wanted.items() if not is_same(study.catalog / name, data)}


class _Refresh:
    """Prepares the files of one visit."""

    def __init__(
        self, place: Visit, staged: Visit, settings: Settings, options: RefreshOptions, progress: Progress
    ) -> None:
        self._place, self._staged, self._settings, self._options = place, staged, settings, options
        self._progress = progress
        self.url = check_store_url(settings.store.url if options.store_url is None else options.store_url)
        self._archives = archives_address(settings, self.url)
        self._is_elsewhere = bool(find_elsewhere(place, settings))
        self.changes: list[str] = []
        self.notices: list[Notice] = []
        self._is_foreign = _is_foreign(place)
        self.current: CurrentVisit

    def prepare(self) -> None:
        """Write metadata and dataset as they are to be."""
        place = self._place
        if not (place.dicoms_json.exists() or place.tarball_json.exists()):
            self.current = read_current(place)
            return
        metadata = self._metadata()
        self.current = read_current(place, metadata, not self._is_foreign, self._is_elsewhere)
        publish_bytes(self._staged.of_study, encode_metadata_files(self._staged, metadata))
        commit = self.current.history[-1].commit
        if self._is_foreign or self.current.dataset is not None:
            commit = self._write_dataset(metadata)
        write_history(self._staged, self.current.history, commit)

    def _metadata(self) -> VisitMetadata:
        """The metadata with the tags that are wanted; the archive is read if they are not recorded yet."""
        wanted = choose_allow_list(self._place, self._options.tags, self._settings)
        try:
            recorded = read_visit_metadata(self._place)
        except DepositDamaged:  # of another tool, or damaged: the archive, which its checksum proves, decides
            self.changes.append("metadata: made anew from the archive")
            return self._described(wanted)
        unknown = sorted(wanted.tags.keys() - recorded_tags(recorded).tags.keys()) if recorded.images else []
        if unknown and self._is_elsewhere and not self._options.read_archive:
            message = f"has no {', '.join(unknown)}; the archive, which may have them, is in another store"
            self.notices.append(Notice("tags-not-read", self._place.dicoms_json.name, message))
            unknown = []
        reads = self._options.read_archive or unknown
        made = self._described(wanted) if reads else _only_with(recorded, wanted)
        if made != recorded:
            self.changes.append("metadata: other tags")
        return made

    def _described(self, wanted: AllowList) -> VisitMetadata:
        refuse_elsewhere(self._place, self._settings)
        found = describe_verified_archive(self._place, wanted, self._progress)
        self.notices += found.notices
        return build_visit_metadata(self._place, found)

    def _write_dataset(self, metadata: VisitMetadata) -> str:
        """Write the dataset, with commits after the present ones if anything changes; returns the last on ``main``."""
        place, staged, dataset = self._place, self._staged, self.current.dataset
        kept = kept_keys(place, self.current.history)
        lineage: Lineage | None = None
        if dataset is None:
            origin = self._first_origin()
        else:
            origin, lineage = replace(dataset.origin, store_url=self._archives), dataset.lineage(kept)
        built = build_dataset(metadata, place, origin, lineage)
        if dataset is not None and built.annex_commit != dataset.annex.commit:
            origin = replace(origin, time=later_time(self.current))
            lineage = Lineage(dataset.as_earlier(), REFRESHED_MESSAGE, kept)
            built = build_dataset(metadata, place, origin, lineage)
            moved = dataset.origin.store_url != self._archives
            self.changes.append(f"dataset: {'another store address' if moved else 'other records'}")
        if dataset is None:
            self.changes.append("dataset: made anew")
            self.notices.append(Notice("foreign-dataset", place.export.name, _FOREIGN))
        check_with_git(built.export, built.refs, str(place.dicoms_json))
        publish_bytes(staged.of_study, [(staged.export, built.export), (staged.refs, built.refs)])
        self._write_annex_deposit(metadata, origin, lineage)
        self.notices += built.notices
        return built.main_commit

    def _write_annex_deposit(self, metadata: VisitMetadata, origin: DatasetOrigin, lineage: Lineage | None) -> None:
        wanted = self._options.annex_url
        wanted = self._settings.dataset.annex_url if wanted is None else wanted
        if not (wanted or self.current.has_annex):
            return
        annex = build_annex_deposit(metadata, self._place, origin, lineage)
        check_with_git(annex.export, annex.refs, str(self._place.dicoms_json))
        paths = deposit_paths(self._staged, annex.files)
        for path, _ in paths:
            create_folder(self._staged, path.parent)
        publish_bytes(self._staged.of_study, paths)
        if not has_annex_deposit(self._place):
            self.changes.append("dataset: also for git-annex alone")

    def _first_origin(self) -> DatasetOrigin:
        place = self._place
        refuse_elsewhere(place, self._settings)
        time = limit_time(latest_time(place.archive, self.current.size))
        return make_origin(self.url, self._settings.store.id, place, time, other_archives(self._settings))


def _only_with(recorded: VisitMetadata, wanted: AllowList) -> VisitMetadata:
    """The metadata without tags that are not wanted any more."""
    keep = {*STANDARD_TAGS, *wanted.tags}
    images = tuple(
        replace(image, tags={name: value for name, value in image.tags.items() if name in keep})
        for image in recorded.images
    )
    return replace(recorded, images=images)


def _is_foreign(place: Visit) -> bool:
    """Whether another program made the visit's dataset: it is whole, and not in the form that icf-utils writes."""
    try:
        read_dataset(place)
    except DepositDamaged:
        try:
            with zipfile.ZipFile(place.export) as opened:
                if opened.testzip() is None and place.refs.exists():
                    return True
        except (OSError, ValueError, zipfile.BadZipFile):
            pass
        raise
    return False
