"""Which stages have to run, with the reason in words; and what a run then does about it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icf_utils import RunConfig, RunResult, Settings, collect_visits, make_plan, run_visits
from icf_utils.catalog.html_pages import INDEX_LINK
from icf_utils.catalog.index_page import build_index
from icf_utils.pipeline import stages
from icf_utils.pipeline.model import StageOptions
from icf_utils.settings import CatalogSettings, MetadataSettings
from icf_utils.store.layout import Study, Visit
from tests.data.make_dicom import dicom_bytes
from tests.pipeline.conftest import NAMES, content, make_one_by_one


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(tmp_path / "store")


def run(inputs: Path, config: RunConfig, only: Sequence[tuple[str, str]] = NAMES) -> RunResult:
    visits = [item for item in collect_visits(config.root, inputs / "visits.csv") if (item.study, item.visit) in only]
    return run_visits(visits, config)


def plan(inputs: Path, config: RunConfig) -> dict[str, str]:
    """The reasons, by ``study/visit stage``."""
    visits = collect_visits(config.root, inputs / "visits.csv")
    found = make_plan(visits, config)
    return {f"{item.visit_input.name} {stage.stage}": "; ".join(stage.reasons) for item in found for stage in item.runs}


@pytest.fixture
def made(inputs: Path, config: RunConfig) -> RunConfig:
    """A store in which everything is done."""
    result = run(inputs, config)
    assert result.counts == {"done": 3, "up to date": 0, "failed": 0, "not reached": 0}
    assert plan(inputs, config) == {}
    return config


@pytest.fixture
def v1(made: RunConfig) -> Visit:
    return Visit(made.root, "study-a", "v1")


def test_a_new_store(inputs: Path, config: RunConfig) -> None:
    found = plan(inputs, config)
    assert len(found) == 12
    assert [found[f"study-a/v1 {name}"] for name in config.stage_names] == [
        "not made yet",
        "after archive",
        "after metadata",
        "after dataset",
    ]
    assert not config.root.exists()


def test_the_same_store_as_by_the_four_commands(inputs: Path, made: RunConfig, tmp_path: Path) -> None:
    make_one_by_one(inputs, tmp_path / "other")
    assert content(made.root) == content(tmp_path / "other")


def test_a_store_made_by_commands_is_adopted(inputs: Path, config: RunConfig) -> None:
    make_one_by_one(inputs, config.root)
    before = {path: path.stat().st_mtime_ns for path in config.root.rglob("*") if path.is_file()}
    assert run(inputs, config).counts["done"] == 3
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert plan(inputs, config) == {}


def test_adoption_without_an_input(inputs: Path, config: RunConfig) -> None:
    make_one_by_one(inputs, config.root)
    visits = collect_visits(config.root)
    assert run_visits(visits, config).counts["done"] == 3
    assert run_visits(visits, config).counts["up to date"] == 3
    reason = "the archive has not been compared with this input yet"
    assert plan(inputs, config) == {f"{study}/{visit} archive": reason for study, visit in NAMES}


def test_a_damaged_archive_is_not_adopted(inputs: Path, config: RunConfig) -> None:
    make_one_by_one(inputs, config.root)
    place = Visit(config.root, "study-a", "v1")
    _flip(place.archive)
    (failed,) = run_visits(collect_visits(config.root), config).failed
    assert failed.failed is not None
    assert failed.failed.failure is not None
    assert (failed.failed.stage, failed.failed.failure.type) == ("archive", "DepositDamaged")


def the_failure(result: RunResult) -> tuple[str, str, str]:
    """The one visit that failed, its stage and the error's class."""
    (visit,) = result.failed
    assert visit.failed is not None
    assert visit.failed.failure is not None
    return visit.name, visit.failed.stage, visit.failed.failure.type


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("suffix", "stage"),
    [
        ("_dicom.tar.md5sum", "archive"),
        ("_metadata_dicoms.json", "metadata"),
        ("_metadata_tarball.json", "metadata"),
        ("_XDLRA--refs", "dataset"),
        ("_XDLRA--repo-export", "dataset"),
    ],
)
def test_a_lost_output_is_made_again(suffix: str, stage: str, inputs: Path, made: RunConfig) -> None:
    before = content(made.root)
    path = made.root / "study-a" / f"v1{suffix}"
    path.unlink()
    found = plan(inputs, made)
    assert found.pop(f"study-a/v1 {stage}") == f"output missing: v1{suffix}"
    assert all(reason.startswith("after ") for reason in found.values())
    run(inputs, made)
    assert content(made.root) == before
    run(inputs, made)
    assert plan(inputs, made) == {}


def test_a_damaged_output_is_reported_and_left(inputs: Path, made: RunConfig, v1: Visit) -> None:
    _flip(v1.dicoms_json)
    damaged = v1.dicoms_json.read_bytes()
    assert plan(inputs, made)["study-a/v1 metadata"] == "output changed or touched: v1_metadata_dicoms.json"
    result = run(inputs, made)
    (failed,) = result.failed
    assert failed.failed is not None
    assert failed.failed.failure is not None
    assert (failed.name, failed.failed.stage, failed.failed.failure.type) == (
        "study-a/v1",
        "metadata",
        "ExistingFileDiffers",
    )
    assert [stage.state for stage in failed.stages] == ["up to date", "failed", "not reached", "not reached"]
    assert v1.dicoms_json.read_bytes() == damaged


def _touch_outputs(inputs: Path, v1: Visit) -> None:
    for path in (v1.archive, v1.export, v1.tarball_json):
        path.touch()


def _touch_inputs(inputs: Path, v1: Visit) -> None:
    for path in (inputs / "study-a" / "v1").rglob("*.dcm"):
        path.touch()


def _restore_from_a_copy(inputs: Path, v1: Visit) -> None:
    """All inodes and times of the store are new."""
    shutil.move(v1.root, f"{v1.root}.old")
    shutil.copytree(f"{v1.root}.old", v1.root)


@pytest.mark.parametrize("disturb", [_touch_outputs, _touch_inputs, _restore_from_a_copy])
def test_touched_files_make_no_stage_write(
    disturb: Callable[[Path, Visit], None], inputs: Path, made: RunConfig, v1: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(made.root)
    disturb(inputs, v1)
    assert plan(inputs, made) != {}
    ran = []

    def watched(stage: stages.Stage) -> stages.Stage:
        def noting(function: Callable[..., Any] | None) -> Callable[..., Any] | None:
            def noted(*given: Any) -> Any:
                ran.append(stage.name)
                assert function
                return function(*given)

            return noted if function else None

        return replace(stage, function=noting(stage.function), batch=noting(stage.batch))

    for module in ("execute", "plan"):
        table = {name: watched(stage) for name, stage in stages.STAGES.items()}
        monkeypatch.setattr(f"icf_utils.pipeline.{module}.STAGES", table)
    result = run(inputs, made)
    assert not result.failed
    assert ran == (["archive"] if disturb is _touch_inputs else [])
    assert content(made.root) == before
    assert plan(inputs, made) == {}


def test_another_version_runs_again(inputs: Path, made: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {**stages.STAGES, "dataset": replace(stages.STAGES["dataset"], version=3)}
    for module in ("execute", "plan"):
        monkeypatch.setattr(f"icf_utils.pipeline.{module}.STAGES", table)
    assert plan(inputs, made) == {f"{study}/{visit} dataset": "version 2 -> 3" for study, visit in NAMES}
    assert run(inputs, made).counts["done"] == 3
    assert plan(inputs, made) == {}


def test_other_parameters(inputs: Path, made: RunConfig, tmp_path: Path) -> None:
    other = replace(made, options=StageOptions(time_zone="Europe/Berlin"))
    assert plan(inputs, other)["study-a/v1 archive"] == "timezone 'UTC' -> 'Europe/Berlin'"
    assert len(run(inputs, other).failed) == 3
    moved = replace(made, options=StageOptions(store_url="https://elsewhere.example.org/"))
    text = "store URL 'https://data.inm-icf.de' -> 'https://elsewhere.example.org'"
    assert plan(inputs, moved)["study-a/v1 dataset"].startswith(text)
    tags = replace(made, settings=Settings(metadata=MetadataSettings(tags=("EchoTime",))))
    assert plan(inputs, tags) == {f"{study}/{visit} metadata": "tags changed" for study, visit in NAMES} | {
        f"{study}/{visit} archive": "failed in the last run" for study, visit in NAMES
    }


def test_other_catalog_settings_make_pages_again(inputs: Path, made: RunConfig) -> None:
    other = replace(made, settings=Settings(catalog=CatalogSettings(name="A study of memory")))
    assert set(plan(inputs, other).values()) == {"catalog settings changed"}
    result = run(inputs, other)
    assert not result.failed
    assert plan(inputs, other) == {}
    page = Study(made.root, "study-a").catalog / "index.html"
    assert b"A study of memory" in page.read_bytes()


def test_a_page_of_all_studies_makes_no_catalog_again(inputs: Path, made: RunConfig) -> None:
    build_index(made.root)
    page = Study(made.root, "study-a").catalog / "index.html"
    assert INDEX_LINK.encode() in page.read_bytes()
    assert plan(inputs, made) == {}
    (made.root / "index.html").unlink()
    assert set(plan(inputs, made).values()) == {"the study's page does not match its entries"}
    assert not run(inputs, made).failed
    assert INDEX_LINK.encode() not in page.read_bytes()
    assert plan(inputs, made) == {}


@pytest.mark.parametrize(
    "name",
    [
        "index.html",
        "assets/icf_base.js",
        "list/1.html",
        "data/visits.json",
        "metadata/super.json",
        ".icf-catalog",
        "config.json",
    ],
)
def test_a_lost_or_damaged_file_of_the_catalog_is_made_again(name: str, inputs: Path, made: RunConfig) -> None:
    before = content(made.root)
    path = Study(made.root, "study-a").catalog / name
    for disturb in (os.unlink, _flip):
        if name == ".icf-catalog":  # without its mark, the folder is somebody else's
            continue
        disturb(path)
        assert set(plan(inputs, made)) == {"study-a/v1 catalog", "study-a/v2 catalog"}
        result = run(inputs, made)
        assert not result.failed
        assert content(made.root) == before
        assert plan(inputs, made) == {}


def test_a_lost_or_damaged_page(inputs: Path, made: RunConfig) -> None:
    before = content(made.root)
    pages = list(Study(made.root, "study-a").catalog.glob("metadata/*/*/*/*.json"))
    assert len(pages) > 2
    for path in pages:
        for disturb in (os.unlink, _flip):
            disturb(path)
            assert plan(inputs, made)
            assert not run(inputs, made).failed or disturb is _flip
            if disturb is _flip and content(made.root) != before:  # a study page that cannot be read is refused
                path.write_bytes(before[path.relative_to(made.root).as_posix()])
            run(inputs, made)
            assert content(made.root) == before, path
            assert plan(inputs, made) == {}


def test_visits_added_by_a_command_leave_others_up_to_date(inputs: Path, config: RunConfig) -> None:
    run(inputs, config, NAMES[:1])
    make_one_by_one(inputs, config.root)
    assert {key.split()[0] for key in plan(inputs, config)} == {"study-a/v2", "study-b/v1"}


def test_a_changed_input_is_refused(inputs: Path, made: RunConfig, v1: Visit) -> None:
    before = content(made.root)
    changed = inputs / "study-a" / "v1" / "01_t1" / "0001.dcm"
    original = changed.read_bytes()
    changed.write_bytes(dicom_bytes(SeriesDescription="another"))
    assert plan(inputs, made) == {"study-a/v1 archive": "input changed or touched: 01_t1/0001.dcm"}
    for _ in range(2):
        result = run(inputs, made)
        (failed,) = result.failed
        assert failed.failed is not None
        assert failed.failed.failure is not None
        assert failed.failed.failure.type == "InputChanged"
        assert "has changed since it was archived: in" in failed.failed.failure.message
        assert "01_t1/0001.dcm" in failed.failed.failure.message
        assert content(made.root) == before
    changed.write_bytes(original)
    assert not run(inputs, made).failed
    assert plan(inputs, made) == {}


def test_a_file_more_or_less(inputs: Path, made: RunConfig) -> None:
    extra = inputs / "study-a" / "v1" / "extra.txt"
    extra.write_bytes(b"x")
    assert plan(inputs, made) == {"study-a/v1 archive": "input changed or touched: extra.txt"}
    assert run(inputs, made).failed
    extra.unlink()
    assert plan(inputs, made) == {"study-a/v1 archive": "failed in the last run"}
    assert not run(inputs, made).failed
    (inputs / "study-a" / "v1" / "01_t1" / "0001.dcm").unlink()
    assert plan(inputs, made) == {"study-a/v1 archive": "input changed: 3 files before, 2 now"}


def test_lost_and_broken_state_costs_time_only(inputs: Path, made: RunConfig, v1: Visit) -> None:
    before = content(made.root)
    state = v1.workdir / "state"
    for path in sorted(state.iterdir()):
        for raw in (b"", b"{}", b"[1]", b"\xff", b'{"format": 1}', path.read_bytes()[:-20]):
            path.write_bytes(raw)
            assert plan(inputs, made)
        assert not run(inputs, made).failed
        assert plan(inputs, made) == {}, path
    shutil.rmtree(state)
    assert not run(inputs, made).failed
    assert content(made.root) == before
    assert plan(inputs, made) == {}


def test_always_make_and_paranoid(inputs: Path, made: RunConfig, v1: Visit) -> None:
    before = content(made.root)
    assert set(plan(inputs, replace(made, always_make=True)).values()) == {"requested (-B)"}
    result = run(inputs, replace(made, always_make=True))
    assert {stage.state for visit in result.visits for stage in visit.stages} == {"done"}
    assert set(plan(inputs, replace(made, paranoid=True)).values()) == {"requested (--paranoid)"}
    result = run(inputs, replace(made, paranoid=True))
    assert {stage.state for visit in result.visits for stage in visit.stages} == {"up to date"}
    assert not result.counts["done"], "the inputs were only compared"
    assert content(made.root) == before
    times = v1.export.stat()
    _flip(v1.export)
    os.utime(v1.export, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert plan(inputs, made) == {}  # that is what trusting means
    (failed,) = run(inputs, replace(made, paranoid=True)).failed
    assert failed.failed is not None
    assert failed.failed.stage == "dataset"


def test_until(inputs: Path, config: RunConfig) -> None:
    for until, files in (("archive", 3), ("metadata", 5), ("dataset", 7)):
        result = run(inputs, replace(config, until=until))
        assert [stage.stage for stage in result.visits[0].stages] == list(replace(config, until=until).stage_names)
        shared = {name for name in content(config.root) if name.endswith(("/visits.json", "/XDLRA--refs", "export"))}
        shared = {name for name in shared if not name.endswith("_XDLRA--repo-export")}
        assert len(content(config.root)) == 3 * files + len(shared)
        assert len(shared) == {"archive": 0, "metadata": 2, "dataset": 6}[until]
        assert plan(inputs, replace(config, until=until)) == {}
    assert {key.split()[1] for key in plan(inputs, config)} == {"catalog"}
