"""Each input byte is read once, in memory that does not grow with the input; a full disk leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timezone
from pathlib import Path

import pytest

from icf_utils.archive.stage import make_studyvisit_archive
from icf_utils.archive.writer import NewArchive, Packer
from icf_utils.errors import StorageFailure
from icf_utils.progress import SILENT
from icf_utils.sources.directory import DirectorySource
from icf_utils.sources.source import FileReader, InputFile
from tests.data.make_dicom import DEFLATED, dicom_bytes, element, write_visit

MEMORY_LIMIT = 150 << 20


class CountingSource:
    """A source that records what is read of each file."""

    def __init__(self, source: DirectorySource) -> None:
        self._source = source
        self.label, self.entries, self.notices = source.label, source.entries, source.notices
        self.newest_change = source.newest_change
        self.bytes_read: dict[str, int] = {}
        self.opened: list[str] = []
        self.largest = 0

    @contextmanager
    def open(self, entry: InputFile) -> Iterator[FileReader]:
        self.opened.append(entry.name)
        with self._source.open(entry) as reader:
            yield _CountingReader(self, entry.name, reader)

    def check_unchanged(self) -> None:
        self._source.check_unchanged()


class _CountingReader:
    def __init__(self, counts: CountingSource, name: str, reader: FileReader) -> None:
        self._counts, self._name, self._reader = counts, name, reader

    def read(self, size: int) -> bytes:
        data = self._reader.read(size)
        self._counts.bytes_read[self._name] = self._counts.bytes_read.get(self._name, 0) + len(data)
        self._counts.largest = max(self._counts.largest, len(data))
        return data


def large_and_small_visit(folder: Path) -> None:
    write_visit(folder, {1: ("a", 3)}, companions={"0 first": b"x" * 5000, "z last": b"", "middle.bin": bytes(3 << 20)})
    (folder / "pixels.dcm").write_bytes(dicom_bytes(PixelData=os.urandom(5 << 20)))
    long_header = {0x00204000: element(0x00204000, "UT", b"x" * (3 << 20))}
    (folder / "header.dcm").write_bytes(dicom_bytes(raw=long_header))
    (folder / "deflated.dcm").write_bytes(dicom_bytes(transfer_syntax=DEFLATED, PixelData=os.urandom(3 << 20)))
    (folder / "bare.dcm").write_bytes(dicom_bytes(preamble=False, file_meta=False, PixelData=bytes(2 << 20)))


def test_each_byte_is_read_once(tmp_path: Path) -> None:
    large_and_small_visit(tmp_path / "in")
    source = CountingSource(DirectorySource(str(tmp_path / "in")))
    with open(tmp_path / "out.tar", "w+b") as handle:
        output = NewArchive(handle, tmp_path / "out.tar")
        with SILENT.task("", 0, "B") as task:
            Packer(source, "study_visit", timezone.utc).run(output, task)
        digests = output.finish()
    data = (tmp_path / "out.tar").read_bytes()
    assert digests == (hashlib.md5(data).hexdigest(), hashlib.sha256(data).hexdigest())
    assert source.opened == [entry.name for entry in source.entries]
    assert source.bytes_read == {entry.name: entry.size for entry in source.entries}
    assert source.largest <= 4 << 20


def test_each_byte_is_read_once_says_the_system(tmp_path: Path) -> None:
    """The same, measured by the system calls of a process."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    source = tmp_path / "in"
    large_and_small_visit(source)
    log = tmp_path / "log"
    code = "import sys; from icf_utils.archive.stage import make_studyvisit_archive as make; make(*sys.argv[1:])"
    command = ["strace", "-f", "-y", "-e", "trace=read,pread64,readv,preadv,mmap,openat", "-o", str(log)]
    command += [sys.executable, "-c", code, str(source), str(tmp_path / "store"), "study", "visit"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = {}
    opened: dict[str, int] = {}
    for line in log.read_text(errors="replace").splitlines():
        if f"<{source}/" in line and "openat(" not in line:
            assert "mmap" not in line
            found = re.search(rf"<{re.escape(str(source))}/([^>]*)>.* = (\d+)$", line)
            assert found, line
            counts[found[1]] = counts.get(found[1], 0) + int(found[2])
        elif "openat(" in line and "O_DIRECTORY" not in line and (name := re.search(rf'"{source}/([^"]+)"', line)):
            opened[name[1]] = opened.get(name[1], 0) + 1
    sizes = {str(path.relative_to(source)): path.stat().st_size for path in source.rglob("*") if path.is_file()}
    assert counts == sizes
    assert opened == dict.fromkeys(sizes, 1)


_MEASURED = """
import json, re, sys
from icf_utils.archive.stage import make_studyvisit_archive
from icf_utils.metadata.stage import deposit_visit_metadata

def peak():  # of this program: what getrusage says includes its parent's
    return 1024 * int(re.search(r"VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1])

source, store = sys.argv[1:]
made = make_studyvisit_archive(source, store, "study", "visit")
first = peak()
described = deposit_visit_metadata(store, "study", "visit")
print(json.dumps([first, peak(), made.dicom_files, described.images, made.size]))
"""


def measured(source: Path, store: Path) -> tuple[int, int, int]:
    """Archive and describe in a separate process; returns the number of images twice, and the archive's size."""
    done = subprocess.run([sys.executable, "-c", _MEASURED, str(source), str(store)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    first, peak, images, described, size = json.loads(done.stdout)
    assert first < MEMORY_LIMIT, f"archiving took {first >> 20} MiB"
    assert peak < MEMORY_LIMIT, f"describing took {peak >> 20} MiB"
    return images, described, size


def has_room(folder: Path, size: int) -> bool:
    return shutil.disk_usage(folder).free > 2 * size


def test_memory_with_a_large_file(tmp_path: Path) -> None:
    size = 600 << 20
    if not has_room(tmp_path, size):
        pytest.skip("there is not enough room on this disk")
    source = tmp_path / "in"
    source.mkdir()
    head = dicom_bytes(raw={0x7FE00010: element(0x7FE00010, "OW", b"", length=size)})
    (source / "large.dcm").write_bytes(head)
    os.truncate(source / "large.dcm", len(head) + size)
    images, described, total = measured(source, tmp_path / "store")
    assert (images, described) == (1, 1)
    assert total > size
    shutil.rmtree(tmp_path / "store")


def test_memory_with_a_large_file_in_a_packed_input(tmp_path: Path) -> None:
    """A small packed file that unpacks to a large one: memory does not grow with it."""
    size = 200 << 20
    if not has_room(tmp_path, 2 * size):
        pytest.skip("there is not enough room on this disk")
    with open(tmp_path / "zeros", "wb") as zeros:
        zeros.truncate(size)
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(tmp_path / "zeros", "zeros")
        archive.add(__file__, "a.py")
    assert (tmp_path / "packed.tar.gz").stat().st_size < size // 100
    images, described, total = measured(tmp_path / "packed.tar.gz", tmp_path / "store")
    assert (images, described) == (0, 0)
    assert total > size
    shutil.rmtree(tmp_path / "store")


def test_memory_with_20000_files(tmp_path: Path) -> None:
    source = tmp_path / "in"
    image = dicom_bytes()
    for number in range(20):
        (source / f"{number:02}").mkdir(parents=True)
        for inner in range(1000):
            with open(source / f"{number:02}" / f"{inner:04}.dcm", "wb") as handle:
                handle.write(image)
    images, described, _ = measured(source, tmp_path / "store")
    assert (images, described) == (20000, 20000)
    shutil.rmtree(source)


# -- a full disk

_LIMITED = """
import os, resource, signal, sys
from icf_utils.archive.stage import make_studyvisit_archive
from icf_utils.errors import StorageFailure
source, store, limit = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    make_studyvisit_archive(source, store, "study", "visit")
except StorageFailure as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("limit", [0, 20, 100_000, 1 << 20, 3 << 20])
def test_file_size_limit(tmp_path: Path, limit: int) -> None:
    """Writing fails as on a full disk: for the lock, in the middle, near the end."""
    source, store = tmp_path / "in", tmp_path / "store"
    write_visit(source, {1: ("a", 3)}, companions={"a companion": b"x", "pixels": bytes(3 << 20)})
    write_visit(tmp_path / "earlier", {1: ("a", 1)})
    make_studyvisit_archive(tmp_path / "earlier", store, "study", "earlier")
    before = sorted(os.listdir(store / "study"))
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(source), str(store), str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 6, done.stderr
    assert "File too large" in done.stdout
    assert str(store / "study" / ".icf") in done.stdout
    assert sorted(os.listdir(store / "study")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("kibibytes", [64, 2000])
def test_full_disk(tmp_path: Path, kibibytes: int) -> None:
    source, store = tmp_path / "in", tmp_path / "store"
    write_visit(source, {1: ("a", 3)}, companions={"a companion": b"x", "pixels": bytes(3 << 20)})
    store.mkdir()
    options = f"size={kibibytes}k"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(store)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(StorageFailure, match="No space left on device") as caught:
            make_studyvisit_archive(source, store, "study", "visit")
        assert "Nothing half-written was left behind" in str(caught.value)
        assert list(store.iterdir()) == []
        # not even room for the lock
        with pytest.raises(OSError, match="No space"):
            (store / "ballast").write_bytes(bytes(kibibytes << 11))
        with pytest.raises(StorageFailure, match="No space left on device"):
            make_studyvisit_archive(source, store, "study", "visit")
        assert [path.name for path in store.iterdir()] == ["ballast"]
    finally:
        subprocess.run(["umount", str(store)], check=True)
