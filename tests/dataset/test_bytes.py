"""The same bytes on every machine: pinned digests, and builds under other users, homes, time zones and locales."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import icf_utils
from icf_utils.dataset.stage import deposit_visit_dataset
from icf_utils.store.layout import Visit
from tests.dataset.conftest import require
from tests.dataset.visits import ODD_NAMES, SMALL, Member, make_visit

URL = "https://example.org/store"

#: Whoever changes one of these changes every dataset that is built from now on.
PINS = {
    "small": (
        "4e9333f88acf977f56d71f166cd85b7035f6a594263fa7583b802b098a2ffccf",
        "e735a71f954f7533f3a8959045fdfa486b2bf4067b4a9db484bf169c8e60eb50",
    ),
    "odd": (
        "fe04b09b4029c527a4e83eaf2d88fabfd0d6e76f00359e855a712525bf65b8d6",
        "829cd942351a07ffe621dc638057a913111b8c76d833f8481fb01fb3c9b56ddb",
    ),
}
VISITS = {
    "small": SMALL,
    "odd": tuple(Member(name, b"content %d" % at, {"SeriesNumber": at}) for at, name in enumerate(ODD_NAMES)),
}


def digests(place: Visit) -> tuple[str, str]:
    export, refs = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (place.export, place.refs))
    return export, refs


@pytest.mark.parametrize("name", VISITS)
def test_pinned(name: str, tmp_path: Path) -> None:
    place = make_visit(tmp_path, VISITS[name])
    deposit_visit_dataset(tmp_path, "study", "v1", store_url=URL)
    assert digests(place) == PINS[name]


#: The number of a user who owns nothing.
NOBODY = "65534"

SURROUNDINGS: list[dict[str, str]] = [
    {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "USER": "somebody", "LOGNAME": "somebody", "GIT_AUTHOR_NAME": "x"},
    {"TZ": "America/St_Johns", "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONHASHSEED": "7", "EMAIL": "x@y.z"},
    {"LANG": "de_DE.UTF-8", "PYTHONHASHSEED": "0", "GIT_COMMITTER_DATE": "2001-01-01T00:00:00Z", "umask": "077"},
]

_CODE = """
import os, sys
from pathlib import Path
import encodings.cp437  # before the change of user, who perhaps may not read this Python
from icf_utils.dataset.stage import deposit_visit_dataset
os.umask(int(os.environ.get("umask", "022"), 8))
if sys.argv[2]:
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
deposit_visit_dataset(Path(sys.argv[1]), "study", "v1", store_url="https://example.org/store")
"""


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("user", ["", NOBODY])
def test_elsewhere(surroundings: dict[str, str], user: str) -> None:
    require("git")
    if user and os.getuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as folder:  # not below pytest's, which others may not enter
        place = make_visit(Path(folder, "another store", "ünï"), VISITS["odd"])
        _give_away(Path(folder), user)
        package = str(Path(icf_utils.__file__).parents[1])
        env = {"PATH": os.environ["PATH"], "HOME": folder, "TMPDIR": folder, "PYTHONPATH": package, **surroundings}
        command = [sys.executable, "-W", "error", "-c", _CODE, str(place.root), user]
        done = subprocess.run(command, env=env, capture_output=True, check=False, cwd=folder)
        assert done.returncode == 0, done.stderr.decode()
        assert digests(place) == PINS["odd"]


def _give_away(folder: Path, user: str) -> None:
    for path in [folder, *folder.rglob("*")] if user else []:
        shutil.chown(path, int(user), int(user))
