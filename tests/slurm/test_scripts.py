"""Job scripts and what is decided before them, without a SLURM."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from icf_utils.errors import ClusterRefused, DepositDamaged, InvalidIdentifier, InvalidSetting, MissingRequirement
from icf_utils.pipeline.model import RunConfig, StageOptions, VisitInput
from icf_utils.pipeline.visit_table import read_table
from icf_utils.settings import RUN_CHECKS
from icf_utils.slurm import commands, records, submit
from icf_utils.slurm.model import JobRequest, QueuedTask, Submission
from icf_utils.slurm.records import (
    create_folder,
    read_submissions,
    read_visits,
    remove_old_submissions,
    slurm_folder,
    write_submission,
)
from icf_utils.slurm.scripts import catalog_dependency, container_binds, visits_script
from icf_utils.slurm.submit import job_scripts, plan_jobs
from icf_utils.store.layout import Study
from tests.data.make_dicom import uid, write_visit
from tests.slurm.conftest import Program, write_inputs

PAGE = Path(__file__).resolve().parents[2] / "docs/cluster.md"


def plan(tmp_path: Path, number: int, request: JobRequest) -> submit.StudyJobs:
    store = tmp_path / "store"
    table = write_inputs(tmp_path, ("only",), number)
    planned = plan_jobs(
        read_table(table, store), RunConfig(store), request, ask_queue=bool(slurm_folder(Study(store, "only")).exists())
    )
    (jobs,) = planned.studies
    return jobs


@pytest.mark.parametrize(
    ("visits", "size", "cpus", "shards"),
    [(5, 200, 1, [1] * 5), (5, 2, 1, [3, 2]), (5, 200, 2, [2, 2, 1]), (1, 1, 8, [1])],
)
def test_visits_are_distributed_over_tasks(
    tmp_path: Path, visits: int, size: int, cpus: int, shards: list[int]
) -> None:
    jobs = plan(tmp_path, visits, JobRequest(array_size=size, cpus=cpus))
    assert [len(shard) for shard in jobs.shards] == shards
    assert len(jobs.catalog) == visits


def test_the_manual_shows_the_scripts(tmp_path: Path) -> None:
    table = write_inputs(tmp_path, ("study-a",), 2)
    store = tmp_path / "store"
    found = Program({}).result(
        *("run", "-o", str(store), "--table", str(table), "--slurm", "--time", "02:00:00", "--mem", "4G", "-n")
    )
    assert not store.exists()
    shown = re.findall(r"(?ms)^```sh\n(#!.*?)^```$", PAGE.read_text(encoding="utf-8"))
    for script, text in zip(found["scripts"], shown, strict=True):
        given = script["text"].replace(str(store), "/data/store").replace(sys.executable, "/opt/icf-utils/bin/python")
        assert re.sub(r"-[0-9a-f]{8}\n", "-1f0e5d28\n", given) == text
    array, catalog = (script["command"] for script in found["scripts"])
    assert array.startswith("sbatch --time=02:00:00 --mem=4G ")
    assert "--dependency=afterany:ARRAY,singleton --kill-on-invalid-dep=yes" in catalog


def test_a_script_holds_odd_paths(tmp_path: Path) -> None:
    """It is run with a stand-in for Python, which prints what it is given."""
    folder = tmp_path / "a b$(c)'%d"
    folder.mkdir()
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n", encoding="utf-8")
    stand_in.chmod(0o755)
    config = RunConfig(
        folder,
        options=StageOptions("https://x.org/?a=b&c", "my store", None, "Europe/Berlin", 2, refuse=RUN_CHECKS),
        always_make=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(stand_in))
        text = visits_script("name", folder, [[VisitInput("s", "v")]], config, JobRequest(cpus=3))
    assert f'#SBATCH --output="{str(folder).replace("%", "%%")}/visits-%a.log"\n' in text
    done = subprocess.run(
        ["sh", "-c", text], env={**os.environ, "SLURM_ARRAY_TASK_ID": "7"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        *("-m", "icf_utils.cli.main", "run", "--store-dir", str(folder), "--timezone", "Europe/Berlin"),
        *("--store-url", "https://x.org/?a=b&c", "--store-id", "my store", "--strip-components", "2"),
        *("--until", "dataset", "--always-make", "--jobs", "3", "--shard", f"{folder}/shard-7.json"),
    ]


def test_few_folders_are_bound(tmp_path: Path) -> None:
    store = tmp_path / "store"
    inputs = [Path("/scan/a/1"), Path("/scan/b/2"), Path("/other/3")]
    binds = container_binds(RunConfig(store), inputs)
    assert binds == ["/other:/other:ro", "/scan:/scan:ro", str(store)]
    with pytest.raises(InvalidSetting, match="cannot be bound"):
        container_binds(RunConfig(tmp_path / "a:b"), [])


@pytest.mark.parametrize("value", ["a b", "x\n#SBATCH --wrap", "-x", "$(id)"])
def test_invalid_option_values_are_refused(value: str) -> None:
    with pytest.raises(InvalidSetting, match="--partition"):
        JobRequest(partition=value)


def test_the_catalog_job_waits() -> None:
    assert catalog_dependency(["1", "2"])[0] == "--dependency=afterany:1,afterany:2,singleton"
    assert catalog_dependency([])[0] == "--dependency=singleton"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--partition", "x"], "--partition: needs --slurm"),
        (["--wait"], "--wait: needs --slurm"),
        (["--slurm", "--report", "x.html"], "--report: cannot be combined with --slurm"),
        (["--slurm", "-S"], "--stop-on-error: cannot be combined with --slurm"),
        (["--slurm", "--array-size", "0"], "expected a number of tasks"),
        (["--slurm", "--container", "nothing.sif", "--dry-run"], "does not exist"),
    ],
)
def test_options_that_contradict_each_other(tmp_path: Path, arguments: list[str], problem: str) -> None:
    table = write_inputs(tmp_path, ("only",), 1)
    done = Program({}).run("run", "-o", str(tmp_path / "store"), "--table", str(table), *arguments)
    assert done.returncode == 2, done.stderr
    assert problem in done.stderr


def submission(number: int, array: str = "7", catalog: str = "8") -> Submission:
    return Submission(number, "only", array, catalog, (("v00", "v02"), ("v01",)), ("v00", "v01", "v02"))


def test_records_can_be_read_again(tmp_path: Path) -> None:
    study = Study(tmp_path, "only")
    for number in range(1, 4):
        write_submission(create_folder(study), submission(number))
    (slurm_folder(study) / "0002/jobs.json").write_text("{")
    (slurm_folder(study) / "notes").mkdir()
    assert read_submissions(study) == [submission(1), submission(3)]


def test_old_records_are_removed_and_active_ones_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "KEPT", 2)
    study = Study(tmp_path, "only")
    for number in range(1, 7):
        write_submission(create_folder(study), submission(number))
    remove_old_submissions(study, active={2})
    assert [record.number for record in read_submissions(study)] == [2, 5, 6]


@pytest.mark.parametrize("content", ["", "{}", '{"visits": [["s", "../x", null]]}', '{"visits": [["s"]]}'])
def test_a_list_of_visits_is_checked(tmp_path: Path, content: str) -> None:
    (tmp_path / "shard.json").write_text(content)
    with pytest.raises((DepositDamaged, InvalidIdentifier), match=r"list of visits|identifier"):
        read_visits(tmp_path / "shard.json")


def test_what_is_in_the_queue_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(tmp_path / "store", "only")
    write_submission(create_folder(study), submission(1))
    tasks = [QueuedTask("7", 0, "RUNNING", "None"), QueuedTask("8", None, "PENDING", "Dependency")]
    monkeypatch.setattr(commands, "list_queue", lambda names: tasks)
    jobs = plan(tmp_path, 4, JobRequest())
    assert [[wanted.visit for wanted in shard] for shard in jobs.shards] == [["v01"], ["v03"]]
    assert [wanted.visit for wanted in jobs.catalog] == ["v01", "v03"]
    assert jobs.after == ()

    tasks.pop()  # its catalog job was cancelled: a new one waits for the array that goes on
    jobs = plan(tmp_path, 4, JobRequest())
    assert [wanted.visit for wanted in jobs.catalog] == ["v00", "v01", "v02", "v03"]
    assert jobs.after == ("7",)
    folder = tmp_path / "folder"
    array, catalog = job_scripts(jobs, folder, RunConfig(tmp_path / "store"), JobRequest())
    assert "--array=0-1" in array.text
    assert "afterany:7,afterany:ARRAY,singleton" in catalog.command


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_the_jobs_number_is_the_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, sbatch="echo 'a message of the day'; echo '12;cluster'")
    assert commands.submit_script(Path("x.sh"), []) == "12"


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("Invalid account or account/partition combination specified", "partition"),
        ("Invalid job array specification", "--array-size"),
        ("Unable to contact slurm controller (connect failure)", "does not respond"),
        ("Requested time limit is invalid", "--time"),
        ("something else \x1b[31m", "Correct the options"),
    ],
)
def test_slurms_messages_come_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, advice: str
) -> None:
    stand_in(tmp_path, monkeypatch, sbatch=f"echo 'sbatch: error: {words}' >&2; exit 1", sinfo="exit 1")
    with pytest.raises(ClusterRefused, match=advice) as caught:
        commands.submit_script(Path("x.sh"), [])
    assert "\x1b" not in str(caught.value)
    assert caught.value.exit_code == 9


def test_a_program_that_cannot_run_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, squeue="")
    (tmp_path / "squeue").write_bytes(b"\x7fELF nonsense")
    with pytest.raises(MissingRequirement, match="squeue"):
        commands.list_queue(["x"])


def test_status_without_squeue_names_it(tmp_path: Path) -> None:
    table = write_inputs(tmp_path, ("only",), 1)
    write_submission(create_folder(Study(tmp_path / "store", "only")), submission(1))
    done = Program({"PATH": str(tmp_path)}).run("status", "-o", str(tmp_path / "store"), "--table", str(table))
    assert done.returncode == 0
    assert "queued jobs are not shown: SLURM's 'squeue' is required but was not found" in done.stderr


def test_visits_of_one_dicom_study_are_not_submitted(tmp_path: Path) -> None:
    """The jobs, each with one of them, would not find that."""
    for scan in ("scout", "t1"):
        write_visit(tmp_path / scan, {1: (scan, 1)}, StudyInstanceUID=uid("one"))
    write_visit(tmp_path / "other", {1: ("t1", 1)}, StudyInstanceUID=uid("two"))
    table = tmp_path / "t.csv"
    table.write_text("study,visit,input\n" + "".join(f"s,{name},{name}\n" for name in ("scout", "t1", "other")))
    planned = plan_jobs(
        read_table(table, tmp_path / "store"),
        RunConfig(tmp_path / "store", options=StageOptions(refuse=RUN_CHECKS)),
        JobRequest(),
        ask_queue=False,
    )
    assert [visit.visit for jobs in planned.studies for shard in jobs.shards for visit in shard] == ["other"]
    assert [found.visit_input.visit for found, _ in planned.refused] == ["scout", "t1"]
    ran = Program({}).run("run", "-o", str(tmp_path / "store"), "--table", str(table), "--slurm", "-n")
    assert (ran.returncode, "1 visit to make, 2 refused, 0 up to date" in ran.stdout) == (1, True)
    assert "s/t1: not submitted: 's/t1': has images of the same StudyInstanceUID as s/scout" in ran.stdout
