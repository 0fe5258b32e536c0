"""A journal with sessions in every state, and a real server of its pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from icf_utils import deposit_visit_metadata, make_studyvisit_archive
from icf_utils.credentials import Secret
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import Session
from icf_utils.receiver.web.app import WebServer
from icf_utils.receiver.web.settings import WebSettings
from tests.data.make_dicom import write_visit

TOKEN = "a-token-of-the-tests"
HOSTILE = "<script>document.title='stolen'</script>"


class Said:
    """Takes messages instead of a terminal."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def fill(root: Path, words: str = HOSTILE) -> Journal:
    """One session in each state; the successful one has images, results and a log. ``words`` are in all messages."""
    journal = Journal(root / "spool")
    done = begin(journal, "visit-01", "SCANNER1", 3)
    write_visit(done.input, {1: ("scout", 3)})
    make_studyvisit_archive(done.input, root / "store", "study-a", "visit-01")
    deposit_visit_metadata(root / "store", "study-a", "visit-01")
    done.log.write_text(f"complete: 3 images\n{words}\n", encoding="utf-8")
    end(journal, done, "success")
    end(journal, begin(journal, "visit-02", "SCANNER1", 5), "failed", f"archive: {words}")
    part = begin(journal, "visit-03", "SCANNER2", 7, expected=9)
    journal.add_note(part.id, f"2 images are missing {words}")
    end(journal, part, "partial")
    running = begin(journal, "visit-04", "SCANNER2", 9)
    journal.change_state(running.id, "queued")
    journal.claim_next("ARCHIVE", "worker")
    journal.change_state(begin(journal, "visit-05", "SCANNER2", 9).id, "queued")
    begin(journal, "visit-06", "SCANNER3", 1, expected=4)
    return journal


def begin(journal: Journal, visit: str, sender: str, images: int, expected: int = 0) -> Session:
    session = journal.open_session(
        rule="ARCHIVE", study="study-a", visit=visit, study_uid="1.2.3", called_ae="ARCHIVE", calling_ae=sender,
        address="192.0.2.1", expected=expected,
    )  # fmt: skip
    return journal.update_session(session.id, images=images, size=images * 1000)


def end(journal: Journal, session: Session, state: str, failure: str = "") -> None:
    journal.change_state(session.id, "queued")
    journal.claim_next("ARCHIVE", "worker")
    journal.change_state(session.id, state, failure)  # type: ignore[arg-type]


def settings_of(root: Path, **changes: object) -> WebSettings:
    values = {"rules": {"ARCHIVE": "study-a"}, "compatible": True, "reserve": 0, **changes}
    return WebSettings(root / "store", Secret(TOKEN), **values)  # type: ignore[arg-type]


@contextmanager
def served(root: Path, journal: Journal, **changes: object) -> Iterator[tuple[str, Said]]:
    """The address of a running server, and what it says."""
    said = Said()
    server = WebServer(journal, settings_of(root, **changes), "127.0.0.1", 0, said)  # type: ignore[arg-type]
    server.start()
    try:
        yield server.url, said
    finally:
        server.stop()
