"""Real DICOM receivers: dcmtk's storescp and Orthanc, on free ports of the loopback interface."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, folder: Path) -> Iterator[None]:
    """A server that listens on ``port``."""
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            for _ in range(200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.1)
            else:
                raise AssertionError((folder / "server.log").read_text())
            yield
        finally:
            process.terminate()
            process.wait(20)


def _dcmtk(name: str) -> str:
    """The path of dcmtk's program; pynetdicom installs others with the same names."""
    folders = [*os.environ["PATH"].split(os.pathsep), "/usr/bin"]
    for program in dict.fromkeys(found for folder in folders if (found := shutil.which(name, path=folder))):
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=20)
        if "dcmtk" in done.stdout:
            return program
    pytest.skip(f"dcmtk's {name} is not installed")


@contextmanager
def storescp(folder: Path, *options: str) -> Iterator[int]:
    """Run dcmtk's receiver, which stores data sets unchanged in ``folder``; yields its port."""
    program = _dcmtk("storescp")
    folder.mkdir()
    port = free_port()
    command = [program, "--aetitle", "XNAT", "-od", str(folder), "+B", "+xa", "+uf", "-d", *options, str(port)]
    with running(command, port, folder):
        yield port


@contextmanager
def orthanc(folder: Path) -> Iterator[tuple[int, str]]:
    """Run Orthanc with XNAT's AE title, for any sender; yields its port and its web address."""
    program = shutil.which("Orthanc") or ("/usr/sbin/Orthanc" if Path("/usr/sbin/Orthanc").exists() else None)
    if not program:
        pytest.skip("Orthanc is not installed")
    folder.mkdir()
    port, http = free_port(), free_port()
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": http,
        "DicomPort": port,
        "DicomAet": "XNAT",
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowEcho": True,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    with running([program, str(folder / "orthanc.json")], port, folder):
        yield port, f"http://127.0.0.1:{http}"


def ask(address: str) -> object:
    with urllib.request.urlopen(address, timeout=20) as answer:
        return json.load(answer)
