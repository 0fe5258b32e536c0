"""One session through the chain: archive, metadata, dataset, catalog, and XNAT where a rule names one.

Runs the same functions as ``icf-utils run``, and writes the session's log beside. Called in a process of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from icf_utils.config import load_settings
from icf_utils.errors import IcfError, StorageFailure, shown
from icf_utils.intake.header import image_key
from icf_utils.intake.sessions import Session
from icf_utils.intake.settings import ReceiverSettings, Rule, xnat_target
from icf_utils.metadata.reading import read_visit_metadata
from icf_utils.pipeline.runner import run_chain
from icf_utils.pipeline.values import Chain, Options, VisitInput, VisitOutcome
from icf_utils.progress import SILENT, Task
from icf_utils.store import Visit


@dataclass(frozen=True)
class Done:
    """What became of a session: why it failed (empty: it did not), notes, and MD5 of each image by SOPInstanceUID."""

    failure: str = ""
    notes: tuple[str, ...] = ()
    digests: Mapping[str, bytes] = field(default_factory=dict)


class _Log:
    """The session's log: a line for each thing that happens, without header values. Also a progress to report to."""

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self._path, self._tell = path, tell

    def task(self, label: str, total: int, unit: str) -> AbstractContextManager[Task]:
        return SILENT.task(label, total, unit)

    def message(self, text: str) -> None:
        """A line that the receiver's log has too."""
        self.line(text)
        self._tell(text)

    def line(self, text: str) -> None:
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(f"{now} {text}\n")


def process(settings: ReceiverSettings, rule: Rule, session: Session, tell: Callable[[str], None]) -> Done:
    """Bring a session's visit into the store; ``tell`` hears lines for the receiver's log. Raises nothing of ours."""
    log = _Log(session.log, tell)
    try:
        return _process(settings, rule, session, log)
    except IcfError as error:
        log.line(str(error))
        return Done(str(error))
    except OSError as error:  # one that nobody could name better
        problem = str(StorageFailure(str(error.filename or "a file"), "use", error))
        return Done(problem)


def _process(settings: ReceiverSettings, rule: Rule, session: Session, log: _Log) -> Done:
    log.line(f"{session.name} from '{shown(session.input)}', {session.images} images")
    options = Options(time_zone=rule.timezone)
    chain = Chain(settings.store, load_settings(settings.store), options, rule.until)
    # a process whose receiver was killed may have finished the archive, and removed its input as it should
    there = session.input.exists() or not Visit(settings.store, session.study, session.visit).archive.exists()
    wanted = VisitInput(session.study, session.visit, session.input if there else None)
    (outcome,) = run_chain([wanted], chain, progress=log).visits
    notes = _write_outcome(outcome, log)
    if outcome.failed and outcome.failed.failure:
        return Done(f"{outcome.failed.stage}: {outcome.failed.failure.message}", notes)
    visit = Visit(settings.store, session.study, session.visit)
    digests = _digests(visit)
    if rule.xnat and (problem := _to_xnat(visit, rule, log)):
        return Done(f"xnat: {problem}", notes, digests)
    if not rule.keep_input and session.input.is_relative_to(session.folder):
        _remove_input(session)
        log.line("the input was removed, as the rule says")
    return Done("", notes, digests)


def _write_outcome(outcome: VisitOutcome, log: _Log) -> tuple[str, ...]:
    notes = []
    for stage in outcome.stages:
        log.line(f"{stage.stage}: {stage.state} in {stage.seconds:.1f} s, {stage.size} bytes")
        for notice in (*stage.notices, *stage.skipped):
            log.line(f"{stage.stage}: [{notice.code}] '{shown(notice.subject)}': {notice.message}")
        codes = sorted({notice.code for notice in stage.notices})
        notes += [f"{stage.stage}: see [{code}] in the log" for code in codes]
        if stage.failure:
            log.line(f"{stage.stage}: {stage.failure.message}")
    return tuple(notes)


def _to_xnat(visit: Visit, rule: Rule, log: _Log) -> str:
    """Hand the visit's archive to the XNAT that the rule names; why that failed, or empty text."""
    from icf_utils.xnat.login import xnat_login
    from icf_utils.xnat.upload import upload_visit

    login = xnat_login(rule.xnat, rule.xnat_user)
    outcome = upload_visit(visit.root, visit.study, visit.visit, xnat_target(rule), login, progress=log)
    log.line(f"xnat: {outcome.state} {outcome.problem}".rstrip())
    return outcome.problem if outcome.state == "failed" else ""


def _digests(visit: Visit) -> dict[str, bytes]:
    """From the metadata: what the images of an archive are recognised by, without reading it again."""
    metadata = read_visit_metadata(visit)
    named = [(image.uids.get("SOPInstanceUID"), image.md5) for image in metadata.images]
    return {image_key(uid): bytes.fromhex(md5) for uid, md5 in named if uid}


def _remove_input(session: Session) -> None:
    if session.input.is_dir():
        shutil.rmtree(session.input)
    else:
        session.input.unlink(missing_ok=True)
