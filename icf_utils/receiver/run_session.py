"""Run one session: archive, metadata, dataset, catalog, and the upload to XNAT where the rule names one.

Calls the same functions as ``icf-utils run``, stage by stage, and writes the session's log. Runs in a worker process
that :mod:`icf_utils.receiver.session_queue` starts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from math import inf
from pathlib import Path

from icf_utils.errors import IcfError, InvalidSetting, StorageFailure, printable, storage_errors
from icf_utils.formatting import format_count
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.pipeline.model import RunConfig, StageOptions, StageOutcome, VisitInput
from icf_utils.pipeline.run import run_visits
from icf_utils.progress import SILENT, Task
from icf_utils.receiver.identify import image_key
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import Session, SessionFilter
from icf_utils.receiver.processings import run_processings
from icf_utils.receiver.settings import ReceiverSettings, Rule, xnat_target
from icf_utils.receiver.spool import images_below
from icf_utils.settings import load_settings
from icf_utils.store.layout import Visit

#: Seconds.
_DAY = 86_400.0


@dataclass(frozen=True)
class SessionOutcome:
    """The result of a session: why it failed (empty if it did not), notes, and the MD5 of each image by its key.

    The keys are those of :func:`~icf_utils.receiver.identify.image_key`.
    """

    failure: str = ""
    notes: tuple[str, ...] = ()
    digests: Mapping[str, bytes] = field(default_factory=dict)


class _Log:
    """The session's log file, without header values. Also the progress that the stages report to."""

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self._path, self._report = path, report

    def task(self, label: str, total: int, unit: str) -> AbstractContextManager[Task]:
        return SILENT.task(label, total, unit)

    def message(self, text: str) -> None:
        """Write a line to this log and to the receiver's."""
        self.line(text)
        self._report(text)

    def line(self, text: str) -> None:
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        with open(self._path, "a", encoding="utf-8") as file:
            for line in text.splitlines():
                file.write(f"{now} {line}\n")


def run_session(
    settings: ReceiverSettings, rule: Rule, session: Session, report: Callable[[str], None]
) -> SessionOutcome:
    """Bring a session's visit into the store; ``report`` gets lines for the receiver's log.

    Errors of icf-utils and of the operating system are part of the outcome.
    """
    log = _Log(session.log, report)
    try:
        return _run_stages(settings, rule, session, log)
    except IcfError as error:
        log.line(str(error))
        return SessionOutcome(str(error))
    except OSError as error:  # one that no stage has translated
        problem = str(StorageFailure(str(error.filename or "a file"), "use", error))
        return SessionOutcome(problem)


def _run_stages(settings: ReceiverSettings, rule: Rule, session: Session, log: _Log) -> SessionOutcome:
    log.line(f"{session.name} from '{printable(session.input)}', {format_count(session.images, 'image')}")
    # a process whose receiver was killed may have finished the archive and removed the input
    has_input = session.input.exists() or not Visit(settings.store, session.study, session.visit).archive.exists()
    wanted = VisitInput(session.study, session.visit, session.input if has_input else None)
    notes: tuple[str, ...] = ()
    problem = ""
    for stage in _chain(settings, rule, rule.until).stage_names:  # one by one, so that the log shows the progress
        (outcome,) = run_visits([wanted], _chain(settings, rule, stage), progress=log).visits
        found = outcome.failed or next(item for item in outcome.stages if item.stage == stage)
        notes += _write_outcome(found, log)
        if found.failure:
            return SessionOutcome(f"{found.stage}: {found.failure.message}", notes)
        if stage == "metadata" and rule.process:  # the stages after it show and keep what is made now
            problem, more = run_processings(settings, rule, session, log)
            notes += more
    visit = Visit(settings.store, session.study, session.visit)
    digests = _digests(visit)
    if rule.xnat and (refusal := _to_xnat(visit, rule, log)):
        problem = f"{problem}; xnat: {refusal}" if problem else f"xnat: {refusal}"
    return SessionOutcome(problem, notes, digests)


def _chain(settings: ReceiverSettings, rule: Rule, until: str) -> RunConfig:
    return RunConfig(settings.store, load_settings(settings.store), StageOptions(time_zone=rule.timezone), until)


def _write_outcome(stage: StageOutcome, log: _Log) -> tuple[str, ...]:
    log.line(f"{stage.stage}: {stage.state} in {stage.seconds:.1f} s, {format_count(stage.size, 'byte')}")
    for notice in (*stage.notices, *stage.skipped):
        log.line(f"{stage.stage}: [{notice.code}] '{printable(notice.subject)}': {notice.message}")
    if stage.failure:
        log.line(f"{stage.stage}: {stage.failure.message}")
    codes = sorted({notice.code for notice in stage.notices})
    return tuple(f"{stage.stage}: see [{code}] in the log" for code in codes)


def _to_xnat(visit: Visit, rule: Rule, log: _Log) -> str:
    """Upload the visit's archive to the rule's XNAT; returns why that failed, or an empty text."""
    from icf_utils.xnat.login import find_xnat_login
    from icf_utils.xnat.upload import upload_visit

    try:
        login = find_xnat_login(rule.xnat, rule.xnat_user)
    except InvalidSetting as error:
        if error.source != "credentials":
            raise
        advice = "set 'xnat_user' in the rule and XNAT_PASS in the receiver's environment, or write its ~/.netrc"
        return f"no credentials for {printable(rule.xnat)}: {advice}"
    labels = {"subject": rule.xnat_subject, "label": rule.xnat_session}
    try:
        outcome = upload_visit(
            *(visit.root, visit.study, visit.visit), xnat_target(rule), login, **labels, progress=log
        )
    except InvalidSetting as error:  # a template of which nothing is left
        return str(error)
    log.line(f"xnat: {outcome.state} {outcome.problem}".rstrip())
    return outcome.problem if outcome.state in ("failed", "unproved") else ""


def _digests(visit: Visit) -> dict[str, bytes]:
    """MD5 of each image by its key, from the metadata, so that images which are sent again are recognised."""
    metadata = read_visit_metadata(visit)
    named = [(image.uids.get("SOPInstanceUID"), image.md5) for image in metadata.images]
    return {image_key(uid): bytes.fromhex(md5) for uid, md5 in named if uid}


def remove_input(session: Session) -> bool:
    """Remove a session's input if it lies in the session's folder; returns whether something was removed.

    It is renamed first, so that a receiver which is killed meanwhile never leaves a part of the input under its name.
    """
    if not session.input.is_relative_to(session.folder) or not session.input.exists():
        return False
    removed = session.folder / "removed"
    with storage_errors(session.input, "remove"):
        if removed.is_dir():
            shutil.rmtree(removed)
        os.rename(session.input, removed)
        if removed.is_dir():
            shutil.rmtree(removed)
        else:
            removed.unlink()
    return True


def remove_old_inputs(settings: ReceiverSettings, journal: Journal, now: float) -> list[str]:
    """Remove the inputs that their rules keep for a number of days only, when these are over; returns the sessions.

    An input stays if its visit's archive is not in the store, or lacks one of the images.
    """
    rules = {rule.name: rule for rule in settings.rules if 0 < rule.input_days < inf}
    removed = []
    for session in journal.sessions(SessionFilter(states=("success", "partial"))) if rules else ():
        rule = rules.get(session.rule)
        if rule is None or now - (session.processing_end or now) < rule.input_days * _DAY or not session.input.is_dir():
            continue
        is_whole = set(images_below(session.input)) <= set(journal.digests([session.id]))
        if is_whole and _is_stored(settings, session) and remove_input(session):
            removed.append(session.id)
    return removed


def _is_stored(settings: ReceiverSettings, session: Session) -> bool:
    visit = Visit(settings.store, session.study, session.visit)
    return visit.archive.exists() and visit.checksum.exists()
