"""The progress of processings, from file names and records alone. Reads folders and small files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icf_utils.pipeline.status import PROGRESS_STATES, ProgressState, VisitStatus
from icf_utils.processing.records import ProcessingFailure, read_failures
from icf_utils.store.layout import Study, list_outputs
from icf_utils.store.locks import list_running_processings


@dataclass(frozen=True)
class ProcessingStatus:
    """The progress of one processing of a visit: why it failed, or which process works on it (``holder``)."""

    study: str
    visit: str
    processing: str
    state: ProgressState
    failure: ProcessingFailure | None = None
    holder: str = ""


def processing_status(root: Path, visits: Iterable[VisitStatus], known: Sequence[str]) -> list[ProcessingStatus]:
    """The progress of each processing of these visits: those of the settings (``known``), and those with a trace.

    That an output is there is what counts, not whether it is up to date: ``icf-utils process --dry-run`` finds that.
    """
    by_study: dict[str, list[str]] = {}
    for visit in visits:
        by_study.setdefault(visit.study, []).append(visit.visit)
    return [one for study, names in by_study.items() for one in _study_status(Study(root, study), names, known)]


def _study_status(study: Study, visits: Sequence[str], known: Sequence[str]) -> list[ProcessingStatus]:
    done, failures = set(list_outputs(study)), read_failures(study)
    running = list_running_processings(study)
    traces = {processing for _, processing in (*done, *failures, *running)}
    names = [*known, *sorted(traces.difference(known))]
    return [
        _status(study.study, visit, name, done, failures, running.get((visit, name), ""))
        for visit in visits
        for name in names
    ]


def _status(
    study: str,
    visit: str,
    processing: str,
    done: Collection[tuple[str, str]],
    failures: Mapping[tuple[str, str], ProcessingFailure],
    holder: str,
) -> ProcessingStatus:
    failure = failures.get((visit, processing))
    if holder:
        return ProcessingStatus(study, visit, processing, "running", holder=holder)
    if failure:
        return ProcessingStatus(study, visit, processing, "failed", failure)
    return ProcessingStatus(study, visit, processing, "done" if (visit, processing) in done else "not made")


def count_processings(processings: Iterable[ProcessingStatus]) -> dict[str, dict[str, dict[str, int]]]:
    """Count the visits of each study by processing and state."""
    table: dict[str, dict[str, dict[str, int]]] = {}
    for one in processings:
        row = table.setdefault(one.study, {}).setdefault(one.processing, dict.fromkeys(PROGRESS_STATES, 0))
        row[one.state] += 1
    return table
