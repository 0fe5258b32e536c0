"""Storage commitment: images are committed when they are in the store, and only then."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pytest

from icf_utils.receiver.identify import image_key
from icf_utils.receiver.journal import Journal
from tests.data.make_dicom import MR_IMAGE, uid, write_visit
from tests.receiver.receiving import PATIENCE, Receiver, free_port, running, store, wait_until
from tests.receiver.test_quarantine import correct
from tests.receiver.test_receive_clients import _get, _post
from tests.receiver.test_receive_refusals import statuses

pytest.importorskip("pynetdicom")

_CLASS, _INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
_RULE = 'called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 1\nuntil = "metadata"'


@dataclass
class Reports:
    """The reports that a sender got: transaction, type, committed and failed images, whether an archive was there."""

    store: Path
    found: list[tuple[str, int, set[str], dict[str, int], bool]] = field(default_factory=list)
    came: threading.Event = field(default_factory=threading.Event)

    def take(self, event: Any) -> tuple[int, None]:
        report = event.event_information
        committed = {str(item.ReferencedSOPInstanceUID) for item in report.get("ReferencedSOPSequence", [])}
        failed = {
            str(item.ReferencedSOPInstanceUID): int(item.FailureReason) for item in report.get("FailedSOPSequence", [])
        }
        has_archive = any(self.store.glob("*/*.tar.md5sum"))
        self.found.append((str(report.TransactionUID), int(event.event_type), committed, failed, has_archive))
        self.came.set()
        return 0x0000, None

    def only(self) -> tuple[str, int, set[str], dict[str, int], bool]:
        assert self.came.wait(PATIENCE), "no report came"
        (report,) = self.found
        return report


def request(
    association: Any, transaction: str, instances: list[str], action: int = 1, instance: str = _INSTANCE
) -> int:
    wanted = pydicom.Dataset()
    wanted.TransactionUID = transaction
    wanted.ReferencedSOPSequence = []
    for one in instances:
        item = pydicom.Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MR_IMAGE, one
        wanted.ReferencedSOPSequence.append(item)
    while association._is_paused:
        time.sleep(0.001)
    status, _ = association.send_n_action(wanted, action, _CLASS, instance)
    return int(status.Status)


def associate(receiver: Receiver, reports: Reports | None = None, calling: str = "TESTS") -> Any:
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import MRImageStorage  # type: ignore[attr-defined]

    entity = AE(calling)
    entity.dimse_timeout = entity.network_timeout = PATIENCE
    entity.add_requested_context(MRImageStorage, "1.2.840.10008.1.2.1")
    entity.add_requested_context(_CLASS)
    handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, reports.take)] if reports else []
    association = entity.associate("127.0.0.1", receiver.port, ae_title="STUDYA", evt_handlers=handlers)
    assert association.is_established
    return association


@contextmanager
def listening(reports: Reports, port: int) -> Iterator[None]:
    """A sender that takes reports over associations of their own."""
    from pynetdicom import AE, evt

    entity = AE("TESTS")
    entity.add_supported_context(_CLASS, scu_role=False, scp_role=True)
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, reports.take)]
    )
    assert server is not None
    try:
        yield
    finally:
        server.shutdown()


def uids(paths: list[Path]) -> list[str]:
    return [str(pydicom.dcmread(path).SOPInstanceUID) for path in paths]


def test_the_report_comes_over_the_same_association(tmp_path: Path) -> None:
    """Also for images of a visit that is not complete: the request says that the sender is done with it."""
    paths = write_visit(tmp_path / "in", {1: ("t1", 3)}, StudyInstanceUID=uid("commit"))
    with running(tmp_path, rule=_RULE) as receiver:
        reports = Reports(receiver.store)
        association = associate(receiver, reports)
        assert [store(association, path) for path in paths] == [0] * 3
        assert request(association, "2.25.1", uids(paths)) == 0
        assert reports.only() == ("2.25.1", 1, set(uids(paths)), {}, True)
        wait_until(lambda: "3 images committed, 0 not" in receiver.log, "the response is logged")
        association.release()


def test_what_is_not_in_the_store_is_not_committed(tmp_path: Path) -> None:
    """An image that was never sent, and one that was quarantined: the archive has another one of its UID."""
    paths = write_visit(tmp_path / "in", {1: ("t1", 3)}, StudyInstanceUID=uid("not committed"))
    fixed = correct(paths[:1], tmp_path / "fixed", PatientID="P2")
    with running(tmp_path, rule=_RULE) as receiver:
        statuses(receiver, paths)
        receiver.finished(1)
        assert statuses(receiver, fixed) == [0xC002]
        reports = Reports(receiver.store)
        association = associate(receiver, reports)
        first, *others = uids(paths)
        assert request(association, "2.25.2", [first, *others, "1.2.3"]) == 0
        _, kind, committed, failed, _ = reports.only()
        assert (kind, committed, failed) == (2, set(others), {first: 0x0112, "1.2.3": 0x0112})
        association.release()
        # an archive that was removed is not in the store
        (archive,) = receiver.store.glob("*/*.tar")
        archive.unlink()
        reports = Reports(receiver.store)
        association = associate(receiver, reports)
        request(association, "2.25.3", others)
        assert set(reports.only()[3]) == set(others)
        association.release()


def test_the_report_comes_over_a_new_association_after_a_restart(tmp_path: Path) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 2)}, StudyInstanceUID=uid("commit later"))
    port = free_port()
    rule = f'{_RULE}\n[[commitment]]\ncalling_ae = "TEST?"\nport = {port}'
    receiver = Receiver(tmp_path, rule=rule.replace("quiet = 1", "quiet = 600"))
    receiver.start()
    association = associate(receiver)
    assert [store(association, path) for path in paths] == [0] * 2
    assert request(association, "2.25.4", uids(paths)) == 0
    association.release()
    receiver.kill()
    reports = Reports(receiver.store)
    with listening(reports, port), running(tmp_path, rule=rule):
        assert reports.only() == ("2.25.4", 1, set(uids(paths)), {}, True)


def test_requests_that_are_malformed(tmp_path: Path) -> None:
    with running(tmp_path, rule=_RULE) as receiver:
        association = associate(receiver)
        assert request(association, "", ["1.2.3"]) == 0x0115
        assert request(association, "2.25.5", []) == 0x0115
        for action, instance, expected in ((7, _INSTANCE, 0x0123), (1, "1.2.3", 0x0112)):
            assert request(association, "2.25.6", ["1.2.3"], action, instance) == expected
        association.release()


def test_nothing_of_a_request_stays_when_its_visit_is_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(2):
        session = journal.open_session(rule="r", study="a", visit=f"v{number}", study_uid="1.2")
        instance = f"2.25.1234567{number}"
        journal.record_digests(session.id, {image_key(instance): b"x" * 16})
        journal.change_state(session.id, "success")
        journal.add_commitment("2.25.9", json.dumps([["1.2", instance]]), "STUDYA", "TESTS", "127.0.0.1")
    journal.forget_visit("a", "v0")
    assert [item.id for item in journal.open_commitments()] == [2]
    journal.close()
    raw = b"".join(path.read_bytes() for path in tmp_path.glob("journal.sqlite*"))
    assert (b"2.25.12345670" in raw, b"2.25.12345671" in raw) == (False, True)


def test_orthanc_gets_its_images_committed(tmp_path: Path) -> None:
    program = shutil.which("Orthanc", path=os.environ["PATH"] + ":/usr/sbin")
    if not program:
        pytest.skip("Orthanc is not installed")
    paths = write_visit(tmp_path / "in", {1: ("t1", 3)}, StudyInstanceUID=uid("commit orthanc"))
    dicom, http = free_port(), free_port()
    rule = f'{_RULE}\n[[commitment]]\ncalling_ae = "ORTHANC"\nport = {dicom}'
    with running(tmp_path, rule=rule) as receiver:
        settings = {
            "StorageDirectory": str(tmp_path / "orthanc"),
            "IndexDirectory": str(tmp_path / "orthanc"),
            "DicomPort": dicom,
            "HttpPort": http,
            "Plugins": [],
            "DicomModalities": {"icf": ["STUDYA", "127.0.0.1", receiver.port]},
        }
        (tmp_path / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
        process = subprocess.Popen(
            [program, str(tmp_path / "orthanc.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: _get(http, "system"), "Orthanc answers")
            for path in paths:
                assert _post(http, "instances", path.read_bytes())
            body = {"Resources": _get(http, "instances"), "StorageCommitment": True}
            sent: Any = _post(http, "modalities/icf/store", json.dumps(body).encode())
            address = f"storage-commitment/{sent['StorageCommitmentTransactionUID']}"
            wait_until(lambda: _state(http, address) != "Pending", "Orthanc has the report")
            found: Any = _get(http, address)
        finally:
            process.terminate()
            process.wait()
        assert (found["Status"], len(found["Success"]), found["Failures"]) == ("Success", 3, [])


def _state(port: int, path: str) -> str:
    found: Any = _get(port, path)
    return str(found["Status"]) if found else "Pending"
