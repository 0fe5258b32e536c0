"""Copies that differ from what was written are noticed before XNAT is asked to do anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from icf_utils.errors import StorageFailure
from icf_utils.progress import Task
from icf_utils.xnat import staging
from icf_utils.xnat.prearchive import PrearchiveSession
from tests.data.make_dicom import uid, write_visit
from tests.xnat.postgres import Server
from tests.xnat.prearchiving import changes, put, tree
from tests.xnat.standin import StandIn

#: Two mebibytes: the first is in the file when the second is reported.
LONG = bytes(2 << 20)


class Meddler:
    """Changes a byte of a copy while the copy is being written.

    It stands for a disk that does not keep what it was given: the source is read rightly, all writing succeeds.
    """

    def __init__(self, root: Path, position: int) -> None:
        self._root, self._position = root, position
        self._copying = False
        self.done: list[Path] = []

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Task]:
        self._copying = label == "copying"
        yield self

    def message(self, text: str) -> None:
        """Messages are ignored."""

    def advance(self, amount: int) -> None:
        written = [path for path in self._root.glob(f"{staging.WORK_DIR}/*/S1/SCANS/*/DICOM/*") if path.is_file()]
        for path in written if self._copying and not self.done else ():
            if path.stat().st_size > self._position:
                with path.open("r+b") as file:
                    file.seek(self._position)
                    (byte,) = file.read(1)
                    file.seek(self._position)
                    file.write(bytes([byte ^ 1]))
                self.done.append(path)


@pytest.mark.parametrize("position", [200, 1 << 19])
def test_copies_are_verified(tmp_path: Path, root: Path, postgres: Server, xnat: StandIn, position: int) -> None:
    visit = tmp_path / "visit"
    write_visit(visit, {1: ("scout", 1)}, StudyInstanceUID=uid("study", "copies"), PixelData=LONG)
    meddler = Meddler(root, position)
    with pytest.raises(StorageFailure, match="read back what was written to"):
        put(visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat, progress=meddler)
    assert len(meddler.done) == 1
    assert (tree(root), postgres.rows(), changes(xnat)) == ([], [], [])
    assert put(visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat).status == "READY"
