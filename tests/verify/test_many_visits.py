"""Verifying many visits: several at a time, the longest unread first, for a limited time, with a log."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from icf_utils import remove_visit, rename_visit, verify_store
from icf_utils.errors import InvalidSetting
from icf_utils.store.layout import Visit
from icf_utils.verify.fixity import fixity_log, last_read, read_fixity, record_fixity
from icf_utils.verify.many_visits import ManyVisitsOptions, verify_many_visits
from tests.cli.program import Inside
from tests.verify.stores import STUDY, contents


@pytest.fixture
def store(model: Path, tmp_path: Path) -> Path:
    """A store with two visits; the second has the bytes of another one and so problems."""
    shutil.copytree(model / "store", tmp_path / "store")
    folder = tmp_path / "store" / STUDY
    shutil.rmtree(folder / "catalog")
    (folder / "visits.json").unlink()
    for path in [path for path in folder.iterdir() if path.name.startswith("v1_")]:
        shutil.copy(path, folder / path.name.replace("v1_", "v2_"))
    return tmp_path / "store"


def test_several_at_a_time_find_the_same(store: Path) -> None:
    expected = verify_store(store)
    assert {bool(check.findings) for check in expected.visits} == {True, False}
    for jobs in (1, 2):
        assert verify_many_visits(store, options=ManyVisitsOptions(jobs=jobs)) == expected
    with pytest.raises(InvalidSetting):
        verify_many_visits(store, options=ManyVisitsOptions(jobs=0))


def test_the_longest_unread_first(store: Path, inside: Inside) -> None:
    one, two = Visit(store, STUDY, "v1"), Visit(store, STUDY, "v2")
    assert inside("verify", "-o", store, "--for", "0", "-q").code == 0
    assert read_fixity(one) == read_fixity(two) == ()
    ran = inside("status", "-o", store, "--fixity")
    assert ran.out.split()[-7:] == [STUDY, "2", "2", "0", "2", "-", "-"]
    record_fixity(one, 5, 0)
    fixity_log(one).write_text(fixity_log(one).read_text().replace("20", "19", 1))
    record_fixity(two, 5, 0)
    with fixity_log(two).open("a") as log:
        log.write('{"time": "2')
    before = contents(store)
    assert verify_many_visits(store, options=ManyVisitsOptions(seconds=0.0)).left == 2
    assert contents(store) == before
    assert last_read(one) < last_read(two)
    ran = inside("verify", "-o", store, "--for", "1h", "--json")
    assert ran.code == 1
    assert ran.json["result"]["left"] == 0
    assert [record.problems > 0 for record in read_fixity(two)] == [False, True]
    assert fixity_log(two).read_text().count("\n") == 3
    (study,) = inside("status", "-o", store, "--fixity", "--json").json["result"]["studies"]
    assert (study["visits"], study["never"], study["problems"]) == (2, 0, 1)
    text = fixity_log(one).read_text()
    assert set(json.loads(text.splitlines()[0])) == {"time", "images", "problems"}


def test_the_log_goes_with_the_visit(store: Path) -> None:
    one = Visit(store, STUDY, "v1")
    record_fixity(one, 5, 0)
    rename_visit(store, STUDY, "v1", STUDY, "v7")
    assert not fixity_log(one).exists()
    record_fixity(Visit(store, STUDY, "v7"), 5, 0)
    assert remove_visit(store, STUDY, "v7").traces == ()
    assert not fixity_log(Visit(store, STUDY, "v7")).exists()


def test_a_process_that_is_killed(store: Path) -> None:
    """What was read before is in the log, and the visits that were not are read first the next time."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom icf_utils.verify import many_visits\n"
        "check = many_visits._check_one\n"
        "def once(place, *args):\n"
        "    if place.visit == 'v2': os.kill(os.getpid(), 9)\n"
        "    return check(place, *args)\n"
        "many_visits._check_one = once\n"
        "options = many_visits.ManyVisitsOptions(seconds=100, log=True)\n"
        f"many_visits.verify_many_visits(Path({str(store)!r}), options=options)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [len(read_fixity(Visit(store, STUDY, visit))) for visit in ("v1", "v2")] == [1, 0]
    verify_many_visits(store, options=ManyVisitsOptions(seconds=100, log=True))
    assert [len(read_fixity(Visit(store, STUDY, visit))) for visit in ("v1", "v2")] == [2, 1]
