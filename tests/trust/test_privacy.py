"""No identifying value leaves the archive: each has a marker, and everything else that is made is searched for them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from icf_utils.metadata.records import UID_TAGS
from icf_utils.store.layout import Visit
from tests.cli.program import COMMANDS, icf
from tests.trust.markers import MARKERS, image, leaks, markers_in, said
from tests.trust.server import Server
from tests.verify.stores import STUDY


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("identifying") / "in"
    folder.mkdir()
    for number in range(1, 4):
        (folder / f"{number}.dcm").write_bytes(image(number))
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server, and its folder for temporary files."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("temporary")
        patch.setenv("TMPDIR", str(place))
        with Server() as running:
            yield running, place


def commands(store: Path, source: Path, folder: Path) -> list[tuple[str | Path, ...]]:
    table = folder / "visits.csv"
    table.write_text(f"study,visit,input\n{STUDY},v1,{source}\n")
    one: tuple[str | Path, ...] = ("-o", store, "--id", STUDY, "v1")
    return [
        (COMMANDS[0], *one, source),
        (COMMANDS[1], *one),
        (COMMANDS[2], *one),
        (COMMANDS[3], *one),
        ("run", "-o", store, "--table", table, "--report", folder / "report.html"),
        ("run", "-o", store, "--table", table, "-B", "-j", "1", "--report", folder / "report.json"),
        ("run", "-o", store, "--table", table, "-n", "--graph", folder / "graph.svg"),
        ("status", "-o", store),
        ("verify", "-o", store, "--id", STUDY, "v1", "--rebuild", source),
        ("verify", "-o", store, "--repair"),
    ]


def test_the_markers_are_in_the_archive(source: Path, tmp_path: Path) -> None:
    assert len(MARKERS) > 400
    said(icf(COMMANDS[0], "-o", tmp_path / "store", "--id", STUDY, "v1", source))
    data = Visit(tmp_path / "store", STUDY, "v1").archive.read_bytes()
    assert {marker for marker in MARKERS if marker in data} == MARKERS
    assert set(UID_TAGS) == {"SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"}


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_no_command_says_or_writes_one(
    source: Path, tmp_path: Path, server: tuple[Server, Path], form: tuple[str, ...]
) -> None:
    for arguments in commands(tmp_path / "store", source, tmp_path):
        ran = server[0].run(*arguments, *form)
        assert ran.code == 0, (arguments, ran)
        said(ran)
        assert leaks(tmp_path / "store") == []
    assert leaks(tmp_path) == []
    assert leaks(server[1]) == []


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_no_error_says_one(source: Path, tmp_path: Path, server: tuple[Server, Path], form: tuple[str, ...]) -> None:
    store, other = tmp_path / "store", tmp_path / "other"
    all_of_them = commands(store, source, tmp_path)
    for arguments in all_of_them[:4]:
        assert server[0].run(*arguments).code == 0
    place = Visit(store, STUDY, "v1")
    shutil.copytree(source, other)
    (other / "1.dcm").write_bytes(image(9))
    said(server[0].run(COMMANDS[0], "-o", store, "--id", STUDY, "v1", other, *form))
    (other / "2.dcm").write_bytes(image(2)[:-700])
    (other / "link").symlink_to("/etc/passwd")
    said(server[0].run(COMMANDS[0], "-o", store, "--id", STUDY, "v2", other, *form))
    (other / "link").unlink()
    said(server[0].run(COMMANDS[0], "-o", store, "--id", STUDY, "v2", other, *form))
    said(server[0].run(COMMANDS[1], "-o", store, "--id", STUDY, "v2", *form))
    tags = tmp_path / "tags"
    tags.write_text("PatientName\nPatientID\n")
    said(server[0].run(COMMANDS[1], "-o", store, "--id", STUDY, "v2", "--tags", tags, *form))
    chance = random.Random(0)
    for path in (place.archive, place.dicoms_json, place.tarball_json, place.export, place.refs, place.checksum):
        before = path.read_bytes()
        data = bytearray(before)
        data[chance.randrange(len(data))] ^= 8
        path.write_bytes(data)
        for arguments in (all_of_them[4], *all_of_them[-2:]):
            said(server[0].run(*arguments, *form))
        path.write_bytes(before)
    assert leaks(store) == []


def test_nothing_unfinished_holds_one(source: Path, tmp_path: Path, server: tuple[Server, Path]) -> None:
    """Snapshots just after a kill: the work folder and the folder for temporary files."""
    chance = random.Random(0)
    for number in range(int(os.environ.get("ICF_TRIALS", "12"))):
        store = tmp_path / "store"
        arguments = commands(store, source, tmp_path)[(4, 5, 9)[number % 3]]
        after = chance.random() * 0.5
        said(server[0].run(*arguments, after=after, number=(signal.SIGKILL, signal.SIGTERM)[number % 2]))
        assert leaks(store) == []
        assert leaks(server[1]) == []
        if number % 4 == 3:
            shutil.rmtree(store, ignore_errors=True)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("call", ["write", "fsync", "link"])
def test_no_fault_says_one(source: Path, tmp_path: Path, server: tuple[Server, Path], call: str) -> None:
    for number, arguments in enumerate(commands(tmp_path / "store", source, tmp_path)[:6]):
        inject = ("-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when={number % 3 + 1}")
        said(server[0].run(*arguments, strace=inject))
        assert leaks(tmp_path / "store") == []
        said(server[0].run(*arguments))
    assert leaks(server[1]) == []


# -- who may read and write


def modes(root: Path) -> dict[str, int]:
    return {path.relative_to(root).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}


def under(umask: int, store: Path, source: Path, folder: Path, *more: str | Path) -> None:
    before = os.umask(umask)
    try:
        with Server() as running:
            ran = running.run(*commands(store, source, folder)[4], *more)
    finally:
        os.umask(before)
    assert ran.code == 0, ran


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_modes_follow_the_umask(source: Path, tmp_path: Path, umask: int) -> None:
    store = tmp_path / "store"
    under(umask, store, source, tmp_path)
    for name, mode in modes(store).items():
        assert mode == (0o777 if (store / name).is_dir() else 0o666) & ~umask, (name, oct(mode))


def test_a_group_shared_store(source: Path, tmp_path: Path) -> None:
    """Whatever the umask, the group reads every file, changes every folder, and new folders are the group's."""
    store = tmp_path / "store"
    store.mkdir()
    (store / "icf.toml").write_text("[store]\ngroup_shared = true\n")
    os.chmod(store, 0o2770)
    if os.geteuid() == 0:
        os.chown(store, -1, 12345)
    group = store.stat().st_gid
    under(0o077, store, source, tmp_path)
    for name, mode in modes(store).items():
        if name in (".", "icf.toml"):
            continue
        path = store / name
        assert path.stat().st_gid == group, name
        if path.is_dir():
            assert mode & 0o2770 == 0o2770, (name, oct(mode))
        else:
            assert mode == 0o640, (name, oct(mode))


def test_after_a_removal_no_marker_is_left(source: Path, tmp_path: Path, server: tuple[Server, Path]) -> None:
    """Not even in what the archive had: nowhere in the store, in temporary folders or in what was said."""
    running, temporary = server
    store = tmp_path / "store"
    said_by = [running.run(*command) for command in commands(store, source, tmp_path)]
    assert any(marker in (store / STUDY / "v1_dicom.tar").read_bytes() for marker in MARKERS)
    shutil.copytree(source, tmp_path / "next")
    (tmp_path / "next" / "3.dcm").unlink()
    one = ("-o", store, "--id", STUDY, "v1")
    said_by += [
        running.run("visit", "replace", *one, tmp_path / "next", "--reason", "an image less", "--keep", "--yes"),
        running.run("visit", "history", *one),
        running.run("visit", "remove", *one, "--tombstone", "--yes"),
    ]
    assert [ended.code for ended in said_by[-3:]] == [0, 0, 0], said_by[-3:]
    for folder in (store, temporary):
        for path in sorted(folder.rglob("*")):
            content = path.read_bytes() if path.is_file() else b""
            assert not markers_in(content + os.fsencode(path)), path
    said(*said_by)
