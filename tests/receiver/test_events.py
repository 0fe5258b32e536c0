"""Events: what a web server and a program get of a real receiver, whatever happens to them and to it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from icf_utils.cli.main import main
from icf_utils.credentials import Secret
from icf_utils.errors import InvalidSetting
from icf_utils.receiver.event_program import EventProgram
from icf_utils.receiver.event_table import Delivery
from icf_utils.receiver.events import after_attempt, decode_key, sign
from icf_utils.receiver.journal import Journal, NewSession
from icf_utils.receiver.settings import EventSettings, load_receiver_settings
from icf_utils.receiver.web.metrics import collect_metrics, format_metrics
from tests.data.make_dicom import uid, write_visit
from tests.receiver.receiving import Receiver, free_port, reserve_above_free, running, storescu, wait_until

KEY = "zq-signing-key-5150-with-enough-characters"


class Hook:
    """A web server that gets events. ``answers`` are the statuses of the next requests; 0 hangs; then 200 for all."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.requests: list[tuple[Mapping[str, str], bytes]] = []
        self.release = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.requests.append((dict(self.headers), body))
                status = hook.answers.pop(0) if hook.answers else 200
                if not status:
                    hook.release.wait(60)
                    return
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook?token=zq-in-the-address"

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.requests]


@contextmanager
def hook_server() -> Iterator[Hook]:
    hook = Hook()
    thread = threading.Thread(target=hook.server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield hook
    finally:
        hook.release.set()
        hook.server.shutdown()
        thread.join()
        hook.server.server_close()


def check_signature(headers: Mapping[str, str], body: bytes) -> None:
    """As the specification describes it, not by the functions under test."""
    given = {name.lower(): value for name, value in headers.items()}
    signed = f"{given['webhook-id']}.{given['webhook-timestamp']}.".encode() + body
    digest = hmac.new(KEY.encode(), signed, hashlib.sha256).digest()
    assert given["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert abs(int(given["webhook-timestamp"]) - time.time()) < 300
    assert given["content-type"] == "application/json"


def event_table(hook: Hook, folder: Path, more: str = "") -> str:
    (folder / "key").write_text(f"{KEY}\n")
    (folder / "key").chmod(0o600)
    return f'\n[[event]]\nname = "web"\nurl = "{hook.url}"\nsecret_file = "key"\n{more}\n'


RULE = 'called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 1\nuntil = "metadata"'


def _visit(folder: Path, number: int, **keywords: Any) -> Path:
    """A folder with the two images of a visit."""
    write_visit(folder / "visit", {1: ("t1", 2)}, StudyInstanceUID=uid(number), **keywords)
    return folder / "visit"


def events_of(receiver: Receiver) -> list[Delivery]:
    journal = Journal(receiver.folder / "spool")
    try:
        return journal.events.deliveries()
    finally:
        journal.close()


def test_a_server_that_fails_hangs_and_recovers_gets_each_event_with_one_id(tmp_path: Path) -> None:
    visit = _visit(tmp_path, 1, PatientName="Zq^Secret", StudyDescription="zqdesc")
    with hook_server() as hook:
        hook.answers = [503, 0]
        rule = RULE + event_table(hook, tmp_path, 'timeout = 1\non = ["success"]')
        with running(tmp_path, rule=rule) as receiver:
            assert storescu(receiver, visit).returncode == 0
            wait_until(lambda: len(hook.requests) >= 2, "an attempt after the 503")
            receiver.kill()  # while the server hangs
            receiver.start()
            wait_until(lambda: [item.state for item in events_of(receiver)] == ["delivered"], "the delivery")
            (delivered,) = events_of(receiver)
            log = receiver.log
    assert len(hook.requests) >= 3
    assert {body for _, body in hook.requests} == {hook.requests[0][1]}
    assert {headers["webhook-id"] for headers, _ in hook.requests} == {delivered.key}
    for headers, body in hook.requests:
        check_signature(headers, body)
    (found,) = {json.dumps(body) for body in hook.bodies()}
    event = json.loads(found)
    assert event["id"] == delivered.key
    assert event["type"] == "success"
    assert event["data"]["session"] == "s000001"
    assert event["data"]["study"] == "study-a"
    assert event["data"]["images"] == 2
    for secret in (uid(1), "Zq^Secret", "zqdesc", str(tmp_path)):
        assert secret not in found
    for secret in (KEY, "zq-in-the-address"):
        assert secret not in log
        assert secret not in (receiver.folder / "spool" / "journal.sqlite").read_bytes().decode("latin-1")


def test_a_program_gets_the_events_that_it_wants_and_a_clean_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("XNAT_PASS", "zq-secret")
    program = tmp_path / "notify"
    program.write_text('#!/bin/sh\nenv > "$1/env.$ICF_EVENT"\ncat > "$1/event.$ICF_EVENT"\nls -la "$1" >/dev/null\n')
    program.chmod(0o755)
    visit = _visit(tmp_path, 2)
    table = f'\n[[event]]\nname = "program"\ncommand = ["./notify", "{tmp_path}"]\non = ["failed", "rejected"]\n'
    with hook_server() as hook:
        other = f'[[event]]\nname = "web"\nurl = "{hook.url}"\nsecret_variable = "MY_KEY"\nattempts = 1\n'
        hook.answers = [410]
        with running(tmp_path, rule=RULE + table + other) as receiver:
            (tmp_path / "store").mkdir()
            (tmp_path / "store" / "study-a").write_text("a file where a folder should be\n")
            assert storescu(receiver, visit, called="OTHER").returncode != 0
            assert storescu(receiver, visit).returncode == 0
            wait_until((tmp_path / "event.failed").exists, "the event")
            wait_until(lambda: len([one for one in events_of(receiver) if one.state != "waiting"]) == 3, "all events")
            settings = str(tmp_path / "receiver.toml")
            assert main(["sessions", "events", "--settings", settings, "--state", "failed"]) == 0
            shown = capsys.readouterr().out
            assert "the server answered with status 410" in shown
            assert "1 event: 1 failed" in shown
            assert main(["sessions", "events", "--settings", settings, "--retry", "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["result"] == {"queued": 1}
            assert main(["sessions", "--rejected", "--settings", settings]) == 0
            shown = capsys.readouterr().out
            assert re.search(r"127\.0\.0\.1 +STORESCU +OTHER +no rule has this called AE title", shown)
            assert "1 rejected association\n" in shown
            wait_until(lambda: len(hook.requests) == 2, "another attempt")
    failed = json.loads((tmp_path / "event.failed").read_bytes())
    assert failed["data"]["stage"] == "archive"
    assert "a file where" not in json.dumps(failed)
    rejected = json.loads((tmp_path / "event.rejected").read_bytes())
    assert rejected["data"]["called_ae"] == "OTHER"
    names = {line.partition("=")[0] for line in (tmp_path / "env.failed").read_text().splitlines()}
    assert {"PATH", "ICF_EVENT", "ICF_EVENT_ID"} <= names
    assert not names & {"MY_KEY", "XNAT_PASS", "ICF_SESSIONS_TOKEN"}


def test_an_event_of_refused_images_and_low_space(tmp_path: Path) -> None:
    visit = _visit(tmp_path, 3)
    with hook_server() as hook:
        rule = RULE + event_table(hook, tmp_path)
        with running(tmp_path, rule=rule, listen=f"reserve = {reserve_above_free(tmp_path)}") as receiver:
            assert storescu(receiver, visit).returncode != 0
            wait_until(
                lambda: {body["type"] for body in hook.bodies()} >= {"low-space", "refused", "failed"}, "the events"
            )
    by_kind = {body["type"]: body["data"] for body in hook.bodies()}
    assert by_kind["low-space"]["disk"] == "spool"
    assert by_kind["low-space"]["images_refused"] is True
    assert by_kind["refused"]["reason"] == "less than the reserve is free on the disk (0xA700)"
    assert by_kind["failed"]["reasons"][0]["images"] == by_kind["failed"]["refused"] > 0
    assert by_kind["failed"]["stage"] == "receiver"
    assert [body["type"] for body in hook.bodies()].count("refused") == 1


def test_a_target_that_fails_is_reported_and_counted(tmp_path: Path) -> None:
    """An event of its own kind, with the target's name and no header values, and the figures of deliveries."""
    visit = _visit(tmp_path, 4)
    send = f'[[rule.send]]\nname = "pacs"\nwhat = "input"\nhost = "127.0.0.1"\nport = {free_port()}\n'
    with hook_server() as hook:
        hook.answers = [500, 500]
        table = event_table(hook, tmp_path, 'attempts = 1\non = ["send-failed", "success"]')
        rule = f'{RULE}\n{send}called_ae = "PACS"\nattempts = 1\n{table}'
        with running(tmp_path, rule=rule) as receiver:
            assert storescu(receiver, visit).returncode == 0
            wait_until(lambda: len(events_of(receiver)) == 2, "both events")
            wait_until(lambda: {one.state for one in events_of(receiver)} == {"failed"}, "both attempts")
            journal = Journal(receiver.folder / "spool")
            figures = format_metrics(collect_metrics(journal, 0))
            assert 'icf_event_deliveries{state="failed"} 2\n' in figures
            assert 'icf_event_deliveries{state="delivered"} 0\n' in figures
            assert journal.events.retry_failed() == 2
            journal.close()
            wait_until(lambda: {one.state for one in events_of(receiver)} == {"delivered"}, "another attempt")
    by_kind = {body["type"]: body["data"] for body in hook.bodies()}
    assert by_kind.keys() == {"send-failed", "success"}
    failed = by_kind["send-failed"]
    assert (failed["session"], failed["target"], failed["attempts"]) == ("s000001", "pacs", 1)
    assert "127.0.0.1" not in json.dumps(failed)


def test_each_target_has_deliveries_of_its_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.events.add("low-space", disk="spool")
    (event,) = journal.events.unplanned()
    journal.events.plan(event, "{}", ["a", "b"])
    assert journal.events.unplanned() == []
    assert {journal.events.next_due(name, time.time() + 1).target for name in ("a", "b")} == {"a", "b"}  # type: ignore[union-attr]
    assert journal.events.fail_unknown(["a"]) == 1
    assert journal.events.counts() == {"waiting": 1, "delivered": 0, "failed": 1}
    assert journal.events.prune(time.time() + 1) == 0  # 'a' still waits
    assert journal.events.retry_failed("b") == 1
    journal.close()


def test_a_session_that_is_held_is_reported(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    session = journal.open_session(rule="r", study="a", visit="v")
    journal.change_state(session.id, "held")
    journal.change_state(session.id, "queued")
    source = tmp_path / "late"
    source.mkdir()
    journal.enqueue(NewSession("r", "a", "w"), source, is_held=True)
    assert [event.kind for event in journal.events.unplanned()] == ["held", "held"]
    journal.close()


def test_a_program_is_ended_after_its_time_with_all_that_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    program = EventProgram(["/bin/sh", "-c", f"(sleep 2; touch {mark}) & exec sleep 60"], 0.3)
    assert program.run("success", "icf_1", b"{}") == "the program did not end within 0.3 s"
    assert EventProgram(["/bin/sh", "-c", "echo one >&2; echo two >&2; exit 3"], 5).run("failed", "icf_1", b"{}") == (
        "the program ended with exit code 3: two"
    )
    assert "cannot be started" in EventProgram(["/nowhere/notify"], 5).run("failed", "icf_1", b"{}")
    closed = EventProgram(["/bin/sleep", "60"], 60)
    threading.Timer(0.2, closed.close).start()
    assert closed.run("success", "icf_1", b"{}") == "the program was ended by signal 9"
    time.sleep(0.1)
    assert not mark.exists()


def test_pauses_double_up_to_an_hour_and_a_server_may_ask_for_longer() -> None:
    target = EventSettings("web", attempts=30)
    delivery = Delivery(1, "web", "icf_1", "success", 0.0, 1, "waiting", 0, 0.0, "", "{}")
    pauses = []
    for _ in range(29):
        delivery = after_attempt(delivery, target, "503", 0.0, 1000.0)
        pauses.append(delivery.due - 1000.0)
    assert pauses[:4] == [5.0, 10.0, 20.0, 40.0]
    assert pauses[-1] == 3600.0
    assert after_attempt(delivery, target, "503", 0.0, 0.0).state == "failed"
    assert after_attempt(delivery, target, "", 0.0, 0.0).state == "delivered"
    assert after_attempt(replace(delivery, attempts=0), target, "429", 1e9, 0.0).due == 3600.0


def test_the_signature_is_that_of_the_specification() -> None:
    """The expected value is that of the reference library, standardwebhooks 1.0."""
    secret = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    assert sign(decode_key(secret, "file"), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )
    with pytest.raises(InvalidSetting, match="fewer than 24 bytes"):
        decode_key(Secret("short"), "file")


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('name = "a"', "needs either 'url' or 'command'"),
        ('name = "a"\nurl = "https://h/"\ncommand = ["x"]', "needs either 'url' or 'command'"),
        ('name = "a"\nurl = "https://h/"', "needs the key"),
        ('name = "a"\nurl = "https://u:p@h/"\nsecret_file = "k"', "leave out user and password"),
        ('name = "a"\nurl = "ftp://h/"\nsecret_file = "k"', "expected an address"),
        ('name = "a"\ncommand = ["x"]\nsecret_file = "k"', "is for 'url' only"),
        ('name = "a"\ncommand = ["x"]\non = ["sucess"]', "found 'sucess'"),
        ('name = "a"\ncommand = ["x"]\nrules = ["B"]', "no rule 'B'"),
        ('name = "a b"\ncommand = ["x"]', "a different name"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, table: str, problem: str) -> None:
    path = tmp_path / "receiver.toml"
    path.write_text(f'store = "store"\nspool = "spool"\n[[rule]]\n{RULE}\n[[event]]\n{table}\n')
    with pytest.raises(InvalidSetting, match=problem):
        load_receiver_settings(path)
