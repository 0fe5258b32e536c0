"""Memory while images are received: the same for many associations and for images of gigabytes.

By hand: ``ICF_TRIALS=1 pytest -s tests/receiver/test_receive_memory.py`` takes minutes and 8 GB of disk.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

import icf_utils
from tests.data.make_dicom import dicom_bytes, uid
from tests.receiver.associations import EXPLICIT, MR, Request, command, connect, p_data, pdu, read_pdu
from tests.receiver.receiving import Receiver, data_set, running, wait_until

pytest.importorskip("pynetdicom")

pytestmark = pytest.mark.skipif("ICF_TRIALS" not in os.environ, reason="by hand, with ICF_TRIALS")

_ASSOCIATIONS, _SIZE = 1_200, 2_400_000_000
_RULE = 'called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 2\nvisit = "{study_key}"\nuntil = "dataset"'


def peak(receiver: Receiver) -> int:
    """The most memory that the receiver has had, in kB."""
    assert receiver.process is not None
    status = Path(f"/proc/{receiver.process.pid}/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0])


def send(receiver: Receiver, instance: str, pieces: list[bytes]) -> int:
    """Send an image over an association of its own; the status of the response."""
    connection, kind, _ = connect(receiver.port, Request(contexts=((MR, EXPLICIT),)))
    assert kind == 2
    with connection:
        connection.sendall(p_data(1, 3, command(MR, 1, instance.encode("ascii"))))
        for at, piece in enumerate(pieces):
            connection.sendall(p_data(1, 2 if at == len(pieces) - 1 else 0, piece))
        reply = read_pdu(connection)[1]
        connection.sendall(pdu(5, bytes(4)))
        read_pdu(connection)
    (status,) = struct.unpack_from("<H", reply, reply.index(struct.pack("<HHL", 0, 0x900, 2)) + 8)
    return int(status)


def test_memory_depends_neither_on_associations_nor_on_sizes(tmp_path: Path) -> None:
    icf_utils.init_store(tmp_path / "store", url="https://data.example.org")
    with running(tmp_path, rule=_RULE) as receiver:
        study = uid("many associations")
        figures = []
        for number in range(1, _ASSOCIATIONS + 1):
            image = data_set(dicom_bytes(StudyInstanceUID=study, InstanceNumber=number))
            assert send(receiver, uid(study, 1, number), [image]) == 0
            if number in (100, _ASSOCIATIONS):
                figures.append(peak(receiver))
        head = data_set(
            dicom_bytes(StudyInstanceUID=uid("large"), NumberOfFrames=4800, Rows=500, Columns=500, PixelData=b"")
        )
        head = head[: head.index(b"\xe0\x7f\x10\x00")] + b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<L", _SIZE)
        block = bytes(100_000)
        assert send(receiver, uid(uid("large"), 1, 1), [head, *[block] * (_SIZE // len(block))]) == 0
        figures.append(peak(receiver))
        print(f"peak in kB after 100 and {_ASSOCIATIONS} associations, and after {_SIZE} bytes: {figures}")  # noqa: T201
        assert figures[1] < figures[0] + 16_000
        assert figures[2] < figures[1] + 8_000
        wait_until(
            lambda: sorted(item.images for item in receiver.sessions()) == [1, _ASSOCIATIONS], "the journal has all"
        )
