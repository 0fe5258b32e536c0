"""The HTTP interface of a real server: authentication, responses, and what no request can reach."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import requests

from icf_utils.credentials import Secret
from icf_utils.receiver.client import HttpSessions
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.journal_space import JOURNAL_SPACE_NAME
from icf_utils.receiver.model import LATE, SESSION_STATES, SessionFilter
from icf_utils.receiver.spool import Spool
from icf_utils.receiver.web.records import MAGICKBOX_FIELDS
from icf_utils.receiver.web.settings import token_for
from tests.data.make_dicom import uid, write_visit
from tests.receiver.pages import HOSTILE, TOKEN, Said, fill, served

pytest.importorskip("flask", reason="flask is not installed")

ADDRESSES = (
    *("/", "/view/s000001", "/sessions", "/sessions/counts", "/sessions/s000001", "/events", "/sessions/s000001/log"),
    *("/sessions/s000001/input.zip", "/sessions/s000001/output.zip", "/static/style.css", "/static/pages.css"),
    *("/code/php/getScratch.php", "/code/php/getOutputZip.php?folder=s000001", "/nothing"),
)
TRAVERSALS = (
    *("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "....//....//etc/passwd", "s000001/..%2fs000002"),
    *("s000001%00", "s000001;id", "$(id)", "`id`", "s000001\n", "%2e%2e", "s1", "S000001", "s0000001", "-1", "0", "é"),
)

ZIP = {"Content-Type": "application/zip"}


class Client:
    def __init__(self, url: str, said: Said, journal: Journal, root: Path) -> None:
        self.url, self.said, self.journal, self.root = url, said, journal, root

    def ask(self, address: str, method: str = "GET", token: str = TOKEN, **more: Any) -> requests.Response:
        headers = {"Accept-Encoding": "identity", **more.pop("headers", {})}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        with requests.Session() as session:
            session.trust_env = False
            more = {"timeout": 60, "allow_redirects": False, **more}
            return session.request(method, f"{self.url}{address}", headers=headers, **more)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    journal = fill(tmp_path)
    with served(tmp_path, journal) as (url, said):
        yield Client(url, said, journal, tmp_path)
    journal.close()


def test_processes_that_create_the_token_agree_on_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = {token.value for token in pool.map(lambda _: token_for(tmp_path / "spool"), range(8))}
    assert len(found) == 1
    (file,) = (tmp_path / "spool").iterdir()
    assert file.name == "token"
    assert file.stat().st_mode & 0o777 == 0o600


def test_every_request_needs_the_token(client: Client) -> None:
    for address, token in itertools.product(ADDRESSES, ("", "wrong", TOKEN[:-1], TOKEN + "x", "ä")):
        for method in ("GET", "POST", "DELETE", "PUT", "OPTIONS"):
            headers = {"Authorization": f"Bearer {token}".encode()} if token else {}
            answer = client.ask(address, method, "", headers=headers)
            assert answer.status_code == 401, (method, address)
            assert "study-a" not in answer.text
    assert len(client.journal.sessions()) == 6
    assert all("refused: the token is missing or wrong" in line for line in client.said.lines)
    assert not any(TOKEN in line for line in client.said.lines)


def test_a_browser_sends_the_token_as_the_password(client: Client) -> None:
    answer = client.ask("/", token="", auth=("anybody", TOKEN))
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    asked = client.ask("/", token="")
    assert asked.headers["WWW-Authenticate"].startswith("Basic ")


def test_every_response_has_the_security_headers(client: Client) -> None:
    for address in ADDRESSES:
        headers = client.ask(address).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"], address
        is_page = headers["Content-Type"].startswith("text/html")
        assert ("script-src 'self'" in headers["Content-Security-Policy"]) is is_page
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
        assert headers["Referrer-Policy"] == "same-origin"
        assert "no-" in headers["Cache-Control"]
        assert "Access-Control-Allow-Origin" not in headers


def test_the_list_and_its_filters(client: Client) -> None:
    every = client.ask("/sessions")
    assert [item["id"] for item in every.json()] == [f"s{number:06}" for number in (6, 5, 4, 3, 2, 1)]
    assert every.headers["X-Total-Count"] == "6"
    for query, count in {
        "sender=SCANNER1": 2,
        "sender=SCANNER": 0,
        "state=failed": 1,
        "state=failed,success": 2,
        "state=failed&state=success": 2,
        "study=study-a&sender=SCANNER2&state=partial": 1,
        "visit=visit-06": 1,
        "visit=visit-0*": 6,
        "visit=*-06&study=study-*": 1,
        "visit=visit-0%3F": 0,
        "rule=ARCHIVE": 6,
        "rule=ARCH*": 0,
        "called=ARCHIVE&limit=4": 4,
        "limit=4&offset=4": 2,
        "sender=%27+OR+1%3D1--": 0,
    }.items():
        assert len(client.ask(f"/sessions?{query}").json()) == count, query
    for query in ("state=done", "limit=-1", "limit=0", "limit=x", "order=id", "offset=99999999999999999999"):
        assert client.ask(f"/sessions?{query}").status_code == 400, query
    counts = client.ask("/sessions/counts?sender=SCANNER1").json()
    assert counts == {**dict.fromkeys(SESSION_STATES, 0), "success": 1, "failed": 1}


def test_records_have_the_fields_of_magickbox(client: Client) -> None:
    kinds = {"processingTime": int, "processingLogSize": int, "processingLast": int}
    for address in ("/sessions", "/code/php/getScratch.php"):
        for item in client.ask(address).json():
            begun = item["state"] not in ("receiving", "queued")
            assert ("processingTime" in item) is begun
            for name in set(MAGICKBOX_FIELDS) & set(item):
                assert type(item[name]) is kinds.get(name, str), name
            assert set(MAGICKBOX_FIELDS) - set(item) <= {"processingTime"}
            assert item["scratchdir"] == item["id"]


def test_the_jq_recipes_select_by_state(client: Client) -> None:
    """The filters that MagickBox's users have, with ``.state`` instead of the time that says nothing."""
    jq = shutil.which("jq")
    if not jq:
        pytest.skip("jq is not installed")
    listed = client.ask("/code/php/getScratch.php").text
    recipes = {
        '.[] | select(.AETitleCaller=="SCANNER1" and .state=="success") | .scratchdir': ['"s000001"'],
        '[.[] | select(.AETitleCaller=="SCANNER2" and (.state=="queued" or .state=="running"))] | length': ["2"],
        '.[] | select(.AETitleCaller=="SCANNER1" and .processingTime!="0") | .state': ['"failed"', '"success"'],
    }
    for recipe, expected in recipes.items():
        done = subprocess.run([jq, "-c", "-M", recipe], input=listed, capture_output=True, text=True, check=True)
        assert done.stdout.split() == expected


def test_no_text_is_used_as_a_path(client: Client) -> None:
    for text in TRAVERSALS:
        ask_everywhere(client, text)
    assert len(client.journal.sessions()) == 6


def ask_everywhere(client: Client, text: str) -> None:
    for address in (
        *(f"/sessions/{text}", f"/sessions/{text}/log", f"/sessions/{text}/output.zip", f"/sessions/{text}/input.zip"),
        *(f"/view/{text}", f"/static/{text}", f"/static/../{text}", f"/code/php/getOutputZip.php?folder={text}"),
        f"/code/php/getOutputZip.php?folder={text}&type=input",
    ):
        request = requests.Request("GET", client.url, headers={"Authorization": f"Bearer {TOKEN}"}).prepare()
        request.url = client.url + address.replace("\n", "%0a")
        with requests.Session() as session:
            answer = session.send(request, timeout=30, allow_redirects=False)
        assert answer.status_code != 200, address
        assert b"root:" not in answer.content
    assert client.ask(f"/sessions/{text}".replace("\n", "%0a"), "DELETE").status_code >= 400


def test_an_unknown_type_is_refused(client: Client) -> None:
    assert client.ask("/code/php/getOutputZip.php?folder=s000001&type=../..").status_code == 400


def test_results_and_images_as_zips(client: Client) -> None:
    answer = client.ask("/sessions/s000001/output.zip")
    assert answer.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        tar = archive.read("s000001/OUTPUT/visit-01_dicom.tar")
    assert names[0] == "s000001/OUTPUT/visit-01_dicom.tar"
    assert tar == (client.root / "store" / "study-a" / "visit-01_dicom.tar").read_bytes()
    digest = base64.b64encode(hashlib.sha256(answer.content).digest()).decode()
    assert answer.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    images = client.ask("/sessions/s000001/input.zip")
    with zipfile.ZipFile(io.BytesIO(images.content)) as archive:
        assert [name for name in archive.namelist() if name.startswith("s000001/INPUT/")] == archive.namelist()
        assert len(archive.namelist()) == 3
    compatible = client.ask("/code/php/getOutputZip.php?folder=s000001")
    assert compatible.content == answer.content
    assert 'filename="s000001.zip"' in compatible.headers["Content-Disposition"]
    for session in ("s000002", "s000004", "s000005", "s000006"):
        assert client.ask(f"/sessions/{session}/output.zip").status_code == 409
    assert client.ask("/sessions/s000006/input.zip").status_code == 409


def test_a_part_of_a_zip(client: Client) -> None:
    address = "/sessions/s000001/output.zip"
    whole = client.ask(address)
    size, tag = len(whole.content), whole.headers["ETag"]
    for text, start, stop in (
        ("bytes=0-0", 0, 1),
        ("bytes=100-299", 100, 300),
        (f"bytes={size - 7}-", size - 7, size),
        ("bytes=-11", size - 11, size),
        ("bytes=0-", 0, size),
    ):
        part = client.ask(address, headers={"Range": text, "If-Range": tag})
        assert (part.status_code, part.content) == (206, whole.content[start:stop]), text
        assert part.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
    for text in ("bytes=0-1,5-6", "lines=1-2", "bytes=x"):
        assert client.ask(address, headers={"Range": text}).status_code == 200
    assert client.ask(address, headers={"Range": f"bytes={size}-"}).status_code == 416
    other = client.ask(address, headers={"Range": "bytes=5-", "If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, whole.content)
    assert client.ask(address, headers={"If-None-Match": tag}).status_code == 304
    head = client.ask(address, "HEAD")
    assert (head.headers["Content-Length"], head.content) == (str(size), b"")


def test_the_same_files_are_the_same_zip_after_a_restart(client: Client) -> None:
    address = "/sessions/s000001/output.zip"
    first = client.ask(address)
    with served(client.root, client.journal) as (url, _):
        again = requests.get(f"{url}{address}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)
    assert (again.headers["ETag"], again.content) == (first.headers["ETag"], first.content)


def test_a_finished_session_can_be_deleted(client: Client) -> None:
    assert client.ask("/sessions/s000004", "DELETE").status_code == 409
    assert client.ask("/sessions/s000001", "DELETE").status_code == 204
    assert client.ask("/sessions/s000001").status_code == 404
    assert client.ask("/sessions/s000001/log").status_code == 404
    assert (client.root / "store" / "study-a" / "visit-01_dicom.tar").exists()
    assert not (client.root / "spool" / "sessions" / "s000001").exists()


def test_a_page_of_another_site_cannot_delete(client: Client) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        assert client.ask("/sessions/s000001", "DELETE", headers=headers).status_code == 403
        given = {"form": "x", "sure": "yes"}
        assert client.ask("/view/s000001/delete", "POST", data=given, headers=headers).status_code == 403
    assert client.ask("/view/s000001/delete", "POST", data={"form": "x", "sure": "yes"}).status_code == 403
    assert client.journal.session("s000001") is not None
    page = client.ask("/view/s000001").text
    form = page.partition('name="form" value="')[2].partition('"')[0]
    assert client.ask("/view/s000001/delete", "POST", data={"form": form}).headers["Location"].endswith("/view/s000001")
    assert client.ask("/view/s000002/delete", "POST", data={"form": form, "sure": "yes"}).status_code == 403
    assert client.ask("/view/s000001/delete", "POST", data={"form": form, "sure": "yes"}).status_code == 303
    assert client.ask("/view/s000001").status_code == 404


def test_a_failed_session_can_be_retried(client: Client) -> None:
    failed = client.journal.session("s000002")
    assert failed is not None
    assert client.ask("/sessions/s000002/retry", "POST", "").status_code == 401
    refused = client.ask("/sessions/s000002/retry", "POST")
    assert (refused.status_code, "no images" in refused.json()["error"]) == (400, True)
    write_visit(failed.input, {1: ("a", 1)})
    assert client.ask("/sessions/s000002/retry", "POST", headers={"Origin": "https://evil.example"}).status_code == 403
    answer = client.ask("/sessions/s000002/retry", "POST")
    assert (answer.status_code, answer.json()["state"], answer.json()["failure"]) == (200, "queued", "")
    for name, status in (("s000002", 409), ("s000001", 409), ("s000099", 404), ("..", 404)):
        assert client.ask(f"/sessions/{name}/retry", "POST").status_code == status, name
    assert client.journal.claim_next("ARCHIVE", "worker") is not None


def test_a_held_session_is_released_or_deleted(client: Client) -> None:
    for number in (1, 2, 3):
        client.journal.change_state(f"s{number:06}", "held")
    assert client.ask("/sessions?state=held").headers["X-Total-Count"] == "3"
    answer = client.ask("/sessions/s000001/release", "POST")
    assert (answer.status_code, answer.json()["state"]) == (200, "queued")
    assert client.ask("/sessions/s000001/release", "POST").status_code == 409
    page = client.ask("/view/s000002").text.partition('action="/view/s000002/release"')[2]
    form = re.search('name="form" value="([^"]+)"', page)
    assert form is not None
    assert client.ask("/view/s000002/release", "POST", data={"form": form[1][::-1]}).status_code == 403
    for _ in range(2):  # a second press does nothing
        assert client.ask("/view/s000002/release", "POST", data={"form": form[1]}).status_code == 303
    assert client.ask("/sessions/s000003", "DELETE").status_code == 204
    states = [item.state for item in client.journal.sessions(SessionFilter(deleted=True))[-3:]]
    assert states == ["held", "queued", "queued"]


def test_the_page_of_a_failed_session_has_a_retry_button(client: Client) -> None:
    failed = client.journal.session("s000002")
    assert failed is not None
    write_visit(failed.input, {1: ("a", 1)})
    assert 'action="/view/s000001/retry"' not in client.ask("/view/s000001").text
    page = client.ask("/view/s000002").text.partition('action="/view/s000002/retry"')[2]
    form = page.partition('name="form" value="')[2].partition('"')[0]
    given = {"form": form, "sure": "yes"}
    assert client.ask("/view/s000002/delete", "POST", data=given).status_code == 403  # its token is for retrying
    assert client.ask("/view/s000002/retry", "POST", data={"form": form[::-1]}).status_code == 403
    for _ in range(2):  # the button is pressed twice
        assert client.ask("/view/s000002/retry", "POST", data=given).status_code == 303
    now = client.journal.session("s000002")
    assert now is not None
    assert now.state == "queued"


def zipped(folder: Path, more: Mapping[str, bytes] = MappingProxyType({}), packing: int = zipfile.ZIP_STORED) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", packing) as archive:
        for name, content in more.items():
            archive.writestr(name, content)
        for path in sorted(folder.rglob("*.dcm")):
            archive.write(path, path.relative_to(folder))
    return raw.getvalue()


def test_an_uploaded_zip_is_queued(client: Client, tmp_path: Path) -> None:
    write_visit(tmp_path / "visit", {1: ("a", 2)})
    raw = zipped(tmp_path / "visit", {"notes.txt": b"no image"})
    address = "/sessions?rule=ARCHIVE&visit=visit-77&sender=SCRIPT"
    answer = client.ask(address, "POST", data=raw, headers=ZIP)
    assert (answer.status_code, answer.json()["state"], answer.json()["images"]) == (201, "queued", 2)
    session = client.journal.session(answer.json()["id"])
    assert session is not None
    assert (session.study, session.visit, session.calling_ae) == ("study-a", "visit-77", "SCRIPT")
    assert session.input.read_bytes() == raw
    form = client.ask(address.replace("77", "78"), "POST", files={"file": ("../../x.zip", raw)})
    assert form.status_code == 201
    again = client.ask(address, "POST", data=raw, headers=ZIP)
    assert (again.status_code, again.json()["id"]) == (200, session.id)  # the same images, packed anew or not
    other = zipped(tmp_path / "visit", {"more.txt": b"no image either"})
    assert client.ask(address, "POST", data=other, headers=ZIP).json()["id"] == session.id
    write_visit(tmp_path / "visit", {2: ("b", 1)})
    more = client.ask(address, "POST", data=zipped(tmp_path / "visit", {}), headers=ZIP)
    assert (more.status_code, more.json()["visit"]) == (201, "visit-77")
    late = client.journal.session(more.json()["id"])
    assert late is not None
    assert (late.change, late.study_uid, late.notes[0]) == ("late", session.study_uid, LATE)
    assert session.study_uid
    another = tmp_path / "another"
    write_visit(another, {1: ("a", 1)}, StudyInstanceUID="1.2.3.4.5")
    apart = client.ask(address, "POST", data=zipped(another, {}), headers=ZIP)
    assert (apart.status_code, apart.json()["visit"]) == (201, "visit-77-r2")  # another study
    assert list((tmp_path / "spool" / "uploads").iterdir()) == []


def test_uploads_that_are_not_a_visit_are_refused(client: Client, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    listing = json.dumps({"icf-selection": 1, "root": str(tmp_path), "files": [["secret", 1, 0]]}).encode()
    escaping = io.BytesIO()
    with zipfile.ZipFile(escaping, "w") as archive:
        archive.writestr("../../evil", b"x")
    start = "/sessions?rule=ARCHIVE&visit=visit-9"
    for body in (b"", b"not a zip", b"PK\3\4 cut", listing, escaping.getvalue()):
        assert client.ask(start, "POST", data=body, headers=ZIP).status_code == 422, body[:20]
    good = zipped(write_visit(tmp_path / "visit", {1: ("a", 1)})[0].parent)
    for query, status in (
        ("rule=ARCHIVE&visit=../x", 400),
        ("rule=ARCHIVE&visit=.hidden", 400),
        ("rule=ARCHIVE", 400),
        ("rule=OTHER&visit=v", 400),
        ("rule=../x&visit=v", 400),
        ("rule=ARCHIVE&visit=v&sender=" + "x" * 17, 400),
    ):
        assert client.ask(f"/sessions?{query}", "POST", data=good, headers=ZIP).status_code == status, query
    assert client.ask(start, "POST", data=good, headers={"Content-Type": "text/plain"}).status_code == 415
    assert len(client.journal.sessions()) == 6
    assert list((tmp_path / "spool" / "uploads").iterdir()) == []


def test_a_zip_must_be_one_visit(client: Client, tmp_path: Path) -> None:
    write_visit(tmp_path / "in" / "one", {1: ("a", 1)})
    write_visit(tmp_path / "in" / "two", {1: ("a", 1)}, StudyInstanceUID=uid("other"))
    (tmp_path / "nothing").mkdir()
    damaged = bytearray(zipped(tmp_path / "in" / "one", packing=zipfile.ZIP_DEFLATED))
    damaged[60:90] = bytes(30)
    single = (next((tmp_path / "in" / "one").rglob("*.dcm"))).read_bytes()
    for body, problem in (
        (zipped(tmp_path / "in"), "contains 2 studies"),
        (zipped(tmp_path / "nothing", {"a.txt": b"text", "b": b""}), "contains no DICOM images"),
        (zipped(tmp_path / "nothing"), "contains no files"),
        (bytes(damaged), "is damaged"),
        (single, "is not a zip"),
    ):
        answer = client.ask("/sessions?rule=ARCHIVE&visit=visit-9", "POST", data=body, headers=ZIP)
        assert (answer.status_code, problem in answer.json()["error"]) == (422, True), answer.text
        assert str(tmp_path) not in answer.text
        assert "uploads" not in answer.text
        assert uid("other") not in answer.text
    assert len(client.journal.sessions()) == 6
    assert list((tmp_path / "spool" / "uploads").iterdir()) == []


def test_a_zip_that_is_too_large_when_unpacked_is_refused(tmp_path: Path) -> None:
    journal = fill(tmp_path)
    write_visit(tmp_path / "visit", {1: ("a", 1)})
    raw = zipped(tmp_path / "visit", {"zeros": bytes(2_000_000)}, zipfile.ZIP_DEFLATED)
    bomb = zipped(tmp_path / "visit", {f"z{at}": bytes(100_000_000) for at in range(11)}, zipfile.ZIP_DEFLATED)
    for limit, body, problem in (
        (1_000_000, raw, "at most 1000000 are accepted"),
        (10**12, bomb, "times its own size"),
    ):
        with served(tmp_path, journal, unpacked_limit=limit) as (url, said):
            client = Client(url, said, journal, tmp_path)
            answer = client.ask("/sessions?rule=ARCHIVE&visit=v", "POST", data=body, headers=ZIP)
            assert (answer.status_code, problem in answer.json()["error"]) == (422, True), answer.text
    journal.close()


def test_an_upload_that_is_too_large_is_refused(tmp_path: Path) -> None:
    journal = fill(tmp_path)
    with served(tmp_path, journal, reserve=1 << 60) as (url, said):
        client = Client(url, said, journal, tmp_path)
        answer = client.ask("/sessions?rule=ARCHIVE&visit=v", "POST", data=b"PK", headers=ZIP)
        assert (answer.status_code, answer.json()) == (507, {"error": "not enough space"})
        assert client.ask("/sessions").status_code == 200
    with served(tmp_path, journal, upload_limit=10) as (url, said):
        client = Client(url, said, journal, tmp_path)
        answer = client.ask("/sessions?rule=ARCHIVE&visit=v", "POST", data=b"PK\3\4" * 99, headers=ZIP)
        assert answer.status_code == 400
    journal.close()


def test_values_are_escaped_on_the_pages(client: Client) -> None:
    for address in ("/", "/view/s000001", "/view/s000002", "/view/s000003"):
        page = client.ask(address).text
        assert HOSTILE not in page
        assert page.count("<script") == 1  # the pages' own
        assert "1.2.3" not in page  # no UIDs
    assert "&lt;script&gt;" in client.ask("/view/s000001").text
    log = client.ask("/sessions/s000001/log")
    assert (log.headers["Content-Type"], log.text) == ("text/plain; charset=utf-8", f"complete: 3 images\n{HOSTILE}\n")


def test_the_urls_of_magickbox_exist_only_on_request(tmp_path: Path) -> None:
    journal = fill(tmp_path)
    with served(tmp_path, journal, compatible=False) as (url, said):
        client = Client(url, said, journal, tmp_path)
        assert client.ask("/code/php/getScratch.php").status_code == 404
        assert client.ask("/code/php/getOutputZip.php?folder=s000001").status_code == 404
    journal.close()


def test_health_needs_no_token_and_says_nothing_else(client: Client) -> None:
    response = client.ask("/health", token="")
    assert (response.status_code, response.json()) == (503, {"error": "no receiver is running"})
    spool = Spool(client.journal.spool, reserve=0)
    try:
        response = client.ask("/health", token="")
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
    finally:
        spool.close()


def test_a_full_disk_is_shown(client: Client) -> None:
    """The receiver has given the journal the space that it keeps for it."""
    assert client.ask("/space").json() == {"problem": ""}  # no receiver is running
    spool = Spool(client.journal.spool, reserve=0)
    try:
        assert client.ask("/space").json() == {"problem": ""}
        (client.journal.spool / JOURNAL_SPACE_NAME).unlink()
        assert client.ask("/space", token="").status_code == 401
        assert client.ask("/space").json() == {"problem": "the disk is full"}
        assert "Images are refused: the disk is full." in client.ask("/").text
        assert client.ask("/health", token="").json() == {"error": "the disk is full"}
        sessions = HttpSessions(client.url, Secret(TOKEN))
        assert sessions.space_problem() == "the disk is full"
    finally:
        spool.close()


def test_metrics_and_rejected_associations(client: Client) -> None:
    client.journal.start_association("X", "<b>ME", "10.0.0.1", "rejected", "no rule has this called AE title")
    assert client.ask("/metrics", token="").status_code == 401
    response = client.ask("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    figures = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
    assert figures['icf_associations{state="rejected"}'] == "1"
    assert float(figures["icf_spool_free_bytes"]) > 0
    assert sum(int(value) for name, value in figures.items() if name.startswith("icf_sessions")) == sum(
        client.journal.counts().values()
    )
    (found,) = client.ask("/associations/rejected").json()
    assert (found["AETitleCaller"], found["reason"]) == ("<b>ME", "no rule has this called AE title")
    page = client.ask("/").text
    assert "&lt;b&gt;ME" in page
    assert "<b>ME" not in page
