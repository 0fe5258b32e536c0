"""Zip and tar inputs that are hostile, damaged or cut off: refused by name, in bounded time and memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icf_utils.errors import IcfError, InputRefused
from icf_utils.sources.open import open_source
from icf_utils.sources.source import clean_member_name, resolve_link, strip_components
from tests.data.make_dicom import dicom_bytes

IMAGE = dicom_bytes()


def contents(path: Path, strip: int = 0) -> dict[str, bytes]:
    """Read everything in an input."""
    found = {}
    with open_source(path, path.parent, strip) as source:
        for entry in source.entries:
            with source.open(entry) as reader:
                data = reader.read(1 << 20)
                while more := reader.read(1 << 20):
                    data += more
            assert len(data) == entry.size
            found[entry.name] = data
        source.check_unchanged()
    return found


def refusals(path: Path, strip: int = 0) -> dict[str, str]:
    with pytest.raises(InputRefused) as caught:
        contents(path, strip)
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    return dict(caught.value.refusals)


def tar_bytes(members: Iterable[tuple[str, bytes, str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of ``(name, type, link name, content)``."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for name, kind, link, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(content)
            archive.addfile(info, BytesIO(content))
    return buffer.getvalue()


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


REG, DIR, SYM, LNK = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
GOOD = ("good.dcm", REG, "", IMAGE)

HOSTILE_MEMBERS = {
    "parent": ("../up.dcm", REG, "", b"x"),
    "parent-inside": ("a/../../up.dcm", REG, "", b"x"),
    "parent-harmless": ("a/../b.dcm", REG, "", b"x"),
    "absolute": ("/etc/passwd", REG, "", b"x"),
    "only-dots": ("..", REG, "", b"x"),
    "no-name": ("./", REG, "", b""),
    "parent-folder": ("../up", DIR, "", b""),
    "absolute-folder": ("/up", DIR, "", b""),
    "character-device": ("device", tarfile.CHRTYPE, "", b""),
    "block-device": ("device", tarfile.BLKTYPE, "", b""),
    "pipe": ("pipe", tarfile.FIFOTYPE, "", b""),
    "link-out": ("link", SYM, "../../etc/passwd", b""),
    "link-absolute": ("link", SYM, "/etc/passwd", b""),
    "link-dangling": ("link", SYM, "nothing", b""),
    "link-to-itself": ("link", SYM, "link", b""),
    "link-to-the-root": ("link", SYM, ".", b""),
    "hard-link-out": ("link", LNK, "../etc/passwd", b""),
    "hard-link-absolute": ("link", LNK, "/etc/passwd", b""),
    "hard-link-dangling": ("link", LNK, "nothing", b""),
}


@pytest.mark.parametrize("what", HOSTILE_MEMBERS)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_hostile_tar_members(tmp_path: Path, what: str, form: int) -> None:
    member = HOSTILE_MEMBERS[what]
    found = refusals(put(tmp_path / "in.tar", tar_bytes([GOOD, member], form)))
    assert [name.rstrip("/") for name in found] == [member[0].rstrip("/")]
    assert sorted(os.listdir(tmp_path)) == ["in.tar"]


def test_all_hostile_members_are_named(tmp_path: Path) -> None:
    members = list(HOSTILE_MEMBERS.values())
    found = refusals(put(tmp_path / "in.tar", tar_bytes([GOOD, *members])))
    assert {name for name, _, _, _ in members} - {"link", "./"} <= {*found, "device", "."}


def test_loops_and_chains_of_links(tmp_path: Path) -> None:
    loop = [("one", SYM, "two", b""), ("two", SYM, "three", b""), ("three", SYM, "one", b"")]
    chain = [(f"chain{number}", SYM, f"chain{number + 1}", b"") for number in range(50)]
    assert set(refusals(put(tmp_path / "loop", tar_bytes([GOOD, *loop])))) == {"one", "two", "three"}
    last = [("chain50", SYM, "./d/../good.dcm", b"")]
    found = contents(put(tmp_path / "chain", tar_bytes([GOOD, *chain, *last])))
    assert set(found.values()) == {IMAGE}
    assert len(found) == 52


@pytest.mark.parametrize("twins", [("a", "a"), ("a", "./a"), ("d/a", "d//a"), ("a", "././/a"), ("d/./a", "d/a")])
def test_duplicate_names(tmp_path: Path, twins: tuple[str, str]) -> None:
    members = [(name, REG, "", b"x") for name in twins]
    assert refusals(put(tmp_path / "in", tar_bytes([GOOD, *members]))) == {twins[1]: "occurs in the archive twice"}
    link = [(twins[0], REG, "", b"x"), (twins[1], SYM, "good.dcm", b"")]
    assert refusals(put(tmp_path / "in", tar_bytes([GOOD, *link]))) == {twins[1]: "occurs in the archive twice"}


def test_a_name_that_is_both_file_and_folder(tmp_path: Path) -> None:
    found = refusals(put(tmp_path / "in", tar_bytes([("a", REG, "", b"x"), ("a/b", REG, "", b"x")])))
    assert found == {"a": "is both a file and a folder"}


def test_strip(tmp_path: Path) -> None:
    members = [("x/y/a", REG, "", b"1"), ("x/z/b", REG, "", b"2")]
    path = put(tmp_path / "in", tar_bytes(members))
    assert contents(path, 1) == {"y/a": b"1", "z/b": b"2"}
    assert contents(path, 2) == {"a": b"1", "b": b"2"}
    assert set(refusals(path, 3)) == {"x/y/a", "x/z/b"}
    clash = put(tmp_path / "clash", tar_bytes([("x/a", REG, "", b"1"), ("y/a", REG, "", b"2")]))
    assert refusals(clash, 1) == {"y/a": "occurs in the archive twice"}


def zip_path(path: Path, members: Iterable[tuple[str, bytes, int]], method: int = zipfile.ZIP_STORED) -> Path:
    """A zip of ``(name, content, unix mode)``."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr, info.compress_type = 3, mode << 16, method
            with_warning = name in archive.namelist()
            if with_warning:
                with pytest.warns(UserWarning, match="Duplicate name"):
                    archive.writestr(info, content)
            else:
                archive.writestr(info, content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "mode"),
    [
        *[(name, b"x", 0o100644) for name in ("../up", "/etc/passwd", "a/../../b", "..", "good.dcm")],
        *[("link", target, 0o120777) for target in (b"../up", b"/etc/passwd", b"nothing", b"x" * 5000, b"\xff")],
        *[("special", b"", mode) for mode in (0o010644, 0o020644, 0o060644, 0o140644, 0o040755)],
        ("../up/", b"", 0o040755),
    ],
)
def test_hostile_zip_members(tmp_path: Path, name: str, content: bytes, mode: int) -> None:
    path = zip_path(tmp_path / "in.zip", [("good.dcm", IMAGE, 0o100644), (name, content, mode)])
    assert set(refusals(path)) == {name}


def test_links_in_a_zip(tmp_path: Path) -> None:
    members = [("d/good.dcm", IMAGE, 0o100644), ("d/link", b"good.dcm", 0o120777), ("up", b"d/../d/link", 0o120777)]
    assert contents(zip_path(tmp_path / "in.zip", members)) == dict.fromkeys(("d/good.dcm", "d/link", "up"), IMAGE)


def test_encrypted_zip(tmp_path: Path) -> None:
    if not shutil.which("zip"):
        pytest.skip("zip is not installed")
    (tmp_path / "a.dcm").write_bytes(IMAGE)
    subprocess.run(["zip", "-q", "-P", "secret", "in.zip", "a.dcm"], cwd=tmp_path, check=True)
    assert refusals(tmp_path / "in.zip") == {"a.dcm": "is encrypted; passwords are not supported"}


def test_unknown_method_of_a_zip(tmp_path: Path) -> None:
    path = zip_path(tmp_path / "in.zip", [("a.dcm", IMAGE, 0o100644)])
    data = path.read_bytes().replace(b"PK\3\4\x14\0\0\0\0\0", b"PK\3\4\x14\0\0\0\x60\0")
    data = data.replace(b"PK\1\2\x14\3\x14\0\0\0\0\0", b"PK\1\2\x14\3\x14\0\0\0\x60\0")
    path.write_bytes(data)
    assert refusals(path) == {"a.dcm": "is compressed by a method that is not supported"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_member_with_a_wrong_checksum(tmp_path: Path, method: int) -> None:
    path = zip_path(tmp_path / "in.zip", [("a.dcm", IMAGE, 0o100644), ("b", b"y" * 50, 0o100644)], method)
    with zipfile.ZipFile(path) as archive:
        wrong = struct.pack("<L", archive.getinfo("a.dcm").CRC)
    data = path.read_bytes()
    path.write_bytes(data.replace(wrong, b"\1\2\3\4"))
    assert list(refusals(path)) == ["a.dcm"]
    assert "CRC" in refusals(path)["a.dcm"]


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    "zst-plain": zstandard.ZstdCompressor().compress,
    "tar": bytes,
}


@pytest.mark.parametrize("form", COMPRESSORS)
def test_cut_anywhere(tmp_path: Path, form: str) -> None:
    """However little of a packed file is missing, it is refused; the padding of a tar does not matter."""
    members = [("a.dcm", REG, "", os.urandom(3000)), ("b.txt", REG, "", b"text" * 500)]
    plain = tar_bytes(members)
    packed = COMPRESSORS[form](plain)
    assert len(contents(put(tmp_path / "whole", packed))) == 2
    end = len(packed) if form != "tar" else len(plain.rstrip(b"\0")) // 512 * 512 + 1024
    step = 1 if len(packed) < 1000 else 61
    for size in [*range(0, end, step), *range(end - 12, end)]:
        found = refusals(put(tmp_path / "cut", packed[:size]))
        assert len(found) == 1, size
    assert sorted(os.listdir(tmp_path)) == ["cut", "whole"]


@pytest.mark.parametrize("form", ["gz", "bz2", "xz", "zst"])
def test_damaged_stream(tmp_path: Path, form: str) -> None:
    packed = bytearray(COMPRESSORS[form](tar_bytes([("a.dcm", REG, "", os.urandom(3000))])))
    for at in range(20, len(packed), 101):
        damaged = bytes(packed[:at]) + bytes([packed[at] ^ 0x55]) + bytes(packed[at + 1 :])
        assert len(refusals(put(tmp_path / "in", damaged))) == 1


@pytest.mark.parametrize("size", [0, 22, 100, -1, -22, -40])
def test_cut_zip(tmp_path: Path, size: int) -> None:
    whole = zip_path(tmp_path / "whole.zip", [("a.dcm", IMAGE, 0o100644)]).read_bytes()
    assert len(refusals(put(tmp_path / "cut.zip", whole[:size]))) == 1


def test_kinds_are_recognised_by_content(tmp_path: Path) -> None:
    path = zip_path(tmp_path / "really-a-zip.tar.gz", [("a.dcm", IMAGE, 0o100644)])
    assert contents(path) == {"a.dcm": IMAGE}


def test_a_tar_without_members(tmp_path: Path) -> None:
    for data in (tar_bytes([]), tar_bytes([("d", DIR, "", b"")])):
        path = put(tmp_path / "in", data)
        assert refusals(path) == {str(path): "contains no files"}


def test_notices_of_packed_inputs(tmp_path: Path) -> None:
    long_name = "x" * 300
    members = [("./e/f", DIR, "", b""), ("./g", DIR, "", b""), ("./g/A", REG, "", b""), ("./g/a", REG, "", b"")]
    path = put(tmp_path / "in", tar_bytes([*members, (long_name, REG, "", b"")]))
    with open_source(path, tmp_path) as source:
        notices = [(notice.code, notice.subject) for notice in source.notices]
    assert notices == [("case-clash", "g/a"), ("long-name", long_name), ("empty-folder", "e/f")]


def test_nothing_stays_open(tmp_path: Path) -> None:
    """The packed file and its spool are closed, also after a refusal; unclosed files are errors in this test run."""
    before = len(os.listdir("/proc/self/fd"))
    packed = gzip.compress(tar_bytes([GOOD]))
    assert contents(put(tmp_path / "good", packed)) == {"good.dcm": IMAGE}
    for data in (packed[:-1], gzip.compress(tar_bytes([GOOD, HOSTILE_MEMBERS["parent"]]))):
        refusals(put(tmp_path / "bad", data))
    assert len(os.listdir("/proc/self/fd")) == before


# -- arbitrary damage: an IcfError or the right content, nothing else

_TAR = tar_bytes([("d/a.dcm", REG, "", IMAGE), ("l", SYM, "d/a.dcm", b""), ("n\u00e4me", REG, "", b"x"), GOOD])
_GNU = tar_bytes([("d" * 120, REG, "", IMAGE), ("l", LNK, "d" * 120, b"")], tarfile.GNU_FORMAT)


def _zipped() -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", IMAGE)
        archive.writestr("\u00e4", b"text" * 40)
    return buffer.getvalue()


SAMPLES = [_TAR, _GNU, _zipped(), gzip.compress(_TAR, mtime=0), COMPRESSORS["zst"](_TAR), lzma.compress(_TAR)]
change = st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sample=st.sampled_from(SAMPLES), changes=st.lists(change, min_size=1, max_size=4), cut=st.floats(0, 1) | st.none()
)
def test_any_damage(tmp_path: Path, sample: bytes, changes: list[tuple[float, bytes]], cut: float | None) -> None:
    data = bytearray(sample)
    for where, what in changes:
        at = int(where * (len(data) - 1))
        data[at : at + len(what)] = what
    if cut is not None:
        del data[int(cut * len(data)) :]
    try:
        found = contents(put(tmp_path / "in", bytes(data)))
    except IcfError as error:
        assert str(error)  # noqa: PT017 - either is right
    else:
        assert all(".." not in name.split("/") and not name.startswith("/") for name in found)


# -- the rules alone


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        *(("a", "a"), ("./a", "a"), ("a//b", "a/b"), ("a/./b/", "a/b"), ("", ""), (".", ""), ("./", "")),
        *(("..", None), ("a/..", None), ("/a", None), ("a\0b", None), ("...", "..."), ("a\\..\\b", "a\\..\\b")),
        *((" a ", " a "), ("\udcff", "\udcff")),
    ],
)
def test_clean_member_name(name: str, clean: str | None) -> None:
    assert clean_member_name(name) == clean


@pytest.mark.parametrize(
    ("name", "target", "place"),
    [
        *(("l", "a", "a"), ("d/l", "a", "d/a"), ("d/l", "../a", "a"), ("d/l", "./../d/a", "d/a"), ("l", "..", None)),
        *(("d/l", "../..", None), ("l", "/a", None), ("l", "a\0", None), ("d/l", "..", ""), ("l", "a/../../b", None)),
    ],
)
def test_resolve_link(name: str, target: str, place: str | None) -> None:
    assert resolve_link(name, target) == place


def test_strip_components() -> None:
    assert [strip_components("a/b/c", count) for count in range(4)] == ["a/b/c", "b/c", "c", ""]


def _two_images(first: str = "a", second: str = "b") -> bytes:
    return tar_bytes([(first, tarfile.REGTYPE, "", IMAGE), (second, tarfile.REGTYPE, "", IMAGE)])


def _packings(data: bytes) -> dict[str, bytes]:
    return {"tar": data, "tar.gz": gzip.compress(data), "tar.xz": lzma.compress(data)}


@pytest.mark.parametrize("packing", ["tar", "tar.gz", "tar.xz"])
@pytest.mark.parametrize("what", ["a header of zeros", "another tar", "noise"])
def test_data_after_the_end_of_a_tar_is_not_lost_silently(tmp_path: Path, what: str, packing: str) -> None:
    data = _two_images()
    second = data.index(b"b" + bytes(99))
    if what == "a header of zeros":
        data = data[:second] + bytes(512) + data[second + 512 :]
    else:
        data += _two_images("c", "d") if what == "another tar" else b"noise"
    path = put(tmp_path / f"visit.{packing}", _packings(data)[packing])
    assert "data after the end mark" in refusals(path)[str(path)]


@pytest.mark.parametrize("size", [512, 1024, 10240, 3 << 20])
def test_an_end_mark_of_any_length(tmp_path: Path, size: int) -> None:
    """Programs fill up to their record size; some write a single block."""
    path = put(tmp_path / "visit.tar", _two_images().rstrip(b"\0") + bytes(511))
    with tarfile.open(path) as archive:
        end = archive.getmembers()[-1].offset_data + (len(IMAGE) + 511) // 512 * 512
    path.write_bytes(_two_images()[:end] + bytes(size))
    assert contents(path) == {"a": IMAGE, "b": IMAGE}


def test_a_zip_before_a_zip_is_not_lost_silently(tmp_path: Path) -> None:
    first = zip_path(tmp_path / "1.zip", [("a", IMAGE, 0o644)]).read_bytes()
    second = zip_path(tmp_path / "2.zip", [("b", IMAGE, 0o644)]).read_bytes()
    path = put(tmp_path / "visit.zip", first + second)
    assert f"the first {len(first)} bytes" in refusals(path)[str(path)]
