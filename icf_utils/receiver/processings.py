"""The processings of a session: run after its metadata, shown on its page, run again on request.

What became of them is in the store (outputs, failures); of the receiver's own there is one file, ``rerun`` in the
session's folder, with the names of those that were requested again. Runs programs, and submits jobs to SLURM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from icf_utils.errors import ClusterRefused, IcfError, InvalidSetting, storage_errors
from icf_utils.formatting import format_count
from icf_utils.outputs.provenance import read_provenance
from icf_utils.pipeline.model import VisitInput
from icf_utils.processing import slurm
from icf_utils.processing.execute import ProcessConfig, process_visit
from icf_utils.processing.local import remove_leftovers
from icf_utils.processing.model import Processing, ProcessingResult
from icf_utils.processing.records import ProcessingFailure, log_path, read_failures
from icf_utils.processing.settings import find_processings, load_processings, make_processings
from icf_utils.receiver.arguments import session_arguments
from icf_utils.receiver.model import PARTIAL_OUTPUT, Session
from icf_utils.receiver.settings import ReceiverSettings, Rule
from icf_utils.slurm.model import JobRequest
from icf_utils.slurm.submit import find_active_submissions
from icf_utils.store.files import replace_file
from icf_utils.store.layout import Visit
from icf_utils.store.locks import list_running_processings
from icf_utils.waiting import poll

#: Seconds between two looks at a job, at first and at most; and how long SLURM may not respond.
_FIRST_LOOK, _LONGEST_LOOK, _PATIENCE = 0.5, 15.0, 3600.0

_RERUN = "rerun"


class Log(Protocol):
    """The session's log."""

    def line(self, text: str) -> None:
        """Write a line."""


def known_processings(settings: ReceiverSettings) -> dict[str, Processing]:
    """The processings of the store and of the receiver's own settings, by name.

    Raises :class:`~icf_utils.errors.InvalidSetting` for a mistake in them, and for a name that both have.
    """
    of_store = load_processings(settings.store)
    own = make_processings(settings.processing, settings.source, Path(settings.source).absolute().parent)
    if twice := sorted(of_store.keys() & own.keys()):
        raise InvalidSetting(settings.source, f"the store's icf.toml has a [[processing]] '{twice[0]}' as well")
    return {**of_store, **own}


@dataclass(frozen=True)
class Bucket:
    """What MagickBox calls a bucket: a rule, by its AE title, and the processings that it runs."""

    name: str
    ae_title: str
    description: str
    version: str


def list_buckets(settings: ReceiverSettings) -> tuple[Bucket, ...]:
    """The rules as buckets. Raises as :func:`known_processings` does."""
    known = known_processings(settings)
    found = []
    for rule in settings.rules:
        chain = [known[name] for name in rule.process if name in known]
        words = "; ".join(one.description or one.name for one in chain)
        found.append(Bucket(rule.name, rule.called_ae, words, ", ".join(one.version for one in chain)))
    return tuple(found)


def check_processings(settings: ReceiverSettings) -> None:
    """Refuse rules that name a processing that does not exist. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    if any(rule.process for rule in settings.rules) or settings.processing:
        known = known_processings(settings)
        for rule in settings.rules:
            find_processings(rule.process, known, settings.source)


def run_processings(settings: ReceiverSettings, rule: Rule, session: Session, log: Log) -> tuple[str, tuple[str, ...]]:
    """Run the processings of a rule on a session's visit; returns why they failed, and notes.

    One that failed stops only those that read its output. Raises :class:`~icf_utils.errors.InvalidSetting`.
    """
    remove_leftovers()
    again = requested_reruns(session)
    arguments = session_arguments(settings.spool, rule, session)
    if arguments:
        log.line(f"arguments of this send: {format_count(len(arguments), 'word')}")
    problems, notes = [], []
    for processing in find_processings(rule.process, known_processings(settings), settings.source):
        always = again is not None and (not again or processing.name in again)
        config = ProcessConfig(settings.store, processing, arguments, always, _file_of(settings, processing))
        result = _run(config, session, log)
        log.line(f"process {processing.name}: {_words(result)}")
        if result.state in ("failed", "not reached"):
            problems.append(f"process {processing.name}: {result.message}")
        elif _is_partial(result, settings.store):
            notes.append(PARTIAL_OUTPUT)
    if not problems:
        with suppress(OSError):
            (session.folder / _RERUN).unlink()
    return "; ".join(problems), tuple(dict.fromkeys(notes))


def _file_of(settings: ReceiverSettings, processing: Processing) -> Path | None:
    """The receiver's file for a processing of its own; ``None`` for one of the store's settings."""
    is_own = processing.name in {table.name for table in settings.processing}
    return Path(settings.source) if is_own else None


def _words(result: ProcessingResult) -> str:
    """For the session's log: what the program printed is not copied into it."""
    if result.state == "up to date":
        return "up to date"
    text = f"{result.state} in {result.seconds:.1f} s: {result.message}"
    return f"{text}; {format_count(result.files, 'file')}" if result.files else text


def _is_partial(result: ProcessingResult, store: Path) -> bool:
    if result.state != "up to date":
        return result.state == "partial"
    found = read_provenance(Visit(store, result.study, result.visit), result.processing)
    return found is not None and found.state == "partial"


def _run(config: ProcessConfig, session: Session, log: Log) -> ProcessingResult:
    if not config.processing.is_on_slurm:
        return process_visit(config, session.study, session.visit, wait=True)
    try:
        return _run_on_slurm(config, session, log)
    except IcfError as error:
        return ProcessingResult(session.study, session.visit, config.processing.name, "failed", message=str(error))


def _run_on_slurm(config: ProcessConfig, session: Session, log: Log) -> ProcessingResult:
    """Submit a job for the visit unless one is in the queue already, as after a restart, and follow it."""
    visits = [VisitInput(session.study, session.visit)]
    result = ProcessingResult(session.study, session.visit, config.processing.name, "up to date")
    request = slurm.request_of(config.processing, JobRequest(), 1)
    for _ in poll(_FIRST_LOOK, _LONGEST_LOOK, timeout=_PATIENCE):
        try:
            jobs = slurm.plan_jobs(visits, config, request)
            for submission in slurm.submit_jobs(jobs, config, request):
                log.line(f"process {config.processing.name}: job {submission.array_job}")
            break
        except ClusterRefused as error:
            if "contact slurm controller" not in error.words.lower():
                raise
    _follow(config, session)
    left = slurm.find_unprocessed(visits, replace(config, always=False))
    if left:
        return ProcessingResult(session.study, session.visit, result.processing, "failed", message=left[0].reason)
    return result


def _follow(config: ProcessConfig, session: Session) -> None:
    """Wait until no job has the visit. SLURM may not respond for a while, as when it is restarted."""
    study = Visit(config.root, session.study, session.visit).of_study
    silent_since = 0.0
    for waited in poll(_FIRST_LOOK, _LONGEST_LOOK, factor=1.3):
        try:
            active = find_active_submissions([study], config.processing.name).get(study.study, [])
        except ClusterRefused:
            if waited - silent_since > _PATIENCE:
                raise
            continue
        silent_since = waited
        if not any(session.visit in one.visits for one in active):
            return


def request_rerun(session: Session, names: Sequence[str]) -> None:
    """Request that these processings run again, all for none, whether needed or not.

    Raises :class:`~icf_utils.errors.StorageFailure`.
    """
    path = session.folder / _RERUN
    with storage_errors(path, "write"):
        session.folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, "".join(f"{name}\n" for name in names).encode("ascii"))


def requested_reruns(session: Session) -> list[str] | None:
    """The processings that were requested again, an empty list for all; ``None`` without a request."""
    try:
        return (session.folder / _RERUN).read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return None


@dataclass(frozen=True)
class SessionProcessing:
    """The state of one processing of a session. ``size`` in bytes; ``has_log`` says whether its log was kept."""

    name: str
    state: Literal["not made", "running", "success", "partial", "failed"]
    version: str = ""
    message: str = ""
    files: int = 0
    size: int = 0
    has_log: bool = False


def session_processings(session: Session, store: Path, names: Sequence[str]) -> list[SessionProcessing]:
    """The states of a session's processings. Damage of a file is a message, not an error."""
    if not names or session.state == "receiving":
        return [SessionProcessing(name, "not made") for name in names]
    place = Visit(store, session.study, session.visit)
    running, failures = list_running_processings(place.of_study), read_failures(place.of_study)
    return [_state(place, name, running, failures) for name in names]


def _state(
    place: Visit,
    name: str,
    running: Mapping[tuple[str, str], str],
    failures: Mapping[tuple[str, str], ProcessingFailure],
) -> SessionProcessing:
    has_log = log_path(place, name).is_file()
    if (place.visit, name) in running:
        return SessionProcessing(name, "running")
    if failure := failures.get((place.visit, name)):
        return SessionProcessing(name, "failed", failure.version, failure.message, has_log=has_log)
    try:
        found = read_provenance(place, name)
    except IcfError as error:
        return SessionProcessing(name, "failed", message=str(error))
    if found is None:
        return SessionProcessing(name, "not made")
    output = found.output
    return SessionProcessing(name, found.state, found.recipe.version, "", output.files, output.size, has_log)
