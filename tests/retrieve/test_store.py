"""Stores on disk, and on a real web server with a password, by the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from icf_utils import deposit_visit_metadata, make_studyvisit_archive
from icf_utils.cli.main import main
from icf_utils.formatting import format_size
from icf_utils.retrieve.api import Retriever, StoreSource
from tests.data.make_cod import CodSeries
from tests.data.make_dicom import write_visit
from tests.dataset.servers import PASSWORD, USER, Server
from tests.fetch.server import Fault, FaultyServer, serving
from tests.retrieve.bucket_server import BucketServer
from tests.retrieve.conftest import expected, files


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two visits of a study and one of another."""
    root = tmp_path_factory.mktemp("stored")
    for study, visit, series in (
        ("study-a", "v1", {1: ("T1w", 4), 2: ("FLAIR", 3)}),
        ("study-a", "v2", {1: ("T1w", 2)}),
        ("study-b", "v1", {7: ("bold / rest", 5)}),
    ):
        write_visit(root / "in" / study / visit, series, companions={"notes.txt": b"no image"})
        make_studyvisit_archive(root / "in" / study / visit, root / "store", study, visit)
        deposit_visit_metadata(root / "store", study, visit)
    return root / "store"


def in_tars(store: Path, *visits: tuple[str, str]) -> dict[str, bytes]:
    found = {}
    for study, visit in visits:
        with tarfile.open(store / study / f"{visit}_dicom.tar") as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file
                if member.name.endswith(".dcm"):
                    found[member.name] = file.read()
    return found


def run(*arguments: object) -> int:
    return main(["retrieve", *map(str, arguments)])


def everything(store: Path) -> dict[str, bytes]:
    return in_tars(store, ("study-a", "v1"), ("study-a", "v2"), ("study-b", "v1"))


def test_all_visits_of_a_store_on_disk(store: Path, tmp_path: Path) -> None:
    assert run("-o", store, "-d", tmp_path) == 0
    assert files(tmp_path) == everything(store)


def test_all_visits_of_a_study(store: Path, tmp_path: Path) -> None:
    assert run("-o", store.as_uri(), "study-a", "-d", tmp_path) == 0
    assert files(tmp_path) == in_tars(store, ("study-a", "v1"), ("study-a", "v2"))


def test_a_missing_study(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-o", store, "study-c", "-d", tmp_path) == 1
    assert "study-c': it has no visit" in capsys.readouterr().out


@pytest.mark.parametrize("what", [(), ("--id", "study-a", "v1")])
def test_a_missing_store(what: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-o", tmp_path / "none", *what, "-d", tmp_path) == 2
    assert f"--store-dir: the folder '{tmp_path}/none' does not exist" in capsys.readouterr().err


def test_over_http_with_a_password(
    server: Server, store: Path, tmp_path: Path, login: None, capsys: pytest.CaptureFixture[str]
) -> None:
    what = ("-o", server.url, "--user", USER, "--id", "study-a", "v1", "--id", "study-b", "v1", "-d", tmp_path)
    assert run(*what) == 0
    assert files(tmp_path) == in_tars(store, ("study-a", "v1"), ("study-b", "v1"))
    before = len(server.requests())
    assert run(*what, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["result"]["unchanged"] == 12
    assert len(server.requests()) - before == 6  # the metadata and the SHA-256 sums only
    assert PASSWORD not in "".join(server.requests())


def test_one_image_is_one_short_request(server: Server, store: Path, tmp_path: Path, login: None) -> None:
    name = sorted(in_tars(store, ("study-a", "v1")))[2]
    before = len(server.requests())
    arguments = ("-o", server.url, "--user", USER, "--id", "study-a", "v1", "--image", name, "-d", tmp_path)
    assert run(*arguments) == 0
    assert files(tmp_path) == {name: in_tars(store, ("study-a", "v1"))[name]}
    (request,) = [line for line in server.requests()[before:] if "_dicom.tar " in line]
    assert f" 206 {len(files(tmp_path)[name])} " in request


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--series", "2"), 3),
        (("--series", "1", "--series", "2"), 7),
        (("--tag", "SeriesDescription=FLAIR"), 3),
        (("--tag", "SeriesDescription=FLAIR", "--tag", "Modality=MR"), 3),
    ],
)
def test_selections(store: Path, tmp_path: Path, options: tuple[str, ...], count: int) -> None:
    assert run("-o", store, "--id", "study-a", "v1", *options, "-d", tmp_path) == 0
    assert len(files(tmp_path)) == count


def test_a_layout(store: Path, tmp_path: Path) -> None:
    layout = "{study}/{visit}/{SeriesNumber}_{SeriesDescription}/{name}"
    assert run("-o", store, "--id", "study-b", "v1", "--layout", layout, "-d", tmp_path) == 0
    assert set(files(tmp_path)) == {f"study-b/v1/7_bold___rest/{number:04}.dcm" for number in range(1, 6)}


def test_a_layout_with_a_value_that_no_image_has(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-o", store, "--layout", "{Bogus}/{Modality}/{path}", "-d", tmp_path) == 0
    assert "warning [not-recorded]: 'Bogus': " in (said := capsys.readouterr().err)
    assert "Modality" not in said
    assert set(files(tmp_path)) == {f"_/MR/{name}" for name in everything(store)}


@pytest.mark.parametrize("as_url", [False, True])
def test_from_python_by_path_and_address(store: Path, tmp_path: Path, as_url: bool) -> None:
    source = StoreSource(store.as_uri() if as_url else store, studies=("study-a",))
    assert source.where == store.as_uri()
    with Retriever(source, tmp_path) as own:
        assert own.job().result().failures == ()
    assert files(tmp_path) == in_tars(store, ("study-a", "v1"), ("study-a", "v2"))


def test_a_tag_that_the_store_does_not_record(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-o", store, "--tag", "Bogus=1", "-d", tmp_path / "new") == 1
    said = capsys.readouterr().out
    assert "no image matches --tag Bogus=1: Bogus is not recorded here; recorded are " in said
    assert "MRAcquisitionType, " in said
    assert not (tmp_path / "new").exists()


def test_a_wrong_and_a_missing_password(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ICF_STORE_PASSWORD", "wr0ng")
    for user in (("--user", USER), ()):
        assert run("-o", server.url, *user, "--id", "study-a", "v1", "-d", tmp_path) == 10
        message = capsys.readouterr().err
        assert "401" in message
        assert "wr0ng" not in message


def test_a_missing_visit(
    server: Server, store: Path, tmp_path: Path, login: None, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = ("--id", "study-a", "v9", "--id", "study-a", "v2")
    assert run("-o", server.url, "--user", USER, *ids, "-d", tmp_path) == 1
    assert files(tmp_path) == in_tars(store, ("study-a", "v2"))
    assert f"failed: '{server.url}/study-a/v9_dicom.tar'" in capsys.readouterr().out


@pytest.fixture
def plain(store: Path) -> Iterator[FaultyServer]:
    """The store on a server with faults on request."""
    state = FaultyServer()
    state.objects = {f"/{path.relative_to(store)}": path.read_bytes() for path in store.rglob("*") if path.is_file()}
    with serving(state):
        yield state


@pytest.mark.parametrize(
    "fault",
    [
        Fault("_dicom.tar$", times=2, cut=600),
        Fault("_dicom.tar$", whole=True),
        Fault("", endless=True),
        Fault("", times=1, status=503, headers={"Retry-After": "0"}),
    ],
)
def test_transient_faults(plain: FaultyServer, store: Path, tmp_path: Path, fault: Fault) -> None:
    plain.faults.append(fault)
    assert run("-o", plain.url, "--id", "study-a", "v1", "-d", tmp_path) == 0
    assert files(tmp_path) == in_tars(store, ("study-a", "v1"))


@pytest.mark.parametrize(
    "fault",
    [
        Fault("v1_dicom.tar$", status=403),
        Fault("v1_dicom.tar$", status=404),
        Fault("v1_dicom.tar$", status=200, headers={"Content-Type": "text/html"}, body=b"<html>"),
        Fault("v1_dicom.tar$", status=200, body=b"no TAR"),
        Fault("v1_metadata_dicoms", status=200, body=b"[{}]"),
        Fault("v1_metadata_tarball", status=200, headers={"Content-Type": "text/html"}, body=b"<html>"),
        Fault("v1_metadata_dicoms", status=200, body=b"<!DOCTYPE html>"),
    ],
)
def test_permanent_faults(
    plain: FaultyServer, store: Path, tmp_path: Path, fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.faults.append(fault)
    ids = ("--id", "study-a", "v1", "--id", "study-a", "v2")
    assert run("-o", plain.url, *ids, "-d", tmp_path) == 1
    assert files(tmp_path) == in_tars(store, ("study-a", "v2"))
    assert "v1_dicom.tar" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("v1_metadata_dicoms", status=200, body=b"<!DOCTYPE html>"), "sent a web page instead of the file"),
        (Fault("v1_metadata_dicoms", status=200, body=b"[{}]"), "ask the store's administrator"),
        (Fault("v1_metadata_tarball", status=200, body=b'{"size": 1'), "ask the store's administrator"),
    ],
)
def test_the_remedy_is_for_whoever_downloads(
    plain: FaultyServer, tmp_path: Path, fault: Fault, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.faults.append(fault)
    assert run("-o", plain.url, "--id", "study-a", "v1", "-d", tmp_path) == 1
    said = capsys.readouterr().out
    assert words in said
    assert "deposit_visit_metadata" not in said


def test_metadata_of_another_visit(plain: FaultyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its ``storepath`` is another one."""
    for part in ("tarball", "dicoms"):
        plain.objects[f"/study-a/v1_metadata_{part}.json"] = plain.objects[f"/study-a/v2_metadata_{part}.json"]
    assert run("-o", plain.url, "--id", "study-a", "v1", "-d", tmp_path) == 1
    said = capsys.readouterr().out
    assert "expected 'study-a/v1_dicom.tar' under 'storepath', found 'study-a/v2_dicom.tar'; if the visit is" in said
    assert "check the address" in said
    assert "deposit_visit_metadata" not in said


def test_metadata_that_the_sums_contradict(
    plain: FaultyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Metadata that describes other images, with an archive that fits, but not with the list."""
    what = ("-o", plain.url, "--id", "study-a", "v1", "-d", tmp_path / "got")
    right = plain.objects["/study-a/v1_metadata_dicoms.json"]
    plain.objects["/study-a/v1_metadata_dicoms.json"] = right.replace(b'"T1w"', b'"T2w"')
    assert run(*what) == 1
    said = capsys.readouterr().out
    assert "'v1_metadata_dicoms.json': expected SHA-256" in said.replace(f"{plain.url}/study-a/", "")
    assert "as the visit's SHA-256 sums record" in said
    assert "ask the store's administrator" in said
    assert not (tmp_path / "got").exists()
    # replaced between two requests: read once more
    plain.objects["/study-a/v1_metadata_dicoms.json"] = right
    plain.faults.append(Fault("v1_metadata_dicoms", times=1, status=200, body=right.replace(b'"T1w"', b'"T2w"')))
    assert run(*what) == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("_SHA256SUMS", status=404), ""),
        (Fault("_SHA256SUMS", status=403), "'study-a/v1_SHA256SUMS': its SHA-256 sums cannot be read"),
        (Fault("_SHA256SUMS", status=200, body=b"0  /etc/passwd\r\n"), "compared only with the MD5s of the metadata"),
    ],
)
def test_sums_that_cannot_be_used(
    plain: FaultyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault, words: str
) -> None:
    plain.faults.append(fault)
    assert run("-o", plain.url, "--id", "study-a", "v1", "-d", tmp_path) == 0
    said = capsys.readouterr().err
    assert words in said
    assert bool(words) == ("SHA-256" in said)


def test_a_damaged_archive(plain: FaultyServer, store: Path, tmp_path: Path) -> None:
    """Each image is checked; the others are retrieved."""
    images = in_tars(store, ("study-a", "v1"))
    name = sorted(images)[0]
    path = "/study-a/v1_dicom.tar"
    plain.objects[path] = plain.objects[path].replace(images[name], bytes(len(images[name])))
    assert run("-o", plain.url, "--id", "study-a", "v1", "-d", tmp_path) == 1
    assert set(files(tmp_path)) == set(images) - {name}


def result(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_stats_and_dry_run(
    bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what = ("--bucket", bucket.place, "-d", tmp_path)
    assert run(*what, "--stats") == 0
    first = capsys.readouterr().out
    assert [line.partition(":")[0] for line in first.splitlines()] == [
        *("totalSeriesCount", "totalSavedSeriesCount", "totalSizeBytes", "totalSavedSizeBytes", "series", "items"),
    ]
    assert run(*what, "--stats") == 0
    assert capsys.readouterr().out == first
    assert run(*what, "--dry-run", "--json") == 0
    assert [line["images"] for line in result(capsys)["result"]["series"]] == [3, 3]
    assert files(tmp_path) == {}
    assert not list(tmp_path.iterdir())
    assert run(*what, "--series", "1", "--zip") == 0
    assert run(*what, "--series", "FLAIR") == 1
    assert "no image matches --series FLAIR" in capsys.readouterr().out
    assert run(*what, "--tag", "SeriesDescription=FLAIR") == 0
    assert set(files(tmp_path)) == {"1.2.3.zip", *expected(two[1])}


def test_tokens(
    bucket: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the environment or a file; one in the address is refused."""
    bucket.authorization = "Bearer t0ken"
    assert run("--bucket", f"{bucket.place}?token=t0ken", "-d", tmp_path) == 2
    assert run("--bucket", bucket.place, "-d", tmp_path) == 10
    file = tmp_path / "token"
    file.write_text("t0ken\n")
    file.chmod(0o600)
    assert run("--bucket", bucket.place, "--token-file", file, "--stats") == 0
    monkeypatch.setenv("ICF_TOKEN", "t0ken")
    assert run("--bucket", bucket.place, "--stats", "--json") == 0
    seen = capsys.readouterr()
    assert "t0ken" not in seen.out + seen.err


def test_ask_token_without_a_terminal(
    bucket: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The token of the environment is not used instead."""
    monkeypatch.setenv("ICF_TOKEN", "t0ken")
    assert run("--bucket", bucket.place, "-d", tmp_path, "--ask-token") == 2
    assert "Token for the bucket: icf-utils cannot ask without a terminal" in capsys.readouterr().err
    assert bucket.requests == []


def test_ask_token_precedes_the_environment(bucket: BucketServer, tmp_path: Path) -> None:
    pexpect = pytest.importorskip("pexpect", reason="pexpect is not installed")
    bucket.authorization = "Bearer right"
    command = ["-m", "icf_utils.cli.main", "retrieve", "--bucket", bucket.place, "--stats", "--ask-token", "-d", "x"]
    child = pexpect.spawn(sys.executable, command, env={**os.environ, "ICF_TOKEN": "wrong"}, cwd=tmp_path, timeout=60)
    child.expect("Token for the bucket: ")
    child.sendline("right")
    child.expect("totalSeriesCount: 2")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_user_precedes_a_token_of_the_environment(
    plain: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.authorization = "Basic YW5uYTpwdw=="
    monkeypatch.setenv("ICF_TOKEN", "t0ken")
    file = tmp_path / "password"
    file.write_text("pw\n")
    file.chmod(0o600)
    what = ("-o", plain.url, "--id", "study-a", "v1", "-d", tmp_path / "out")
    assert run(*what, "--user", "anna", "--password-file", file) == 0
    capsys.readouterr()
    assert run(*what) == 10
    assert "rejects the token (401)" in capsys.readouterr().err
    assert run(*what, "--password-file", file) == 2
    assert "--password-file: give the user's name with --user" in capsys.readouterr().err
    assert run(*what, "--user", "anna") == 2
    assert "--user: no password for 'anna'" in capsys.readouterr().err


@pytest.mark.parametrize("token", ["t0\nken", "t0ken\r"])
def test_a_malformed_token(
    bucket: BucketServer,
    tmp_path: Path,
    token: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ICF_TOKEN", token)
    assert run("--bucket", bucket.place, "-d", tmp_path) == 2
    said = capsys.readouterr().err
    assert "token: it is malformed" in said
    assert "ken" not in said.replace("token", "")


def test_quiet_suppresses_progress_only(
    bucket: BucketServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what = ("--bucket", bucket.place, "-d", tmp_path, "-q")
    for question, answer in (("--stats", "totalSeriesCount: 2\n"), ("--dry-run", "1.2.3/1.2.3.1: 3 images")):
        assert run(*what, question) == 0
        seen = capsys.readouterr()
        assert seen.out.startswith(answer)
        assert seen.err == ""
    assert run(*what) == 0
    seen = capsys.readouterr()
    assert seen.out + seen.err == ""


def test_transfer_and_images_have_one_size(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-o", store, "--id", "study-a", "v1", "-d", tmp_path) == 0
    seen = capsys.readouterr()
    size = format_size(sum(map(len, files(tmp_path).values())))
    assert f"Retrieving: {size} in " in seen.err
    assert f"7 images retrieved ({size})" in seen.out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("-o", "https://h", "--bucket", "b"),
        ("-o", "https://h"),
        ("-o", "https://h", "--visit", "v*"),
        ("-o", "https://h", "study-a", "--tag", "EchoTime<x"),
        ("-o", "https://h", "study-a", "--user", "me:pw"),
        ("--bucket", "b", "--study", "a"),
        ("--bucket", "b", "--from", "f"),
        ("-o", "https://me:pw@h", "--id", "a", "b"),
        ("-o", "ftp://h", "--id", "a", "b"),
        ("-o", "https://h", "--id", "../a", "b"),
        ("-o", "https://h", "--prefix", "p", "--id", "a", "b"),
        ("--bucket", "b", "--id", "a", "b"),
        ("--bucket", "https://h/b", "--endpoint", "https://x"),
        ("--bucket", "b", "../x"),
        ("--bucket", "b", "--tag", "x"),
        ("--bucket", "b", "--layout", "{x}"),
        ("--bucket", "b", "--connections", "0"),
        ("--bucket", "b", "--stats", "--dry-run"),
        ("--bucket", "s3://b", "--token-file", "t"),
        ("--bucket", "b", "--ask-token", "--token-file", "t"),
        ("-o", "https://h", "--id", "a", "b", "--user", "me", "--token-file", "t"),
        ("-o", "here", "--user", "me"),
    ],
)
def test_options_that_cannot_be_combined(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(*arguments, "-d", tmp_path) == 2
    assert "pw" not in capsys.readouterr().err


def test_an_interrupt_leaves_no_unfinished_files(bucket: BucketServer, tmp_path: Path) -> None:
    bucket.faults.append(Fault(r"\.tar\?", status=503, headers={"Retry-After": "200"}))
    command = [sys.executable, "-m", "icf_utils.cli.main", "retrieve", "--bucket", bucket.place, "-d", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not bucket.of(r"\.tar$"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert files(tmp_path) == {}
    assert not (tmp_path / ".icf-retrieve").exists()
