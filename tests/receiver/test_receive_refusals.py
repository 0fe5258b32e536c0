"""Images and associations that the receiver refuses, and images that are sent again."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pydicom
import pytest

from icf_utils.receiver.journal_space import JOURNAL_SPACE_NAME
from tests.cli.program import icf
from tests.data.make_dicom import uid, write_visit
from tests.receiver.receiving import PATIENCE, Receiver, dcmtk, reserve_above_free, running, store, storescu, wait_until

pytest.importorskip("pynetdicom")

#: The library leaves the socket of a client that was rejected or cut off to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    yield
    gc.collect()


_RULE = 'called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 1'
_SLOW = 'called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 600'


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def statuses(receiver: Receiver, paths: list[Path], calling: str = "TESTS") -> list[int]:
    """The answers to images that are sent over one association."""
    from pynetdicom import AE
    from pynetdicom.sop_class import MRImageStorage  # type: ignore[attr-defined]

    entity = AE(calling)
    entity.add_requested_context(MRImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", receiver.port, ae_title="STUDYA")
    assert association.is_established
    found = [store(association, path) for path in paths]
    association.release()
    return found


def test_senders_that_no_rule_admits_are_rejected(tmp_path: Path) -> None:
    write_visit(tmp_path / "in", {1: ("t1", 1)})
    rule = f'{_RULE}\ncalling_ae = ["SCANNER"]\naddresses = ["127.0.0.0/8"]\n'
    rule += '[[rule]]\ncalled_ae = "STUDYB"\nstudy = "study-b"\naddresses = ["10.1.2.0/24"]'
    with running(tmp_path, rule=rule) as receiver:
        for options, called, reason in (
            (["-aet", "SCANNER"], "NOBODY", "Called AE Title Not Recognized"),
            (["-aet", "STRANGER"], "STUDYA", "Calling AE Title Not Recognized"),
            (["-aet", "SCANNER"], "STUDYB", "No Reason"),
        ):
            done = storescu(receiver, tmp_path / "in", *options, called=called)
            assert done.returncode != 0
            assert reason in done.stderr
        assert storescu(receiver, tmp_path / "in", "-aet", "SCANNER").returncode == 0
        receiver.finished(1)
        for reason in ("no rule has this called AE title", "calling AE title is not", "address is not"):
            assert reason in receiver.log
        assert "(calling AE 'STRANGER', called AE 'STUDYA'): the calling AE title is not" in receiver.log


def test_associations_above_the_limit_are_rejected(tmp_path: Path) -> None:
    from pynetdicom import AE

    entity = AE("TESTS")
    entity.add_requested_context("1.2.840.10008.1.1")
    with running(tmp_path, listen="reserve = 0\nmax_associations = 2") as receiver:
        first = [entity.associate("127.0.0.1", receiver.port, ae_title="STUDYA") for _ in range(2)]
        assert all(item.is_established for item in first)
        assert entity.associate("127.0.0.1", receiver.port, ae_title="STUDYA").is_rejected
        for item in first:
            assert item.send_c_echo().Status == 0
            item.release()
        wait_until(
            lambda: entity.associate("127.0.0.1", receiver.port, ae_title="STUDYA").is_established,
            "room again",
        )


def test_images_are_refused_when_the_reserve_is_reached(tmp_path: Path) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 2)})
    with running(tmp_path, listen=f"reserve = {reserve_above_free(tmp_path)}") as receiver:
        assert statuses(receiver, paths) == [0xA700, 0xA700]
        (session,) = receiver.finished(1)
        assert (session.images, session.refused, session.state) == (0, 2, "failed")
        assert session.notes == ("2 images were refused: less than the reserve is free on the disk (0xA700)",)


def test_images_are_refused_when_the_disk_is_full(tmp_path: Path) -> None:
    """A file system of a few megabytes; what was answered is archived once there is room again."""
    paths = write_visit(tmp_path / "in", {1: ("t1", 24)}, Rows=250, Columns=400, PixelData=bytes(200_000))
    place = tmp_path / "spool"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        with running(tmp_path, rule=_RULE) as receiver:
            found = statuses(receiver, paths)
            assert set(found) == {0, 0xA700}
            assert not any(path.stat().st_size for path in place.glob("parts/*/*"))
            subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
            assert statuses(receiver, paths) == [0] * len(paths)
            (session,) = receiver.finished(1)
            assert (session.images, session.state) == (len(paths), "success")
            assert len(receiver.images(session)) == len(paths)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_session_of_which_images_were_refused_is_partial(tmp_path: Path) -> None:
    """The disk is full amid a study, and the sender does not look at the answers."""
    paths = write_visit(tmp_path / "in", {1: ("t1", 24)}, Rows=250, Columns=400, PixelData=bytes(200_000))
    place = tmp_path / "spool"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        with running(tmp_path, rule=_RULE, listen="reserve = 0\nretry = 1") as receiver:
            stored = statuses(receiver, paths).count(0)
            assert 0 < stored < 24
            wait_until(lambda: [item.state for item in receiver.sessions()] == ["partial"], "while the disk is full")
            assert not (place / JOURNAL_SPACE_NAME).exists()
            (session,) = receiver.sessions()
            assert (session.images, session.refused, session.state) == (stored, 24 - stored, "partial")
            assert "were refused: the disk is full (0xA700)" in session.notes[-1]
            done = icf("sessions", "--settings", tmp_path / "receiver.toml", "--wait")
            assert done.code == 1
            assert f"{session.id}: {24 - stored} images were refused" in done.out
            assert "warning: the receiver refuses images: the disk is full" in done.err
            (place / "of somebody else").write_bytes(bytes(_free(place) - 250_000))  # images do not get the rest
            assert set(statuses(receiver, paths[:2])) == {0xA700}
            subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
            assert statuses(receiver, paths) == [0] * len(paths)
            assert (place / JOURNAL_SPACE_NAME).exists()
            wait_until(lambda: receiver.sessions()[-1].state == "success", "everything was sent again")
            assert "warning" not in icf("sessions", "--settings", tmp_path / "receiver.toml").err
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_refusals_are_not_forgotten_by_a_receiver_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pynetdicom import _config

    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    first, second = write_visit(tmp_path / "in", {1: ("t1", 2)})
    (tmp_path / "cut.dcm").write_bytes(second.read_bytes()[:-2])
    receiver = Receiver(tmp_path, rule=_SLOW)
    receiver.start()
    assert statuses(receiver, [first, tmp_path / "cut.dcm"]) == [0, 0xC000]
    wait_until(lambda: receiver.sessions()[0].refused, "the journal knows")
    receiver.kill()
    with running(tmp_path, rule=_RULE) as again:
        (session,) = again.finished(1)
        assert (session.images, session.refused, session.state) == (1, 1, "partial")


def test_images_that_cannot_be_parsed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set that is cut, one that is noise, one without a study: refused; the others are taken."""
    from pynetdicom import _config

    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)  # send the bytes of the file
    whole, *_ = write_visit(tmp_path / "in", {1: ("t1", 1)})
    raw = whole.read_bytes()
    start = 144 + int.from_bytes(raw[140:144], "little")
    image = pydicom.dcmread(whole)
    del image.StudyInstanceUID
    image.save_as(tmp_path / "nameless.dcm", enforce_file_format=True)
    (tmp_path / "cut.dcm").write_bytes(raw[:-2])
    (tmp_path / "noise.dcm").write_bytes(raw[:start] + bytes(range(256)))
    bad = [tmp_path / f"{name}.dcm" for name in ("nameless", "cut", "noise")]
    with running(tmp_path) as receiver:
        assert statuses(receiver, [*bad, whole]) == [0xC000, 0xC000, 0xC000, 0]
        of_nobody, session = receiver.finished(2)
        assert (session.images, session.refused, session.state) == (1, 0, "success")
        assert "StudyInstanceUID is missing" in receiver.log
        # what belongs to no visit is a session of its own
        assert (of_nobody.visit, of_nobody.calling_ae, of_nobody.state) == ("refused-TESTS", "TESTS", "failed")
        assert (of_nobody.images, of_nobody.refused) == (0, 1)  # all had one SOPInstanceUID
        assert of_nobody.notes == ("1 image was refused: the data set cannot be parsed (0xC000)",)
        assert not list((receiver.store / "study-a").glob("refused*"))


def test_duplicates_and_conflicting_images(tmp_path: Path) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 3)})
    changed = pydicom.dcmread(paths[0])
    changed.SeriesDescription = "other"
    changed.save_as(tmp_path / "changed.dcm", enforce_file_format=True)
    with running(tmp_path) as receiver:
        assert statuses(receiver, [*paths, *paths, tmp_path / "changed.dcm"]) == [*[0] * 6, 0xC002]
        (session,) = receiver.finished(1)
        assert (session.images, session.duplicates, session.quarantined, session.state) == (3, 3, 1, "partial")
        (kept,) = session.quarantine.iterdir()
        assert pydicom.dcmread(kept).SeriesDescription == "other"
        # the same holds when the visit is complete, and when its input is gone
        for _ in range(2):
            assert statuses(receiver, [paths[1], tmp_path / "changed.dcm"]) == [0, 0xC002]
            shutil.rmtree(session.input, ignore_errors=True)
        assert len(receiver.sessions()) == 1


def test_images_that_come_later_are_the_next_version(tmp_path: Path) -> None:
    first = write_visit(tmp_path / "in", {1: ("t1", 2)})
    later = write_visit(tmp_path / "later", {2: ("bold", 3)})
    with running(tmp_path, rule=f'{_RULE}\nvisit = "v-{{calling_ae}}"') as receiver:
        statuses(receiver, first)
        (session,) = receiver.finished(1)
        assert statuses(receiver, [*first, *later]) == [0] * 5
        sessions = receiver.finished(2)
        assert [item.visit for item in sessions] == ["v-TESTS", "v-TESTS"]
        assert [item.images for item in sessions] == [2, 3]
        assert "after the visit was complete" in sessions[1].notes[0]
        assert len(receiver.images(session)) == 5
        # another study with the same identifier is a revision
        other = write_visit(tmp_path / "other", {1: ("t1", 2)}, StudyInstanceUID=uid("other"))
        statuses(receiver, other)
        assert receiver.finished(3)[2].visit == "v-TESTS-r2"
        assert session.name in receiver.log


def test_images_that_lost_their_names_are_restored(tmp_path: Path) -> None:
    """As after a power failure: the rename of a stored image did not reach the disk, another one was never whole."""
    paths = write_visit(tmp_path / "in", {1: ("t1", 3)})
    receiver = Receiver(tmp_path, rule=_SLOW)
    receiver.start()
    assert statuses(receiver, paths) == [0] * 3
    receiver.kill()
    (parts,) = (tmp_path / "spool" / "parts").iterdir()
    stored = sorted((tmp_path / "spool").glob("sessions/*/input/*/*"))
    (parts / "900.part").write_bytes(stored[0].read_bytes()[:-1])
    stored[0].rename(parts / "901.part")
    with running(tmp_path, rule=_RULE) as again:
        (session,) = again.finished(1)
        assert session.images == len(again.images(session)) == 3
        assert "restored an image" in again.log
        assert not any(path.stat().st_size for path in parts.parent.glob("*/*"))


def test_a_visit_is_complete_with_the_expected_images(tmp_path: Path) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 3)})
    with running(tmp_path, rule=f"{_SLOW}\nexpected = 3") as receiver:
        statuses(receiver, paths)
        (session,) = receiver.finished(1)
        assert session.state == "success"


def test_a_visit_with_fewer_images_than_expected_is_partial(tmp_path: Path) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 3)})
    with running(tmp_path, rule=f"{_RULE}\nexpected = 5") as receiver:
        statuses(receiver, paths)
        (session,) = receiver.finished(1)
        assert (session.state, session.notes) == ("partial", ("3 of 5 expected images have arrived",))


def test_an_open_association_keeps_a_visit_open_until_it_is_forced(tmp_path: Path) -> None:
    from pynetdicom import AE
    from pynetdicom.sop_class import MRImageStorage  # type: ignore[attr-defined]

    (path,) = write_visit(tmp_path / "in", {1: ("t1", 1)})
    with running(tmp_path, rule=f"{_RULE}\nforce = 5") as receiver:
        entity = AE("TESTS")
        entity.add_requested_context(MRImageStorage, "1.2.840.10008.1.2.1")
        association = entity.associate("127.0.0.1", receiver.port, ae_title="STUDYA")
        started = time.monotonic()
        assert association.send_c_store(path).Status == 0
        receiver.finished(1)
        assert time.monotonic() - started > 4
        association.release()


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x01\x00\xff\xff\xff\xff" + bytes(100),
        b"\x01\x00\x00\x00\x00\x44\x00\x01" + bytes(0x42),
        b"\x04\x00\x00\x00\x00\x0c" + b"\xff" * 12,
        b"\x09" * 64,
        b"\x01\x00\x00",
    ],
    ids=["http", "4 GB", "empty request", "data first", "unknown", "cut"],
)
def test_malformed_pdus_do_not_affect_others(tmp_path: Path, junk: bytes) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 1)})
    with running(tmp_path) as receiver:
        with socket.create_connection(("127.0.0.1", receiver.port)) as connection:
            connection.sendall(junk)
            assert statuses(receiver, paths) == [0]
        receiver.finished(1)


def test_the_padding_of_ae_titles_is_not_significant(tmp_path: Path) -> None:
    """As bytes of an A-ASSOCIATE-RQ (PS3.8 table 9-11), with C-ECHO as the only presentation context."""
    context = b"\1\0\0\0" + _item(0x30, b"1.2.840.10008.1.1") + _item(0x40, b"1.2.840.10008.1.2")
    items = _item(0x10, b"1.2.840.10008.3.1.1.1") + _item(0x20, context)
    items += _item(0x50, _item(0x51, struct.pack(">L", 16384)) + _item(0x52, b"1.2.3.4"))
    with running(tmp_path, rule=f'{_RULE}\ncalling_ae = [" SCANNER"]') as receiver:
        for called in (b"STUDYA".ljust(16), b"  STUDYA".ljust(16), b"STUDYA".ljust(16, b"\0")):
            body = b"\0\1\0\0" + called + b"SCANNER".ljust(16, b"\0") + bytes(32) + items
            with socket.create_connection(("127.0.0.1", receiver.port), timeout=PATIENCE) as connection:
                connection.sendall(struct.pack(">BBL", 1, 0, len(body)) + body)
                assert connection.recv(1) == b"\2", "not an A-ASSOCIATE-AC"


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def test_connections_without_a_request_use_no_resources(tmp_path: Path) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 1)})
    with running(tmp_path) as receiver:
        assert receiver.process is not None
        descriptors = Path(f"/proc/{receiver.process.pid}/fd")
        before = len(list(descriptors.iterdir()))
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", receiver.port)) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert statuses(receiver, paths) == [0]
        receiver.finished(1)
        wait_until(lambda: len(list(descriptors.iterdir())) < before + 10, "the descriptors are closed")


def test_malformed_pdus_within_an_association(tmp_path: Path) -> None:
    """After an image is half sent: noise, a PDU that is too long, a fragment of no context, the end of the line."""
    from pynetdicom import AE
    from pynetdicom.sop_class import MRImageStorage  # type: ignore[attr-defined]

    paths = write_visit(tmp_path / "in", {1: ("t1", 1)})
    fragment = struct.pack(">BBLLBB", 4, 0, 4 + 2 + 2, 2 + 2, 99, 0) + b"ab"
    with running(tmp_path, listen="reserve = 0\ntimeout = 5") as receiver:
        for junk in (os.urandom(40), b"\x04\x00\x7f\xff\xff\xff", fragment, b"\x04\x00\x00\x00", b""):
            entity = AE("TESTS")
            entity.add_requested_context(MRImageStorage, "1.2.840.10008.1.2.1")
            association = entity.associate("127.0.0.1", receiver.port, ae_title="STUDYA")
            assert association.is_established
            assert association.dul.socket is not None
            connection = association.dul.socket.socket
            assert connection is not None
            connection.sendall(junk)
            with suppress(OSError):  # the receiver may be quicker
                connection.shutdown(socket.SHUT_WR)
            wait_until(lambda: not association.is_established, "the association ends")  # noqa: B023
        assert statuses(receiver, paths) == [0]
        receiver.finished(1)
        assert not any(path.stat().st_size for path in tmp_path.glob("spool/parts/*/*"))


def test_a_second_receiver_of_the_same_spool(tmp_path: Path) -> None:
    with running(tmp_path) as receiver:
        other = Receiver(tmp_path)
        with pytest.raises(AssertionError, match="another receiver has held"):
            other.start()
        assert other.process is not None
        assert other.process.wait(PATIENCE) == 8
        assert receiver.process is not None
        echo = [dcmtk("echoscu"), "-aec", "STUDYA", "127.0.0.1", str(receiver.port)]
        assert subprocess.run(echo, check=False, timeout=PATIENCE).returncode == 0
