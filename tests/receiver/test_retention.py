"""How long the received files are kept: nothing is removed that is not safely in the store."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import SessionFilter
from icf_utils.receiver.run_session import prune_sessions, remove_old_inputs
from icf_utils.receiver.settings import ReceiverSettings, parse_receiver_settings
from icf_utils.store.layout import Visit
from tests.data.make_dicom import uid, write_visit
from tests.receiver.receiving import running, storescu, wait_until

_RULE = '[[rule]]\ncalled_ae = "A"\nstudy = "s"\n'


def settings(folder: Path, rule: str) -> ReceiverSettings:
    text = f'store = "store"\nspool = "spool"\n{_RULE}{rule}'
    return parse_receiver_settings(text.encode(), folder / "receiver.toml")


@pytest.mark.parametrize(("words", "days"), [("always", float("inf")), ("never", 0.0), ("7d", 7.0)])
def test_times(tmp_path: Path, words: str, days: float) -> None:
    assert settings(tmp_path, f'keep_input = "{words}"').rules[0].input_days == days


def test_an_input_is_removed_when_it_is_old_and_in_the_store(tmp_path: Path) -> None:
    found = settings(tmp_path, 'keep_input = "7d"')
    journal = Journal(found.spool)
    sessions = {
        name: journal.open_session(rule="A", study="s", visit=name) for name in ("good", "lost", "lacking", "new")
    }
    for name, session in sessions.items():
        (session.input / "001").mkdir(parents=True)
        (session.input / "001" / "00001-aaaaaaaaaaaaaaaa.dcm").write_bytes(b"x")
        journal.record_digests(session.id, {"aaaaaaaaaaaaaaaa": b"x"} if name != "lacking" else {"b" * 16: b"x"})
        journal.change_state(session.id, "success")
        visit = Visit(found.store, "s", name)
        visit.of_study.folder.mkdir(parents=True, exist_ok=True)
        if name != "lost":
            visit.archive.write_bytes(b"x")
            visit.checksum.write_bytes(b"x")
    now = time.time()
    journal._database.update("session", int(sessions["new"].id[1:]), {"processing_end": now + 86_400})
    assert remove_old_inputs(found, journal, now + 6 * 86_400) == []
    assert remove_old_inputs(found, journal, now + 7 * 86_400 + 60) == [sessions["good"].id]
    assert [name for name, session in sessions.items() if session.input.exists()] == ["lost", "lacking", "new"]
    assert remove_old_inputs(found, journal, now + 7 * 86_400 + 60) == []
    journal.close()


def test_sessions_are_pruned_when_nothing_of_them_is_left(tmp_path: Path) -> None:
    """What has failed, has images in the spool, or is not in the store stays."""
    text = f'store = "store"\nspool = "spool"\n[listen]\nkeep_sessions = 100\n{_RULE}'
    found = parse_receiver_settings(text.encode(), tmp_path / "receiver.toml")
    journal = Journal(found.spool)
    names = ("gone", "spooled", "lost", "failed", "deleted", "new")
    sessions = {name: journal.open_session(rule="A", study="s", visit=name) for name in names}
    for name, session in sessions.items():
        journal.record_digests(session.id, {"a" * 16: b"x"})
        journal.record_refusals(session.id, {"b" * 16: "reason"})
        journal.change_state(session.id, "failed" if name == "failed" else "success")
        visit = Visit(found.store, "s", name)
        visit.of_study.folder.mkdir(parents=True, exist_ok=True)
        if name != "lost":
            visit.archive.write_bytes(b"x")
            visit.checksum.write_bytes(b"x")
        if name != "spooled":
            session.input.rmdir()
    journal.delete_session(sessions["deleted"].id)
    now = time.time() + 101 * 86_400
    journal._database.update("session", int(sessions["new"].id[1:]), {"processing_end": now})
    assert prune_sessions(found, journal, now) == 2
    left = [item.visit for item in journal.sessions(SessionFilter(deleted=True))]
    assert sorted(left) == sorted({*names} - {"gone", "deleted"})
    assert not sessions["gone"].folder.exists()
    assert not journal.digests([sessions["gone"].id])
    assert journal.open_session(rule="A", study="s", visit="more").id == "s000007"  # no id is used again
    assert prune_sessions(settings(tmp_path, ""), journal, now) == 0
    journal.close()


def test_look_ups_do_not_scan_the_journal(tmp_path: Path) -> None:
    """Every look-up for an image, an association or a session uses an index, however many there are."""
    journal = Journal(tmp_path / "spool")
    session = journal.open_session(rule="A", study="s", visit="v", study_uid="1.2")
    statements: list[str] = []
    journal._database._connection.set_trace_callback(statements.append)
    journal.revisions("s", "v")
    journal.sessions_of_visit(session)
    journal.other_visits(session)
    journal.claim_next("A", "worker")
    journal.finish_session(session.id, lambda _: "success")
    list(journal.archived_images(["a"]))
    journal.digests([session.id])
    journal.has_digests(session.id)
    journal.refused_images(session.id)
    journal.associations(session.id)
    journal.rejected_associations(10)
    journal.open_commitments()
    journal.ended_sessions(1.0)
    journal.running_sessions()
    journal.oldest_queued()
    journal._database._connection.set_trace_callback(None)
    looked_up = [text for text in statements if text.startswith("SELECT")]
    assert len(looked_up) > 15
    for text in looked_up:
        plan = [row["detail"] for row in journal._database.rows(f"EXPLAIN QUERY PLAN {text}")]
        assert not [step for step in plan if step.startswith("SCAN")], (text, plan)
    journal.close()


def test_a_lost_journal(tmp_path: Path) -> None:
    """What the receiver has answered with success is named, no association is accepted, and the next start works."""
    first, second = tmp_path / "in" / "1", tmp_path / "in" / "2"
    for number, folder in enumerate((first, second), 1):
        write_visit(folder, {number: ("t1", 4)}, StudyInstanceUID=uid("lost"))
    with running(tmp_path, rule='called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 60\nuntil = "metadata"') as receiver:
        storescu(receiver, first)
        for path in (receiver.folder / "spool").glob("journal.sqlite*"):
            path.unlink()
        wait_until(lambda: "found no file, or another one" in receiver.log, "the receiver finds that")
        assert storescu(receiver, second).returncode != 0
        receiver.stop()
        receiver.start()
        assert "sessions/s000001' is not in the journal and has 4 files" in receiver.log
        assert storescu(receiver, tmp_path / "in").returncode == 0
        wait_until(lambda: [item.id for item in receiver.sessions()] == ["s000002"], "a session of another number")
    assert len([*(tmp_path / "spool" / "sessions" / "s000001").rglob("*.dcm")]) == 4
