"""The journal: several processes write to it at once, and it removes only its own files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from icf_utils.errors import DepositDamaged, InvalidIdentifier, InvalidSetting
from icf_utils.receiver.journal import Journal, NewSession
from icf_utils.receiver.model import SESSION_STATES, Association, AssociationState, SessionFilter, has_lost_association


def test_a_session_from_its_start_to_its_deletion(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "spool")
    session = journal.open_session(rule="r", study="a", visit="v", calling_ae="X")
    assert session.input.is_dir()
    assert (session.id, session.name, session.state) == ("s000001", "a/v", "receiving")
    with pytest.raises(InvalidSetting, match="only a finished one"):
        journal.delete_session(session.id)
    journal.update_session(session.id, images=3)
    journal.change_state(session.id, "queued")
    claimed = journal.claim_next("r", "me")
    assert claimed is not None
    assert (claimed.images, claimed.state) == (3, "running")
    assert journal.claim_next("r", "me") is None
    journal.record_digests(session.id, {"c47f5b18b8a430e6": b"digest"})
    assert journal.change_state(session.id, "success").is_finished
    journal.delete_session(session.id)
    assert not session.folder.exists()
    assert journal.sessions() == []
    assert journal.digests([session.id]) == {"c47f5b18b8a430e6": (session.id, b"digest")}
    # its id and its visit's identifier are not used again
    again = journal.open_session(rule="r", study="a", visit="v")
    assert (again.id, again.visit) == ("s000002", "v-r2")
    assert sum(journal.counts().values()) == 1
    assert list(journal.counts()) == list(SESSION_STATES)
    journal.close()


@pytest.mark.parametrize("text", ["", "s", "s1", "s0000001", "../s000001", "s000001'", "S000001", "s００００01", "1"])
def test_other_texts_are_not_session_ids(tmp_path: Path, text: str) -> None:
    journal = Journal(tmp_path)
    journal.open_session(rule="r", study="a", visit="v")
    assert journal.session(text) is None
    with pytest.raises(InvalidSetting, match="no session"):
        journal.delete_session(text)
    journal.close()


def test_enqueued_inputs_are_moved_or_stay_where_they_are(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "spool")
    (tmp_path / "own.zip").write_bytes(b"zip")
    (tmp_path / "folder").mkdir()
    moved = journal.enqueue(NewSession("r", "a", "v"), tmp_path / "own.zip", move=True)
    left = journal.enqueue(NewSession("r", "a", "w"), tmp_path / "folder")
    assert moved.input.read_bytes() == b"zip"
    assert not (tmp_path / "own.zip").exists()
    for session in (moved, left):
        journal.change_state(session.id, "failed", "why")
        assert journal.delete_session(session.id).failure == "why"
    assert (tmp_path / "folder").is_dir()
    assert not moved.input.exists()
    with pytest.raises(InvalidIdentifier):
        journal.enqueue(NewSession("r", "..", "v"), tmp_path)
    journal.close()


_WRITER = """
import sys
from pathlib import Path
from icf_utils.receiver.journal import Journal
journal = Journal(Path(sys.argv[1]))
for _ in range(25):
    session = journal.open_session(rule="r", study="a", visit="v", state="queued", calling_ae=sys.argv[2])
    journal.add_counts(session.id, images=1)
    assert journal.claim_next("r", sys.argv[2])
"""


def test_several_processes_use_it_at_once(tmp_path: Path) -> None:
    """Sessions of one visit, opened and claimed by four processes: none twice, none lost."""
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path), f"W{at}"]) for at in range(4)]
    assert [writer.wait(120) for writer in writers] == [0] * 4
    journal = Journal(tmp_path)
    sessions = journal.sessions()
    assert sorted(session.revision for session in sessions) == list(range(1, 101))
    assert {session.state for session in sessions} == {"running"}
    assert len(journal.sessions(SessionFilter(sender="W2"))) == 25
    assert [item.revision for item in journal.sessions(limit=2, offset=1)] == [99, 98]
    journal.close()


def test_associations(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first = journal.start_association("A", "B", "127.0.0.1")
    journal.start_association("A", "C", "127.0.0.1", "rejected", "no")
    journal.update_association(first, images=2, sessions=["s000001"], transfer_syntaxes=["1.2"])
    assert [item.state for item in journal.associations()] == ["rejected", "open"]
    assert journal.interrupt_associations() == 1
    (found,) = journal.associations("s000001")
    assert (found.state, found.images, found.transfer_syntaxes) == ("interrupted", 2, ("1.2",))
    journal.close()


def test_a_file_that_is_not_a_journal(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"something else, long enough to be looked at" * 100)
    with pytest.raises(DepositDamaged, match="something else"):
        Journal(tmp_path)


def test_a_deleted_visit_that_never_reached_the_store_frees_its_identifier(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for _ in range(2):
        session = journal.open_session(rule="r", study="a", visit="v", study_uid="1.2", expected=3)
        assert (session.visit, session.revision, session.expected) == ("v", 1, 3)
        journal.change_state(session.id, "failed", "why")
        journal.delete_session(session.id)
    # a visit that reached the store keeps its identifier, and so does one whose digests are recorded
    session = journal.open_session(rule="r", study="a", visit="v")
    journal.record_digests(session.id, {"c47f5b18b8a430e6": b"digest"})
    journal.change_state(session.id, "failed", "XNAT refused it")
    journal.delete_session(session.id)
    later = journal.open_session(rule="r", study="a", visit="v", expected=3)
    assert (later.visit, later.expected) == ("v-r2", 0)
    journal.close()


def test_only_a_failed_session_with_images_is_retried(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    session = journal.open_session(rule="r", study="a", visit="v")
    with pytest.raises(InvalidSetting, match="only a failed one"):
        journal.retry(session.id)
    journal.change_state(session.id, "failed", "why")
    with pytest.raises(InvalidSetting, match="no images"):
        journal.retry(session.id)
    (session.input / "001").mkdir()
    (session.input / "001" / "image.dcm").write_bytes(b"x")
    again = journal.retry(session.id)
    assert (again.state, again.failure, again.processing_end) == ("queued", "", None)
    journal.claim_next("r", "me")
    journal.change_state(session.id, "failed", "why")
    journal.delete_session(session.id)
    for name in (session.id, "s000099", "../x"):
        with pytest.raises(InvalidSetting, match="no session"):
            journal.retry(name)
    journal.close()


def association(state: AssociationState, started: float, ended: float | None) -> Association:
    return Association(1, "A", "B", "::1", started, ended, state, "", (), 1, 0, 0, 0, 1, ("s000001",))


@pytest.mark.parametrize(
    ("broken", "associations"),
    [
        (False, []),
        (False, [("released", 1, 5)]),
        (True, [("aborted", 1, 5)]),
        (True, [("interrupted", 1, 5), ("released", 4, 9)]),  # started before the loss
        (False, [("lost", 1, 5), ("released", 6, 9)]),
        (True, [("lost", 1, 5), ("released", 6, 9), ("aborted", 10, 11)]),
        (True, [("lost", 1, 5), ("open", 6, None)]),
    ],
)
def test_whether_an_association_was_lost(
    broken: bool, associations: list[tuple[AssociationState, float, float | None]]
) -> None:
    assert has_lost_association([association(*item) for item in associations]) is broken


def test_a_journal_of_the_first_layout_is_brought_up_to_date(tmp_path: Path) -> None:
    """As an earlier version wrote it, with a session that was removed: its number is not used again."""
    import sqlite3

    from icf_utils.receiver.journal import _LAYOUTS

    with sqlite3.connect(tmp_path / "journal.sqlite") as database:
        database.executescript(_LAYOUTS[0])
        names = "rule, study, visit, base_visit, revision, state, called_ae, calling_ae, address, images"
        for visit in ("v", "v-r2", "gone"):
            values = ("r", "a", visit, "v", 2 if visit == "v-r2" else 1, "success", "A", "B", "127.0.0.1", 3)
            places = ", ".join("?" * len(values))
            statement = f"INSERT INTO session ({names}, first_received, last_received) VALUES ({places}, 1.0, 2.0)"
            database.execute(statement, values)
        database.execute("DELETE FROM session WHERE visit = 'gone'")
        database.execute(
            "INSERT INTO association (called_ae, calling_ae, address, started, state, reason, sessions) "
            """VALUES ('A', 'B', '127.0.0.1', 1.0, 'released', '', '["s000001"]')"""
        )
        database.execute("PRAGMA user_version=1")
    database.close()
    again = Journal(tmp_path)
    session, revision = again.revisions("a", "v")
    assert (session.id, session.images, session.change, session.base_visit) == ("s000001", 3, "new", "v")
    assert (revision.visit, revision.revision) == ("v-r2", 2)
    assert [item.id for item in again.associations(session.id)] == [1]
    assert again.record_refusals(session.id, {"a": "x", "b": "x"}).notes == ("2 images were refused: x",)
    assert again.record_refusals(session.id, {"a": ""}).refused == 1
    assert again.open_session(rule="r", study="a", visit="w").id == "s000004"
    again.close()
    Journal(tmp_path).close()


def test_associations_of_a_session_are_found_by_an_index(tmp_path: Path) -> None:
    """Among 500,000 associations, in a hundredth of a second (859 ms by reading all of them)."""
    import sqlite3
    import time

    journal = Journal(tmp_path)
    session = journal.open_session(rule="r", study="a", visit="v")
    with sqlite3.connect(tmp_path / "journal.sqlite") as database:
        rows = (("A", "B", "x", 1.0, "released", "") for _ in range(500_000))
        statement = "INSERT INTO association (called_ae, calling_ae, address, started, state, reason) VALUES "
        database.executemany(statement + "(?, ?, ?, ?, ?, ?)", rows)
    database.close()
    number = journal.start_association("A", "B", "127.0.0.1")
    journal.update_association(number, sessions=[session.id])
    started = time.perf_counter()
    assert [item.id for item in journal.associations(session.id)] == [number]
    assert time.perf_counter() - started < 0.1
    journal.close()


def test_old_and_countless_associations_are_pruned(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    session = journal.open_session(rule="r", study="a", visit="v")
    old, kept = (journal.start_association("A", "B", "x") for _ in range(2))
    for number in (old, kept):
        journal.update_association(number, images=2, size=10, sessions=[session.id])
        journal.end_association(number, "released")
    journal._database.update("association", old, {"ended": 1.0})
    rejected = [journal.start_association("A", "B", "x", "rejected", "no") for _ in range(5)]
    assert journal.association_counts() == {"rejected": 5, "released": 2}
    assert journal.image_totals()["images"] == 4
    assert journal.prune_associations(2.0, most_rejected=3) == 3
    assert [item.id for item in journal.rejected_associations(9)] == rejected[:1:-1]
    assert [item.id for item in journal.associations(session.id)] == [kept]
    journal.close()
