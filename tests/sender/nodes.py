"""DICOM nodes on the loopback interface: dcmtk, Orthanc, and scripted ones that use pynetdicom."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

HOST = "127.0.0.1"

#: Where dcmtk's programs are; pynetdicom installs others of the same names next to Python.
_PLACES = [
    place for place in (*os.environ["PATH"].split(os.pathsep), "/usr/sbin") if place != str(Path(sys.executable).parent)
]


def program(name: str) -> str:
    """The path of a program that is not Python's; skips the test where there is none."""
    found = shutil.which(name, path=os.pathsep.join(_PLACES))
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(400):
        assert process.poll() is None, "the server has ended"
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("nothing answers")


@contextmanager
def storescp(folder: Path, *options: str) -> Iterator[int]:
    """dcmtk's receiver, which takes every transfer syntax that it knows and writes into ``folder``; gives its port."""
    port, command = free_port(), program("storescp")
    folder.mkdir(exist_ok=True)
    server = subprocess.Popen(
        [command, *(options or ("+xa",)), "-od", folder, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port, server)
        yield port
    finally:
        server.terminate()
        server.wait(timeout=20)


class Orthanc:
    """A running Orthanc: its DICOM port, and what it holds."""

    def __init__(self, port: int, http: int) -> None:
        self.port, self._http = port, http

    def get(self, address: str) -> Any:
        with urlopen(f"http://{HOST}:{self._http}{address}", timeout=20) as answer:
            raw = answer.read()
        return json.loads(raw) if raw[:1] in (b"{", b"[") else raw


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    command, port, http = program("Orthanc"), free_port(), free_port()
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [],
        "DicomPort": port,
        "DicomAet": "ORTHANC",
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": True,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    server = subprocess.Popen([command, folder / "orthanc.json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(http, server)
        wait_for(port, server)
        yield Orthanc(port, http)
    finally:
        server.terminate()
        server.wait(timeout=30)


class Scripted:
    """What a scripted receiver got: data sets as they were encoded, by SOPInstanceUID, and its associations."""

    def __init__(self) -> None:
        self.port = 0
        self.received: dict[str, list[bytes]] = {}
        self.syntaxes: dict[str, str] = {}
        self.associations: list[int] = []
        self.statuses: list[int] = []

    @property
    def count(self) -> int:
        return sum(map(len, self.received.values()))


@contextmanager
def scripted(
    *statuses: int, titles: tuple[str, ...] = (), abort_at: int = 0, most: int = 10, delay: float = 0.0
) -> Iterator[Scripted]:
    """A receiver that answers with the ``statuses``, one after the other, and then with success.

    It breaks off the association instead of its ``abort_at``-th answer, and admits only the calling ``titles``.
    """
    from pydicom.uid import AllTransferSyntaxes
    from pynetdicom import AE, AllStoragePresentationContexts, evt

    found = Scripted()
    left = list(statuses)

    def store(event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        number = found.count + 1
        found.received.setdefault(uid, []).append(event.request.DataSet.getvalue())
        found.syntaxes[uid] = str(event.context.transfer_syntax)
        time.sleep(delay)
        if number == abort_at:
            event.assoc.abort()
        status = left.pop(0) if left else 0x0000
        found.statuses.append(status)
        return status

    def requested(event: Any) -> None:
        found.associations.append(len(event.assoc.requestor.requested_contexts))

    entity = AE(ae_title="SCRIPTED")
    entity.require_called_aet = True
    entity.require_calling_aet = list(titles)
    entity.maximum_associations = most
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), AllTransferSyntaxes)
    entity.add_supported_context("1.2.840.10008.1.1")
    handlers: list[Any] = [(evt.EVT_C_STORE, store), (evt.EVT_REQUESTED, requested)]
    server: Any = entity.start_server((HOST, 0), block=False, evt_handlers=handlers)
    found.port = server.server_address[1]
    try:
        yield found
    finally:
        server.shutdown()
        for association in server.active_associations:
            association.join(timeout=10)
