"""Sending to real receivers: what arrives, and what is done about failures."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pydicom
import pytest

from icf_utils import make_studyvisit_archive
from icf_utils.errors import InputRefused, InvalidSetting, RemoteFailure
from icf_utils.formatting import format_size
from icf_utils.sender.association import echo
from icf_utils.sender.images import list_images
from icf_utils.sender.model import MAX_CONTEXTS, SendResult, split_by_contexts
from icf_utils.sender.peer import Peer
from icf_utils.sender.send import send
from icf_utils.sources.open import open_source
from tests.cli.program import icf
from tests.data.make_dicom import (
    CT_IMAGE,
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    dicom_bytes,
    write_visit,
)
from tests.sender.nodes import HOST, free_port, orthanc, program, scripted, storescp

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed")


def dataset_of(raw: bytes) -> bytes:
    """What follows the file meta information, by pynetdicom's own reading."""
    from io import BytesIO

    from pydicom.filereader import _read_file_meta_info as read_meta
    from pydicom.filereader import read_preamble

    file = BytesIO(raw)
    read_preamble(file, False)
    read_meta(file)
    return raw[file.tell() :]


def send_folder(folder: Path, port: int, title: str = "SCRIPTED", **options: float) -> SendResult:
    peer = Peer(HOST, port, title, timeout=10)
    with open_source(folder, Path(tempfile.gettempdir())) as source:
        return send(source, list_images(source), peer, pause=0.01, **options)  # type: ignore[arg-type]


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    """Images of several kinds in one folder, and a file that is none."""
    folder = tmp_path / "visit"
    write_visit(folder, {1: ("scout", 3), 2: ("rest", 4)}, companions={"notes.txt": b"nothing"})
    kinds = {"implicit": IMPLICIT_LITTLE, "big": EXPLICIT_BIG, "deflated": DEFLATED}
    for number, (name, syntax) in enumerate(kinds.items(), 11):
        (folder / f"{name}.dcm").write_bytes(dicom_bytes(transfer_syntax=syntax, SeriesNumber=number))
    (folder / "ct.dcm").write_bytes(dicom_bytes(SOPClassUID=CT_IMAGE, SeriesNumber=21))
    return folder


def test_data_sets_arrive_byte_by_byte(visit: Path) -> None:
    with scripted() as receiver:
        result = send_folder(visit, receiver.port)
    assert (result.sent, result.failed, result.associations) == (11, 0, 1)
    assert [notice.subject for notice in result.skipped] == ["notes.txt"]
    sent = {}
    for path in visit.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        sent[str(dataset.SOPInstanceUID)] = (dataset_of(path.read_bytes()), str(dataset.file_meta.TransferSyntaxUID))
    assert {uid: (data, receiver.syntaxes[uid]) for uid, (data,) in receiver.received.items()} == sent
    assert len({syntax for _, syntax in sent.values()}) == 4


def test_one_association_proposes_each_context_once(visit: Path) -> None:
    with scripted() as receiver:
        send_folder(visit, receiver.port)
    assert receiver.associations == [6]  # MR in four transfer syntaxes, CT in its own and in implicit VR


def test_many_contexts_need_several_associations(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(MAX_CONTEXTS + 2):
        raw = dicom_bytes(SOPClassUID=f"1.2.840.10008.5.1.4.1.1.4.{number + 100}", InstanceNumber=number)
        (folder / f"{number:03}.dcm").write_bytes(raw)
    with scripted() as receiver:
        result = send_folder(folder, receiver.port, retries=0)
    assert receiver.associations == [MAX_CONTEXTS, MAX_CONTEXTS, 4]  # each class in its own and in implicit VR
    assert result.associations == 3
    assert result.failed == MAX_CONTEXTS + 2  # it supports none of these classes
    assert {image.tries for image in result.images} == {0}
    with open_source(folder, tmp_path) as source:
        assert [len(batch) for batch in split_by_contexts(list_images(source).images, 50)] == [25, 25, 25, 25, 25, 5]


def test_a_receiver_of_implicit_vr_only(tmp_path: Path) -> None:
    """Every node must accept it (PS3.5 section 10.1), and some accept nothing else. No value changes."""
    folder, sent = tmp_path / "in", {}
    write_visit(folder, {1: ("scout", 3)}, transfer_syntax=EXPLICIT_LITTLE)
    write_visit(folder, {2: ("rest", 2)}, transfer_syntax=DEFLATED)
    for path in folder.rglob("*.dcm"):
        sent[str(pydicom.dcmread(path).SOPInstanceUID)] = pydicom.dcmread(path)
    with storescp(tmp_path / "out", "+xi") as port:
        result = send_folder(folder, port)
    assert (result.sent, result.failed, result.converted) == (5, 0, 5)
    received = [pydicom.dcmread(path) for path in (tmp_path / "out").iterdir()]
    assert len(received) == 5
    for dataset in received:
        assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
        assert dataset == sent[str(dataset.SOPInstanceUID)]


def test_a_receiver_of_both_gets_the_file_unchanged(tmp_path: Path) -> None:
    write_visit(tmp_path / "in", {1: ("scout", 2)}, transfer_syntax=EXPLICIT_LITTLE)
    with storescp(tmp_path / "out") as port:
        result = send_folder(tmp_path / "in", port)
    assert (result.sent, result.converted) == (2, 0)
    assert {pydicom.dcmread(path).file_meta.TransferSyntaxUID for path in (tmp_path / "out").iterdir()} == {
        EXPLICIT_LITTLE
    }


def test_compressed_images_are_not_converted(tmp_path: Path) -> None:
    write_visit(tmp_path / "in", {1: ("scout", 1)}, transfer_syntax="1.2.840.10008.1.2.4.90")
    with storescp(tmp_path / "out", "+xi") as port:
        result = send_folder(tmp_path / "in", port, retries=0)
    assert (result.sent, result.failed) == (0, 1)


def test_a_single_file(tmp_path: Path) -> None:
    (file, _) = write_visit(tmp_path / "in", {1: ("scout", 2)})
    with storescp(tmp_path / "out") as port:
        ran = icf("send", file, "127.0.0.1", str(port), "--aec", "ANY")
    assert (ran.code, len(list((tmp_path / "out").iterdir()))) == (0, 1), ran.err


def test_refused_images_are_sent_again(visit: Path) -> None:
    with scripted(0xA700, 0x0000, 0xA702, 0x0110) as receiver:
        result = send_folder(visit, receiver.port)
    assert (result.sent, result.failed, receiver.count) == (11, 0, 14)
    assert [image.tries for image in result.images].count(2) == 3
    assert result.associations == 2


def test_images_that_always_fail_are_named(visit: Path) -> None:
    with scripted(*[0xA700] * 100) as receiver:
        result = send_folder(visit, receiver.port, retries=1)
    assert (result.sent, result.failed, receiver.count) == (0, 11, 22)
    assert {(image.status, image.tries) for image in result.failures} == {(0xA700, 2)}


def test_an_image_with_a_final_status_is_not_sent_again(visit: Path) -> None:
    answers = (0x0122, 0xA900, 0x0124, 0xC000, 0xC002, 0xCFFF)
    with scripted(*answers) as receiver:
        result = send_folder(visit, receiver.port)
    assert (result.failed, receiver.count) == (len(answers), 11)
    assert sorted(image.status or 0 for image in result.failures) == sorted(answers)


def test_a_warning_is_not_a_failure(visit: Path) -> None:
    with scripted(0xB000, 0xB007) as receiver:
        result = send_folder(visit, receiver.port)
    assert result.failed == 0
    assert [image.status for image in result.images if image.state == "warned"] == [0xB000, 0xB007]


def test_a_lost_association_is_opened_again(visit: Path) -> None:
    with scripted(abort_at=5) as receiver:
        result = send_folder(visit, receiver.port)
    assert (result.sent, result.failed, result.associations) == (11, 0, 2)
    assert receiver.count == 12


def test_a_missing_response_is_a_failure(visit: Path) -> None:
    with scripted(delay=3) as receiver, open_source(visit / "01_scout", visit) as source:
        peer = Peer(HOST, receiver.port, "SCRIPTED", timeout=1)
        result = send(source, list_images(source), peer, retries=0, pause=0)
    assert result.failed == 3
    assert {image.meaning for image in result.failures} == {
        "the receiver did not respond, or ended the association",
        "the association ended before it was sent",
    }


def test_rejections_are_explained(visit: Path) -> None:
    with scripted(titles=("SCANNER",)) as receiver:
        with pytest.raises(RemoteFailure, match=r"rejected the association: .*calling"):
            send_folder(visit, receiver.port)
        with pytest.raises(RemoteFailure, match=r"WRONG@127.0.0.1:\d+: it rejected the association: .*called"):
            send_folder(visit, receiver.port, "WRONG")


def test_a_busy_receiver_is_tried_again(visit: Path) -> None:
    from pynetdicom import AE

    with scripted(most=1) as receiver:
        holder = AE()
        holder.add_requested_context("1.2.840.10008.1.1")
        held = holder.associate(HOST, receiver.port, ae_title="SCRIPTED")
        with pytest.raises(RemoteFailure, match=r"rejected the association: .*limit"):
            send_folder(visit, receiver.port, retries=1)
        held.release()
        assert len(receiver.associations) == 3
        assert send_folder(visit, receiver.port).failed == 0


def test_a_host_where_nothing_listens() -> None:
    with pytest.raises(RemoteFailure, match=r"no connection .*refused"):
        echo(Peer(HOST, free_port(), "NOBODY", timeout=5))
    with pytest.raises(RemoteFailure, match=r"no connection|cannot find"):
        echo(Peer("nowhere.invalid", 104, "NOBODY", timeout=5))


def test_echo() -> None:
    with scripted() as receiver:
        assert echo(Peer(HOST, receiver.port, "SCRIPTED", timeout=10)) > 0


@pytest.mark.parametrize("title", ["", " ", "A" * 17, "BACK\\SLASH", "NEW\nLINE", "UMLÄUT"])
def test_ae_titles_are_checked(title: str) -> None:
    with pytest.raises(InvalidSetting, match="AE title"):
        Peer(HOST, 104, title)


def test_truncated_and_odd_files_do_not_affect_others(tmp_path: Path) -> None:
    folder = tmp_path / "visit"
    write_visit(folder, {1: ("a", 2)})
    whole = dicom_bytes(SeriesNumber=7)
    (folder / "cut.dcm").write_bytes(whole[:-3])
    (folder / "nameless.dcm").write_bytes(dicom_bytes(SeriesNumber=8, SOPInstanceUID=None))
    with scripted() as receiver:
        result = send_folder(folder, receiver.port)
    assert (result.sent, receiver.count) == (2, 2)
    assert {image.name: image.meaning for image in result.failures} == {
        "cut.dcm": "is truncated or damaged",
        "nameless.dcm": "has no valid SOPInstanceUID",
    }


def test_dcmtk_receives_the_syntaxes_it_supports(visits: Path, tmp_path: Path) -> None:
    """All real visits; the pixels are those of the files, whatever dcmtk does to headers as it writes."""
    with storescp(tmp_path / "got", "+xa", "-pm", "+B") as port:
        result = send_folder(visits / "siemens-triotim-syntaxes", port, "STORESCP")
        other = send_folder(visits / "ge-ct-syntaxes", port, "STORESCP", retries=0)
    assert (result.sent, result.failed) == (9, 0)
    refused = {image.meaning for image in other.failures}
    assert refused <= {"the receiver does not accept this SOP class in the file's transfer syntax"}
    sent = {dataset_of(path.read_bytes()) for path in (visits / "siemens-triotim-syntaxes").glob("*.dcm")}
    got = {dataset_of(path.read_bytes()) for path in (tmp_path / "got").iterdir()}
    assert sent <= got


def test_orthanc_receives(visit: Path, tmp_path: Path) -> None:
    (tmp_path / "orthanc").mkdir()
    with orthanc(tmp_path / "orthanc") as node:
        result = send_folder(visit, node.port, "ORTHANC")
        assert (result.sent, result.failed) == (11, 0)
        with pytest.raises(RemoteFailure, match="rejected"):
            send_folder(visit, node.port, "ORTHANK")
        kept = {node.get(f"/instances/{name}/metadata/SopClassUid") for name in node.get("/instances")}
        assert len(node.get("/instances")) == 11
        assert len(kept) == 2


def certificates(folder: Path) -> None:
    """An authority, and a certificate for the loopback address for each side."""
    folder.mkdir()
    (folder / "ext").write_text(f"subjectAltName=IP:{HOST}\n")
    new = "-newkey rsa:2048 -nodes"
    commands = [f"req -x509 {new} -keyout ca.key -out ca.pem -days 2 -subj /CN=ca"]
    for name in ("server", "client"):
        commands.append(f"req {new} -keyout {name}.key -out {name}.csr -subj /CN={name}")
        signed = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext"
        commands.append(f"x509 -req -in {name}.csr {signed} -out {name}.pem")
    for command in commands:
        subprocess.run([program("openssl"), *command.split()], cwd=folder, check=True, capture_output=True)


def test_tls_with_certificates(visit: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    certificates(keys)
    server = ["+tls", str(keys / "server.key"), str(keys / "server.pem"), "+cf", str(keys / "ca.pem"), "+xa"]
    with storescp(tmp_path / "got", *server) as port:
        start: list[str | Path] = ["send", visit / "01_scout", HOST, str(port), "--aec", "STORESCP", "--retries", "0"]
        trust: list[str | Path] = ["--tls", "--ca", keys / "ca.pem"]
        own: list[str | Path] = ["--cert", keys / "client.pem", "--key", keys / "client.key"]
        good = icf(*start, *trust, *own)
        assert (good.code, good.out) == (0, f"3 images sent to STORESCP@{HOST}:{port} (2.4 kB)\n")
        plain, unknown = icf(*start), icf(*start, "--tls", *own)
        assert (plain.code, unknown.code) == (10, 10)
        assert "certificate is not valid" in unknown.err
        without = icf(*start, *trust)
        assert without.code == 10
        mixed = icf(*start, *trust, "--cert", keys / "client.pem", "--key", keys / "server.key")
        assert (mixed.code, "do not belong together" in mixed.err) == (2, True)


def test_the_command_sends_a_visit_of_a_store(visit: Path, tmp_path: Path) -> None:
    make_studyvisit_archive(visit, tmp_path / "store", "study-a", "visit-01")
    with scripted() as receiver:
        start: list[str | Path] = [
            *("send", HOST, str(receiver.port), "--aec", "SCRIPTED"),
            *("-o", tmp_path / "store", "--id", "study-a", "visit-01"),
        ]
        some = icf(*start, "--series", "2", "--series", "21", "--json")
        assert (some.code, some.json["result"]["sent"], receiver.count) == (0, 5, 5)
        whole = icf(*start)
        assert whole.code == 0
        assert whole.out.startswith(f"11 images sent to SCRIPTED@{HOST}:{receiver.port} (")
        assert whole.out.endswith("; 1 other file left out\n")
        unknown = icf(*start, "--series", "99")
        assert (
            unknown.code,
            "'99': is neither the SeriesNumber nor" in unknown.err,
        ) == (3, True)


def test_the_command_fails_if_any_image_failed(visit: Path) -> None:
    with scripted(0xC001, 0xC001) as receiver:
        start: list[str | Path] = ["send", visit, HOST, str(receiver.port), "--aec", "SCRIPTED", "--pause", "0"]
        ran = icf(*start, "--retries", "0")
        assert ran.code == 1
        assert ran.out.count("(status 0xC001)") == 2
        assert "9 images sent" in ran.out
        assert "2 failed" in ran.out


def test_progress_counts_what_arrives(visit: Path) -> None:
    """Not what was refused, or is tried again."""
    sizes = sum(path.stat().st_size for path in visit.rglob("*.dcm"))
    start: list[str | Path] = ["send", visit, HOST]
    more: list[str | Path] = ["--aec", "SCRIPTED", "--pause", "0", "--retries", "1"]
    with scripted(*[0xA700] * 22) as receiver:
        assert "sending: 0 B in " in icf(*start, str(receiver.port), *more).err
    with scripted(0xA700, 0xA700) as receiver:
        assert f"sending: {format_size(sizes)} in " in icf(*start, str(receiver.port), *more).err


def test_a_store_without_the_visit(tmp_path: Path) -> None:
    ran = icf("send", HOST, "104", "--aec", "A", "-o", tmp_path, "--id", "study-a", "visit-01")
    assert ran.code == 5


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    with open_source(tmp_path, tmp_path) as source, pytest.raises(InputRefused, match="contains no DICOM images"):
        list_images(source)
