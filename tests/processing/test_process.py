"""A program on a visit: what it gets, what is deposited of what it leaves, and when it is run again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from icf_utils.curation.remove import remove_visit
from icf_utils.outputs.deposit import check_output
from icf_utils.pipeline.model import VisitInput
from icf_utils.processing.execute import ProcessConfig, process_visit
from icf_utils.processing.run import run_processing
from icf_utils.store.layout import Visit
from tests.processing.conftest import Process, make_store, processing, shell

needs_sandbox = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


def output_of(store: Path, name: str = "test", visit: str = "v1") -> dict[str, bytes]:
    """The files of an output, by their path below OUTPUT."""
    with tarfile.open(Visit(store, "study", visit).output(name)) as tar:
        found = {}
        for member in tar:
            handle = tar.extractfile(member)
            assert handle is not None
            found[member.name.partition("/OUTPUT/")[2]] = handle.read()
    found.pop("")
    return found


def archive_md5(store: Path, visit: str = "v1") -> str:
    return hashlib.md5(Visit(store, "study", visit).archive.read_bytes(), usedforsecurity=False).hexdigest()


def log_of(store: Path, name: str = "test", visit: str = "v1") -> str:
    return (store / "study/.icf/processing" / f"{visit}.{name}.log").read_text()


@pytest.mark.parametrize("isolation", ["none", pytest.param("required", marks=needs_sandbox)])
def test_a_program_gets_its_input_by_series_and_leaves_its_output(
    store: Path, process: Process, isolation: str
) -> None:
    script = 'cd "$ICF_INPUT"; find . -type f | sort > "$ICF_OUTPUT/list"; cat "$ICF_TASK" > "$1/task"; test -w "$HOME"'
    program = processing("sh", "-c", script, "sh", "{output}", isolation=isolation, settings={"b": 1, "a": [2.5]})
    result = process(program, arguments=("one", "two words"))
    assert (result.state, result.files) == ("success", 2), result
    files = output_of(store)
    assert files["list"].decode().split() == [
        *("./0003_t1_mprage/0001.dcm", "./0003_t1_mprage/0002.dcm", "./0004_bold_rest/0001.dcm")
    ]
    task = json.loads(files["task"])
    assert (task["study"], task["visit"], task["version"]) == ("study", "v1", "1")
    assert task["arguments"] == ["one", "two words"]
    assert task["process"]["settings"] == task["settings"] == {"b": 1, "a": [2.5]}
    assert check_output(Visit(store, "study", "v1"), "test", archive_md5(store)) == []


def test_the_environment_is_clean(store: Path, process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICF_TOKEN", "zq-secret")
    monkeypatch.setenv("MY_OWN", "zq-mine")
    process(shell("env > env; pwd > pwd; printf '%s' \"$MERCURE_IN_DIR\" > in", environment={"MODE": "fast"}))
    files = output_of(store)
    assert b"zq-" not in files["env"]
    assert b"MODE=fast" in files["env"]
    assert files["in"].endswith(b"input")


def test_the_same_visit_gives_the_same_deposit_on_another_machine(tmp_path: Path) -> None:
    """Another store elsewhere, another time, umask and scratch folder."""
    program = shell("mkdir -p b/a; echo 1 > b/a/x; cp $ICF_INPUT/*/0001.dcm b; chmod 600 b/a/x; ln -s a/x b/link")
    found = []
    for name, mask in (("one", 0o022), ("two", 0o077)):
        before = os.umask(mask)
        try:
            store = make_store(tmp_path / name / "store", tmp_path / name / "input")
            assert process_visit(ProcessConfig(store, program), "study", "v1").state == "success"
        finally:
            os.umask(before)
        place = Visit(store, "study", "v1")
        found.append((place.output("test").read_bytes(), place.provenance("test").read_bytes()))
    assert found[0] == found[1]
    assert b"Secret" not in found[0][1]
    assert str(tmp_path).encode() not in found[0][1]


def test_what_is_up_to_date_is_not_run_again(store: Path, process: Process) -> None:
    assert process(shell("echo 1 > x", settings={"a": 1})).state == "success"
    assert process(shell("echo 1 > x", settings={"a": 1})).state == "up to date"
    again = process(shell("echo 1 > x", settings={"a": 2}))
    assert (again.state, again.reasons) == ("success", ("other settings",))
    again = process(shell("echo 1 > x", settings={"a": 2}, version="2"))
    assert again.reasons == ("version 2, processed by 1",)
    assert json.loads(Visit(store, "study", "v1").provenance("test").read_bytes())["version"] == "2"
    assert process(shell("echo 1 > x", settings={"a": 2}, version="2"), arguments=("x",)).reasons == (
        "other arguments",
    )
    assert process(shell("echo 1 > x", settings={"a": 2}, version="2")).state == "up to date"  # keeps the arguments
    Visit(store, "study", "v1").output("test").unlink()
    assert process(shell("echo 1 > x", settings={"a": 2}, version="2")).reasons == (
        "the output is missing or has another size",
    )


def test_one_reads_what_another_has_made(store: Path, process: Process) -> None:
    second = processing("sh", "-c", "cat $ICF_INPUT/below/x > y", name="second")
    second = type(second)(**{**vars(second), "input_from": "first"})
    missing = process(second)
    assert (missing.state, missing.code) == ("failed", "deposit-missing")
    assert "run 'icf-utils process first' first" in missing.message
    assert process(shell("mkdir below; echo 1 > below/x", name="first")).state == "success"
    assert process(second).state == "success"
    assert output_of(store, "second") == {"y": b"1\n"}
    assert process(shell("mkdir below; echo 2 > below/x", name="first", version="2")).state == "success"
    assert check_output(Visit(store, "study", "v1"), "second", archive_md5(store))
    assert process(second).reasons == ("the output of 'first' is another one",)
    assert output_of(store, "second") == {"y": b"2\n"}


def test_a_damaged_output_is_no_input(store: Path, process: Process) -> None:
    second = processing("sh", "-c", "cat $ICF_INPUT/x > y", name="second")
    second = type(second)(**{**vars(second), "input_from": "first"})
    assert process(shell("echo 12345 > x", name="first")).state == "success"
    tar = Visit(store, "study", "v1").output("first")
    tar.write_bytes(tar.read_bytes().replace(b"12345", b"12346"))
    result = process(second)
    assert (result.state, result.code) == ("failed", "deposit-damaged")
    assert "study/v1_first_output.tar" in result.message
    assert "--always-make" in result.message
    assert not Visit(store, "study", "v1").output("second").exists()
    assert process(shell("echo 12345 > x", name="first"), always=True).state == "success"
    assert not check_output(Visit(store, "study", "v1"), "first", archive_md5(store))
    assert process(second).state == "success"


@pytest.mark.parametrize("script", ["exit 3", "echo 1 > x"])
def test_nothing_is_kept_of_a_visit_that_is_removed_meanwhile(
    store: Path, process: Process, tmp_path: Path, script: str
) -> None:
    begun, removed = tmp_path / "begun", tmp_path / "removed"
    program = f"echo Zq^Secret; touch {begun}; while ! [ -e {removed} ]; do sleep 0.05; done; {script}"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(process, shell(program, keep_log="always", isolation="none"), "v1")
        while not begun.exists():
            time.sleep(0.05)
        for visit in ("v1", "v2", "v3"):
            assert not remove_visit(store, "study", visit).traces
        removed.touch()
        assert running.result().state == "failed"
    assert not list(store.rglob("*"))


def test_a_module_for_mercure_runs_unchanged(store: Path, process: Process, tmp_path: Path) -> None:
    """Written as mercure's documentation shows: settings in task.json, names by series, a notification."""
    module = tmp_path / "module.py"
    module.write_text(
        """\
import json, os
from pathlib import Path
source, target = Path(os.environ["MERCURE_IN_DIR"]), Path(os.environ["MERCURE_OUT_DIR"])
task = json.loads((source / "task.json").read_text())
settings = {"series_offset": 1000, **task["process"]["settings"]}
series = {}
for entry in os.scandir(source):
    if entry.name.endswith(".dcm") and not entry.is_dir():
        series.setdefault(entry.name.split("#", 1)[0], []).append(entry.name)
for names in series.values():
    for name in names:
        (target / name).write_bytes((source / name).read_bytes())
text = f"{len(series)} series, {settings['series_offset']}"
(target / "result.json").write_text(json.dumps({"__mercure_notification": {"text": text}}))
"""
    )
    program = processing("python3", str(module), layout="mercure", settings={"series_offset": 5}, keep_log="always")
    assert process(program).state == "success", log_of(store)
    assert len(output_of(store)) == 4
    assert all(name == "result.json" or "#" in name for name in output_of(store))
    assert "the program says: 2 series, 5" in log_of(store)


@pytest.mark.parametrize(("word", "state"), [("success", "success"), ("partial", "partial"), ("failed", "failed")])
def test_a_work_sh_of_magickbox_runs_unchanged(
    store: Path, process: Process, tmp_path: Path, word: str, state: str
) -> None:
    work = tmp_path / "work.sh"
    work.write_text(
        '#!/bin/bash\nINPUT="$1"\nOUTPUT="$2"\nls "$INPUT" > "$OUTPUT/list.txt"\n'
        f'echo \'[{{"program": "work", "success": "{word}", "message": "all of it"}}]\' > "$OUTPUT/proc.json"\n'
    )
    work.chmod(0o755)
    result = process(processing(str(work), "{input}", "{output}"))
    assert result.state == state
    assert Visit(store, "study", "v1").provenance("test").exists() is (state != "failed")
    if state == "partial":
        assert json.loads(Visit(store, "study", "v1").provenance("test").read_bytes())["state"] == "partial"


def test_a_damaged_image_is_found_before_the_program_runs(store: Path, process: Process) -> None:
    place = Visit(store, "study", "v1")
    offset = json.loads(place.dicoms_json.read_bytes())[0]["offset"]
    with place.archive.open("r+b") as handle:
        handle.seek(offset + 200)
        handle.write(b"zz")
    result = process(shell("echo 1 > x"))
    assert (result.state, result.code) == ("failed", "deposit-damaged")
    assert not place.output("test").exists()


def test_the_log_has_the_access_rights_of_the_archive(store: Path, process: Process) -> None:
    place = Visit(store, "study", "v1")
    place.archive.chmod(0o640)
    result = process(shell("echo zq-name; exit 3"))
    assert result.log
    assert stat.S_IMODE(result.log.stat().st_mode) == 0o640
    assert "zq-name" in result.log.read_text()
    assert "zq-name" not in result.message


def test_a_log_is_kept_as_the_settings_say(store: Path, process: Process) -> None:
    assert process(shell("echo 1 > x")).log is None
    assert process(shell("echo 1 > x", version="2", keep_log="always")).log
    assert process(shell("exit 1", version="3", keep_log="never")).log is None
    assert not (store / "study/.icf/processing/v1.test.log").exists()


def test_a_visit_without_metadata_says_what_to_do_first(store: Path, process: Process) -> None:
    Visit(store, "study", "v1").tarball_json.unlink()
    result = process(shell("echo 1 > x"))
    assert "run 'icf-utils run' first" in result.message


def test_a_program_that_is_not_there(process: Process) -> None:
    result = process(processing("zq-not-there"))
    assert (result.state, result.code) == ("failed", "missing-requirement")


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_more_programs_run_at_a_time_than_asked_for(store: Path, tmp_path: Path, jobs: int) -> None:
    """One visit more is worked on, but its program waits."""
    running = tmp_path / "running"
    running.mkdir()
    count = f"touch {running}/$ICF_VISIT; ls {running} | wc -l > n; sleep 0.3; rm {running}/$ICF_VISIT"
    config = ProcessConfig(store, shell(count, isolation="none"))
    result = run_processing([VisitInput("study", f"v{at}", tmp_path) for at in (1, 2, 3)], config, jobs=jobs)
    assert result.counts["success"] == 3
    assert max(int(output_of(store, visit=f"v{at}")["n"]) for at in (1, 2, 3)) == jobs
