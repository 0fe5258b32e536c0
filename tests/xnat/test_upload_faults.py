"""Uploads with faults of network and server: each session arrives in XNAT exactly once.

``ICF_TRIALS=1000 pytest tests/xnat/test_upload_faults.py`` uploads a thousand sessions instead of sixty.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from icf_utils.xnat.upload import upload
from icf_utils.xnat.upload_inputs import list_tree_uploads
from tests.cli.program import PROGRAM, surrounding
from tests.xnat.standin import PASSWORD, USER, Fault, StandIn, standin
from tests.xnat.standin_state import Seen
from tests.xnat.uploads import LOGIN, send_one, target, write_session

TRIALS = int(os.environ.get("ICF_TRIALS", "60"))

OF_IMPORTS = (
    *("401", "409", "423", "500", "reset", "500-after", "409-after", "reset-after", "cut", "slow", "late"),
    *("503", "502-after"),
)
OF_QUESTIONS = ("401", "500", "503", "reset", "reset-after")


class Weather:
    """Faults at random, at most ``in_a_row`` for one session."""

    def __init__(self, seed: int, rate: float, in_a_row: int = 4) -> None:
        self._random, self._rate, self._most = random.Random(seed), rate, in_a_row
        self._rows: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._decks: dict[bool, list[Fault]] = {True: [], False: []}
        self.seen: Counter[Fault] = Counter()

    def __call__(self, seen: Seen) -> Fault | None:
        if seen.path == "/data/JSESSION":  # a refused login is not repeated, and must not be
            return None
        is_import = seen.path == "/data/services/import"
        key = seen.query.get("EXPT_LABEL", seen.path)
        with self._lock:
            rate = self._rate if is_import else self._rate / 2
            if self._random.random() > rate or self._rows[key] >= self._most:
                self._rows[key] = 0
                return None
            self._rows[key] += 1
            fault = self._draw(is_import)
            self.seen[fault] += 1
            return fault

    def _draw(self, is_import: bool) -> Fault:
        """Each fault once, in random order, then all of them again."""
        if not self._decks[is_import]:
            cards = OF_IMPORTS if is_import else OF_QUESTIONS
            self._decks[is_import] = self._random.sample(cards, len(cards))
        return self._decks[is_import].pop()


@pytest.fixture
def server() -> Iterator[StandIn]:
    with standin() as running:
        running.slow = 0.5
        yield running
        running.check()


def images_of(number: int) -> int:
    return 2 + number % 3


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many") / "tree"
    for number in range(TRIALS):
        write_session(root / f"s{number:04}" / "mr", {"01": images_of(number)})
    return root


@pytest.mark.parametrize("dest", ["prearchive", "archive"])
def test_each_session_arrives_exactly_once(server: StandIn, tree: Path, tmp_path: Path, dest: str) -> None:
    weather = server.fault = Weather(seed=len(dest), rate=0.4)
    uploads = list_tree_uploads(tree, state=tmp_path).uploads
    place = target(server, dest=dest, timeout=0.4, wait=20.0, retries=12, pause=0.01)
    result = upload(uploads, place, LOGIN, jobs=8)
    assert [item.problem for item in result.failed] == []
    assert Counter(item.subject for item in server.sessions) == Counter({f"s{at:04}": 1 for at in range(TRIALS)})
    for session in server.sessions:
        assert len(session.files) == images_of(int(session.subject[1:])), session
        assert (session.project, session.imports) == ("PILOT", 1), session
        assert session.archived == (dest == "archive")
    assert all(item.held == item.sent for item in result.sessions)
    assert set(weather.seen) == {*OF_IMPORTS, *OF_QUESTIONS}, weather.seen  # each of them occurred


@pytest.mark.parametrize("dest", ["prearchive", "archive"])
@pytest.mark.parametrize("fault", OF_IMPORTS)
def test_each_fault_alone(server: StandIn, tree: Path, tmp_path: Path, fault: Fault, dest: str) -> None:
    """The first import meets it. A second one, if necessary, must not duplicate what has arrived."""
    server.fault = lambda seen: fault if seen.path == "/data/services/import" and len(server.imports()) == 1 else None
    write_session(tmp_path / "tree" / "s" / "mr", {"01": 3})
    outcome = send_one(server, tmp_path / "tree", timeout=0.4, dest=dest)
    (session,) = server.sessions
    assert (outcome.state, outcome.held, session.imports) == ("uploaded", 3, 1 if fault != "cut" else session.imports)
    assert len(session.files) == 3
    done_at_once = fault == "late" or fault.endswith("-after")
    assert len(server.imports()) <= (1 if done_at_once else 2) + (fault in ("401", "slow"))


def test_an_interrupted_session_is_completed_where_the_project_archives_by_itself(
    server: StandIn, tmp_path: Path
) -> None:
    """The commit then answers 301 instead of 200: that is a success, too."""
    server.fault = lambda seen: "reset-after" if seen.path == "/data/services/import" else None
    server.auto_archive = True
    write_session(tmp_path / "tree" / "s" / "mr", {"01": 3})

    def interrupted(uris: list[str]) -> list[str]:
        server.sessions[0].status = "RECEIVING_INTERRUPT"
        server.sessions[0].archived = False
        return uris

    server.answer = interrupted
    outcome = send_one(server, tmp_path / "tree", dest="archive")
    (commit,) = [seen for seen in server.requests if seen.query.get("action") == "commit"]
    assert commit.method == "POST"
    assert (outcome.state, outcome.held, len(server.imports())) == ("uploaded", 3, 1)


def test_too_many_faults(server: StandIn, tmp_path: Path) -> None:
    """The outcome says what XNAT has; the next run uploads the session."""
    write_session(tmp_path / "tree" / "s" / "mr", {"01": 3})
    server.fault = lambda seen: "500" if seen.method == "POST" else None
    outcome = send_one(server, tmp_path / "tree", retries=2)
    assert (outcome.state, outcome.tries) == ("failed", 3)
    assert "it has no part of this session" in outcome.problem
    server.fault = lambda _: None
    assert send_one(server, tmp_path / "tree").state == "uploaded"


def environment() -> dict[str, str]:
    return surrounding(XNAT_PASS=PASSWORD, XNAT_USER=USER)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_continues_after_it_was_ended(server: StandIn, tmp_path: Path, end: signal.Signals) -> None:
    """Ended while sessions are being sent; the second run sends those that XNAT does not have, and no others."""
    for number in range(12):
        write_session(tmp_path / "tree" / f"s{number}" / "mr", {"01": 2})
    server.fault = lambda seen: "slow" if seen.path == "/data/services/import" else None
    command = [*PROGRAM, "xnat", "upload", str(tmp_path / "tree"), "--url", server.url, "--project", "PILOT"]
    command += ["--jobs", "3", "--state", str(tmp_path / "state"), "--wait", "10", "--pause", "0.05", "--json"]
    first = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while len(server.imports()) < 5:
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(end)
    _, said = first.communicate(timeout=30)
    assert first.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[end]
    if end != signal.SIGKILL:
        assert b"run the same command again: it first looks in XNAT for what was being sent" in said
    time.sleep(2 * server.slow)  # the server finishes the imports that it has begun
    second = subprocess.run(command, env=environment(), capture_output=True, check=False, timeout=100)
    assert second.returncode == 0, second.stderr.decode()
    states = {item["state"] for item in json.loads(second.stdout)["result"]["sessions"]}
    assert states <= {"uploaded", "before"}
    assert Counter((item.subject, item.imports) for item in server.sessions) == Counter(
        {(f"s{number}", 1): 1 for number in range(12)}
    )


_MEASURED = """
import re, sys
from icf_utils.cli.main import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
sys.exit(code)
"""


@pytest.mark.parametrize("kind", ["tree", "zip"])
def test_memory_is_constant(server: StandIn, tmp_path: Path, kind: str) -> None:
    """Twelve times the bytes take no more memory."""
    peaks = []
    for size in (4, 48):
        folder = write_session(tmp_path / f"{size}" / "s" / f"mr{size}", {"01": 1}, PixelData=bytes(size << 20))
        source: Path = tmp_path / f"{size}"
        if kind == "zip":
            source = tmp_path / f"{size}.zip"
            with zipfile.ZipFile(source, "w") as packed:
                packed.write(folder / "01" / "1.dcm", "1.dcm")
        command = [sys.executable, "-c", _MEASURED, "xnat", "upload", str(source), "--url", server.url]
        command += ["--project", "PILOT", "--state", str(tmp_path), "-q", "--subject", "s", "--session", f"mr{size}"]
        done = subprocess.run(command, env=environment(), capture_output=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr.decode()
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 8, peaks
