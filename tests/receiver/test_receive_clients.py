"""Images from real senders are stored as they were sent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest

from icf_utils.receiver.model import Association
from tests.data.make_dicom import uid, write_visit
from tests.receiver.receiving import (
    PATIENCE,
    Receiver,
    data_set,
    data_sets,
    dcmtk,
    free_port,
    running,
    storescu,
    wait_until,
)

pynetdicom = pytest.importorskip("pynetdicom")

_SERIES = {1: ("t1", 3), 2: ("bold", 4)}


def associations(receiver: Receiver) -> list[Association]:
    from icf_utils.receiver.journal import Journal

    journal = Journal(receiver.folder / "spool")
    try:
        return journal.associations()
    finally:
        journal.close()


def test_storescu_echo_and_the_journal(tmp_path: Path) -> None:
    sent = write_visit(tmp_path / "in", _SERIES)
    with running(tmp_path) as receiver:
        echo = [dcmtk("echoscu"), "-aec", "STUDYA", "127.0.0.1", str(receiver.port)]
        assert subprocess.run(echo, check=False, timeout=PATIENCE).returncode == 0
        assert storescu(receiver, tmp_path / "in").returncode == 0
        (session,) = receiver.finished(1)
        assert (session.state, session.images, session.calling_ae) == ("success", len(sent), "STORESCU")
        found = {key: data_set(raw) for key, raw in receiver.images(session).items()}
        assert found == data_sets(sent)
        assert "archive: done" in session.log.read_text(encoding="utf-8")
        newest = associations(receiver)[0]
        assert (newest.state, newest.images, newest.sessions) == ("released", len(sent), (session.id,))
        assert newest.transfer_syntaxes == ("1.2.840.10008.1.2.1",)


def test_storescu_with_implicit_vr_gives_the_same_content(tmp_path: Path) -> None:
    """It encodes anew by itself, so that bytes cannot be compared."""
    sent = write_visit(tmp_path / "in", _SERIES)
    with running(tmp_path) as receiver:
        assert storescu(receiver, tmp_path / "in", "-xi").returncode == 0
        (session,) = receiver.finished(1)
        found = {key: pydicom.dcmread(BytesIO(raw)) for key, raw in receiver.images(session).items()}
        for path in sent:
            before = pydicom.dcmread(path)
            after = found.pop(str(before.SOPInstanceUID))
            assert after.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
            assert {element.tag: element.value for element in before} == {
                element.tag: element.value for element in after
            }
        assert not found


def certificates(folder: Path) -> None:
    """An authority, and certificates of it for receiver and sender."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    for name in ("ca", "server", "client"):
        subject = ["-subj", f"/CN={name}", "-nodes", "-newkey", "rsa:2048", "-keyout", f"{name}.key"]
        if name == "ca":
            commands = [["req", "-x509", *subject, "-out", "ca.pem", "-days", "2"]]
        else:
            signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-out", f"{name}.pem"]
            commands = [["req", *subject, "-out", f"{name}.csr"], ["x509", "-req", "-in", f"{name}.csr", *signing]]
        for command in commands:
            subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True, timeout=PATIENCE)


def test_tls_with_client_certificates(tmp_path: Path) -> None:
    sent = write_visit(tmp_path / "in", _SERIES)
    certificates(tmp_path)
    listen = 'reserve = 0\ncertificate = "server.pem"\nkey = "server.key"\nclient_ca = "ca.pem"'
    with running(tmp_path, listen=listen) as receiver:
        tls = ["+tls", str(tmp_path / "client.key"), str(tmp_path / "client.pem"), "+cf", str(tmp_path / "ca.pem")]
        anonymous = ["+tla", "+cf", str(tmp_path / "ca.pem")]
        assert storescu(receiver, tmp_path / "in", *anonymous).returncode != 0
        assert storescu(receiver, tmp_path / "in").returncode != 0  # without TLS
        assert receiver.sessions() == []
        done = storescu(receiver, tmp_path / "in", *tls)
        assert done.returncode == 0, done.stderr
        (session,) = receiver.finished(1)
        assert session.images == len(sent)
        assert "the TLS handshake failed" in receiver.log


def test_a_silent_tls_client_does_not_block_others(tmp_path: Path) -> None:
    import socket

    certificates(tmp_path)
    write_visit(tmp_path / "in", {1: ("t1", 1)})
    listen = 'reserve = 0\ncertificate = "server.pem"\nkey = "server.key"'
    with running(tmp_path, listen=listen) as receiver, socket.create_connection(("127.0.0.1", receiver.port)):
        tls = ["+tla", "+cf", str(tmp_path / "ca.pem")]
        assert storescu(receiver, tmp_path / "in", *tls).returncode == 0
        receiver.finished(1)


def test_orthanc_sends_images(tmp_path: Path) -> None:
    program = shutil.which("Orthanc", path=os.environ["PATH"] + ":/usr/sbin")
    if not program:
        pytest.skip("Orthanc is not installed")
    sent = write_visit(tmp_path / "in", _SERIES)
    with running(tmp_path) as receiver:
        dicom, http = free_port(), free_port()
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
            [program, str(tmp_path / "orthanc.json")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TCP_NODELAY": "1"},
        )
        try:
            wait_until(lambda: _post(http, "tools/echo", b"{}") is not None or _get(http, "system"), "Orthanc answers")
            for path in sent:
                assert _post(http, "instances", path.read_bytes())
            patients = _get(http, "patients")
            assert patients
            assert _post(http, "modalities/icf/store", json.dumps(patients).encode())
        finally:
            process.terminate()
            process.wait()
        (session,) = receiver.finished(1)
        assert (session.images, session.calling_ae) == (len(sent), "ORTHANC")
        assert set(receiver.images(session)) == set(data_sets(sent))


def _get(port: int, path: str) -> object:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=PATIENCE) as answer:
            return json.load(answer)
    except OSError:
        return None


def _post(port: int, path: str, body: bytes) -> object:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data=body, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)
    except OSError:
        return None


def test_private_and_compressed_images_are_stored_as_sent(tmp_path: Path) -> None:
    """A storage class that nobody knows, in a syntax that nobody here decodes."""
    from pynetdicom import AE

    private, syntax = "1.2.826.0.1.3680043.9.7433.999.1", "1.2.840.10008.1.2.4.80"
    (path,) = write_visit(tmp_path / "in", {1: ("t1", 1)}, SOPClassUID=private)
    image = pydicom.dcmread(path)
    image.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    image.file_meta.MediaStorageSOPClassUID = pydicom.uid.UID(private)
    image.PixelData = pydicom.encaps.encapsulate([b"not decoded"])
    image["PixelData"].is_undefined_length = True
    image.save_as(path, enforce_file_format=True)
    with running(tmp_path) as receiver:
        entity = AE("TESTS")
        entity.add_requested_context(private, syntax)
        association = entity.associate("127.0.0.1", receiver.port, ae_title="STUDYA")
        assert association.is_established
        assert association.send_c_store(path).Status == 0
        association.release()
        (session,) = receiver.finished(1)
        (raw,) = receiver.images(session).values()
        assert data_set(raw) == data_set(path.read_bytes())
        assert pydicom.dcmread(BytesIO(raw)).file_meta.TransferSyntaxUID == syntax


def test_twenty_associations_of_several_patients_at_once(tmp_path: Path) -> None:
    """Each carries images of all patients in turn; all arrive, and every patient's apart."""
    from pynetdicom import AE
    from pynetdicom.sop_class import MRImageStorage  # type: ignore[attr-defined]

    senders, patients = 20, 5
    sent = {
        number: write_visit(tmp_path / "in" / str(number), {1: ("t1", senders * 2)}, StudyInstanceUID=uid(number))
        for number in range(patients)
    }
    answers: list[int] = []
    start = threading.Barrier(senders)

    def send(own: int, port: int) -> None:
        entity = AE(f"SENDER{own}")
        entity.add_requested_context(MRImageStorage, "1.2.840.10008.1.2.1")
        start.wait()
        association = entity.associate("127.0.0.1", port, ae_title="STUDYA")
        assert association.is_established
        for at in (own * 2, own * 2 + 1):
            for number in range(patients):
                # while the association's thread is still paused, it would take the response for a request
                while association.is_established and association._is_paused:
                    time.sleep(0.001)
                answers.append(association.send_c_store(sent[number][at]).Status)
        association.release()

    with running(tmp_path, rule='called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 3') as receiver:
        threads = [threading.Thread(target=send, args=(own, receiver.port)) for own in range(senders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert answers == [0] * (senders * 2 * patients)
        sessions = receiver.finished(patients)
        assert len(sessions) == patients
        by_study = {session.study_uid: session for session in sessions}
        for number, paths in sent.items():
            found = receiver.images(by_study[uid(number)])
            assert {key: data_set(raw) for key, raw in found.items()} == data_sets(paths)


def test_images_over_two_associations_are_one_visit(tmp_path: Path) -> None:
    one = write_visit(tmp_path / "one", {1: ("t1", 3)})
    two = write_visit(tmp_path / "two", {2: ("bold", 3)})
    with running(tmp_path, rule='called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 3') as receiver:
        assert storescu(receiver, tmp_path / "one").returncode == 0
        time.sleep(1)
        assert storescu(receiver, tmp_path / "two").returncode == 0
        (session,) = receiver.finished(1)
        assert session.images == len(one) + len(two)


def test_odd_uids_are_archived_and_named(tmp_path: Path) -> None:
    """Reproduces ../shared/cases/intake/26 for C-STORE: letters, a final dot, more than 64 characters."""
    long = "1.2.826.0.1.3680043.10.363.5421649119139350670558684743636101576.9"
    odd: dict[str, dict[str, Any]] = {
        "letters": {"StudyInstanceUID": "PHANTOM.2024.1"},
        "long": {"StudyInstanceUID": "1.2.3", "SOPInstanceUID": long},
        "dot": {"StudyInstanceUID": "1.2.4", "SOPInstanceUID": "1.2.826.1."},
        "series": {"StudyInstanceUID": "1.2.5", "SeriesInstanceUID": "SERIES.7."},
    }
    for name, uids in odd.items():
        write_visit(tmp_path / "in" / name, {1: ("t1", 1)}, **uids)
    rule = 'called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 1\nuntil = "metadata"'
    with running(tmp_path, rule=rule) as receiver:
        assert storescu(receiver, tmp_path / "in").returncode == 0
        sessions = receiver.finished(len(odd))
        assert {item.state for item in sessions} == {"success"}
        assert {item.notes for item in sessions} == {("archive: see [odd-uid] in the log",)}
        assert storescu(receiver, tmp_path / "in").returncode == 0  # they are known again
        assert len(receiver.sessions()) == len(odd)
