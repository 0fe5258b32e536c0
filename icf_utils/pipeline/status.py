"""The progress of a store's visits, from file names and state files alone. Reads folders and small files.

This is fast because only the existence of files counts, not whether they are intact or still match their inputs;
``run --dry-run`` and ``verify`` check that.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icf_utils.catalog.page import catalogued_visits
from icf_utils.errors import InvalidIdentifier, storage_errors
from icf_utils.pipeline.model import StageFailure, VisitInput
from icf_utils.pipeline.stages import STAGES
from icf_utils.pipeline.state import read_errors
from icf_utils.settings import STAGE_NAMES, load_settings
from icf_utils.store.layout import Study, Visit
from icf_utils.store.locks import list_running_visits

ProgressState = Literal["done", "running", "queued", "failed", "not made", "elsewhere"]

#: The states, in the order of the columns of ``icf-utils status``. Only stores that index archives of another store
#: have visits that are ``elsewhere``.
PROGRESS_STATES: tuple[ProgressState, ...] = ("done", "running", "queued", "failed", "not made")


@dataclass(frozen=True)
class StageStatus:
    """The progress of one stage of a visit. ``failure`` says why it failed, ``holder`` which process works on it.

    Only ``icf-utils status`` on a cluster knows ``queued``.
    """

    stage: str
    state: ProgressState
    failure: StageFailure | None = None
    holder: str = ""


@dataclass(frozen=True)
class VisitStatus:
    """The progress of a visit."""

    study: str
    visit: str
    stages: tuple[StageStatus, ...]


def store_status(root: Path, named: Iterable[VisitInput] = ()) -> list[VisitStatus]:
    """The progress of each visit: those in the store, those that have only ever failed, and those in ``named``.

    Raises :class:`~icf_utils.errors.StorageFailure` for a store that cannot be read.
    """
    wanted: dict[str, set[str]] = {}
    for visit in named:
        wanted.setdefault(visit.study, set()).add(visit.visit)
    found = []
    indexes = bool(load_settings(root).store.archives)
    for name in sorted({*wanted, *_studies(root)}):
        study = Study(root, name)
        found += _study_status(study, wanted.get(name, set()), indexes)
    return found


def _studies(root: Path) -> list[str]:
    with storage_errors(root, "read"):
        try:
            names = os.listdir(root)
        except (FileNotFoundError, NotADirectoryError):
            return []
    return [name for name in names if _can_be_study(root, name)]


def _can_be_study(root: Path, name: str) -> bool:
    try:
        return Study(root, name).folder.is_dir()
    except InvalidIdentifier:
        return False


def _study_status(study: Study, wanted: Collection[str], indexes: bool) -> list[VisitStatus]:
    names, errors, running = _names(study), read_errors(study), list_running_visits(study)
    shown_in_catalog = set(catalogued_visits(study))
    visits = sorted({*study.visits(), *wanted, *(visit for visit, _ in errors), *running})
    return [
        VisitStatus(
            study.study,
            visit,
            _stages(Visit(study.root, study.study, visit), names, errors, running, shown_in_catalog, indexes),
        )
        for visit in visits
    ]


def _names(study: Study) -> set[str]:
    try:
        return set(os.listdir(study.folder))
    except OSError:
        return set()


def _stages(
    place: Visit,
    names: Collection[str],
    errors: Mapping[tuple[str, str], StageFailure],
    running: Mapping[str, str],
    in_catalog: Collection[str],
    indexes: bool,
) -> tuple[StageStatus, ...]:
    found: list[StageStatus] = []
    holder = running.get(place.visit, "")
    is_elsewhere = indexes and place.archive.name not in names and place.tarball_json.name in names
    for name in STAGE_NAMES:
        if name == "archive" and is_elsewhere:
            found.append(StageStatus(name, "elsewhere"))
            continue
        outputs = STAGES[name].outputs(place)
        done = all(path.name in names for path in outputs) if outputs else place.visit in in_catalog
        failure = errors.get((place.visit, name))
        state: ProgressState = "failed" if failure else "done" if done else "not made"
        if (
            holder
            and state != "done"
            and name != "catalog"
            and all(stage.state in ("done", "elsewhere") for stage in found)
        ):
            found.append(StageStatus(name, "running", holder=holder))
        else:
            found.append(StageStatus(name, state, failure))
    return tuple(found)


def count_states(visits: Iterable[VisitStatus]) -> dict[str, dict[str, dict[str, int]]]:
    """Count the visits of each study by stage and state."""
    table: dict[str, dict[str, dict[str, int]]] = {}
    visits = list(visits)
    is_elsewhere = any(stage.state == "elsewhere" for visit in visits for stage in visit.stages)
    states = (*PROGRESS_STATES, "elsewhere") if is_elsewhere else PROGRESS_STATES
    for visit in visits:
        study = table.setdefault(visit.study, {stage: dict.fromkeys(states, 0) for stage in STAGE_NAMES})
        for stage in visit.stages:
            study[stage.stage][stage.state] += 1
    return table
