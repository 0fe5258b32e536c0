"""Whole studies through a real SLURM: failures, killed jobs, jobs that run out of time, and what comes after."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from icf_utils.progress import SILENT
from icf_utils.slurm.records import read_submissions
from icf_utils.store.layout import Study, Visit
from icf_utils.store.locks import run_lock
from tests.slurm.conftest import Program, wait_for, write_inputs
from tests.slurm.daemons import Cluster
from tests.verify.stores import differing_files

STUDIES = ("north", "south")
NUMBER = 20
FAILS = ("north", "v03")
SLOW = ("north", "v07")
KILLED = ("south", "v05")
URL = ("--store-url", "https://data.example.org")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_inputs(tmp_path, STUDIES, NUMBER)


@pytest.fixture
def in_hand(tmp_path: Path) -> Iterator[ExitStack]:
    """Two visits that this process has locked, so that the jobs that should make them run until they are cancelled."""
    with ExitStack() as hold:
        for study, visit in (SLOW, KILLED):
            hold.enter_context(run_lock(Visit(tmp_path / "store", study, visit), SILENT))
        yield hold


def job_of(store: Path, study: str, visit: str) -> str:
    """The array task that a visit is in."""
    record = read_submissions(Study(store, study))[-1]
    task = next(at for at, shard in enumerate(record.shards) if visit in shard)
    return f"{record.array_job}_{task}"


def queued(slurm: Cluster) -> list[str]:
    return slurm.ask("squeue", "--noheader", "--array", "--format=%i %T").splitlines()


def test_forty_visits_with_everything_that_goes_wrong(
    slurm: Cluster, on_cluster: Program, table: Path, in_hand: ExitStack, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    pipe = table.parent / "input" / FAILS[0] / FAILS[1] / "pipe"
    os.mkfifo(pipe)
    run = ["run", "-o", str(store), "--table", str(table), *URL, "--slurm", "--array-size", "4"]
    jobs = on_cluster.result(*run)["jobs"]
    assert [sorted(visit for shard in one["shards"] for visit in shard) for one in jobs] == [
        [f"v{at:02}" for at in range(NUMBER)]
    ] * 2

    again = on_cluster.run(*run)
    assert "40 already queued" in again.stdout, "what is queued is not submitted twice"

    def states() -> dict[str, dict[str, dict[str, int]]]:
        found = on_cluster.result("status", "-o", str(store), "--table", str(table))["studies"]
        assert isinstance(found, dict)
        return found

    wait_for(lambda: any(study["catalog"]["queued"] for study in states().values()), "no job is seen in the queue")
    # a task makes its other visits before it waits for one that is in hand
    wait_for(lambda: states()["south"]["dataset"]["done"] == 19, f"the others of 'south' are not made: {queued(slurm)}")
    slurm.ask("scancel", job_of(store, *KILLED))
    wait_for(lambda: states()["north"]["dataset"]["done"] == 18, f"the others of 'north' are not made: {queued(slurm)}")
    slurm.ask("scontrol", "update", f"JobId={job_of(store, *SLOW)}", "EndTime=now+1")
    wait_for(lambda: not queued(slurm), "jobs are left", seconds=120)

    found = states()
    assert found["north"]["archive"] == {"done": 18, "running": 1, "queued": 0, "failed": 1, "not_made": 0}
    assert found["north"]["catalog"]["done"] == 18, "a visit that fails does not keep the others out of the catalog"
    assert found["south"]["catalog"]["done"] == 19
    logs = "".join(path.read_text(encoding="utf-8") for path in store.glob("*/.icf/slurm/*/visits-*.log"))
    assert "DUE TO TIME LIMIT" in logs
    assert "terminated; nothing half-written was left behind" in logs

    in_hand.close()
    planned = on_cluster.result(*run, "--dry-run")
    assert len(planned["scripts"]) == 4
    failing = on_cluster.run(*run, "--wait")
    assert failing.returncode == 1, failing.stdout + failing.stderr
    assert "north/v03: archive failed: input" in failing.stdout
    assert "40 visits: 39 done, 1 failed" in failing.stdout
    second = {study: read_submissions(Study(store, study))[-1] for study in STUDIES}
    assert {visit for shard in second["north"].shards for visit in shard} == {"v03", "v07"}, "only what is not made"
    assert {visit for shard in second["south"].shards for visit in shard} == {"v05"}

    pipe.unlink()
    assert on_cluster.run(*run, "--wait").returncode == 0
    nothing = on_cluster.run(*run, "--wait")
    assert (nothing.returncode, nothing.stdout) == (0, "40 visits: 40 done, 0 failed\n")
    assert not list(store.glob("*/.icf/*.lock")) + list(store.glob("*/.icf/*.part"))

    local = tmp_path / "local"
    alone = on_cluster.run("run", "-o", str(local), "--table", str(table), *URL, "-j", "2")
    assert alone.returncode == 0, alone.stderr
    assert differing_files(store, local) == [], "the cluster's store is the one of a run on one machine"
    assert on_cluster.run("verify", "-o", str(store), "-q").returncode == 0


def test_an_unknown_partition_is_refused_with_slurms_message(on_cluster: Program, tmp_path: Path) -> None:
    table = write_inputs(tmp_path, ("only",), 1)
    command = ["run", "-o", str(tmp_path / "store"), "--table", str(table), "--slurm"]
    done = on_cluster.run(*command, "--partition", "nowhere")
    assert done.returncode == 9
    assert "invalid partition specified: nowhere" in done.stderr
    assert "Choose another --partition. Available: main, short." in done.stderr
    assert not list((tmp_path / "store").rglob("*")), "nothing is left of it"


def test_a_job_that_is_too_large_is_refused(on_cluster: Program, tmp_path: Path) -> None:
    table = write_inputs(tmp_path, ("only",), 1)
    done = on_cluster.run("run", "-o", str(tmp_path / "store"), "--table", str(table), "--slurm", "--mem", "900G")
    assert done.returncode == 9
    assert "Memory specification can not be satisfied" in done.stderr
    assert "smaller --mem" in done.stderr


def test_a_job_that_can_never_start_is_reported(slurm: Cluster, on_cluster: Program, tmp_path: Path) -> None:
    table = write_inputs(tmp_path, ("only",), 1)
    command = ["run", "-o", str(tmp_path / "store"), "--table", str(table), "--slurm", "--until", "archive"]
    (job,) = on_cluster.result(*command, "--partition", "short", "--time", "60")["jobs"]
    with subprocess.Popen(
        [sys.executable, "-m", "icf_utils.cli.main", *command, "--wait"],
        env={**os.environ, **slurm.environment},
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        try:
            assert any("is pending: Partition" in line for line in waiting.stderr or ())
            slurm.ask("scancel", job["array_job"])
            assert waiting.wait(timeout=60) == 1
        finally:
            waiting.kill()


def test_without_sbatch_the_message_says_what_to_do(tmp_path: Path) -> None:
    table = write_inputs(tmp_path, ("only",), 1)
    done = Program({"PATH": str(tmp_path)}).run("run", "-o", str(tmp_path / "store"), "--table", str(table), "--slurm")
    assert done.returncode == 7
    assert (
        "SLURM's 'sbatch' is required but was not found; run this on a host from which jobs are submitted"
        in done.stderr
    )


def test_jobs_run_in_the_container(slurm: Cluster, on_cluster: Program, tmp_path: Path) -> None:
    """With a stand-in for Apptainer, which runs the image's command with this Python and notes what it was given."""
    table = write_inputs(tmp_path, ("only",), 3)
    image, notes, programs = tmp_path / "icf.sif", tmp_path / "notes", tmp_path / "programs"
    image.touch()
    programs.mkdir()
    stand_in = programs / "apptainer"
    stand_in.write_text(_STAND_IN.format(notes=notes, python=sys.executable), encoding="utf-8")
    stand_in.chmod(0o755)
    store = tmp_path / "store"
    path = f"{programs}:{os.environ['PATH']}"
    command = ["run", "-o", str(store), "--table", str(table), "--slurm", "--wait", "--container", str(image)]
    done = on_cluster.run(*command, PATH=path, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    first = notes.read_text(encoding="utf-8").splitlines()[0]
    inputs = tmp_path / "input" / "only"
    assert first.startswith(
        f"exec --no-home --pwd / --bind {inputs}:{inputs}:ro --bind {store} --bind {tmp_path} {image} icf-utils run "
    )


_STAND_IN = """#!/bin/sh
echo "$@" >> '{notes}'
while [ "$1" != icf-utils ]; do shift; done
shift
exec '{python}' -m icf_utils.cli.main "$@"
"""
