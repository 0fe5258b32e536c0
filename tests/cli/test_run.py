"""``icf-utils run`` and ``icf-utils status`` as users meet them: outputs, exit codes, settings, signals, kills."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from icf_utils.store.layout import Study
from tests.cli.program import PROGRAM, Inside, icf, surrounding
from tests.data.make_dicom import write_visit
from tests.pipeline.conftest import content, content_in_any_order, inputs, make_one_by_one
from tests.verify.stores import are_sums

__all__ = ["inputs"]


@pytest.fixture
def table(inputs: Path) -> Path:
    return inputs / "visits.csv"


def test_a_run_a_second_one_and_status(inside: Inside, table: Path, root: Path, tmp_path: Path) -> None:
    ran = inside("run", "-o", root, "--table", table, "-j1")
    assert ran.code == 0
    assert ran.out.startswith("3 visits: 3 made, 0 up to date; 12 stages, ")
    assert "[1/3] study-a/v1: archive, metadata, dataset, catalog in" in ran.err
    make_one_by_one(table.parent, tmp_path / "other")
    assert content(root) == content(tmp_path / "other")
    assert inside("run", "-o", root, "--table", table).out == "3 visits: 0 made, 3 up to date\n"
    status = inside("status", "-o", root)
    assert status.code == 0
    assert status.out.splitlines()[0].split() == [
        "study",
        "stage",
        "done",
        "running",
        "queued",
        "failed",
        "not",
        "made",
    ]
    assert status.out.splitlines()[1].split() == ["study-a", "archive", "2", "0", "0", "0", "0"]
    counts = inside("status", "-o", root, "--json").json["result"]["studies"]
    assert counts["study-b"]["catalog"] == {"done": 1, "running": 0, "queued": 0, "failed": 0, "not_made": 0}


def test_dry_run(inside: Inside, table: Path, root: Path) -> None:
    ran = inside("run", "-o", root, "--table", table, "-n", "study-b")
    assert ran.out == (
        "study-b/v1 archive: not made yet\n"
        "study-b/v1 metadata: after archive\n"
        "study-b/v1 dataset: after metadata\n"
        "study-b/v1 catalog: after dataset\n"
        "1 visit: 1 to do (4 stages), 0 up to date\n"
    )
    assert not any(root.iterdir())
    plan = inside("run", "-o", root, "--table", table, "-n", "--json").json["result"]
    assert plan["visits"][0]["stages"][0] == {"stage": "archive", "runs": True, "reasons": ["not made yet"]}


def test_targets_and_until(inside: Inside, table: Path, root: Path) -> None:
    assert inside("run", "-o", root, "--table", table, "study-a/v2", "--until", "metadata").code == 0
    assert {name.split("_")[0] for name in content(root)} == {"study-a/v2", "study-a/visits.json"}
    assert len(content(root)) == 6
    ran = inside("run", "-o", root, "--table", table, "study-c", "study-a/v9")
    assert ran.code == 2
    assert "no visit matches 'study-a/v9', 'study-c'" in ran.err


def test_mistakes(inside: Inside, table: Path, root: Path, tmp_path: Path) -> None:
    assert "no visits found: give --table or --pattern" in inside("run", "-o", root).err
    assert inside("run", "-o", root, "--table", table, "--pattern", "x").code == 2
    assert inside("run", "-o", root, "--table", table, "--report", "report.txt").code == 2
    assert "the folder of" in inside("run", "-o", root, "--table", table, "--report", tmp_path / "no" / "r.html").err
    assert inside("run", "-o", root, "--table", table, "--until", "nothing").code == 2
    table.write_text("study,visit,input\na,v 1,x\nb/c,v,x\na,v2,none\n", encoding="utf-8")
    ran = inside("run", "-o", root, "--table", table)
    assert ran.code == 2
    assert [f"line {number}: " in ran.err for number in (2, 3, 4)] == [True] * 3
    assert not any(root.iterdir())


def test_a_failed_visit(inside: Inside, table: Path, root: Path) -> None:
    (table.parent / "study-a" / "v1" / "link").symlink_to("/nowhere")
    ran = inside("run", "-o", root, "--table", table)
    assert ran.code == 1
    assert "study-a/v1: archive failed: input" in ran.out
    assert "3 visits: 2 made, 0 up to date, 1 failed; 8 stages, " in ran.out
    quiet = inside("run", "-o", root, "--table", table, "-q")
    assert quiet.code == 1
    assert "is a broken symbolic link" in quiet.out
    report = inside("run", "-o", root, "--table", table, "--json")
    assert report.code == 1
    assert report.json["ok"] is False
    assert report.json["result"]["counts"]["failed"] == 1
    assert "study-a/v1: archive failed: input" in inside("status", "-o", root).out


def test_settings_and_environment(
    inside: Inside, table: Path, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(table.parent, root / "inbox")
    (root / "icf.toml").write_text('[run]\ntable = "inbox/visits.csv"\nuntil = "archive"\njobs = 1\n', encoding="utf-8")
    assert inside("run", "-o", root).out.startswith("3 visits: 3 made, 0 up to date; 3 stages")
    monkeypatch.setenv("ICF_RUN_UNTIL", "metadata")
    assert inside("run", "-o", root).out.startswith("3 visits: 3 made, 0 up to date; 3 stages")
    assert "to do (3 stages)" in inside("run", "-o", root, "-n", "--until", "dataset").out
    monkeypatch.setenv("ICF_RUN_UNTIL", "everything")
    assert "unknown stage 'everything'" in inside("run", "-o", root).err
    monkeypatch.setenv("ICF_RUN_UNTIL", "metadata")
    monkeypatch.setenv("ICF_RUN_JOBS", "many")
    assert "expected a number, found 'many'" in inside("run", "-o", root).err
    monkeypatch.setenv("ICF_RUN_JOBS", "1")
    monkeypatch.setenv("ICF_RUN_PATTERN", f"{tmp_path}/inputs/{{study}}/{{visit}}")
    (root / "icf.toml").write_text("[run]\njobs = -1\n", encoding="utf-8")
    monkeypatch.delenv("ICF_RUN_JOBS")
    assert "must be at least 0" in inside("run", "-o", root).err
    (root / "icf.toml").write_text("[run]\njobs = true\n", encoding="utf-8")
    assert "expected a whole number, found true" in inside("run", "-o", root).err


def test_report_and_picture(inside: Inside, table: Path, root: Path, tmp_path: Path) -> None:
    graph, report = tmp_path / "chain.svg", tmp_path / "report.html"
    assert inside("run", "-o", root, "--table", table, "-n", "--graph", graph, "--report", report).code == 0
    assert graph.read_text(encoding="utf-8").count(">to do<") == 12
    assert not report.exists()
    assert inside("run", "-o", root, "--table", table, "--graph", graph, "--report", report).code == 0
    assert graph.read_text(encoding="utf-8").count(">made<") == 12
    assert "3 visits: 3 made" in report.read_text(encoding="utf-8")
    data = tmp_path / "report.json"
    assert inside("run", "-o", root, "--table", table, "--report", data).code == 0
    assert json.loads(data.read_text(encoding="utf-8"))["counts"]["up to date"] == 3


def test_the_report_has_the_outcomes_of_processings(inside: Inside, table: Path, root: Path, tmp_path: Path) -> None:
    program = (
        "import os, sys, pathlib, json; visit = os.environ['ICF_VISIT'];"
        "out = pathlib.Path(os.environ['ICF_OUTPUT']); (out / 'result.txt').write_text(visit);"
        "(out / 'proc.json').write_text(json.dumps({'success': 'partial', 'message': 'half'})) if visit == 'v2' else 0;"
        "sys.exit(os.environ['ICF_STUDY'] == 'study-b')"
    )
    settings = (
        f'[[processing]]\nname = "count"\nversion = "1"\ncommand = {json.dumps([sys.executable, "-c", program])}\n'
    )
    (root / "icf.toml").write_text(settings, encoding="utf-8")
    page, data = tmp_path / "report.html", tmp_path / "report.json"
    assert inside("run", "-o", root, "--table", table, "--process", "count", "--report", page).code == 1
    text = page.read_text(encoding="utf-8")
    assert "3 visits: 1 failed, 2 made" in text
    first = text[text.index('<details class="card visit') :]
    assert "count: it ended with exit code 1; see" in first[: first.index("</summary>")]
    assert text.count('<th scope="row">count</th>') == 3
    assert "processing-partial" in text
    assert inside("run", "-o", root, "--table", table, "--process", "count", "--report", data).code == 1
    (done,) = json.loads(data.read_text(encoding="utf-8"))["processings"]
    assert [one["state"] for one in done["visits"]] == ["up to date", "up to date", "failed"]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Twelve visits of two studies, of a size that takes a moment."""
    lines = ["study,visit,input"]
    for number in range(12):
        study, visit = f"study-{number % 2}", f"v{number}"
        write_visit(tmp_path / "many" / visit, {1: ("t1", 8)}, StudyInstanceUID=f"1.2.{number}")
        with open(tmp_path / "many" / visit / "hole.bin", "wb") as handle:
            handle.truncate(10 << 20)
        lines.append(f"{study},{visit},{visit}")
    table = tmp_path / "many" / "visits.csv"
    table.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return table


@pytest.fixture
def whole(many: Path, tmp_path: Path) -> dict[str, bytes]:
    """What an undisturbed run makes of them."""
    assert icf("run", "-o", tmp_path / "whole", "--table", many, "-q").code == 0
    return content_in_any_order(tmp_path / "whole")


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        env=surrounding(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def archives(root: Path) -> int:
    return len(list(root.glob("*/*_dicom.tar")))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("jobs", ["1", "3"])
def test_interrupted_in_the_middle(
    number: int, code: int, jobs: str, many: Path, whole: dict[str, bytes], root: Path
) -> None:
    arguments = ("run", "-o", root, "--table", many)
    with start(*arguments, "-j", jobs) as process:
        wait_for(lambda: archives(root) >= 3)
        # as a terminal and a batch system do it: to all processes, or to the one that they know
        os.killpg(process.pid, number) if jobs == "3" else process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, (out, err)
    assert "Traceback" not in err
    assert "finished; the next run continues from there" in err
    assert archives(root) < 12
    others = set(content_in_any_order(root).items()) - set(whole.items()) - set(_shared_pages(root).items())
    assert all(are_sums(name, data, whole[name]) for name, data in others)
    assert icf(*arguments).code == 0
    assert content_in_any_order(root) == whole
    assert not list(root.rglob("*.part"))
    assert not list(root.rglob("*.lock*"))


def _shared_pages(root: Path) -> dict[str, bytes]:
    """What speaks of several visits, and so of fewer before the end."""
    return {name: data for name, data in content_in_any_order(root).items() if "/catalog/metadata/" in name}


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_killed_at_any_moment(jobs: str, many: Path, whole: dict[str, bytes], root: Path) -> None:
    """Parent and workers alike, again and again, without warning."""
    dice = random.Random(jobs)
    arguments = ("run", "-o", root, "--table", many, "-j", jobs)
    for _ in range(6):
        with start(*arguments) as process:
            before = archives(root)
            wait_for(lambda: archives(root) > min(before, 10) or process.poll() is not None)  # noqa: B023
            time.sleep(dice.random() * 0.4)
            try:
                subprocess.run(["kill", "-9", "--", f"-{process.pid}"], check=False, capture_output=True)
            finally:
                process.communicate(timeout=60)
    leftover = Study(root, "study-0").workdir / "state" / f"v0.archive.json.{socket.gethostname()}.4194305.part"
    leftover.touch()  # as a kill leaves it, of a process that cannot be
    (Study(root, "study-0").workdir / "state" / "v0.archive.json").unlink(missing_ok=True)
    ran = icf(*arguments)
    assert ran.code == 0, ran
    assert content_in_any_order(root) == whole
    assert not list(root.rglob("*.part"))
    assert icf("verify", "-o", root, "-q").code == 0


def test_only_the_parent_is_killed(many: Path, whole: dict[str, bytes], root: Path) -> None:
    """Its workers finish what they have in hand, and the next run waits for them."""
    arguments = ("run", "-o", root, "--table", many, "-j", "3")
    with start(*arguments) as process:
        wait_for(lambda: archives(root) >= 2)
        process.kill()
        assert icf(*arguments).code == 0
        process.communicate(timeout=60)
    assert content_in_any_order(root) == whole
    assert not list(Study(root, "study-0").workdir.glob("*.lock"))


def test_a_full_disk(table: Path, tmp_path: Path) -> None:
    store = tmp_path / "small"
    store.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(store)], check=False, capture_output=True
    )
    if mount.returncode:
        pytest.skip("no file system of a given size can be mounted here")
    try:
        ran = icf("run", "-o", store, "--table", table)
        assert ran.code == 1
        assert "No space left on device. Nothing half-written was left behind" in ran.out
        subprocess.run(["mount", "-o", "remount,size=20m", str(store)], check=True)
        assert icf("run", "-o", store, "--table", table).code == 0
        make_one_by_one(table.parent, tmp_path / "other")
        assert content_in_any_order(store) == content_in_any_order(tmp_path / "other")
    finally:
        subprocess.run(["umount", str(store)], check=True)
