"""``icf-utils get``: many images of a clone at a time, with git-annex's records right."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from icf_utils.store.flock import open_locked
from tests.cli.program import Ran, icf
from tests.dataset.commands import run
from tests.dataset.special_remote.conftest import CONTENTS, Cloned, Serve

SERIES_1 = [name for name in CONTENTS if "/s1/" in name]
ARCHIVE = "icf/v1_dicom.tar"


def get(cloned: Cloned, *arguments: str | Path) -> Ran:
    return icf("get", *arguments, cwd=cloned.folder, env=dict(cloned.extra))


def known_here(cloned: Cloned) -> set[str]:
    """The files of which git-annex has recorded that they are here, in its branch."""
    uuid = cloned.run("git", "config", "annex.uuid").decode().strip()
    found = cloned.run("git", "annex", "whereis", "--json", ".").splitlines()
    places = {one["file"]: {place["uuid"] for place in one["whereis"]} for one in map(json.loads, found)}
    return {name for name, uuids in places.items() if uuid in uuids}


def is_clean(cloned: Cloned) -> None:
    """Nothing is left over; git-annex is content with everything that is here."""
    assert not (cloned.folder / ".git/icf-utils").exists()
    assert not list((cloned.folder / ".git/annex/journal").glob("*"))
    assert cloned.run("git", "status", "--porcelain") == b""
    cloned.run("git", "annex", "fsck", "-q")


def test_a_series(usual: Cloned) -> None:
    ran = get(usual, "study_v1/s1")
    assert ran.code == 0, ran
    assert ran.out.startswith("got 40 images (800.8 kB)")
    assert usual.holds(SERIES_1)
    assert known_here(usual) == set(SERIES_1)
    asked = usual.requests()
    assert len(asked) <= 4
    assert sum(size for _, _, size in asked) < 1.1 * sum(len(CONTENTS[name]) for name in SERIES_1)
    is_clean(usual)


def test_what_is_here_is_not_transferred_again(usual: Cloned) -> None:
    usual.run("git", "annex", "get", *SERIES_1[:3])
    usual.requests()
    ran = get(usual, "--series", "1", "--json")
    assert ran.code == 0, ran
    result = ran.json["result"]
    assert (result["images"], result["unchanged"]) == (37, 3)
    assert usual.holds(SERIES_1)
    assert get(usual, "--series", "1").out == "got 0 images (0 B); 40 images already here\n"
    assert len(usual.requests()) <= 6


def test_the_selection(usual: Cloned) -> None:
    ran = get(usual, "study_v1", "--tag", "SeriesNumber<2", "--dry-run")
    assert ran.code == 0, ran
    assert [line.partition(",")[0] for line in ran.out.splitlines()[:2]] == [
        "study/v1: series 0: 40 images",
        "study/v1: series 1: 40 images",
    ]
    assert usual.holds([])
    ran = get(usual, "--series", "7")
    assert ran.code == 1
    assert "no image matches --series 7" in ran.out
    ran = get(usual, "--series", "1.2.3")
    assert ran.code == 2
    assert "give the SeriesNumber" in ran.err


def test_the_archive_is_got_where_it_is_named(usual: Cloned) -> None:
    ran = get(usual, ".", "--series", "0")
    assert not usual.has_archive()
    ran = get(usual, "icf")
    assert ran.code == 0, ran
    assert usual.has_archive()
    usual.requests()
    ran = get(usual)
    assert ran.code == 0, ran
    assert usual.holds(list(CONTENTS))
    assert usual.requests() == []  # taken out of the archive that is here
    is_clean(usual)


def test_unlocked_files(usual: Cloned) -> None:
    usual.run("git", "annex", "adjust", "--unlock")
    ran = get(usual, "study_v1/s2")
    assert ran.code == 0, ran
    names = [name for name in CONTENTS if "/s2/" in name]
    assert all((usual.folder / name).read_bytes() == CONTENTS[name] for name in names)
    is_clean(usual)


def test_a_bare_repository(usual: Cloned, tmp_path: Path) -> None:
    bare = tmp_path / "bare.git"
    run("git", "clone", "-q", "--bare", str(usual.folder), str(bare), cwd=tmp_path)
    run("git", "annex", "init", "-q", cwd=bare)
    run("git", "config", "annex.security.allowed-ip-addresses", "127.0.0.1", cwd=bare)
    ran = icf("get", "study_v1/s1", cwd=bare, env=dict(usual.extra))
    assert ran.code == 0, ran
    assert ran.out.startswith("got 40 images")
    run("git", "annex", "fsck", "--all", "-q", cwd=bare)
    assert len([path for path in (bare / "annex/objects").rglob("*.dcm") if path.is_file()]) == 40


def test_an_archive_with_other_bytes(usual: Cloned) -> None:
    raw = bytearray(usual.place.archive.read_bytes())
    at = raw.index(CONTENTS[SERIES_1[5]])
    raw[at + 100] ^= 1
    usual.place.archive.write_bytes(raw)
    ran = get(usual, "study_v1/s1")
    assert ran.code == 1
    assert f"'{SERIES_1[5]}': expected md5" in ran.out
    assert "got 39 images" in ran.out
    assert usual.holds([name for name in SERIES_1 if name != SERIES_1[5]])
    is_clean(usual)


def test_from_a_mounted_store(usual: Cloned, tmp_path: Path) -> None:
    ran = get(usual, "study_v1/s1", "--from", usual.place.root)
    assert ran.code == 0, ran
    assert usual.requests() == []
    assert usual.holds(SERIES_1)
    is_clean(usual)
    ran = get(usual, "study_v1/s2", "--from", tmp_path)
    assert ran.code == 1
    assert "has no file study/v1_dicom.tar" in ran.out


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Path]:
    """A folder of a file system whose files can share blocks."""
    tools = [shutil.which(name) for name in ("mkfs.xfs", "filefrag", "mount", "umount")]
    if os.geteuid() or not all(tools):
        pytest.skip("needs root, mkfs.xfs and filefrag")
    image, folder = tmp_path / "image", tmp_path / "xfs"
    image.touch()
    os.truncate(image, 320 << 20)
    folder.mkdir()
    run("mkfs.xfs", "-q", "-m", "reflink=1", str(image), cwd=tmp_path)
    if subprocess.run(["mount", "-o", "loop", str(image), str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield folder
    finally:
        run("umount", str(folder), cwd=tmp_path)


def test_the_archive_of_a_mounted_store_is_shared(usual: Cloned, sharing: Path) -> None:
    """Its blocks are those of the store's file; images lie inside of it and are copied."""
    run("cp", "-a", str(usual.place.root), str(sharing / "store"), cwd=sharing)
    run("cp", "-a", str(usual.folder), str(sharing / "clone"), cwd=sharing)
    clone = Cloned(usual.place, sharing / "clone", usual.server, usual.extra)
    ran = get(clone, "icf", "study_v1/s1", "--from", sharing / "store")
    assert (ran.code, ran.out[:14]) == (0, "got 41 images "), ran
    assert clone.has_archive()
    assert b"shared" in run("filefrag", "-v", str((clone.folder / ARCHIVE).resolve()), cwd=sharing)
    assert clone.holds(SERIES_1)
    is_clean(clone)
    run("git", "annex", "drop", "--force", ARCHIVE, cwd=clone.folder)
    archive = sharing / "store" / usual.place.storepath
    raw = bytearray(archive.read_bytes())
    raw[len(raw) // 2] ^= 1
    archive.write_bytes(raw)
    ran = get(clone, "icf", "--from", sharing / "store")
    assert (ran.code, "git-annex did not place it" in ran.err + ran.out) == (1, True), ran
    assert not clone.has_archive()


def test_a_store_on_this_machine(local: Cloned) -> None:
    ran = get(local, "study_v1/s0")
    assert ran.code == 0, ran
    is_clean(local)


def test_interrupted_and_continued(serve: Serve) -> None:
    cloned = serve(more="limit_rate 400k;")
    command = [sys.executable, "-m", "icf_utils", "get", "--connections", "1"]
    process = subprocess.Popen(command, cwd=cloned.folder, env=cloned.environment, stderr=subprocess.PIPE)
    work = cloned.folder / ".git/icf-utils"
    while not list(work.glob("MD5E-*")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert not list(work.glob("*.part"))
    before = {path.name for path in work.glob("MD5E-*")}
    ran = get(cloned, "study_v1/s0")
    assert ran.code == 0, ran
    assert before
    assert cloned.holds([name for name in CONTENTS if "/s0/" in name])
    is_clean(cloned)


def test_what_has_arrived_before_is_checked(usual: Cloned) -> None:
    work = usual.folder / ".git/icf-utils"
    work.mkdir()
    keys = [Path(os.readlink(usual.folder / name)).name for name in SERIES_1[:2]]
    (work / keys[0]).write_bytes(CONTENTS[SERIES_1[0]])
    (work / keys[1]).write_bytes(CONTENTS[SERIES_1[0]])
    (work / "MD5E-s1--0.dcm").write_bytes(b"x")
    ran = get(usual, *SERIES_1[:2])
    assert ran.code == 1
    assert "git-annex did not place it" in ran.out
    assert usual.holds(SERIES_1[:1])
    assert get(usual, *SERIES_1[:2]).code == 0
    assert usual.holds(SERIES_1[:2])
    is_clean(usual)


def test_what_cannot_be_got(usual: Cloned, tmp_path: Path) -> None:
    ran = get(usual, "nothing")
    assert ran.code == 1
    assert "no annexed file there" in ran.out
    ran = icf("get", tmp_path)
    assert ran.code == 2
    assert "found no git repository" in ran.err
    (usual.folder / "mine").write_text("x" * 9)
    usual.run("git", "annex", "add", "mine")
    assert get(usual, "mine").code == 0
    usual.run("git", "annex", "drop", "--force", "mine")
    ran = get(usual, "mine")
    assert ran.code == 1
    assert "git annex get" in ran.out


def test_two_at_a_time(usual: Cloned) -> None:
    """The work folder is one program's."""
    work = usual.folder / ".git/icf-utils"
    work.mkdir()
    lock = open_locked(work / "lock")
    assert lock
    with lock:
        ran = get(usual, "study_v1/s1")
    assert ran.code == 8
    assert "another 'icf-utils get'" in ran.err
