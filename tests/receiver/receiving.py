"""A real receiver in a process of its own, real senders, and what was received."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest

from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import Session, SessionFilter

#: Where dcmtk's programs are; pynetdicom installs others of the same names.
_DCMTK = "/usr/bin:/usr/local/bin"

#: Seconds that anything may take on a busy machine.
PATIENCE = 120.0


def dcmtk(name: str) -> str:
    """The path of a program of dcmtk."""
    found = shutil.which(name, path=_DCMTK)
    if not found:
        pytest.skip(f"dcmtk's {name} is not installed")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, f"timeout: {what}"
        time.sleep(0.05)


def reserve_above_free(folder: Path) -> int:
    """A ``reserve`` (MB) that is more than the disk has free, and less than it has."""
    disk = shutil.disk_usage(folder)
    return (disk.free + disk.total) // 2_000_000


@dataclass
class Receiver:
    """``icf-utils receive`` below a folder; ``rule`` and ``listen`` are lines of its settings."""

    folder: Path
    rule: str = 'called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 1'
    listen: str = "reserve = 0"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")

    def start(self) -> None:
        settings = self.folder / "receiver.toml"
        settings.write_text(
            f'store = "store"\nspool = "spool"\n[listen]\nport = {self.port}\n{self.listen}\n[[rule]]\n{self.rule}\n',
            encoding="utf-8",
        )
        command = [sys.executable, "-W", "error", "-m", "icf_utils.cli.main", "receive", str(settings)]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_until(self._answers, "the receiver listens")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(PATIENCE) == 143
            assert "Traceback" not in self.log

    def sessions(self, deleted: bool = False) -> list[Session]:
        """The oldest first."""
        journal = Journal(self.folder / "spool")
        try:
            return journal.sessions(SessionFilter(deleted=deleted))[::-1]
        finally:
            journal.close()

    def finished(self, count: int) -> list[Session]:
        """Wait until there are ``count`` sessions and all are finished."""
        wait_until(
            lambda: len(found := self.sessions()) >= count and all(item.is_finished for item in found),
            f"{count} finished sessions",
        )
        return self.sessions()

    def images(self, session: Session) -> dict[str, bytes]:
        """The files of a session's archive: SOPInstanceUID to bytes."""
        found: dict[str, bytes] = {}
        with tarfile.open(self.store / session.study / f"{session.visit}_dicom.tar") as archive:
            for member in archive:
                extracted = archive.extractfile(member)
                assert extracted is not None
                raw = extracted.read()
                uid = str(pydicom.dcmread(BytesIO(raw)).SOPInstanceUID)
                assert uid not in found
                found[uid] = raw
        return found


@contextmanager
def running(folder: Path, **settings: str) -> Iterator[Receiver]:
    """A receiver that listens, until the end of the block."""
    receiver = Receiver(folder, **settings)  # type: ignore[arg-type]
    receiver.start()
    try:
        yield receiver
        receiver.stop()
    finally:
        if receiver.process is not None:
            receiver.process.kill()
            receiver.process.wait()


def storescu(
    receiver: Receiver, source: Path, *options: str, called: str = "STUDYA"
) -> subprocess.CompletedProcess[str]:
    """Send a folder by dcmtk; with TCP_NODELAY, as it waits 40 ms for each image otherwise."""
    command = [dcmtk("storescu"), *options, "-aec", called, "+sd", "+r", "127.0.0.1", str(receiver.port), str(source)]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)


def store(association: Any, path: Path) -> int:
    """Send one image by pynetdicom; the status of the answer."""
    # while the association's thread is still paused for the image before, it would take the response for a request
    while association.is_established and association._is_paused:
        time.sleep(0.001)
    return int(association.send_c_store(path).Status)


def data_set(raw: bytes) -> bytes:
    """A file's data set: what follows the file meta information."""
    (length,) = (int.from_bytes(raw[140:144], "little"),)
    return raw[144 + length :]


def data_sets(paths: Sequence[Path]) -> dict[str, bytes]:
    """Files by SOPInstanceUID, without their file meta information."""
    return {str(pydicom.dcmread(path).SOPInstanceUID): data_set(path.read_bytes()) for path in paths}
