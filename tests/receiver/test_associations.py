"""What peers may send, and what no peer may do to the others: odd requests, endless messages, slow and idle peers."""

from __future__ import annotations

import os
import random
import socket
import statistics
import struct
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import Association
from tests.receiver.associations import (
    ECHO,
    EXPLICIT,
    FIND,
    IMPLICIT,
    MR,
    Request,
    command,
    connect,
    item,
    n_action,
    p_data,
    pdu,
    read_pdu,
)
from tests.receiver.receiving import Receiver, running, wait_until

_ACCEPT, _REJECT, _ABORT = 2, 3, 7


def associations(receiver: Receiver) -> list[Association]:
    journal = Journal(receiver.folder / "spool")
    try:
        return journal.associations()
    finally:
        journal.close()


def memory(receiver: Receiver) -> int:
    """Resident memory in MiB."""
    assert receiver.process is not None
    text = Path(f"/proc/{receiver.process.pid}/status").read_text(encoding="ascii")
    return int(text.partition("VmRSS:")[2].split()[0]) // 1024


def threads(receiver: Receiver) -> int:
    assert receiver.process is not None
    return len(os.listdir(f"/proc/{receiver.process.pid}/task"))


def cpu_seconds(receiver: Receiver) -> float:
    assert receiver.process is not None
    text = Path(f"/proc/{receiver.process.pid}/stat").read_text(encoding="ascii")
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


LENIENT = {
    "blank calling title": Request(calling=b""),
    "calling title in Latin-1": Request(calling=b"M\xdcLLER"),
    "calling title in UTF-8": Request(calling="MÜLLER".encode()),
    "titles padded by NUL": Request(called=b"STUDYA".ljust(16, b"\0"), calling=b"ME".ljust(16, b"\0")),
    "no implementation class UID": Request(implementation=None),
    "empty implementation class UID": Request(implementation=b""),
    "padded implementation class UID": Request(implementation=b"1.2.3 \0"),
    "version name of 17 characters": Request(implementation_version=b"ABCDEFGHIJKLMNOPQ"),
    "version name in Latin-1": Request(implementation_version=b"V\xe9"),
    "no limit of PDUs": Request(max_pdu=0),
    "PDUs of 100 bytes": Request(max_pdu=100),
    "protocol versions 1 and 2": Request(version=3),
    "padded transfer syntax": Request(contexts=((ECHO, IMPLICIT + b"\0"),)),
    "unknown user item": Request(extra=item(0x60, b"abc")),
    "malformed role selection": Request(extra=item(0x54, b"\xff\xffabc")),
    "no presentation context": Request(contexts=()),
    "128 presentation contexts": Request(contexts=((MR, IMPLICIT),) * 128),
}


def test_requests_that_dcmtk_accepts_are_accepted(tmp_path: Path) -> None:
    with running(tmp_path) as receiver:
        for name, request in LENIENT.items():
            connection, kind, _ = connect(receiver.port, request)
            with connection:
                assert kind == _ACCEPT, name
        wait_until(lambda: all(found.ended for found in associations(receiver)), "all associations have ended")
        titles = {found.calling_ae for found in associations(receiver)}
        assert titles == {"TESTS", "", "MÜLLER", "ME"}


def test_what_is_refused_has_a_line_in_the_log_and_a_row_in_the_journal(tmp_path: Path) -> None:
    refused = {
        "another version of the protocol": (Request(version=2), _REJECT),
        "application context": (Request(application=b"1.2.3.4"), _REJECT),
        "no rule has this called AE title": (Request(called=b"NOBODY"), _REJECT),
    }
    with running(tmp_path) as receiver:
        for reason, (request, expected) in refused.items():
            connection, kind, _ = connect(receiver.port, request)
            with connection:
                assert kind == expected
            assert reason in receiver.log
            found = associations(receiver)[0]
            assert (found.state, found.calling_ae) == ("rejected", "TESTS")
            assert reason in found.reason
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=60) as connection:
            connection.sendall(pdu(1, bytes(70)))
            assert read_pdu(connection)[0] == _ABORT
        assert "an item of the association request is cut off" in associations(receiver)[0].reason


def test_other_services_are_refused_one_by_one(tmp_path: Path) -> None:
    """Worklist and performed procedure steps next to storage; a request in a context that is not for it."""
    worklist, steps = b"1.2.840.10008.5.1.4.31", b"1.2.840.10008.3.1.2.3.3"
    with running(tmp_path) as receiver:
        request = Request(contexts=((MR, IMPLICIT), (worklist, IMPLICIT), (steps, IMPLICIT), (ECHO, IMPLICIT)))
        connection, kind, reply = connect(receiver.port, request)
        with connection:
            assert kind == _ACCEPT
            assert [_result(reply, context) for context in (1, 3, 5, 7)] == [0, 3, 3, 0]
            # a C-STORE in the context of C-ECHO, and an N-CREATE: answered, and the association goes on
            for context, operation, status in ((7, 0x01, 0x0122), (1, 0x0140, 0x0211), (7, 0x30, 0)):
                has_data = operation != 0x30
                connection.sendall(p_data(context, 3, command(ECHO, operation, has_data=has_data)))
                if has_data:
                    connection.sendall(p_data(context, 2, b"x" * 100))
                kind, answer = read_pdu(connection)
                assert kind == 4
                at = answer.index(struct.pack("<HHL", 0, 0x0900, 2)) + 8
                assert int.from_bytes(answer[at : at + 2], "little") == status


def _result(reply: bytes, context: int) -> int:
    """The result of a presentation context in an A-ASSOCIATE-AC."""
    at = 68
    while at < len(reply):
        kind, length = reply[at], int.from_bytes(reply[at + 2 : at + 4], "big")
        if kind == 0x21 and reply[at + 4] == context:
            return reply[at + 6]
        at += 4 + length
    raise AssertionError(context)


@pytest.mark.parametrize("case", ["command", "data set"])
def test_messages_without_an_end_take_no_memory(tmp_path: Path, case: str) -> None:
    with running(tmp_path) as receiver:
        before = memory(receiver)
        connection, kind, _ = connect(receiver.port)
        assert kind == _ACCEPT
        with connection, suppress(ConnectionError):
            if case == "data set":
                connection.sendall(p_data(5, 3, command(FIND, 0x20)))
            piece = p_data(1, 1, bytes(130_000)) if case == "command" else p_data(5, 0, bytes(130_000))
            for _ in range(1000):
                connection.sendall(piece)
        wait_until(lambda: associations(receiver)[0].ended, "the association ends")
        assert associations(receiver)[0].state == "aborted"
        assert memory(receiver) < before + 20


def test_a_sender_that_trickles_loses_its_place(tmp_path: Path) -> None:
    """In an association request, in a command, in an image; a silent one; meanwhile others are served."""
    listen = "reserve = 0\ntimeout = 2\nmin_rate = 1000"
    with running(tmp_path, listen=listen) as receiver, ExitStack() as stack:
        slow = [socket.create_connection(("127.0.0.1", receiver.port), timeout=60)]
        slow[0].sendall(struct.pack(">BBL", 1, 0, 1000))
        for beginning in (
            struct.pack(">BBLLBB", 4, 0, 10_006, 10_002, 1, 1),
            p_data(1, 3, command(MR, 1)) + struct.pack(">BBLLBB", 4, 0, 60_006, 60_002, 1, 0),
        ):
            connection, kind, _ = connect(receiver.port)
            assert kind == _ACCEPT
            connection.sendall(beginning)
            slow.append(connection)
        for connection in slow:
            stack.enter_context(connection)
        limit = time.monotonic() + 60
        while slow:
            assert time.monotonic() < limit, len(slow)
            slow = [connection for connection in slow if _still_takes(connection, b"\0")]
            other, kind, _ = connect(receiver.port)
            assert kind == _ACCEPT
            other.close()
            time.sleep(0.3)
        text = receiver.log
        for reason in (
            "its association request did not arrive in time",
            "the rest of a command did not arrive in time",
            "fewer than 1000 bytes a second of an image",
        ):
            assert reason in text


def _still_takes(connection: socket.socket, raw: bytes) -> bool:
    try:
        connection.sendall(raw)
    except OSError:
        return False
    return True


def test_silent_connections_give_way(tmp_path: Path) -> None:
    """A thousand connections that say nothing, from one address."""
    with running(tmp_path) as receiver, ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(socket.create_connection(("127.0.0.1", receiver.port), timeout=60))
        connection, kind, _ = connect(receiver.port)
        stack.enter_context(connection)
        assert kind == _ACCEPT
        wait_until(lambda: threads(receiver) < 300, "connections that gave way have ended")
        wait_until(lambda: "too many connections without an association" in receiver.log, "a line in the log")


def test_one_address_cannot_have_all_associations(tmp_path: Path) -> None:
    """Nor can those that are open without bringing images keep their places."""
    with running(tmp_path, listen="reserve = 0\nmax_associations = 4\ntimeout = 2") as receiver, ExitStack() as stack:
        held = [connect(receiver.port) for _ in range(4)]
        for connection, _, _ in held:
            stack.enter_context(connection)
        assert [kind for _, kind, _ in held] == [_ACCEPT] * 3 + [_REJECT]
        assert "too many associations of this address are open" in receiver.log

        def is_admitted() -> bool:
            for connection, kind, _ in held[:3]:
                if kind == _ACCEPT:
                    with suppress(OSError):
                        connection.sendall(p_data(3, 3, command(ECHO, 0x30, has_data=False)))
            connection, kind, _ = connect(receiver.port)
            connection.close()
            return kind == _ACCEPT

        wait_until(is_admitted, "a place")
        wait_until(lambda: "no image for 2 s, and its place was needed" in receiver.log, "a line in the log")


def test_an_association_waits_for_nothing_but_its_peer(tmp_path: Path) -> None:
    """With a tick in any loop, the set-up would take longer, or idle associations would use the processor."""
    with running(tmp_path) as receiver, ExitStack() as stack:
        times = []
        for _ in range(40):
            started = time.monotonic()
            connection, kind, _ = connect(receiver.port)
            connection.sendall(pdu(5, bytes(4)))
            assert (kind, read_pdu(connection)[0]) == (_ACCEPT, 6)
            times.append(time.monotonic() - started)
            connection.close()
        assert statistics.median(times) < 0.1
        for _ in range(20):
            stack.enter_context(connect(receiver.port)[0])
        before = cpu_seconds(receiver)
        time.sleep(3)
        assert cpu_seconds(receiver) - before < 0.06


#: A request for storage commitment.
_COMMITMENT = b"1.2.840.10008.1.20.1"
_COMMIT = n_action(_COMMITMENT, b"1.2.840.10008.1.20.1.1")
_REFERENCES = (
    struct.pack("<HH2sH", 0x8, 0x1195, b"UI", 6)
    + b"2.25.1"
    + struct.pack("<HH2sHL", 0x8, 0x1199, b"SQ", 0, 42)
    + struct.pack("<HHL", 0xFFFE, 0xE000, 34)
    + struct.pack("<HH2sH", 0x8, 0x1150, b"UI", 12)
    + b"1.2.840.100\0"
    + struct.pack("<HH2sH", 0x8, 0x1155, b"UI", 6)
    + b"1.2.3\0"
)


@pytest.mark.parametrize("seed", range(int(os.environ.get("ICF_TRIALS", "4"))))
def test_mutated_exchanges(tmp_path: Path, seed: int) -> None:
    """Whatever comes, no traceback and no warning is in the log, and the next peer is served."""
    chance = random.Random(seed)
    parts = (
        Request(contexts=(*Request().contexts, (_COMMITMENT, EXPLICIT))).encode(),
        p_data(1, 3, command(MR, 1)) + p_data(1, 2, chance.randbytes(300)),
        p_data(3, 3, command(ECHO, 0x30, has_data=False)),
        p_data(5, 3, command(FIND, 0x20)) + p_data(5, 2, b"\x08\x00\x05\x00\x00\x00\x00\x00"),
        p_data(7, 3, _COMMIT) + p_data(7, 2, _REFERENCES),
        pdu(5, bytes(4)),
    )
    with running(tmp_path, listen="reserve = 0\ntimeout = 2") as receiver:
        for _ in range(150):
            raw = bytearray(b"".join(parts))
            for _ in range(chance.randint(1, 6)):
                at = chance.randrange(len(raw))
                how = chance.random()
                if how < 0.6:
                    raw[at] = chance.randrange(256)
                elif how < 0.8:
                    del raw[at : at + chance.randint(1, 20)]
                else:
                    raw[at:at] = chance.randbytes(chance.randint(1, 20))
            address = ("127.0.0.1", receiver.port)
            with socket.create_connection(address, timeout=60) as connection, suppress(OSError):
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass
        connection, kind, _ = connect(receiver.port)
        connection.close()
        assert kind == _ACCEPT
        assert "Traceback" not in receiver.log
        assert "internal error" not in receiver.log
        assert "Warning" not in receiver.log
