"""Run one session: archive, metadata, dataset, catalog, and the upload to XNAT where the rule names one.

Where the visit is in the store already, the session's images become part of its next version
(:mod:`icf_utils.curation.extend`), and the stages then make what is missing.

Calls the same functions as ``icf-utils run``, stage by stage, and writes the session's log. Runs in a worker process
that :mod:`icf_utils.receiver.session_queue` starts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from math import inf
from pathlib import Path

from icf_utils.curation.extend import add_images
from icf_utils.errors import IcfError, InvalidSetting, StorageFailure, printable, storage_errors
from icf_utils.formatting import format_count
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.pipeline.model import RunConfig, StageOptions, StageOutcome, VisitInput
from icf_utils.pipeline.run import run_visits
from icf_utils.progress import SILENT, Task
from icf_utils.receiver.identify import image_key
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import CONFLICTING, Session, SessionFilter
from icf_utils.receiver.placement import is_of_study
from icf_utils.receiver.processings import run_processings
from icf_utils.receiver.settings import ReceiverSettings, Rule, xnat_target
from icf_utils.receiver.spool import file_md5
from icf_utils.receiver.unpacking import images_of_input, unpack_images
from icf_utils.settings import load_settings
from icf_utils.store.layout import Visit

#: Seconds.
_DAY = 86_400.0


@dataclass(frozen=True)
class SessionOutcome:
    """The result of a session: why it failed (empty if it did not), notes, and the MD5 of each image by its key.

    The images are those of the visit, and the keys those of :func:`~icf_utils.receiver.identify.image_key`.
    ``is_storage_failure``: a disk was full, or a folder could not be used, which may pass.
    """

    failure: str = ""
    notes: tuple[str, ...] = ()
    digests: Mapping[str, bytes] = field(default_factory=dict)
    is_storage_failure: bool = False


@dataclass(frozen=True)
class SessionTask:
    """A session that is to be brought into the store by its rule; ``is_archived``: its images were archived before."""

    rule: Rule
    session: Session
    is_archived: bool = False


class SessionLog:
    """The session's log file, without header values. Also the progress that the stages report to.

    ``report`` gets those lines that are for the receiver's log as well.
    """

    def __init__(self, path: Path, report: Callable[[str], None] = lambda _: None) -> None:
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


def run_session(settings: ReceiverSettings, task: SessionTask, report: Callable[[str], None]) -> SessionOutcome:
    """Bring a session's visit into the store; ``report`` gets lines for the receiver's log.

    Errors of icf-utils and of the operating system are part of the outcome.
    """
    log = SessionLog(task.session.log, report)
    try:
        return _run_stages(settings, task, log)
    except IcfError as error:
        with suppress(OSError):  # the log is on a disk that may be full
            log.line(str(error))
        return SessionOutcome(str(error), is_storage_failure=isinstance(error, StorageFailure))
    except OSError as error:  # one that no stage has translated
        problem = str(StorageFailure(str(error.filename or "a file of the spool"), "use", error))
        return SessionOutcome(problem, is_storage_failure=True)


def _run_stages(settings: ReceiverSettings, task: SessionTask, log: SessionLog) -> SessionOutcome:
    rule, session = task.rule, task.session
    log.line(f"{session.name} from '{printable(session.input)}', {format_count(session.images, 'image')}")
    visit = Visit(settings.store, session.study, session.visit)
    source: Path | None = session.input
    received: Mapping[str, bytes] = {}
    notes: tuple[str, ...] = ()
    if visit.archive.exists() and (task.is_archived or not session.input.exists()):
        source = None  # a process whose receiver was killed may have finished the archive and removed the input
    elif visit.archive.exists() and _is_for_next_version(task, visit):
        more, received = _add_to_visit(settings, task, log)
        notes += more
        source = None
    wanted = VisitInput(session.study, session.visit, source)
    problem, digests = "", dict[str, bytes]()
    for stage in _chain(settings, rule, rule.until).stage_names:  # one by one, so that the log shows the progress
        (outcome,) = run_visits([wanted], _chain(settings, rule, stage), progress=log).visits
        found = outcome.failed or next(item for item in outcome.stages if item.stage == stage)
        notes += _write_outcome(found, log)
        if found.failure:
            is_storage_failure = found.failure.exit_code == StorageFailure.exit_code
            return SessionOutcome(f"{found.stage}: {found.failure.message}", notes, digests, is_storage_failure)
        if stage == "metadata":
            digests = {**_digests(visit), **received}
        if stage == "metadata" and rule.process:  # the stages after it show and keep what is made now
            problem, more = run_processings(settings, rule, session, log)
            notes += more
    if rule.xnat and (refusal := _to_xnat(visit, task, log)):
        problem = f"{problem}; xnat: {refusal}" if problem else f"xnat: {refusal}"
    return SessionOutcome(problem, notes, digests)


def _is_for_next_version(task: SessionTask, visit: Visit) -> bool:
    """Whether a session's images become part of a visit that is in the store already."""
    session = task.session
    if session.change != "new":
        return True
    return task.rule.late != "separate" and bool(session.study_uid) and is_of_study(visit, session.study_uid)


def _add_to_visit(
    settings: ReceiverSettings, task: SessionTask, log: SessionLog
) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """Make the visit's next version with a session's images.

    Returns notes, and the MD5s, as they were received, of images that the visit has with other file meta information.
    """
    session = task.session
    with _folder_of(session) as folder:
        return _add_folder(folder, settings, task, log)


@contextmanager
def _folder_of(session: Session) -> Iterator[Path]:
    """The folder of a session's images: its input, or during the block what an uploaded zip contains."""
    if session.input.is_dir():
        yield session.input
        return
    folder = session.folder / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    try:
        unpack_images(session.input, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _add_folder(
    folder: Path, settings: ReceiverSettings, task: SessionTask, log: SessionLog
) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """Do what :func:`_add_to_visit` does with the images of a folder."""
    session = task.session
    found = add_images(
        folder,
        settings.store,
        *(session.study, session.visit),
        correct=session.change == "corrected",
        time_zone=task.rule.timezone,
        progress=log,
    )
    for name in found.conflicts:
        _quarantine(session, folder / name)
    for notice in found.notices:
        log.line(f"archive: [{notice.code}] '{printable(notice.subject)}': {notice.message}")
    parts = [f"{format_count(found.added, 'image')} added"] if found.added else []
    parts += [f"{format_count(found.corrected, 'image')} corrected"] if found.corrected else []
    note = f"version {found.version} of the visit: {', '.join(parts) or 'it had all these images already'}"
    log.message(f"{session.name}: {note}")
    received = {_key_of(name): file_md5(folder / name) for name in found.rewritten}
    return ((note, CONFLICTING) if found.conflicts else (note,)), received


def _key_of(name: str) -> str:
    """The key of an image by its name in a session's input."""
    return Path(name).stem.rpartition("-")[2]


def _quarantine(session: Session, path: Path) -> None:
    """Move an image that the visit has with other content to a session's quarantine."""
    target = session.quarantine / f"{_key_of(path.name)}.{file_md5(path).hex()[:12]}.dcm"
    with storage_errors(target, "create"):
        target.parent.mkdir(exist_ok=True)
        os.rename(path, target)


def _chain(settings: ReceiverSettings, rule: Rule, until: str) -> RunConfig:
    return RunConfig(settings.store, load_settings(settings.store), StageOptions(time_zone=rule.timezone), until)


def _write_outcome(stage: StageOutcome, log: SessionLog) -> tuple[str, ...]:
    log.line(f"{stage.stage}: {stage.state} in {stage.seconds:.1f} s, {format_count(stage.size, 'byte')}")
    for notice in (*stage.notices, *stage.skipped):
        log.line(f"{stage.stage}: [{notice.code}] '{printable(notice.subject)}': {notice.message}")
    if stage.failure:
        log.line(f"{stage.stage}: {stage.failure.message}")
    codes = sorted({notice.code for notice in stage.notices})
    return tuple(f"{stage.stage}: see [{code}] in the log" for code in codes)


def _to_xnat(visit: Visit, task: SessionTask, log: SessionLog) -> str:
    """Upload the visit's archive to the rule's XNAT; returns why that failed, or an empty text.

    Late images are added to the session that XNAT has of the visit. Nothing in XNAT is replaced by corrected ones: that
    is for a person to decide.
    """
    from icf_utils.xnat.login import find_xnat_login
    from icf_utils.xnat.upload import upload_visit

    rule = task.rule
    try:
        login = find_xnat_login(rule.xnat, rule.xnat_user)
    except InvalidSetting as error:
        if error.source != "credentials":
            raise
        advice = "set 'xnat_user' in the rule and XNAT_PASS in the receiver's environment, or write its ~/.netrc"
        return f"no credentials for {printable(rule.xnat)}: {advice}"
    target = replace(xnat_target(rule), overwrite="append" if task.session.change == "late" else "")
    labels = {"subject": rule.xnat_subject, "label": rule.xnat_session}
    try:
        outcome = upload_visit(*(visit.root, visit.study, visit.visit), target, login, **labels, progress=log)
    except InvalidSetting as error:  # a template of which nothing is left
        return str(error)
    log.line(f"xnat: {outcome.state} {outcome.problem}".rstrip())
    return outcome.problem if outcome.state in ("failed", "unproved") else ""


def _digests(visit: Visit) -> dict[str, bytes]:
    """MD5 of each image by its key, from the metadata, so that images which are sent again are recognised."""
    metadata = read_visit_metadata(visit)
    named = [(image.uids.get("SOPInstanceUID"), image.md5) for image in metadata.images]
    return {image_key(uid): bytes.fromhex(md5) for uid, md5 in named if uid}


def has_own_input(session: Session) -> bool:
    """Whether a session's input lies in the session's folder."""
    return session.input.is_relative_to(session.folder) and session.input.exists()


def remove_input(session: Session) -> bool:
    """Remove a session's input if it lies in the session's folder; returns whether something was removed.

    It is renamed first, so that a receiver which is killed meanwhile never leaves a part of the input under its name.
    """
    if not has_own_input(session):
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
        if rule is None or now - (session.processing_end or now) < rule.input_days * _DAY or not has_own_input(session):
            continue
        is_whole = images_of_input(session) <= set(journal.digests([session.id]))
        if is_whole and _is_stored(settings, session) and remove_input(session):
            removed.append(session.id)
    return removed


def prune_sessions(settings: ReceiverSettings, journal: Journal, now: float) -> int:
    """Remove the sessions from the journal that ended ``keep_sessions`` days ago; returns their number.

    One stays as long as its input is there, and if its visit is not in the store.
    """
    before, found = now - settings.listen.keep_sessions * _DAY, 0
    sessions = journal.ended_sessions(before) if settings.listen.keep_sessions else []
    while sessions:
        gone = [item for item in sessions if item.deleted or (not item.input.exists() and _is_stored(settings, item))]
        journal.forget_sessions(gone)
        found += len(gone)
        sessions = journal.ended_sessions(before, sessions[-1].id)
    return found


def _is_stored(settings: ReceiverSettings, session: Session) -> bool:
    visit = Visit(settings.store, session.study, session.visit)
    return visit.archive.exists() and visit.checksum.exists()
