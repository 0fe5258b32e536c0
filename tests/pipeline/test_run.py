"""Several visits at a time: the same bytes, failures, workers that die, other runs."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icf_utils import RunConfig, RunResult, VisitOutcome, collect_visits, run_visits, store_status
from icf_utils.errors import Busy, InvalidSetting
from icf_utils.pipeline import execute
from icf_utils.pipeline.model import StageOptions, StageOutcome
from icf_utils.pipeline.plan import Planner
from icf_utils.pipeline.state import StageRecord
from icf_utils.progress import SILENT, Task
from icf_utils.store.layout import Study, Visit
from icf_utils.store.locks import catalog_lock, list_running_visits, run_lock
from tests.conftest import VISIT_NAMES
from tests.pipeline.conftest import NAMES, content, content_in_any_order, make_one_by_one


class Listener:
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Task]:
        with SILENT.task(label, total, unit) as task:
            yield task

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(tmp_path / "store")


@pytest.mark.parametrize("jobs", [1, 4])
def test_the_same_bytes_with_any_number_of_jobs(jobs: int, inputs: Path, config: RunConfig, tmp_path: Path) -> None:
    reported: list[tuple[VisitOutcome, int, int]] = []
    visits = collect_visits(config.root, inputs / "visits.csv")
    result = run_visits(visits, config, jobs=jobs, on_visit=lambda *finished: reported.append(finished))
    assert result.counts["done"] == 3
    assert sorted(item.name for item, _, _ in reported) == [f"{study}/{visit}" for study, visit in NAMES]
    assert [place for _, *place in reported] == [[1, 3], [2, 3], [3, 3]]
    assert [item.name for item in result.visits] == [f"{study}/{visit}" for study, visit in NAMES]
    make_one_by_one(inputs, tmp_path / "other")
    assert content_in_any_order(config.root) == content_in_any_order(tmp_path / "other")
    assert not list(config.root.rglob("*.lock*"))
    assert not list(config.root.rglob("*.part"))


def test_real_visits(visits: Path, config: RunConfig, tmp_path: Path) -> None:
    from icf_utils import (
        catalogify_studyvisit_from_meta,
        deposit_visit_dataset,
        deposit_visit_metadata,
        make_studyvisit_archive,
    )

    found = collect_visits(config.root, pattern=f"{visits.parent}/{{study}}/{{visit}}")
    assert {item.visit for item in found} >= set(VISIT_NAMES)
    found = [item for item in found if item.visit in VISIT_NAMES]
    assert run_visits(found, config, jobs=2).counts["done"] == len(VISIT_NAMES)
    for name in VISIT_NAMES:
        make_studyvisit_archive(visits / name, tmp_path / "other", "visits", name)
        deposit_visit_metadata(tmp_path / "other", "visits", name)
        deposit_visit_dataset(tmp_path / "other", "visits", name)
        catalogify_studyvisit_from_meta(tmp_path / "other", "visits", name)
    assert content_in_any_order(config.root) == content_in_any_order(tmp_path / "other")
    assert run_visits(found, config).counts["up to date"] == len(VISIT_NAMES)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failed_visit_does_not_stop_the_others(jobs: int, inputs: Path, config: RunConfig) -> None:
    bad = inputs / "study-a" / "v1" / "nowhere"
    bad.symlink_to("/nowhere")
    visits = collect_visits(config.root, inputs / "visits.csv")
    result = run_visits(visits, config, jobs=jobs)
    assert result.counts == {"done": 2, "up to date": 0, "failed": 1, "not reached": 0}
    (failed,) = result.failed
    assert failed.failed is not None
    assert failed.failed.failure is not None
    assert (failed.failed.failure.type, failed.failed.failure.exit_code) == ("InputRefused", 3)
    assert [stage.state for stage in failed.stages] == ["failed", *["not reached"] * 3]
    status = {(item.study, item.visit): item.stages for item in store_status(config.root)}
    assert [stage.state for stage in status["study-a", "v1"]] == ["failed", *["not made"] * 3]
    assert status["study-a", "v1"][0].failure == failed.failed.failure
    assert {stage.state for stage in status["study-a", "v2"]} == {"done"}
    bad.unlink()
    assert run_visits(visits, config, jobs=jobs).counts == {"done": 1, "up to date": 2, "failed": 0, "not reached": 0}
    assert {stage.state for item in store_status(config.root) for stage in item.stages} == {"done"}


def test_stop_on_error(inputs: Path, config: RunConfig) -> None:
    (inputs / "study-a" / "v2" / "nowhere").symlink_to("/nowhere")
    result = run_visits(collect_visits(config.root, inputs / "visits.csv"), config, keep_going=False)
    assert result.counts == {"done": 1, "up to date": 0, "failed": 1, "not reached": 1}
    assert [len(item.stages) for item in result.visits] == [4, 4, 4]


def test_a_stage_that_fails_after_the_archive(inputs: Path, config: RunConfig) -> None:
    """The catalog's folder was not made by icf-utils."""
    foreign = Study(config.root, "study-a").catalog
    foreign.mkdir(parents=True)
    (foreign / "notes.txt").touch()
    result = run_visits(collect_visits(config.root, inputs / "visits.csv"), config, jobs=2)
    assert [stage.state for stage in result.visits[0].stages] == ["done", "done", "done", "failed"]
    assert [item.name for item in result.failed] == ["study-a/v1", "study-a/v2"]
    shutil.rmtree(foreign)
    assert run_visits(collect_visits(config.root), config).counts["done"] == 2


def test_an_internal_error_fails_one_visit_only(
    inputs: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = execute._make_stage

    def broken(planner: Planner, name: str, *others: Any) -> tuple[StageOutcome, StageRecord | None]:
        if planner.visit_input.name == "study-a/v2":
            raise KeyError("a value of a header")
        return real(planner, name, *others)

    monkeypatch.setattr(execute, "_make_stage", broken)
    result = run_visits(collect_visits(config.root, inputs / "visits.csv"), config)
    assert result.counts["done"] == 2
    (failed,) = result.failed
    assert failed.failed is not None
    assert failed.failed.failure is not None
    assert failed.failed.failure.type == "InternalError"
    assert "a value" not in failed.failed.failure.message


def test_mistakes_in_options_are_found_before_anything_runs(inputs: Path, config: RunConfig, tmp_path: Path) -> None:
    visits = collect_visits(config.root, inputs / "visits.csv")
    tags = tmp_path / "tags.txt"
    tags.write_text("PatientName\n", encoding="utf-8")
    for options in (StageOptions(store_url="no url"), StageOptions(time_zone="Mars/Olympus"), StageOptions(tags=tags)):
        with pytest.raises(InvalidSetting):
            run_visits(visits, replace(config, options=options))
    assert not config.root.exists()


def test_a_worker_that_is_killed_costs_its_visit_only(inputs: Path, config: RunConfig) -> None:
    """The first input is a huge file with a hole, so that there is time to kill its worker."""
    with open(inputs / "study-a" / "v1" / "hole.bin", "wb") as handle:
        handle.truncate(1 << 30)
    visits = collect_visits(config.root, inputs / "visits.csv")
    results: list[RunResult] = []
    runner = threading.Thread(target=lambda: results.append(run_visits(visits, config, jobs=2)))
    runner.start()
    part = Visit(config.root, "study-a", "v1").workdir / "v1_dicom.tar.part"
    _wait_for(lambda: part.exists() and part.stat().st_size > 1 << 20)
    (holder,) = [text for visit, text in list_running_visits(Study(config.root, "study-a")).items() if visit == "v1"]
    os.kill(int(holder.split()[1]), signal.SIGKILL)
    runner.join(120)
    (result,) = results
    assert result.counts == {"done": 2, "up to date": 0, "failed": 1, "not reached": 0}
    (failed,) = result.failed
    assert failed.failed is not None
    assert failed.failed.failure is not None
    assert "signal 9" in failed.failed.failure.message
    os.truncate(inputs / "study-a" / "v1" / "hole.bin", 10)
    assert not run_visits(visits, config).failed
    assert not list(config.root.rglob("*.part"))


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_visit_that_another_run_works_on_comes_last(inputs: Path, config: RunConfig) -> None:
    listener, reported = Listener(), list[str]()
    visits = collect_visits(config.root, inputs / "visits.csv")
    entered, leave = threading.Event(), threading.Event()

    def other_run() -> None:
        with run_lock(Visit(config.root, "study-a", "v1"), SILENT):
            entered.set()
            leave.wait(60)

    other = threading.Thread(target=other_run)
    other.start()
    entered.wait(60)
    (running,) = [item for item in store_status(config.root, visits) if (item.study, item.visit) == ("study-a", "v1")]
    assert [stage.state for stage in running.stages] == ["running", *["not made"] * 3]

    def tell(outcome: VisitOutcome, number: int, total: int) -> None:
        reported.append(outcome.name)
        leave.set()

    result = run_visits(visits, config, progress=listener, on_visit=tell)
    other.join()
    assert result.counts["done"] == 3
    assert reported[0] == "study-b/v1"
    assert f"study-a/v1: process {os.getpid()} on" in listener.messages[0]


def test_waiting_too_long(inputs: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICF_LOCK_TIMEOUT", "0.2")
    place = Visit(config.root, "study-a", "v1")
    with run_lock(place, SILENT), catalog_lock(Study(config.root, "study-b"), SILENT):
        result = run_visits(collect_visits(config.root, inputs / "visits.csv"), config)
    assert {item.name for item in result.failed} == {"study-a/v1", "study-b/v1"}
    assert {item.failed.failure.type for item in result.failed if item.failed and item.failed.failure} == {"Busy"}
    with run_lock(place, SILENT), pytest.raises(Busy), run_lock(place, SILENT):
        pass
    assert not run_visits(collect_visits(config.root, inputs / "visits.csv"), config).failed


def test_two_runs_at_once(inputs: Path, config: RunConfig, tmp_path: Path) -> None:
    visits = collect_visits(config.root, inputs / "visits.csv")
    results: list[RunResult] = []
    runs = [threading.Thread(target=lambda: results.append(run_visits(visits, config, jobs=2))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [result.failed for result in results] == [(), ()]
    make_one_by_one(inputs, tmp_path / "other")
    assert content_in_any_order(config.root) == content_in_any_order(tmp_path / "other")
    assert run_visits(visits, config).counts["up to date"] == 3


def test_a_store_that_cannot_be_written(
    inputs: Path, open_tmp_path: Path, as_nobody: Callable[[], AbstractContextManager[None]]
) -> None:
    config = RunConfig(open_tmp_path / "store")
    config.root.mkdir()
    shutil.copytree(inputs, open_tmp_path / "inputs")
    visits = collect_visits(config.root, open_tmp_path / "inputs" / "visits.csv")
    run_visits(visits[:2], config)
    before = content(config.root)
    with as_nobody():
        result = run_visits(visits, config)
        assert result.counts == {"done": 0, "up to date": 2, "failed": 1, "not reached": 0}
        (failed,) = result.failed
        assert failed.failed is not None
        assert failed.failed.failure is not None
        assert failed.failed.failure.type == "StorageFailure"
        listener = Listener()
        again = run_visits(visits[:2], replace(config, always_make=True, until="dataset"), progress=listener)
        assert len(again.failed) == 2
    assert content(config.root) == before
    assert run_visits(visits, config).counts["done"] == 1


def test_records_that_cannot_be_written_are_reported(inputs: Path, config: RunConfig) -> None:
    config.root.mkdir()
    state = Study(config.root, "study-b").workdir / "state"
    state.parent.mkdir(parents=True)
    state.touch()  # a file in place of the folder
    listener = Listener()
    result = run_visits(collect_visits(config.root, inputs / "visits.csv"), config, progress=listener)
    assert result.counts["done"] == 3
    assert all("the next run will check this stage again" in message for message in listener.messages)
    assert len(listener.messages) >= 4


def test_a_store_that_is_a_file(tmp_path: Path, inputs: Path) -> None:
    (tmp_path / "store").touch()
    result = run_visits(collect_visits(tmp_path / "none", inputs / "visits.csv"), RunConfig(tmp_path / "store"))
    failures = [item.failed.failure for item in result.failed if item.failed and item.failed.failure]
    assert [failure.type for failure in failures] == ["StorageFailure"] * 3
