"""The table of stages: name, version, inputs, outputs, parameters and function of each.

A stage runs the same function with the same arguments as its command. Stage modules are imported when a stage runs, so
that a run with nothing to do imports none of them. The functions read and write the store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.archive.checksum import file_md5
from icf_utils.errors import (
    DepositDamaged,
    DepositDiffers,
    DepositMissing,
    ExistingFileDiffers,
    IcfError,
    InputChanged,
    InputRefused,
)
from icf_utils.pipeline.model import RunConfig, VisitInput
from icf_utils.progress import Progress
from icf_utils.results import Notice
from icf_utils.store.elsewhere import other_archives, refuse_elsewhere
from icf_utils.store.layout import Visit, store_identity

if TYPE_CHECKING:
    from icf_utils.archive.writer import MemberObserver

#: Deposits follow from the settings with which they were made.
_REFRESH = "'icf-utils visit refresh' brings it to the present settings, if these are why it differs"


@dataclass(frozen=True)
class StageResult:
    """What a stage function did. Names are relative to the study's folder.

    ``outputs`` are files beyond those of the table, ``digests`` the MD5s that the stage has already computed, and
    ``skipped`` the files that it left out on purpose.
    """

    notices: tuple[Notice, ...] = ()
    skipped: tuple[Notice, ...] = ()
    outputs: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    ``version`` is raised whenever the stage writes other bytes for the same inputs. ``parameters`` are all options
    and settings that affect these bytes. ``inputs`` and ``outputs`` are files in the study's folder; ``outputs``
    lists those that are known before the stage runs. A stage has a ``function`` for one visit, or does together what
    visits of one study share: its ``batch`` returns a result or an error for each.
    """

    name: str
    version: int
    inputs: Callable[[Visit], tuple[Path, ...]]
    outputs: Callable[[Visit], tuple[Path, ...]]
    parameters: Callable[[RunConfig], Mapping[str, str]]
    function: Callable[[VisitInput, RunConfig, Progress], StageResult] | None = None
    batch: Callable[[Sequence[VisitInput], RunConfig, Progress], list[StageResult | IcfError]] | None = None


def stored_visit(visit_input: VisitInput, config: RunConfig) -> Visit:
    """The files of a visit in the store."""
    return Visit(config.root, visit_input.study, visit_input.visit)


def _archive(visit_input: VisitInput, config: RunConfig, progress: Progress) -> StageResult:
    from icf_utils.archive.stage import choose_left_out, make_studyvisit_archive
    from icf_utils.settings import DEFAULT_LEAVE_OUT

    place, options = stored_visit(visit_input, config), config.options
    if visit_input.input is None:
        refuse_elsewhere(place, config.settings)
        return _adopt_archive(place)
    strip = options.strip if visit_input.input.is_file() else 0
    with _describer(place, config) as describer:
        result = make_studyvisit_archive(
            visit_input.input,
            config.root,
            *_names(visit_input),
            time_zone=options.time_zone,
            strip=strip,
            settings=config.settings,
            leave_out=choose_left_out(place, config.settings, DEFAULT_LEAVE_OUT),
            settle=options.settle,
            refuse=options.refuse,
            observer=describer,
            progress=progress,
        )
    return StageResult(result.notices, digests={place.archive.name: result.md5})


def check_archive_input(visit_input: VisitInput, config: RunConfig) -> None:
    """Make the checks of the stage archive that need no file's whole content. Raises the errors of the stage."""
    from icf_utils.archive import stage
    from icf_utils.settings import DEFAULT_LEAVE_OUT

    if visit_input.input is None:
        return
    place, options = stored_visit(visit_input, config), config.options
    stage.check_archive_input(
        visit_input.input,
        place,
        strip=options.strip if visit_input.input.is_file() else 0,
        leave_out=stage.choose_left_out(place, config.settings, DEFAULT_LEAVE_OUT),
        settle=options.settle,
        refuse=options.refuse,
    )


@contextmanager
def _describer(place: Visit, config: RunConfig) -> Iterator[MemberObserver | None]:
    """What describes a new archive while it is written; ``None`` if it exists, or gets no metadata now."""
    if place.archive.exists() or "metadata" not in config.stage_names:
        yield None
        return
    from icf_utils.metadata.stage import make_describer

    with closing(make_describer(place, config.options.tags, config.settings)) as describer:
        yield describer


def _adopt_archive(place: Visit) -> StageResult:
    """Accept an archive that was not made from an input: it must match its checksum file."""
    from icf_utils.archive.checksum import compare_checksum, read_checksum

    remedy = "name the visit's input in a visit table, so that it can be archived"
    if not place.archive.exists():
        raise DepositMissing(place.archive, remedy)
    expected = read_checksum(place, remedy)
    found = file_md5(place.archive)
    compare_checksum(place, expected, found)
    return StageResult(digests={place.archive.name: found})


def _metadata(visit_input: VisitInput, config: RunConfig, progress: Progress) -> StageResult:
    from icf_utils.metadata.stage import deposit_visit_metadata

    result = deposit_visit_metadata(
        config.root, *_names(visit_input), tags=config.options.tags, settings=config.settings, progress=progress
    )
    return StageResult(result.notices, result.skipped)


def _dataset(visit_input: VisitInput, config: RunConfig, progress: Progress) -> StageResult:
    from icf_utils.dataset.stage import deposit_visit_dataset

    result = deposit_visit_dataset(
        config.root,
        *_names(visit_input),
        store_url=config.options.store_url,
        store_id=config.options.store_id,
        settings=config.settings,
        progress=progress,
    )
    place = stored_visit(visit_input, config)
    more = (place.annex_url.name, place.annex_folder.name) if result.annex_url else ()
    return StageResult(result.notices, outputs=more)


def _catalog(visit_inputs: Sequence[VisitInput], config: RunConfig, progress: Progress) -> list[StageResult | IcfError]:
    from icf_utils.catalog.stage import CatalogResult, catalogify_visits
    from icf_utils.catalog.visit_data import visit_path

    def result_of(result: CatalogResult | IcfError) -> StageResult | IcfError:
        if isinstance(result, IcfError):
            return result
        pages = (f"metadata/{result.dataset_id}", visit_path(result.visit))
        return StageResult(result.notices, outputs=tuple(f"{result.catalog.name}/{name}" for name in pages))

    results = catalogify_visits(
        config.root,
        visit_inputs[0].study,
        [visit_input.visit for visit_input in visit_inputs],
        store_url=config.options.store_url,
        store_id=config.options.store_id,
        settings=config.settings,
        progress=progress,
    )
    return [result_of(result) for result in results]


def _names(visit_input: VisitInput) -> tuple[str, str]:
    return visit_input.study, visit_input.visit


def _archive_parameters(config: RunConfig) -> Mapping[str, str]:
    return {"timezone": config.options.time_zone, "strip": str(config.options.strip)}


def _metadata_parameters(config: RunConfig) -> Mapping[str, str]:
    """The allow-list: the technical tags, and the digest of the list's file or of the settings' other tags."""
    settings = asdict(config.settings.metadata)
    technical = _short({"tags": settings.pop("technical_tags")})
    if config.options.tags is not None:
        return {"tags": file_md5(config.options.tags), "technical tags": technical}
    return {"tags": _short(settings) if settings["tags"] else "none", "technical tags": technical}


def _store_parameters(config: RunConfig) -> Mapping[str, str]:
    options, store = config.options, config.settings.store
    url = (store.url if options.store_url is None else options.store_url).rstrip("/")
    archives = other_archives(config.settings)
    return {
        **({"archives": archives} if archives else {}),
        "store URL": url,
        "store id": store_identity(url, store.id if options.store_id is None else options.store_id),
    }


def _dataset_parameters(config: RunConfig) -> Mapping[str, str]:
    """The parameter for ``annex::`` addresses is recorded only if they are deposited, as in records of earlier
    versions.
    """
    annex_url = {"annex URL": "yes"} if config.settings.dataset.annex_url else {}
    return {**_store_parameters(config), **annex_url}


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True).encode("utf-8")
    return hashlib.md5(text, usedforsecurity=False).hexdigest()


def _replace(source: Path, visit_input: VisitInput, config: RunConfig, progress: Progress) -> StageResult:
    """Make a changed input the next version of its visit; the other stages then find what they would make."""
    from icf_utils.curation.replace import replace_visit

    _refuse_merged(stored_visit(visit_input, config), source)
    options = config.options
    result = replace_visit(
        source,
        config.root,
        *_names(visit_input),
        reason=options.replace_reason,
        time_zone=options.time_zone,
        strip=options.strip if source.is_file() else 0,
        refuse=options.refuse,
        settings=config.settings,
        progress=progress,
    )
    archive = stored_visit(visit_input, config).archive.name
    notice = Notice("new-version", archive, f"is now version {result.version} of the visit ({options.replace_reason})")
    if result.state == "restored":
        notice = Notice("restored", archive, f"was damaged; version {result.version} was put back from the input")
    return StageResult((notice, *result.notices), digests={archive: result.md5})


def _refuse_merged(place: Visit, source: Path) -> None:
    """An input of a run replaces a visit without a question; it must not drop what was merged into the visit."""
    from icf_utils.metadata.history import former_names, read_history

    merged = [name for name in former_names(place.study, read_history(place)) if name.is_merged]
    if merged:
        names = ", ".join(f"{name.study}/{name.visit}" for name in merged)
        reason = f"has other files than the archive, into which {names} was merged"
        advice = "Leave the visit out of the table, or use 'icf-utils visit replace' with a folder that has all images."
        raise InputRefused(source, [(f"{place.study}/{place.visit}", reason)], advice)


#: The table. The first stage has no inputs in the store: it reads the visit's input.
STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="archive",
            version=1,
            inputs=lambda _: (),
            outputs=lambda visit: (visit.archive, visit.checksum),
            parameters=_archive_parameters,
            function=_archive,
        ),
        Stage(
            name="metadata",
            version=3,
            inputs=lambda visit: (visit.archive, visit.checksum),
            outputs=lambda visit: (visit.dicoms_json, visit.tarball_json),
            parameters=_metadata_parameters,
            function=_metadata,
        ),
        Stage(
            name="dataset",
            version=2,
            inputs=lambda visit: (visit.archive, visit.dicoms_json, visit.tarball_json),
            outputs=lambda visit: (visit.export, visit.refs),
            parameters=_dataset_parameters,
            function=_dataset,
        ),
        Stage(
            name="catalog",
            version=5,
            inputs=lambda visit: (visit.dicoms_json, visit.tarball_json, visit.export, visit.refs),
            outputs=lambda _: (),
            parameters=_store_parameters,
            batch=_catalog,
        ),
    )
}


def check_config(config: RunConfig) -> None:
    """Check options and settings once, before anything starts, instead of once per visit.

    Raises :class:`~icf_utils.errors.InvalidSetting`.
    """
    from icf_utils.archive.stage import parse_time_zone
    from icf_utils.metadata.stage import choose_allow_list
    from icf_utils.store.address import check_store_id, check_store_url

    options, store = config.options, config.settings.store
    parse_time_zone(options.time_zone)
    if config.until in ("dataset", "catalog"):
        check_store_url(store.url if options.store_url is None else options.store_url)
    check_store_id(store.id if options.store_id is None else options.store_id)
    if "metadata" in config.stage_names:
        choose_allow_list(Visit(config.root, "study", "visit"), options.tags, config.settings)


def run_stage(
    stage: Stage, visit_input: VisitInput, config: RunConfig, progress: Progress, was_archived: bool
) -> StageResult:
    """Run the stage's function for a visit.

    ``was_archived`` says that the archive was made from this input by an earlier run and has not changed since.
    Raises what the stage's function raises, and :class:`~icf_utils.errors.InputChanged` if the input now gives
    another archive.
    """
    assert stage.function
    try:
        return stage.function(visit_input, config, progress)
    except DepositDamaged:
        if stage.name != "archive" or visit_input.input is None or not config.options.replace_reason:
            raise
        return _replace(visit_input.input, visit_input, config, progress)
    except DepositDiffers as error:
        archive = stored_visit(visit_input, config).archive
        if stage.name in ("metadata", "dataset"):
            raise ExistingFileDiffers(error.path, error.how, _REFRESH) from error
        if visit_input.input is None or error.path != str(archive):
            raise
        if config.options.replace_reason:
            return _replace(visit_input.input, visit_input, config, progress)
        if not was_archived:
            raise
        raise InputChanged(visit_input.input, archive, error.how) from error
