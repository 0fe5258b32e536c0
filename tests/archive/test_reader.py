"""Archives are read as ``tarfile`` reads them, completely or their headers alone; damage is named."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icf_utils.archive.reader import ArchiveMember, ArchivePass, latest_time, parse_pax_records, read_header_time
from icf_utils.archive.tar_headers import member_header
from icf_utils.errors import DepositDamaged, StorageFailure
from icf_utils.progress import SILENT
from tests.archive.tars import archive_of, record

_TIMES = st.lists(st.floats(-1e11, 3e11) | st.integers(-(10**10), 10**12), max_size=5)
_FORMATS = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])


def tar(path: Path, times: list[float], form: int = tarfile.PAX_FORMAT, name: str = "n" * 150) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for at, time in enumerate(times):
            info = tarfile.TarInfo(f"study_v1/{at}/{name}")
            info.size, info.mtime = 700 * at, time
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return path


@given(times=_TIMES, form=_FORMATS)
@settings(max_examples=60, deadline=None)
def test_as_tarfile_reads_it(times: list[float], form: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tar(tmp_path_factory.mktemp("tar") / "x.tar", times, form)
    with tarfile.open(path) as archive:
        expected = max((member.mtime for member in archive), default=0)
    assert latest_time(path, path.stat().st_size) == expected


def test_sizes_and_long_records_of_a_pax_header(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "global"}) as archive:
        info = tarfile.TarInfo("a" * 3000)
        info.mtime, info.size, info.pax_headers = 5.5, 600, {"size": "600"}
        archive.addfile(info, io.BytesIO(bytes(600)))
        archive.addfile(tarfile.TarInfo("later"))
    assert latest_time(path, path.stat().st_size) == 5.5


def _cut(raw: bytes) -> bytes:
    return raw[:700]


def _wrong_checksum(raw: bytes) -> bytes:
    return raw[:3] + b"?" + raw[4:]


def _no_number(raw: bytes) -> bytes:
    return raw.replace(b"mtime=1.5", b"mtime=nan")


def _no_record(raw: bytes) -> bytes:
    return raw.replace(b"mtime=1.5", b"mtime:1.5")


def _negative_size(raw: bytes) -> bytes:
    return raw.replace(b"mtime=1.5", b"size=-512")


def _text(raw: bytes) -> bytes:
    return b"This is not an archive at all. " * 100


def _no_end_mark(raw: bytes) -> bytes:
    return raw.rstrip(b"\0") + bytes(-len(raw.rstrip(b"\0")) % 512) + bytes(512)


def _lost_header(raw: bytes) -> bytes:
    """A header of zeros, at which readers of tars stop silently."""
    return raw[:1536] + bytes(512) + raw[2048:]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        *((_cut, "512 more bytes"), (_text, "a tar header at byte 0"), (_wrong_checksum, "a tar header at byte 0")),
        *((_no_number, "a size and a time"), (_negative_size, "a size and a time"), (_no_record, "a PAX header")),
        *((_no_end_mark, "512 more bytes"), (_lost_header, "an end mark")),
    ],
)
def test_damage_is_named(damage: Callable[[bytes], bytes], expected: str, tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", [1.5, 2.5], name="x")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DepositDamaged, match=rf"x\.tar.*expected {expected}"):
        latest_time(path, path.stat().st_size)


def test_another_size_than_the_metadata_s(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", [1.5])
    with pytest.raises(DepositDamaged, match="5 bytes as in the visit's metadata"):
        latest_time(path, 5)


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(StorageFailure):
        latest_time(tmp_path / "x.tar", 5)


@settings(max_examples=200)
@given(
    name=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300)
    | st.binary(min_size=1, max_size=120).map(lambda raw: raw.replace(b"\0", b"_").decode("utf-8", "surrogateescape")),
    size=st.integers(0, 1 << 40),
    mtime=st.floats(-1e11, 1e12, allow_nan=False),
)
def test_headers_are_read_back(name: str, size: int, mtime: float) -> None:
    path = "/".join(["root", *filter(None, name.split("/"))])
    header = member_header(path, size, mtime)
    assert len(header) % 512 == 0
    assert read_header_time(header + b"whatever follows") == mtime
    with tarfile.open(fileobj=io.BytesIO(header + bytes(1024)), encoding="utf-8", errors="surrogateescape") as archive:
        info = next(iter(archive))
    assert info.name == path
    assert (info.size, info.mtime, info.mode, info.uid, info.uname) == (size, mtime, 0o644, 0, "root")


@pytest.mark.parametrize("data", [b"", bytes(512), b"x" * 2000, member_header("a", 1, 1.5)[:512], b"\xff" * 1024])
def test_no_time_without_a_header(data: bytes) -> None:
    assert read_header_time(data) is None


def test_an_infinite_time_is_refused() -> None:
    header = member_header("a", 1, 1234567890.25)
    for text in (b"nan", b"inf"):
        assert read_header_time(header.replace(b"1234567890.25", text.ljust(13))) is None


def test_records() -> None:
    assert parse_pax_records(record("path=a=b\nc") + record("mtime=1.5")) == {"path": b"a=b\nc", "mtime": b"1.5"}
    assert parse_pax_records(b"") == {}


def test_content_in_any_portions(tmp_path: Path) -> None:
    """Content read in pieces of any size, or skipped, is that of the right member."""
    contents = {"a": os.urandom(3000), "b": b"", "c": os.urandom((2 << 20) + 7), "d": os.urandom(512)}
    data = archive_of(contents)
    path = tmp_path / "a"
    path.write_bytes(data)
    for step in (1000, 4096, (1 << 20) + 1):
        found: dict[str, bytes] = {}
        with SILENT.task("", 0, "B") as task, open(path, "rb", buffering=0) as handle:
            archive = ArchivePass(handle, path, task)
            members: list[ArchiveMember] = []
            for member in archive.members():
                members.append(member)
                if len(members) % 2 == step % 2:
                    continue  # passed over
                content = b""
                while part := archive.content(step):
                    content += part
                found[member.name.removeprefix("study_visit/")] = content
            assert archive.finish() == ((hashlib.md5(data).hexdigest(), ""), len(data))
            archive.close()
        assert found
        assert all(contents[name] == content for name, content in found.items())
        assert all(data[member.offset : member.offset + member.size] in contents.values() for member in members)
        assert [member.mtime for member in members] == [1.5] * 4
