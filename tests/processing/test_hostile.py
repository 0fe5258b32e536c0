"""Programs that misbehave: each has a named outcome, nothing is deposited, and nothing of them is left."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from icf_utils.processing import local
from icf_utils.processing.execute import ProcessConfig, process_visit
from icf_utils.processing.supervisor_pool import SupervisorPool
from icf_utils.store.layout import Visit
from tests.processing.conftest import Process, processing, shell
from tests.processing.test_process import log_of, output_of

MODES = ["none", pytest.param("required", marks=pytest.mark.skipif(not shutil.which("bwrap"), reason="no bubblewrap"))]


@pytest.fixture(params=MODES)
def isolation(request: pytest.FixtureRequest) -> str:
    """Without and with a sandbox."""
    return str(request.param)


@pytest.fixture
def marked(tmp_path: Path) -> str:
    """A word that no other process has."""
    return f"zq-{tmp_path.parent.name}-{tmp_path.name}"


def running(word: str) -> list[str]:
    """The processes with a word in their command line."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            try:
                line = Path(f"/proc/{name}/cmdline").read_text()
            except OSError:
                continue
            if word in line:
                found.append(line)
    return found


def test_a_program_that_ends_with_a_signal(process: Process, isolation: str) -> None:
    result = process(shell("kill -SEGV $$", isolation=isolation))
    assert result.state == "failed"
    assert result.code == ("signal" if isolation == "none" else "exit-code")
    assert "SIGSEGV" in result.message


def test_a_program_that_is_killed_for_memory(process: Process, isolation: str) -> None:
    words = ("python3", "-c", "x = bytearray(1 << 31); print(len(x))")
    result = process(processing(*words, memory="500M", isolation=isolation))
    assert (result.state, result.code) == ("failed", "exit-code")


def test_a_program_that_ignores_term(
    process: Process, isolation: str, marked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "GRACE", 0.3)
    started = time.monotonic()
    script = f"trap '' TERM INT; while true; do sleep 0.1; done # {marked}"
    result = process(shell(script, timeout=1, isolation=isolation))
    assert (result.state, result.code) == ("failed", "timeout")
    assert "1 second" in result.message
    assert time.monotonic() - started < 15
    assert running(marked) == []


def test_a_program_that_forks_and_stays(store: Path, process: Process, isolation: str, marked: str) -> None:
    """Another session, the parent gone, standard output closed: found nevertheless."""
    stays = f'trap "" TERM HUP; while true; do sleep 0.1; done # {marked}'
    script = f"setsid sh -c '{stays}' >/dev/null 2>&1 & echo 1 > x"
    result = process(shell(script, isolation=isolation, keep_log="always"))
    assert result.state == "success"
    assert running(marked) == []
    assert output_of(store) == {"x": b"1\n"}


def test_a_program_that_closes_its_output_and_works_on(store: Path, process: Process, isolation: str) -> None:
    assert process(shell("exec >&- 2>&-; sleep 0.5; echo 1 > x", isolation=isolation)).state == "success"


def test_a_program_that_fills_the_disk(process: Process, isolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is reached at once, as on a disk that is nearly full."""
    monkeypatch.setattr(local, "RESERVE", 1 << 60)
    result = process(shell("sleep 60; echo 1 > x", isolation=isolation))
    assert (result.state, result.code) == ("failed", "no-space")


def test_a_program_that_writes_outside(process: Process, isolation: str, tmp_path: Path) -> None:
    if isolation == "none":
        pytest.skip("only a sandbox prevents it")
    (tmp_path / "others").write_text("1")
    result = process(shell(f"echo 2 > '{tmp_path}/others'; echo 1 > x", isolation=isolation))
    assert result.state == "success"
    assert (tmp_path / "others").read_text() == "1"
    for path in ("/x", "/etc/x", "/input/x", "/data/x"):  # not into something that is thrown away either
        found = process(shell(f"mkdir -p $(dirname {path}) && echo 2 > {path} && echo 1 > x", isolation=isolation))
        assert (found.state, found.code) == ("failed", "exit-code"), path


def test_a_sandbox_has_no_network(process: Process, isolation: str) -> None:
    if isolation == "none":
        pytest.skip("only a sandbox prevents it")
    words = ("python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 1))")
    assert process(processing(*words, isolation=isolation)).code == "exit-code"
    look = ("sh", "-c", "cat /proc/net/dev > net")
    assert process(processing(*look, isolation=isolation)).state == "success"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("ln -s /etc/passwd x", "leads out of the output"),
        ("ln -s ../input x", "leads out of the output"),
        ("ln -s nowhere x", "leads nowhere"),
        ("mkdir a; ln -s a b; echo 1 > a/x", "link to a folder"),
        ("mkfifo x", "a FIFO"),
        ("python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('x')\"", "a socket"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    store: Path, process: Process, isolation: str, script: str, words: str
) -> None:
    result = process(shell(script, isolation=isolation))
    assert (result.state, result.code) == ("failed", "output-refused")
    assert words in result.message
    assert words in log_of(store)
    assert not Visit(store, "study", "v1").output("test").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_refused(process: Process) -> None:
    result = process(shell("mknod x c 1 3", isolation="none"))
    assert (result.code, "a device" in result.message) == ("output-refused", True)


def test_many_files_and_unreadable_modes(store: Path, process: Process, isolation: str) -> None:
    script = (
        "mkdir many locked; cd many; python3 -c \"for n in range(20000): open(str(n), 'w').close()\"; cd ..;"
        "echo 1 > locked/x; chmod 0 locked/x; chmod 0 locked"
    )
    assert process(shell(script, isolation=isolation)).state == "success"
    files = output_of(store)
    assert len(files) == 20001
    assert files["locked/x"] == b"1\n"


def test_odd_names(store: Path, process: Process, isolation: str) -> None:
    script = (
        "printf 1 > 'a\nb'; printf 2 > \"$(printf 'x\\377y')\"; mkdir -p './-rf/ '; printf 3 > './-rf/ /é';"
        f"printf 4 > {'x' * 255}"
    )
    assert process(shell(script, isolation=isolation)).state == "success"
    assert sorted(output_of(store).values()) == [b"1", b"2", b"3", b"4"]


def test_a_program_that_changes_its_input(process: Process) -> None:
    script = "f=$(find $ICF_INPUT -type f | head -1); chmod u+w $f; echo x >> $f; echo 1 > x"
    result = process(shell(script, isolation="none"))
    assert (result.state, result.code) == ("failed", "input-changed")


def test_a_program_that_prints_much(
    store: Path, process: Process, isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LOG_LIMIT", 1 << 16)
    program = shell("echo begin; head -c 300000000 /dev/zero | tr '\\0' a; echo; echo end; exit 3", isolation=isolation)
    result = process(program)
    assert result.log
    assert result.log.stat().st_size < 200_000
    assert "begin\n" in log_of(store)
    assert "are left out here" in log_of(store)
    assert "\nend\n" in log_of(store)


@pytest.mark.parametrize(
    ("name", "text"),
    [("proc.json", "{"), ("proc.json", "[]"), ("proc.json", '{"success": "maybe"}'), ("proc.json", "[" * 100_000)],
)
def test_wrong_json(process: Process, name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(text)
    result = process(shell(f"cp '{tmp_path}/text' {name}", isolation="none"))
    assert (result.state, result.code) == ("failed", "state-unreadable")


def test_a_program_that_leaves_nothing(process: Process, isolation: str) -> None:
    result = process(shell("true", isolation=isolation))
    assert (result.state, result.code) == ("failed", "no-output")


def test_a_program_that_is_replaced_while_it_runs(process: Process, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nsleep 1\necho 1 > x\n")
    program.chmod(0o755)
    new = tmp_path / "new"
    new.write_text("#!/bin/sh\necho 2 > x\nexit 0 # new\n")
    new.chmod(0o755)
    timer = threading.Timer(0.5, lambda: new.replace(program))
    timer.start()
    result = process(processing(str(program), isolation="none"))
    timer.join()
    assert (result.state, result.code) == ("failed", "program-changed")
    assert process(processing(str(program), isolation="none")).state == "success"


def test_an_interrupt_ends_the_program(store: Path, isolation: str, marked: str) -> None:
    supervisors = SupervisorPool()
    config = ProcessConfig(store, shell(f"echo started; sleep 60; : {marked}", isolation=isolation))
    timer = threading.Timer(1.0, supervisors.stop)
    timer.start()
    result = process_visit(config, "study", "v1", supervisors=supervisors)
    timer.join()
    assert (result.state, result.code) == ("not reached", "stopped")
    assert running(marked) == []
    assert not (store / "study/.icf/processing").exists()


def test_folders_deeper_than_a_path_can_be_long(process: Process, isolation: str) -> None:
    """The fixture 'scratch' checks that they are gone."""
    script = "import os\nfor _ in range(3000):\n    os.mkdir('ddddd')\n    os.chdir('ddddd')\n"
    script += "open('x', 'w').write('1')\nos.chmod('.', 0)\n"
    result = process(processing("python3", "-c", script, isolation=isolation))
    assert (result.state, result.code) == ("failed", "output-refused")
    assert "path is too long" in result.message


def test_deep_folders_in_its_input(process: Process) -> None:
    script = "import os\nos.chmod(os.environ['ICF_INPUT'], 0o700)\nopen('x', 'w').write('1')\n"
    script += "os.chdir(os.environ['ICF_INPUT'])\nfor _ in range(3000):\n    os.mkdir('ddddd')\n    os.chdir('ddddd')\n"
    assert process(processing("python3", "-c", script, isolation="none")).state == "success"
