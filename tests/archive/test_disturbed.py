"""Files that change while they are read: either refused, or archived in one state. Never a mixture."""

from __future__ import annotations

import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from icf_utils.archive.stage import make_studyvisit_archive
from icf_utils.errors import InputRefused
from icf_utils.sources.directory import DirectorySource
from tests.archive.reference import reference_archive
from tests.data.make_dicom import dicom_bytes, write_visit

SIZE = 3 << 20
_PIECE = 1 << 16


def grow(path: Path, _round: int) -> None:
    if path.stat().st_size < 3 * SIZE:
        with open(path, "ab") as handle:
            handle.write(bytes(4096))


def shrink(path: Path, number: int) -> None:
    os.truncate(path, SIZE // (1 + number % 3))


def rewrite(path: Path, number: int) -> None:
    with open(path, "wb", buffering=0) as handle:
        for _ in range(SIZE // _PIECE):
            handle.write(bytes([number & 255]) * _PIECE)


def overwrite(path: Path, number: int) -> None:
    """In place: the size stays the same."""
    with open(path, "r+b") as handle:
        handle.seek((number * 4096) % SIZE)
        handle.write(bytes([number & 255]) * 4096)


def replace(path: Path, number: int) -> None:
    other = path.with_name(f"{path.name}.new")
    other.write_bytes(bytes([number & 255]) * SIZE)
    other.replace(path)


@contextmanager
def disturbing(path: Path, disturb: Callable[[Path, int], None], pause: float) -> Iterator[None]:
    stop = threading.Event()

    def run() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with suppress(FileNotFoundError):
                disturb(path, number)
            time.sleep(pause)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("disturb", [grow, shrink, rewrite, overwrite, replace])
@pytest.mark.parametrize("pause", [0.0, 0.001, 0.06])
def test_disturbed(tmp_path: Path, disturb: Callable[[Path, int], None], pause: float) -> None:
    source = tmp_path / "in"
    write_visit(source, {1: ("a", 3)}, companions={"disturbed.bin": bytes(SIZE)})
    refused = 0
    with disturbing(source / "disturbed.bin", disturb, pause):
        for number in range(6):
            store = tmp_path / f"store{number}"
            try:
                result = make_studyvisit_archive(source, store, "study", "visit")
            except InputRefused as error:
                refused += 1
                names = [name for name, _ in error.refusals]
            else:
                check_one_moment(result.archive.path, disturb)
                continue
            assert all(name.startswith("disturbed.bin") for name in names)
            assert not (store / "study").exists()
    assert refused or pause == 0.06


def check_one_moment(path: Path, disturb: Callable[[Path, int], None]) -> None:
    with tarfile.open(path) as archive:
        for info in archive:
            content = archive.extractfile(info)
            assert content is not None
            data = content.read()
            if info.name.endswith("disturbed.bin") and disturb in (rewrite, replace):
                assert len(set(data)) <= 1
                assert disturb is rewrite or len(data) == SIZE


@pytest.mark.parametrize("same_size", [True, False])
def test_changed_between_looking_and_reading(tmp_path: Path, same_size: bool) -> None:
    (tmp_path / "a").write_bytes(b"one")
    source = DirectorySource(str(tmp_path))
    time.sleep(0.06)
    (tmp_path / "a").write_bytes(b"two" if same_size else b"three")
    with pytest.raises(InputRefused, match=r"'a': changed while"), source.open(source.entries[0]):
        pass


@pytest.mark.parametrize("action", ["remove", "link", "folder", "pipe"])
def test_replaced_between_looking_and_reading(tmp_path: Path, action: str) -> None:
    (tmp_path / "a").write_bytes(b"one")
    source = DirectorySource(str(tmp_path))
    (tmp_path / "a").rename(tmp_path.parent / f"{tmp_path.name}-{action}")
    if action == "link":
        (tmp_path / "a").symlink_to("/etc/hostname")
    elif action == "folder":
        (tmp_path / "a").mkdir()
    elif action == "pipe":
        os.mkfifo(tmp_path / "a")
    with pytest.raises(InputRefused, match=r"'a': .* while"), source.open(source.entries[0]):
        pass


@pytest.mark.parametrize("action", ["added", "removed", "touched"])
def test_changed_after_reading(tmp_path: Path, action: str) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"one")
    source = DirectorySource(str(tmp_path))
    source.check_unchanged()
    if action == "added":
        (tmp_path / "c").write_bytes(b"")
    elif action == "removed":
        (tmp_path / "b").unlink()
    else:
        os.utime(tmp_path / "b", (1, 1))
    name = {"added": "c"}.get(action, "b")
    with pytest.raises(InputRefused, match=f"'{name}': .* while"):
        source.check_unchanged()


def test_an_image_that_arrives_late(tmp_path: Path) -> None:
    """A file that appears while another one is read."""
    source = tmp_path / "in"
    write_visit(source, {1: ("a", 1)})

    class Late:
        """Progress that drops a file into the input."""

        @contextmanager
        def task(self, label: str, total: int, unit: str) -> Iterator[Late]:
            yield self

        def advance(self, amount: int) -> None:
            if not (source / "late.dcm").exists():
                (source / "late.dcm").write_bytes(dicom_bytes(InstanceNumber=2))

        def message(self, text: str) -> None:
            pass

    with pytest.raises(InputRefused, match=r"late\.dcm"):
        make_studyvisit_archive(source, tmp_path / "store", "study", "visit", progress=Late())
    assert not (tmp_path / "store" / "study").exists()
    result = make_studyvisit_archive(source, tmp_path / "store", "study", "visit")
    assert result.archive.path.read_bytes() == reference_archive(source, "study_visit")


@pytest.mark.parametrize("change", ["grow", "touch", "replace"])
def test_a_packed_input_that_changes(tmp_path: Path, change: str) -> None:
    write_visit(tmp_path / "in", {1: ("a", 2)})
    packed = tmp_path / "packed.tar"
    with tarfile.open(packed, "w") as archive:
        archive.add(tmp_path / "in", ".")

    class Changing:
        """Progress that changes the input."""

        @contextmanager
        def task(self, label: str, total: int, unit: str) -> Iterator[Changing]:
            yield self

        def advance(self, amount: int) -> None:
            if change == "grow":
                with open(packed, "ab") as handle:
                    handle.write(b"more")
            elif change == "touch":
                os.utime(packed, (1, 1))
            else:
                packed.with_name("other").write_bytes(packed.read_bytes())
                packed.with_name("other").replace(packed)

        def message(self, text: str) -> None:
            pass

    with pytest.raises(InputRefused, match="changed while it was read"):
        make_studyvisit_archive(packed, tmp_path / "store", "study", "visit", progress=Changing())
    assert not (tmp_path / "store" / "study").exists()
