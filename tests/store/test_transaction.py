"""Changes of several files as one: decided or not, whatever interrupts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from icf_utils.errors import DepositDamaged
from icf_utils.progress import SILENT
from icf_utils.store.layout import Study, Visit
from icf_utils.store.locks import catalog_lock, visit_lock
from icf_utils.store.transaction import Change, Step, has_decided_changes

STEPS = [Step("a", "s/a"), Step("deep/b", "s/b"), Step("gone"), Step("folder"), Step("x/y/z")]

#: Makes the change above, and dies at the COUNT-th rename or removal.
_DYING = """
import os, signal, sys
from pathlib import Path
from icf_utils.store.layout import Study
from icf_utils.store.transaction import Change, Step
left = int(sys.argv[2])
def audit(event, args):
    global left
    if event in ("os.rename", "os.remove", "shutil.rmtree", "os.rmdir"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
study = Study(Path(sys.argv[1]), "s")
change = Change(study, "v1")
(change.root / "s").mkdir()
for name in "ab":
    (change.root / "s" / name).write_text("new " + name)
sys.addaudithook(audit)
change.commit([Step("a", "s/a"), Step("deep/b", "s/b"), Step("gone"), Step("folder"), Step("x/y/z")])
change.close()
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study(tmp_path, "s")
    fill(made)
    return made


def fill(study: Study) -> None:
    for name in OLD:
        path = study.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"old {name}")


def state(study: Study) -> dict[str, str]:
    """The text of all files; folders that are empty have none."""
    found = {}
    for path in sorted(study.folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(study.folder).as_posix()] = path.read_text()
        elif path != study.workdir and not any(path.iterdir()):
            found[path.relative_to(study.folder).as_posix()] = ""
    return found


OLD = {name: f"old {name}" for name in ("a", "folder/x", "gone", "other", "x/y/z")}
NEW = {"a": "new a", "deep/b": "new b", "other": "old other"}


def prepared(study: Study) -> Change:
    change = Change(study, "v1")
    (change.root / "s").mkdir()
    for name in "ab":
        (change.root / "s" / name).write_text(f"new {name}")
    return change


def test_all_steps_are_made(study: Study) -> None:
    (study.folder / "a").chmod(0o640)
    change = prepared(study)
    change.commit(STEPS)
    change.close()
    assert state(study) == NEW
    assert (study.folder / "a").stat().st_mode & 0o777 == 0o640


def test_what_was_not_decided_is_dropped(study: Study) -> None:
    prepared(study).close()
    assert state(study) == OLD
    prepared(study)  # as a killed process leaves it
    with visit_lock(Visit(study.root, "s", "v1"), SILENT):
        assert {name for name in state(study) if "+change" in name} == set()
    assert state(study) == OLD


@pytest.mark.parametrize("count", range(15))
@pytest.mark.parametrize("lock", ["catalog", "visit", "other visit"])
def test_whoever_comes_next_finishes(study: Study, count: int, lock: str) -> None:
    ended = subprocess.run([sys.executable, "-c", _DYING, str(study.root), str(count)], check=False)
    assert ended.returncode in (0, -signal.SIGKILL)
    decided = has_decided_changes(study)
    name = "v2" if lock == "other visit" else "v1"
    with catalog_lock(study, SILENT) if lock == "catalog" else visit_lock(Visit(study.root, "s", name), SILENT):
        found = {path: text for path, text in state(study).items() if not path.startswith(".icf")}
    assert found == (NEW if decided or found == NEW else OLD)
    assert not has_decided_changes(study)


def test_a_killed_process_may_leave_each_state(study: Study) -> None:
    seen = set()
    for count in range(15):
        with_folder = Study(study.root / str(count), "s")
        fill(with_folder)
        subprocess.run([sys.executable, "-c", _DYING, str(with_folder.root), str(count)], check=False)
        seen.add(has_decided_changes(with_folder))
    assert seen == {True, False}


def test_a_lost_file_is_reported(study: Study) -> None:
    change = prepared(study)
    os.unlink(change.root / "s" / "b")
    (change.root.parent / "journal.json").write_text('{"format": 1, "steps": [{"target": "deep/b", "new": "s/b"}]}')
    with pytest.raises(DepositDamaged, match="interrupted change"), catalog_lock(study, SILENT):
        pass


#: Makes the change in one store after the other, with one or two interrupts at the COUNT-th rename, removal or sync.
_INTERRUPTED = """
import sys
from pathlib import Path
from icf_utils.interrupts import noted_leftovers
from icf_utils.store.layout import Study
from icf_utils.store.transaction import Change, Step
left, more = 1 << 30, 0
def audit(event, args):
    global left, more
    if event in ("os.rename", "os.remove", "shutil.rmtree", "os.rmdir", "os.listdir", "open"):
        left -= 1
        if left < 0:
            left, more = (0 if more else 1 << 30), 0
            raise KeyboardInterrupt
sys.addaudithook(audit)
for number, root in enumerate(sys.argv[2:]):
    try:
        with Change(Study(Path(root), "s"), "v1") as change:
            (change.root / "s").mkdir()
            for name in "ab":
                (change.root / "s" / name).write_text("new " + name)
            left, more = number, int(sys.argv[1])
            change.commit([Step("a", "s/a"), Step("deep/b", "s/b"), Step("gone"), Step("folder"), Step("x/y/z")])
        print("done")
    except KeyboardInterrupt as error:
        left = 1 << 30
        print(noted_leftovers(error) or "nothing")
    left = 1 << 30
"""


@pytest.mark.parametrize("second", [0, 1])
def test_an_interrupt_says_what_became_of_the_change(tmp_path: Path, second: int) -> None:
    studies = [Study(tmp_path / str(number), "s") for number in range(60)]
    for study in studies:
        fill(study)
    command = [sys.executable, "-c", _INTERRUPTED, str(second), *(os.fspath(study.root) for study in studies)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    seen = set()
    for study, text in zip(studies, said, strict=True):
        found = {path: data for path, data in state(study).items() if not path.startswith(".icf")}
        what = text.partition(";")[0]
        if what == "nothing":
            assert (found, has_decided_changes(study)) == (OLD, False)
        elif what == "the change is decided but not finished":
            assert has_decided_changes(study)
        else:
            assert what in ("the change had been made and is complete", "done")
            assert (found, has_decided_changes(study)) == (NEW, False)
        seen.add(what)
    assert seen >= {"nothing", "the change had been made and is complete", "done"}
    assert ("the change is decided but not finished" in seen) == bool(second)
