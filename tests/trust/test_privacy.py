"""No identifying value leaves the archive: each has a marker, and everything else that is made is searched for them.

Identifying is what DICOM PS3.15 Table E.1-1 lists, person names and private elements. By design the six standard tags
and the study's time are recorded, and the three UIDs of an image stand in the metadata's JSON, and there alone.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from icf_utils.dataset.export import read_export
from icf_utils.dicom.confidential import profile
from icf_utils.dicom.values import dictionary_vr
from icf_utils.metadata.records import STANDARD_TAGS, UID_TAGS
from icf_utils.store import Visit
from tests.cli.program import COMMANDS, Ran, icf
from tests.data.make_dicom import dicom_bytes, element
from tests.trust.server import Ended, Server
from tests.verify.stores import STUDY

#: Recorded by design: the standard tags, and the time that the archive and the dataset have.
BY_DESIGN = {*STANDARD_TAGS, "StudyDate", "StudyTime"}
EXPLICIT = "1.2.840.10008.1.2.1"


def marker_of(tag: int, vr: str) -> bytes:
    if vr == "UI":
        return f"1.9999.{tag}".encode("ascii")
    return f"ZQ{tag:08X}".encode("ascii")


def _elements() -> dict[int, tuple[bytes, bytes]]:
    """Every element of the table that a data set can have, and a private one: its bytes and its marker."""
    found = {}
    for entry in profile():
        tag, vr = entry.number, dictionary_vr(entry.number)
        if vr is None or tag >> 16 < 8 or entry.keyword in BY_DESIGN:
            continue
        marker = marker_of(tag, vr)
        content = marker + (b"\0" if vr in ("UI", "OB", "UN") else b" ") * (len(marker) % 2)
        if vr == "SQ":
            inner = element(0x00100010, "PN", content, transfer_syntax=EXPLICIT)
            content = b"\xfe\xff\x00\xe0" + len(inner).to_bytes(4, "little") + inner
        found[tag] = (element(tag, vr, content, transfer_syntax=EXPLICIT), marker)
    for tag, vr in ((0x00090010, "LO"), (0x00091001, "LT")):
        marker = marker_of(tag, vr)
        found[tag] = (element(tag, vr, marker, transfer_syntax=EXPLICIT), marker)
    return found


ELEMENTS = _elements()
MARKERS = {marker for _, marker in ELEMENTS.values()}


def _image(number: int) -> bytes:
    """An image with the head of an ordinary one and all these elements, in the order of their tags."""
    plain = {
        0x00080020: element(0x00080020, "DA", b"20200229", transfer_syntax=EXPLICIT),
        0x00080030: element(0x00080030, "TM", b"101112", transfer_syntax=EXPLICIT),
        0x00080060: element(0x00080060, "CS", b"MR", transfer_syntax=EXPLICIT),
        0x00080016: element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.4\0", transfer_syntax=EXPLICIT),
        0x0008103E: element(0x0008103E, "LO", b"series %d" % number, transfer_syntax=EXPLICIT),
        0x00200011: element(0x00200011, "IS", b"%d " % number, transfer_syntax=EXPLICIT),
    }
    every = {**{tag: data for tag, (data, _) in ELEMENTS.items()}, **plain}
    whole = dicom_bytes(transfer_syntax=EXPLICIT)
    meta = whole[: 132 + 12 + int.from_bytes(whole[140:144], "little")]
    return meta + b"".join(every[tag] for tag in sorted(every))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("identifying") / "in"
    folder.mkdir()
    for number in range(1, 4):
        (folder / f"{number}.dcm").write_bytes(_image(number))
    return folder


def markers_in(data: bytes, allowed: Sequence[bytes] = ()) -> set[bytes]:
    """Markers in the bytes; one pattern is looked for first, as there are hundreds."""
    if b"ZQ" not in data and b"1.9999." not in data:
        return set()
    return {marker for marker in MARKERS if marker in data} - set(allowed)


def leaks(folder: Path) -> list[tuple[str, set[bytes]]]:
    """Files with markers, but for archives, finished or not."""
    uids = [marker for tag, (_, marker) in ELEMENTS.items() if marker.startswith(b"1.9999.") and tag in _UIDS]
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.endswith(("_dicom.tar", "_dicom.tar.part")):
            continue
        data = path.read_bytes()
        if path.name.endswith("_XDLRA--repo-export"):
            with suppress(ValueError):  # a damaged one; its objects are stored uncompressed all the same
                data += b"".join(item.data for item in read_export(data)[0].values())
        marked = markers_in(data, uids if "_metadata_dicoms.json" in path.name else ())
        if marked or markers_in(os.fsencode(path.name)):
            found.append((str(path), marked))
    return found


_UIDS = {0x00080018, 0x0020000D, 0x0020000E}


def said(*ran: Ran | Ended) -> None:
    for one in ran:
        assert not markers_in((one.out + one.err).encode("utf-8")), one


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
    (other / "1.dcm").write_bytes(_image(9))
    said(server[0].run(COMMANDS[0], "-o", store, "--id", STUDY, "v1", other, *form))
    (other / "2.dcm").write_bytes(_image(2)[:-700])
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
