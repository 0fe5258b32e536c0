"""The founding recipe with a processing: sent by storescu, waited for, OUTPUT downloaded as zip."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from icf_utils.receiver.journal import Journal
from icf_utils.receiver.processings import request_rerun
from icf_utils.store.layout import Visit
from tests.data.make_dicom import uid, write_visit
from tests.receiver.pages import TOKEN, fill, served
from tests.receiver.receiving import PATIENCE, Receiver, running, storescu

pytest.importorskip("pynetdicom")

_RULE = """\
called_ae = "STUDYA"
study = "study-a"
visit = "{StudyID}"
allow_identifying = true
quiet = 1
until = "metadata"
"""
_PROCESSINGS = """
[[processing]]
name = "first"
version = "1"
command = ["sh", "-c", "cd $ICF_INPUT && find . -type f | sort > $ICF_OUTPUT/list"]

[[processing]]
name = "second"
version = "1"
command = ["sh", "-c", "wc -l < $ICF_INPUT/list > count"]
input_from = "first"
keep_log = "always"
"""


def icf(receiver: Receiver, *words: str) -> Any:
    command = [sys.executable, "-m", "icf_utils.cli.main", "sessions", *words, "--json"]
    command += ["--settings", str(receiver.folder / "receiver.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return json.loads(done.stdout)


def test_the_recipe_with_processings(tmp_path: Path) -> None:
    write_visit(tmp_path / "in", {1: ("t1", 3), 2: ("bold", 2)}, StudyID="v1", StudyInstanceUID=uid("s"))
    rule = f'{_RULE}process = ["second", "first"]\n{_PROCESSINGS}'
    with running(tmp_path, rule=rule) as receiver:
        assert storescu(receiver, tmp_path / "in").returncode == 0
        (session,) = receiver.finished(1)
        assert session.state == "success", session.failure
        (record,) = icf(receiver)["result"]["sessions"]
        assert [(one["name"], one["state"], one["files"]) for one in record["processings"]] == [
            *(("second", "success", 1), ("first", "success", 1))
        ]
        assert icf(receiver, "get", session.id, "-d", str(tmp_path / "got"))["ok"]
        with zipfile.ZipFile(tmp_path / "got" / f"{session.id}-output.zip") as zipped:
            assert zipped.read(f"{session.id}/OUTPUT/second/count").strip() == b"5"
            assert len(zipped.read(f"{session.id}/OUTPUT/first/list").split()) == 5
        assert not icf(receiver, "rerun", session.id, "--processing", "third")["ok"]
        assert icf(receiver, "rerun", session.id, "--processing", "first")["ok"]
        receiver.finished(1)
        log = session.log.read_text(encoding="utf-8")
        assert log.count("process first: success") == 2
        assert log.count("process second:") == 2


def test_what_fails_is_named_and_tried_again(tmp_path: Path) -> None:
    write_visit(tmp_path / "in", {1: ("t1", 1)}, StudyID="v1", StudyInstanceUID=uid("s"))
    flag = tmp_path / "flag"
    command = f'["sh", "-c", "echo zq-secret-name; test -e {flag} || exit 3; echo 1 > x"]'
    rule = (
        f'{_RULE}process = ["one"]\n[[processing]]\nname = "one"\nversion = "1"\nisolation = "none"\n'
        f"command = {command}\n"
    )
    with running(tmp_path, rule=rule) as receiver:
        assert storescu(receiver, tmp_path / "in").returncode == 0
        (session,) = receiver.finished(1)
        assert (session.state, session.failure) == ("failed", "process one: it ended with exit code 3")
        assert Visit(receiver.store, "study-a", "v1").archive.exists()
        assert "zq-secret-name" not in receiver.log + session.log.read_text(encoding="utf-8")
        flag.touch()
        assert icf(receiver, "retry", session.id)["ok"]
        (session,) = receiver.finished(1)
        assert session.state == "success"


def test_a_rule_names_processings_that_exist(tmp_path: Path) -> None:
    (tmp_path / "receiver.toml").write_text(
        f'store = "s"\nspool = "p"\n[[rule]]\n{_RULE}process = ["frist"]{_PROCESSINGS}'
    )
    command = [sys.executable, "-m", "icf_utils.cli.main", "receive", str(tmp_path / "receiver.toml"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 2
    assert "unknown name 'frist'; did you mean 'first'?" in done.stderr


@pytest.mark.parametrize("seed", range(int(os.environ.get("ICF_TRIALS", "3"))))
def test_a_receiver_that_is_killed_while_it_processes(tmp_path: Path, seed: int) -> None:
    """Each session ends once, with the right output, and nothing of the program is left."""
    write_visit(tmp_path / "in", {1: ("t1", 2)}, StudyID="v1", StudyInstanceUID=uid("s"))
    word = f"zq-{seed}-{tmp_path.name}"
    rule = (
        f'{_RULE}process = ["slow"]\n[[processing]]\nname = "slow"\nversion = "1"\nkeep_log = "always"\n'
        f'command = ["sh", "-c", "sleep 1; find $ICF_INPUT -type f | wc -l > count; : {word}"]\n'
    )
    chance = random.Random(f"{os.environ.get('ICF_SEED', '')}{seed}")
    with running(tmp_path, rule=rule) as receiver:
        assert storescu(receiver, tmp_path / "in").returncode == 0
        time.sleep(chance.uniform(0.5, 5.0))
        receiver.kill()
        receiver.start()
        (session,) = receiver.finished(1)
        assert session.state == "success", session.failure
    place = Visit(receiver.store, "study-a", "v1")
    assert b"2\n" in place.output("slow").read_bytes()
    assert json.loads(place.provenance("slow").read_bytes())["state"] == "success"
    assert sorted(path.name for path in place.of_study.folder.glob("*slow*")) == [
        *("v1_slow_output.tar", "v1_slow_provenance.json")
    ]


def get(url: str, method: str = "GET", data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {TOKEN}", **headers}
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture
def pages(tmp_path: Path) -> tuple[Journal, Mapping[str, Any]]:
    """A journal whose successful session has an output of the processing 'one'."""
    from icf_utils.processing.execute import ProcessConfig, process_visit
    from icf_utils.receiver.processings import Bucket
    from tests.processing.conftest import shell

    journal = fill(tmp_path, "words")
    program = shell("echo hello > 'a b'; echo log", name="one", keep_log="always", isolation="none")
    assert process_visit(ProcessConfig(tmp_path / "store", program), "study-a", "visit-01").state == "success"
    bucket = Bucket("ARCHIVE", "ARCHIVE", "Says hello", "1")
    return journal, {"processings": {"ARCHIVE": ("one",)}, "buckets": (bucket,)}


def test_pages_and_the_addresses_of_magickbox(tmp_path: Path, pages: tuple[Journal, Mapping[str, Any]]) -> None:
    journal, settings = pages
    done = next(session for session in journal.sessions() if session.visit == "visit-01")
    with served(tmp_path, journal, **settings) as (url, _):
        record = json.loads(get(f"{url}/sessions/{done.id}")[1])
        assert record["processings"][0]["state"] == "success"
        assert b"Process again" in get(f"{url}/view/{done.id}")[1]
        assert b"log\n" in get(f"{url}/sessions/{done.id}/processings/one/log")[1]
        assert get(f"{url}/sessions/{done.id}/processings/two/log")[0] == 404
        zipped = zipfile.ZipFile(BytesIO(get(f"{url}/code/php/getOutputZip.php?folder={done.id}")[1]))
        assert zipped.read(f"{done.id}/OUTPUT/a b") == b"hello\n"
        buckets = json.loads(get(f"{url}/code/php/getInstalledBuckets.php")[1])
        assert [(one["AETitle"], one["description"]) for one in buckets] == [("ARCHIVE", "Says hello")]
        assert get(f"{url}/code/php/deleteStudy.php?scratchdir={done.id}")[0] == 405
        assert get(f"{url}/sessions/{done.id}/rerun?processing=two", "POST")[0] == 400
        assert get(f"{url}/sessions/{done.id}/rerun?processing=one", "POST")[0] == 200
        assert journal.sessions()[-1].state == "queued"
        assert get(f"{url}/sessions/{done.id}/rerun", "POST")[0] == 409
        failed = next(session for session in journal.sessions() if session.state == "failed")
        assert get(f"{url}/code/php/deleteStudy.php?scratchdir={failed.id}", "POST")[0] == 204


def test_a_zip_is_posted_as_to_magickbox(tmp_path: Path, pages: tuple[Journal, Mapping[str, Any]]) -> None:
    journal, settings = pages
    write_visit(tmp_path / "new", {1: ("t1", 2)})
    zipped = Path(shutil.make_archive(str(tmp_path / "new"), "zip", tmp_path / "new")).read_bytes()
    body = (
        b'--zq\r\nContent-Disposition: form-data; name="aetitle"\r\n\r\nARCHIVE\r\n'
        b"--zq\r\nContent-Disposition: form-data; name=\"arguments\"\r\n\r\nfast 'two words'\r\n"
        b'--zq\r\nContent-Disposition: form-data; name="theFile"; filename="x.zip"\r\n\r\n' + zipped + b"\r\n--zq--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=zq"}
    with served(tmp_path, journal, **settings) as (url, _):
        status, answer = get(f"{url}/code/php/processZip.php", "POST", body, **headers)
        assert (status, json.loads(answer)["images"]) == (200, 2)
        folder = journal.spool / "sessions" / json.loads(answer)["id"]
        assert json.loads((folder / "arguments.json").read_bytes()) == ["fast", "two words"]
        assert get(f"{url}/code/php/processZip.php", "POST", body.replace(b"ARCHIVE", b"OTHER"), **headers)[0] == 400


def test_a_request_for_a_rerun_is_kept(tmp_path: Path, pages: tuple[Journal, Mapping[str, Any]]) -> None:
    from icf_utils.receiver.processings import requested_reruns

    session = pages[0].sessions()[-1]
    assert requested_reruns(session) is None
    request_rerun(session, [])
    assert requested_reruns(session) == []
    request_rerun(session, ["one"])
    assert requested_reruns(session) == ["one"]
