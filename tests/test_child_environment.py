"""What the programs that icf-utils starts get of its environment."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import icf_utils
from icf_utils.child_environment import SECRETS, drop_secrets, git_environment, user_environment
from icf_utils.dataset.special_remote.configure import configure_clone
from icf_utils.dataset.stage import deposit_visit_dataset
from icf_utils.errors import ClusterRefused
from icf_utils.slurm.commands import list_queue, submit_script
from icf_utils.worker_process import WorkerProcess
from tests.data.make_dicom import write_visit
from tests.dataset.visits import make_visit

PACKAGE = Path(icf_utils.__file__).parent
_STARTS = re.compile(
    r"subprocess\.(run|Popen|call|check_call|check_output)|os\.(system|popen|exec\w+|spawn\w+|posix_spawn\w*)"
)

#: Writes what it got, by name of program and process, then is the program itself, if there is one.
_RECORDER = """#!{python}
import os, sys
with open(os.path.join({folder!r}, "{name}-" + str(os.getpid())), "w") as file:
    file.write("\\n".join(sorted(os.environ)))
if {real!r}:
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
sys.exit(1)
"""


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where the programs that are started record their variables; all secrets are set."""
    programs, folder = tmp_path / "programs", tmp_path / "recorded"
    programs.mkdir()
    folder.mkdir()
    for name in ("git", "sbatch", "squeue", "sinfo"):
        real = shutil.which(name) or "" if name == "git" else ""
        path = programs / name
        path.write_text(_RECORDER.format(python=sys.executable, folder=str(folder), name=name, real=real))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), os.environ["PATH"]]))
    for name in SECRETS:
        monkeypatch.setenv(name, "zq-secret-5150")
    monkeypatch.setenv("MY_OWN_SETTING", "1")
    return folder


def seen(folder: Path, program: str) -> list[set[str]]:
    """The variables of each process of a program."""
    return [set(path.read_text().split("\n")) for path in sorted(folder.glob(f"{program}-*"))]


def test_every_start_of_a_program_says_what_it_gets() -> None:
    found = 0
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and _STARTS.fullmatch(ast.unparse(node.func)):
                found += 1
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert "environment" in given.get("env", ""), f"{path}:{node.lineno}"
        assert "import git\n" not in text, f"{path}: GitPython hands on the whole environment"
    assert found >= 4


def test_all_secrets_of_the_environment_are_known() -> None:
    named = set()
    for path in PACKAGE.rglob("*.py"):
        named |= set(re.findall(r"\b(?:ICF|XNAT|PG)_?[A-Z_]*(?:TOKEN|PASS|PASSWORD|SECRET)\b", path.read_text()))
    assert named == SECRETS


def test_git_gets_what_it_reads(recorded: Path, tmp_path: Path) -> None:
    place = make_visit(tmp_path / "store")
    deposit_visit_dataset(place.root, "study", "v1", store_url="https://data.example.org")
    subprocess.run(["git", "init", "-q", str(tmp_path / "clone")], check=True)
    before = len(seen(recorded, "git"))
    with pytest.raises(icf_utils.IcfError, match="archivist"):
        configure_clone(tmp_path / "clone", undo=True)
    processes = seen(recorded, "git")
    assert len(processes) > before
    started_by_us = [names for names in processes if "MY_OWN_SETTING" not in names]
    assert len(started_by_us) == len(processes) - 1  # all but the one above
    for names in started_by_us:
        assert {"PATH", "HOME"} <= names
        assert not names & SECRETS


def test_workers_hand_nothing_on(recorded: Path, tmp_path: Path) -> None:
    """``run`` with two workers, each of which starts git."""
    for visit in ("v1", "v2"):
        write_visit(tmp_path / "in" / "s" / visit, {1: ("T1w", 1)}, StudyInstanceUID=f"1.2.{visit[1:]}")
    command = [sys.executable, "-m", "icf_utils.cli.main", "run", "-o", str(tmp_path / "store")]
    command += ["--pattern", str(tmp_path / "in/{study}/{visit}"), "--until", "dataset", "-j", "2"]
    command += ["--store-url", "https://data.example.org"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    processes = seen(recorded, "git")
    assert processes
    assert not set().union(*processes) & SECRETS


def test_slurm_and_its_jobs_get_no_secret(recorded: Path, tmp_path: Path) -> None:
    """sbatch hands its environment on to the job, which needs the user's own settings."""
    with pytest.raises(ClusterRefused):
        submit_script(tmp_path / "script", [])
    with pytest.raises(ClusterRefused):
        list_queue(["a"])
    (names,) = seen(recorded, "sbatch")
    assert "MY_OWN_SETTING" in names
    assert not names & SECRETS
    assert not set().union(*seen(recorded, "squeue")) & SECRETS


def report(connection: Connection) -> None:
    connection.send(sorted(SECRETS & set(os.environ)))


@pytest.mark.parametrize("secrets", [(), ("XNAT_PASS", "XNAT_TOKEN")])
def test_a_worker_has_the_secrets_of_its_work(monkeypatch: pytest.MonkeyPatch, secrets: tuple[str, ...]) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "x")
    worker = WorkerProcess(report, secrets=secrets)
    assert worker.connection.recv() == sorted(secrets)
    worker.join()
    assert set(os.environ) >= SECRETS  # those of this process stay


def test_the_two_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XNAT_PASS", "x")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    assert {"LC_TIME", "GIT_CONFIG_GLOBAL", "PATH"} <= set(git_environment())
    assert not {"XNAT_PASS", "AWS_SECRET_ACCESS_KEY"} & set(git_environment())
    assert "XNAT_PASS" not in user_environment()
    assert "AWS_SECRET_ACCESS_KEY" in user_environment()  # which git-annex may need for the user's remotes
    drop_secrets(keep=["XNAT_PASS"])
    assert os.environ["XNAT_PASS"] == "x"
