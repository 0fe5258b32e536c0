"""What an association costs: ``python -m benchmarks.associations [--runs N]``.

384 images of 20 kB, each over an association of its own, one after the other, into ``icf-utils receive`` and dcmtk's
``storescp``, in turn. The client is a few lines here, so that its own start is not measured. Prints for each server the
median time from an association request to its reply, and of the whole association; and the CPU time that twenty idle
associations cost the receiver (storescp serves one at a time).
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import struct
import tempfile
import time
from pathlib import Path

from benchmarks.receiving import SERVERS, free_port, running
from benchmarks.visits import make_visit

IMAGES, SIZE, IDLE, SECONDS = 384, 20_000, 20, 5
_IMPLICIT, _MR = b"1.2.840.10008.1.2", b"1.2.840.10008.5.1.4.1.1.4"
_COMPARED = ("icf-utils receive", "limit: dcmtk storescp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="associations-") as name:
        work = Path(name)
        images = [message(path) for path in sorted(make_visit(work, IMAGES, size=SIZE).rglob("*.dcm"))]
        found: dict[str, list[tuple[float, float]]] = {server: [] for server in _COMPARED}
        idle = 0.0
        for number in range(runs):
            for server in _COMPARED:
                folder = work / f"server-{number}-{server.partition(' ')[0]}"
                folder.mkdir()
                port = free_port()
                with running(SERVERS[server](folder, port), folder, port) as process:
                    found[server].append(measure(port, images))
                    if server == _COMPARED[0]:
                        idle = idle_time(port, process)
    print("| server | set-up | whole association |\n| --- | --- | --- |")
    for server, values in found.items():
        setup, whole = (statistics.median(item[at] for item in values) * 1000 for at in (0, 1))
        print(f"| {server} | {setup:.2f} ms | {whole:.2f} ms |")
    print(f"\n{IDLE} idle associations: {idle:.2f} s of CPU time in {SECONDS} s")


def measure(port: int, images: list[tuple[bytes, bytes]]) -> tuple[float, float]:
    """Median seconds of the set-up, and of the whole association."""
    setups, wholes = [], []
    for command, data in images:
        started = time.perf_counter()
        with associate(port) as connection:
            setups.append(time.perf_counter() - started)
            connection.sendall(pdata(3, command) + b"".join(fragments(data)))
            read_pdu(connection)
            connection.sendall(struct.pack(">BBLL", 5, 0, 4, 0))
            read_pdu(connection)
        wholes.append(time.perf_counter() - started)
    return statistics.median(setups), statistics.median(wholes)


def idle_time(port: int, process: int) -> float:
    """CPU seconds of the server for idle associations."""
    connections = [associate(port) for _ in range(IDLE)]
    before = cpu_time(process)
    time.sleep(SECONDS)
    found = cpu_time(process) - before
    for connection in connections:
        connection.close()
    return found


def cpu_time(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def associate(port: int) -> socket.socket:
    """An open association with one presentation context."""
    context = b"\1\0\0\0" + item(0x30, _MR) + item(0x40, _IMPLICIT)
    user = item(0x51, struct.pack(">L", 131072)) + item(0x52, b"1.2.3.4")
    items = item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
    body = b"\0\1\0\0" + b"BENCH".ljust(16) + b"BENCH".ljust(16) + bytes(32) + items
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(struct.pack(">BBL", 1, 0, len(body)) + body)
    if read_pdu(connection) != 2:
        raise SystemExit("the association was not accepted")
    return connection


def message(path: Path) -> tuple[bytes, bytes]:
    """The command and the data set of the C-STORE request for a file."""
    import pydicom

    raw = path.read_bytes()
    uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID).encode("ascii")
    data = raw[144 + int.from_bytes(raw[140:144], "little") :]
    elements = {0x2: even(_MR), 0x100: b"\1\0", 0x110: b"\1\0", 0x700: b"\0\0", 0x800: b"\0\0", 0x1000: even(uid)}
    body = b"".join(struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in sorted(elements.items()))
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body, data


def even(raw: bytes) -> bytes:
    return raw + b"\0" * (len(raw) % 2)


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def pdata(control: int, content: bytes) -> bytes:
    return struct.pack(">BBLLBB", 4, 0, len(content) + 6, len(content) + 2, 1, control) + content


def fragments(data: bytes, size: int = 16_000) -> list[bytes]:
    return [pdata(2 if at + size >= len(data) else 0, data[at : at + size]) for at in range(0, len(data), size)]


def read_pdu(connection: socket.socket) -> int:
    """The type of the next PDU."""
    head = connection.recv(6, socket.MSG_WAITALL)
    connection.recv(int.from_bytes(head[2:6], "big"), socket.MSG_WAITALL)
    return head[0]


if __name__ == "__main__":
    main()
