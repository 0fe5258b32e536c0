"""Routing: files are sent on by outcome, with alternatives, patterns, pauses, and again on request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from icf_utils.errors import InvalidSetting
from icf_utils.receiver.routing import (
    TargetState,
    after_attempt,
    next_target,
    plan_sends,
    read_states,
    settle,
)
from icf_utils.receiver.settings import Target, parse_receiver_settings
from icf_utils.sources.open import open_source
from tests.data.make_dicom import uid, write_visit
from tests.receiver.receiving import PATIENCE, Receiver, free_port, running, storescu, wait_until
from tests.receiver.test_events import events_of
from tests.receiver.test_versions import cut_off

pytest.importorskip("pynetdicom")


def target(name: str, **settings: Any) -> Target:
    return Target(**{"name": name, "host": "127.0.0.1", "called_ae": "X", **settings})


def states(*found: str) -> list[TargetState]:
    return [TargetState(name, state) for name, state in (text.split("=") for text in found)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("when", "outcome", "state"),
    [
        ("success", "success", "waiting"),
        ("success", "partial", "not needed"),
        ("failed", "failed", "waiting"),
        ("always", "partial", "waiting"),
    ],
)
def test_what_is_sent_depends_on_the_outcome(when: str, outcome: str, state: str) -> None:
    (found,) = plan_sends([target("a", when=when)], outcome)
    assert found.state == state


def test_an_alternative_waits_for_a_failure() -> None:
    targets = [target("a"), target("b", alternative_to="a")]
    chosen = next_target(targets, states("a=failed", "b=waiting"), 0)
    assert chosen is not None
    assert chosen.name == "b"
    assert next_target(targets, [TargetState("a", "waiting", due=9), TargetState("b", "waiting")], 1) is None
    assert [state.state for state in settle(targets, states("a=sent", "b=waiting"))] == ["sent", "not needed"]


def test_pauses_grow_and_attempts_end() -> None:
    one, state = target("a", attempts=4), TargetState("a", "waiting")
    pauses = []
    for _ in range(3):
        state = after_attempt(one, state, 0, "no", 100)
        pauses.append(state.due - 100)
    assert pauses == [30, 60, 120]
    assert after_attempt(one, state, 0, "no", 100).state == "failed"
    assert after_attempt(one, state, 7, "", 100) == TargetState("a", "sent", 4, 0.0, 7)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('what = "output"', "'output' requires 'process'"),
        ('what = "input"\nalternative_to = "b"', "expected the name of a target above it"),
        ('what = "input"\nwhere = { Modalty = "MR" }', "'Modalty' is not a DICOM keyword"),
        ('what = "input"\nport = 0', "must be at least 1"),
        ('what = "input"\nxnat = "https://xnat.example.org"', "host: cannot be combined with 'xnat'"),
        ('what = "input"\nxnat_project = "P"', "xnat_project: requires 'xnat'"),
        ('what = "input"\nwhen = "often"', "expected 'success'"),
    ],
)
def test_mistakes(tmp_path: Path, line: str, words: str) -> None:
    text = (
        'store = "s"\nspool = "p"\n[[rule]]\ncalled_ae = "A"\nstudy = "a"\n'
        f'[[rule.send]]\nname = "a"\nhost = "h"\ncalled_ae = "B"\n{line}\n'
    )
    with pytest.raises(InvalidSetting) as refused:
        parse_receiver_settings(text.encode(), tmp_path / "receiver.toml")
    assert words in str(refused.value)


def test_outputs_are_sent_on(tmp_path: Path) -> None:
    """The first node does not answer: the second gets what the pattern selects; sent again on request."""
    write_visit(tmp_path / "in", {1: ("t1", 2), 2: ("bold", 3)}, StudyInstanceUID=uid("s"))
    for name in ("near", "far"):
        (tmp_path / name).mkdir()
    with running(tmp_path / "far", rule='called_ae = "PACS"\nstudy = "far"\nquiet = 1') as far:
        common = 'host = "127.0.0.1"\ncalled_ae = "PACS"\n'
        rule = f"""\
called_ae = "STUDYA"
study = "study-a"
quiet = 1
until = "metadata"
process = ["copy"]
[[rule.send]]
name = "dead"
attempts = 1
port = {free_port()}
{common}
[[rule.send]]
name = "pacs"
alternative_to = "dead"
where = {{ SeriesDescription = "bo*" }}
port = {far.port}
{common}
[[rule.send]]
name = "never"
when = "failed"
port = {far.port}
{common}
[[processing]]
name = "copy"
version = "1"
command = ["sh", "-c", "cp -r $ICF_INPUT/* . && echo text > note.txt"]
"""
        with running(tmp_path / "near", rule=rule) as near:
            assert storescu(near, tmp_path / "in").returncode == 0
            (session,) = near.finished(1)
            assert session.state == "success", session.failure
            wait_until(lambda: "waiting" not in {one.state for one in read_states(session)}, "everything is sent")
            found = {one.name: (one.state, one.images) for one in read_states(session)}
            assert found == {"dead": ("failed", 0), "pacs": ("sent", 3), "never": ("not needed", 0)}
            (there,) = far.finished(1)
            assert there.images == 3
            assert not list((tmp_path / "near/spool/sends").iterdir())
            assert resend(near, session.id, "--target", "other")["ok"] is False
            assert resend(near, session.id, "--target", "pacs")["ok"] is True
            wait_until(lambda: far.sessions()[0].duplicates == 3, "it is sent again")


def test_what_was_partial_is_sent_when_it_is_whole(tmp_path: Path) -> None:
    """A lost association holds a session back from a target for successes, until everything was sent again."""
    paths = write_visit(tmp_path / "in", {1: ("t1", 5)}, StudyInstanceUID=uid("later whole"))
    for name in ("near", "far"):
        (tmp_path / name).mkdir()
    with running(tmp_path / "far", rule='called_ae = "PACS"\nstudy = "far"\nvisit = "v"\nquiet = 1') as far:
        rule = f"""\
called_ae = "STUDYA"
study = "study-a"
visit = "v"
quiet = 1
until = "metadata"
[[rule.send]]
name = "pacs"
what = "input"
host = "127.0.0.1"
port = {far.port}
called_ae = "PACS"
[[event]]
name = "log"
command = ["/bin/sh", "-c", "cat > /dev/null"]
"""
        with running(tmp_path / "near", rule=rule) as near:
            cut_off(near, paths[:3])
            (session,) = near.finished(1)
            assert (session.state, [one.state for one in read_states(session)]) == ("partial", ["not needed"])
            assert resend(near, session.id)["ok"] is False
            assert storescu(near, tmp_path / "in").returncode == 0
            first, second = near.finished(2)
            assert (first.state, second.state) == ("success", "success")
            wait_until(lambda: sum(item.images for item in far.sessions()) == 5, "all images are sent on")
            done = [("log", "delivered")] * 3
            wait_until(lambda: [(one.target, one.state) for one in events_of(near)] == done, "three events")
            told = sorted((one.session, one.kind) for one in events_of(near))
            assert told == [(1, "partial"), (1, "success"), (2, "success")]


def resend(receiver: Receiver, *words: str) -> Any:
    command = [sys.executable, "-m", "icf_utils.cli.main", "sessions", "resend", *words, "--json"]
    command += ["--settings", str(receiver.folder / "receiver.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE, env=dict(os.environ))
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("pattern", "names"), [("t1*", 2), ("T1*", 0), ("?old", 1), ("[b]old", 0), ("gefä*", 1), ("*", 4)]
)
def test_patterns_are_those_of_rules(tmp_path: Path, pattern: str, names: int) -> None:
    """One language of patterns: case matters, brackets are text, and texts are decoded by their character set."""
    from icf_utils.receiver.routing import _matching

    write_visit(tmp_path / "a", {1: ("t1", 2), 2: ("bold", 1)}, StudyInstanceUID=uid("a"))
    write_visit(tmp_path / "b", {3: ("Gefäß", 1)}, StudyInstanceUID=uid("a"), SpecificCharacterSet="ISO_IR 100")
    target = Target("x", "h", "A", where={"SeriesDescription": pattern.replace("gef", "Gef")})
    with open_source(tmp_path, tmp_path) as source:
        assert len(_matching(source, target) or ()) == names


def test_xnat_is_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The visit, and the DICOM files of its output, as sessions; a wrong password is a failure that says so."""
    from tests.xnat.standin import PASSWORD, USER, standin

    write_visit(tmp_path / "in", {1: ("t1", 3)}, StudyInstanceUID=uid("s"))
    monkeypatch.setenv("XNAT_PASS", PASSWORD)
    with standin() as server:
        common = f'xnat = "{server.url}"\nxnat_project = "PILOT"\nxnat_user = "{USER}"\n'
        rule = f"""\
called_ae = "STUDYA"
study = "study-a"
visit = "v1"
quiet = 1
until = "metadata"
process = ["derive"]
[[rule.send]]
name = "images"
what = "input"
{common}
[[rule.send]]
name = "results"
{common}
[[rule.send]]
name = "other-user"
what = "input"
attempts = 1
{common.replace(USER, "somebody")}
[[processing]]
name = "derive"
version = "1"
isolation = "none"
command = [{json.dumps(sys.executable)}, "-c", {json.dumps(_DERIVE)}]
"""
        with running(tmp_path, rule=rule) as receiver:
            assert storescu(receiver, tmp_path / "in").returncode == 0
            (session,) = receiver.finished(1)
            assert session.state == "success", session.failure
            wait_until(lambda: "waiting" not in {one.state for one in read_states(session)}, "everything is sent")
            states = {one.name: one for one in read_states(session)}
            assert {name: (one.state, one.images) for name, one in states.items()} == {
                "images": ("sent", 3),
                "results": ("sent", 1),
                "other-user": ("failed", 0),
            }, states
            assert PASSWORD not in receiver.log


#: Leaves one image of another study, and a file that is none.
_DERIVE = """
import os, pathlib, pydicom
first = sorted(pathlib.Path(os.environ["ICF_INPUT"]).rglob("*.dcm"))[0]
image = pydicom.dcmread(first)
for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
    setattr(image, name, getattr(image, name) + ".9")
image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
image.save_as(os.environ["ICF_OUTPUT"] + "/derived.dcm")
open(os.environ["ICF_OUTPUT"] + "/note.txt", "w").write("text")
"""
