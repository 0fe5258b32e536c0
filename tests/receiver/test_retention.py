"""How long the received files are kept: nothing is removed that is not safely in the store."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from icf_utils.receiver.journal import Journal
from icf_utils.receiver.run_session import remove_old_inputs
from icf_utils.receiver.settings import ReceiverSettings, parse_receiver_settings
from icf_utils.store.layout import Visit

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
