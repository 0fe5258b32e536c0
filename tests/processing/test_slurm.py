"""Processings on a cluster: the same deposits, by array tasks of a real SLURM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icf_utils.errors import InvalidSetting
from icf_utils.processing.slurm import request_of
from icf_utils.slurm.model import JobRequest
from icf_utils.store.layout import Visit
from tests.processing.conftest import shell
from tests.slurm.conftest import Program, on_cluster, slurm

__all__ = ["on_cluster", "slurm"]

SETTINGS = """
[[processing]]
name = "count"
version = "1"
command = ["sh", "-c", "test $ICF_VISIT != v2 || exit 3; find $ICF_INPUT -type f | sort > list"]
memory = "200M"
on = "slurm"
"""


def test_visits_are_processed_by_an_array(store: Path, on_cluster: Program) -> None:
    (store / "icf.toml").write_text(SETTINGS)
    scripts = on_cluster.result("process", "count", "-o", str(store), "--dry-run")["scripts"]
    assert "--array=0-2" in scripts[0]["text"]
    done = on_cluster.run("process", "count", "-o", str(store), "--wait", "--sbatch=--comment=x")
    assert done.returncode == 1
    assert "study/v2: count failed: it ended with exit code 3" in done.stdout
    assert "3 visits: 2 done, 1 failed" in done.stdout
    status = on_cluster.result("status", "-o", str(store))["processings"]
    assert [one["state"] for one in status] == ["done", "failed", "done"]
    (store / "icf.toml").write_text(SETTINGS.replace("test $ICF_VISIT != v2 || exit 3; ", ""))
    assert on_cluster.run("process", "count", "-o", str(store), "--wait").returncode == 0
    here = on_cluster.result("process", "count", "-o", str(store), "--local", "-B")
    assert here["counts"]["success"] == 3
    assert json.loads(Visit(store, "study", "v2").provenance("count").read_bytes())["state"] == "success"
    assert on_cluster.run("verify", "-o", str(store)).returncode == 0


def test_a_job_requests_what_the_settings_say() -> None:
    processing = shell("true", memory="1G", cores=4, partition="long", on="slurm")
    request = request_of(processing, JobRequest(time="01:00:00", more=("--qos=x",)), 2)
    assert request.job.options() == ["--partition=long", "--time=01:00:00", "--mem=2304M", "--qos=x"]
    assert request.job.cpus == 8


@pytest.mark.parametrize("option", ["--array=1", "qos=x", "--qos=x y", "-p", "--output=x", "--wrap"])
def test_options_that_jobs_cannot_have(option: str) -> None:
    with pytest.raises(InvalidSetting):
        JobRequest(more=(option,))


def test_a_job_finds_a_processing_of_another_settings_file(store: Path, on_cluster: Program, tmp_path: Path) -> None:
    """As those of a receiver, whose other settings do not matter here."""
    file = tmp_path / "receiver.toml"
    file.write_text(f'store = "store"\nspool = "spool"\n[listen]\nport = 1\n{SETTINGS.replace("exit 3", "true")}')
    words = ("process", "count", "-o", str(store), "--settings", str(file), "--wait", "study/v1")
    assert on_cluster.run(*words).returncode == 0
    assert Visit(store, "study", "v1").provenance("count").exists()
