"""Sessions into a project of an XNAT, several at a time. Reads inputs, talks to the server, writes a ledger and a log.

:func:`upload_visit` brings one visit of a store there, :func:`upload` any number of parcels.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

from icf_utils.credentials import Login, without_credentials
from icf_utils.errors import IcfError, InvalidSetting, leave_behind, shown, storage_errors
from icf_utils.progress import SILENT, Progress, Task
from icf_utils.store import Visit
from icf_utils.xnat.client import Xnat
from icf_utils.xnat.deciding import deliver
from icf_utils.xnat.ledger import Ledger
from icf_utils.xnat.parcels import Body, Parcel, visit_body
from icf_utils.xnat.values import Outcome, Target, UploadResult, clear_notices, filled
from icf_utils.xnat.watching import Stopped, Watch

#: The labels that a visit of a store gets, unless other templates are given.
VISIT_SUBJECT, VISIT_LABEL = "{visit}", "{study}_{visit}"


def upload_visit(
    store_dir: str | Path,
    study: str,
    visit: str,
    target: Target,
    login: Login,
    *,
    subject: str = VISIT_SUBJECT,
    label: str = VISIT_LABEL,
    progress: Progress = SILENT,
) -> Outcome:
    """Upload the archive of one visit; calling it again does nothing once the visit is there.

    ``subject`` and ``label`` are templates with the fields ``{study}`` and ``{visit}``. What is wrong with the visit
    or its arrival stands in the outcome (``state`` is ``failed``, ``problem`` says why). Raises
    :class:`~icf_utils.errors.RemoteFailure` where the server or the login as such fails,
    :class:`~icf_utils.errors.InvalidSetting` for a template, :class:`~icf_utils.errors.Busy` while another process
    uploads this study to the same project.
    """
    parcel = visit_parcel(Visit(Path(store_dir), study, visit), subject, label)
    return upload([parcel], target, login, jobs=1, progress=progress).sessions[0]


def visit_parcel(visit: Visit, subject: str = VISIT_SUBJECT, label: str = VISIT_LABEL) -> Parcel:
    """A visit of a store as a session; its ledger lies in the study's work folder."""
    values = {"study": visit.study, "visit": visit.visit}
    names = {"--subject": filled(subject, values, "--subject"), "--label": filled(label, values, "--label")}
    ledger = visit.workdir / "xnat"
    where = f"{visit.study}/{visit.visit}"
    return Parcel(names["--subject"], names["--label"], where, ledger, lambda: visit_body(visit))


def upload(
    parcels: Sequence[Parcel],
    target: Target,
    login: Login,
    *,
    jobs: int = 1,
    log: Path | None = None,
    progress: Progress = SILENT,
) -> UploadResult:
    """Upload sessions, ``jobs`` at a time. What is wrong with one of them does not keep the others.

    ``log`` is a file that a line is added to for each session. Raises as :func:`upload_visit` does.
    """
    check_labels(parcels)
    result = UploadResult(without_credentials(target.url), target.project, target.dest, (), clear_notices(target.url))
    stop = threading.Event()
    with ExitStack() as stack:
        folders = dict.fromkeys(parcel.ledger for parcel in parcels)
        ledgers = {folder: stack.enter_context(Ledger(folder, target)) for folder in folders}
        written = stack.enter_context(_log(log))
        xnat = stack.enter_context(Xnat(target.url, login, target.ca, target.timeout))
        watch = Watch(xnat, target, stop)
        rows = watch.rows()
        task = stack.enter_context(progress.task(f"uploading to {target.project}", len(parcels), "sessions"))
        work = _Work(watch, ledgers, rows, written, task)
        sessions = _in_parallel(work, parcels, jobs, stop)
    return replace(result, sessions=tuple(sessions), ledger=tuple(ledger.path for ledger in ledgers.values()))


def plan(parcels: Sequence[Parcel], target: Target) -> UploadResult:
    """What :func:`upload` would send, without a word to the server; the files are looked through."""
    check_labels(parcels)
    url = without_credentials(target.url)
    return UploadResult(url, target.project, target.dest, tuple(_planned(item, target) for item in parcels))


def _planned(parcel: Parcel, target: Target) -> Outcome:
    base = Outcome(parcel.subject, parcel.label, "planned", target.project)
    try:
        with parcel.open() as body:
            return _measured(base, body)
    except IcfError as error:
        return replace(base, state="failed", problem=str(error))


def _measured(outcome: Outcome, body: Body) -> Outcome:
    left_out = tuple(item.name for item in body.contents.others)
    return replace(outcome, sent=len(body.contents.images), size=len(body), left_out=left_out)


def check_labels(parcels: Sequence[Parcel]) -> None:
    """Two sessions of one name would become one in XNAT."""
    twice = [key for key, count in Counter((item.subject, item.label) for item in parcels).items() if count > 1]
    if twice:
        subject, label = twice[0]
        places = [f"'{shown(item.where)}'" for item in parcels if (item.subject, item.label) == twice[0]]
        raise InvalidSetting(
            "labels", f"{' and '.join(places[:2])} would both be session '{label}' of subject '{subject}'; see --label"
        )


@dataclass(frozen=True)
class _Work:
    """What the sessions of a run share."""

    watch: Watch
    ledgers: Mapping[Path, Ledger]
    rows: list[Mapping[str, object]]
    log: TextIO | None
    task: Task

    def __call__(self, parcel: Parcel) -> Outcome:
        """One session; an error of its own becomes its outcome."""
        self.watch.check()
        try:
            outcome = deliver(self.watch, parcel, self.ledgers[parcel.ledger], self.rows)
        except Stopped:
            raise
        except IcfError as error:
            outcome = Outcome(parcel.subject, parcel.label, "failed", self.watch.target.project, problem=str(error))
        return outcome

    def done(self, outcome: Outcome) -> None:
        """In the main thread: progress and log."""
        self.task.advance(1)
        if self.log:
            moment = datetime.now(timezone.utc).isoformat(timespec="seconds")
            answers = "; ".join(outcome.answers)
            words = [moment, f"{outcome.subject}/{outcome.label}", outcome.state, f"{outcome.held}/{outcome.sent}"]
            self.log.write(
                f"{' '.join([*words, *outcome.uris])} [{shown(answers)}] {shown(outcome.problem)}".rstrip() + "\n"
            )
            self.log.flush()


def _in_parallel(work: _Work, parcels: Sequence[Parcel], jobs: int, stop: threading.Event) -> list[Outcome]:
    """The outcomes in the order of the parcels. An interrupt ends all threads at their next step."""
    outcomes: dict[int, Outcome] = {}
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        try:
            waiting: dict[Future[Outcome], int] = {pool.submit(work, item): at for at, item in enumerate(parcels)}
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    outcomes[at := waiting.pop(future)] = future.result()
                    work.done(outcomes[at])
        except BaseException as error:
            stop.set()
            leave_behind(error, "what was on its way is looked for in XNAT when the same command is run again")
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [outcomes[at] for at in range(len(parcels))]


@contextmanager
def _log(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    with storage_errors(path, "open"):
        file = path.open("a", encoding="utf-8", errors="backslashreplace")
    with file:
        yield file
