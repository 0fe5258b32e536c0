"""Sessions into a project of an XNAT, several at a time. Reads inputs, talks to the server, writes a journal and a log.

:func:`upload_visit` brings one visit of a store there, :func:`upload` any number of uploads.


What to do with a session: leave it, refuse it, or send it. Asks XNAT and the journal; notes what became of it.

The journal says what was done once, XNAT what there is now. Where the two differ a person has changed something there,
and decides by ``overwrite``.


One session's way into XNAT, so that it arrives exactly once. Sends, looks, and decides by what it has seen.

An import that ends without an answer, or with an error, may have been done all the same, wholly or in part. So before
anything is sent again, XNAT is asked what there is; and after every success too, since XNAT puts what it is asked to
put into a project that it does not know, or that one may not write to, into another one without a word.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

from icf_utils.credentials import Login, without_credentials
from icf_utils.errors import IcfError, InvalidSetting, printable, storage_errors
from icf_utils.formatting import format_count
from icf_utils.interrupts import leave_behind
from icf_utils.progress import SILENT, Progress, Task
from icf_utils.store.layout import Visit
from icf_utils.xnat import rest
from icf_utils.xnat.model import UploadOutcome, UploadResult, UploadTarget, cleartext_notices, fill_label
from icf_utils.xnat.rest import (
    NOT_LISTED,
    PASSING,
    ConnectionLost,
    Response,
    ResponseTimeout,
    SessionStatus,
    Stopped,
    Watch,
    XnatClient,
)
from icf_utils.xnat.upload_body import SessionUpload, UploadBody, open_visit_body
from icf_utils.xnat.upload_journal import UploadJournal

#: The labels that a visit of a store gets, unless other templates are given.
VISIT_SUBJECT, VISIT_LABEL = "{visit}", "{study}_{visit}"


def upload_visit(
    store_dir: str | Path,
    study: str,
    visit: str,
    target: UploadTarget,
    login: Login,
    *,
    subject: str = VISIT_SUBJECT,
    label: str = VISIT_LABEL,
    progress: Progress = SILENT,
) -> UploadOutcome:
    """Upload the archive of one visit; calling it again does nothing once the visit is there.

    ``subject`` and ``label`` are templates with the fields ``{study}`` and ``{visit}``. What is wrong with the visit
    or its arrival stands in the outcome (``state`` is ``failed``, ``problem`` says why). Raises
    :class:`~icf_utils.errors.RemoteFailure` where the server or the login as such fails,
    :class:`~icf_utils.errors.InvalidSetting` for a template, :class:`~icf_utils.errors.Busy` while another process
    uploads this study to the same project.
    """
    session = make_visit_upload(Visit(Path(store_dir), study, visit), subject, label)
    return upload([session], target, login, jobs=1, progress=progress).sessions[0]


def make_visit_upload(visit: Visit, subject: str = VISIT_SUBJECT, label: str = VISIT_LABEL) -> SessionUpload:
    """A visit of a store as a session; its journal lies in the study's work folder."""
    values = {"study": visit.study, "visit": visit.visit}
    names = {"--subject": fill_label(subject, values, "--subject"), "--label": fill_label(label, values, "--label")}
    journal = visit.workdir / "xnat"
    where = f"{visit.study}/{visit.visit}"
    return SessionUpload(names["--subject"], names["--label"], where, journal, lambda: open_visit_body(visit))


def upload(
    uploads: Sequence[SessionUpload],
    target: UploadTarget,
    login: Login,
    *,
    jobs: int = 1,
    log: Path | None = None,
    progress: Progress = SILENT,
) -> UploadResult:
    """Upload sessions, ``jobs`` at a time. What is wrong with one of them does not keep the others.

    ``log`` is a file that a line is added to for each session. Raises as :func:`upload_visit` does.
    """
    refuse_duplicate_labels(uploads)
    result = UploadResult(
        without_credentials(target.url), target.project, target.dest, (), cleartext_notices(target.url)
    )
    stop = threading.Event()
    with ExitStack() as stack:
        folders = dict.fromkeys(session.journal for session in uploads)
        journals = {folder: stack.enter_context(UploadJournal(folder, target)) for folder in folders}
        written = stack.enter_context(_log(log))
        xnat = stack.enter_context(XnatClient(target.url, login, target.ca, target.timeout))
        watch = Watch(xnat, target, stop)
        rows = watch.rows()
        task = stack.enter_context(progress.task(f"uploading to {target.project}", len(uploads), "session"))
        work = _Work(watch, journals, rows, written, task)
        sessions = _in_parallel(work, uploads, jobs, stop)
    return replace(result, sessions=tuple(sessions), journal=tuple(journal.path for journal in journals.values()))


def plan_upload(uploads: Sequence[SessionUpload], target: UploadTarget) -> UploadResult:
    """What :func:`upload` would send, without a word to the server; the files are looked through."""
    refuse_duplicate_labels(uploads)
    url = without_credentials(target.url)
    return UploadResult(url, target.project, target.dest, tuple(_planned(item, target) for item in uploads))


def _planned(session: SessionUpload, target: UploadTarget) -> UploadOutcome:
    base = UploadOutcome(session.subject, session.label, "planned", target.project)
    try:
        with session.open() as body:
            return _measured(base, body)
    except IcfError as error:
        return replace(base, state="failed", problem=str(error))


def _measured(outcome: UploadOutcome, body: UploadBody) -> UploadOutcome:
    left_out = tuple(item.name for item in body.contents.others)
    return replace(outcome, sent=len(body.contents.images), size=len(body), left_out=left_out)


def refuse_duplicate_labels(uploads: Sequence[SessionUpload]) -> None:
    """Two sessions of one name would become one in XNAT."""
    twice = [key for key, count in Counter((item.subject, item.label) for item in uploads).items() if count > 1]
    if twice:
        subject, label = twice[0]
        places = [f"'{printable(item.where)}'" for item in uploads if (item.subject, item.label) == twice[0]]
        raise InvalidSetting(
            "labels", f"{' and '.join(places[:2])} would both be session '{label}' of subject '{subject}'; see --label"
        )


@dataclass(frozen=True)
class _Work:
    """What the sessions of a run share."""

    watch: Watch
    journals: Mapping[Path, UploadJournal]
    rows: list[Mapping[str, object]]
    log: TextIO | None
    task: Task

    def __call__(self, session: SessionUpload) -> UploadOutcome:
        """One session; an error of its own becomes its outcome."""
        self.watch.check()
        try:
            outcome = upload_session(self.watch, session, self.journals[session.journal], self.rows)
        except Stopped:
            raise
        except IcfError as error:
            outcome = UploadOutcome(
                session.subject, session.label, "failed", self.watch.target.project, problem=str(error)
            )
        return outcome

    def done(self, outcome: UploadOutcome) -> None:
        """In the main thread: progress and log."""
        self.task.advance(1)
        if self.log:
            moment = datetime.now(timezone.utc).isoformat(timespec="seconds")
            answers = "; ".join(outcome.answers)
            words = [moment, f"{outcome.subject}/{outcome.label}", outcome.state, f"{outcome.held}/{outcome.sent}"]
            self.log.write(
                f"{' '.join([*words, *outcome.uris])} [{printable(answers)}] {printable(outcome.problem)}".rstrip()
                + "\n"
            )
            self.log.flush()


def _in_parallel(
    work: _Work, uploads: Sequence[SessionUpload], jobs: int, stop: threading.Event
) -> list[UploadOutcome]:
    """The outcomes in the order of the uploads. An interrupt ends all threads at their next step."""
    outcomes: dict[int, UploadOutcome] = {}
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        try:
            waiting: dict[Future[UploadOutcome], int] = {pool.submit(work, item): at for at, item in enumerate(uploads)}
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    outcomes[at := waiting.pop(future)] = future.result()
                    work.done(outcomes[at])
        except BaseException as error:
            stop.set()
            leave_behind(error, "what was on its way is looked for in XNAT when the same command is run again")
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [outcomes[at] for at in range(len(uploads))]


@contextmanager
def _log(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    with storage_errors(path, "open"):
        file = path.open("a", encoding="utf-8", errors="backslashreplace")
    with file:
        yield file


def upload_session(
    watch: Watch, session: SessionUpload, journal: UploadJournal, rows: list[Mapping[str, object]] | None
) -> UploadOutcome:
    """Bring one session into XNAT. ``rows``: the listing of the prearchive when this run began.

    Raises what is wrong with the input, or with the login or the server as such.
    """
    with session.open() as body:
        delivery, last = SessionDelivery(watch, session, body, journal), journal.last(session.subject, session.label)
        same = last.get("fingerprint") == body.contents.fingerprint
        found = watch.find(session.subject, session.label, rows)
        if last.get("state") == "done" and same:
            remembered, found = _remembered(delivery, last, found)
            if remembered:
                return remembered  # not noted: the journal keeps what was done, whatever XNAT shows now
        if last.get("state") == "sending" and same:
            keys = last.get("known") or []
            delivery.known = tuple(item for item in found if item.key in keys)  # type: ignore[operator]
        else:
            delivery.known = found
            refusal = _standing(delivery)
            if refusal:
                return _noted(journal, session, body, refusal)
        return _noted(journal, session, body, delivery.run())


def _remembered(
    delivery: SessionDelivery, last: Mapping[str, object], found: tuple[SessionStatus, ...]
) -> tuple[UploadOutcome | None, tuple[SessionStatus, ...]]:
    """What becomes of a session that the journal says is done, and the sightings of it that this was decided by.

    It is left alone only if XNAT shows what it showed then. If not, a person has changed it, and one decides by
    ``overwrite`` whether it is sent again; it never is by itself.
    """
    held = _held_then(delivery, last)
    if not delivery.is_there(found, held):
        found = delivery.look_again(found)  # the listing is as old as this run, and XNAT may be at work on it
    if delivery.is_there(found, held):
        return delivery.outcome("before", held=held, uris=[item.uri for item in found]), found
    if delivery.watch.target.overwrite:
        return None, found
    uris = ", ".join(map(str, last.get("uris") or ()))  # type: ignore[call-overload]
    now = f"XNAT has {list_places(found)}" if found else "XNAT has nothing of it under this label"
    again = "'--overwrite delete' sends it again" + (
        ", without --direct-archive" if delivery.watch.target.direct_archive else ""
    )
    problem = f"it was uploaded before, with {format_count(held, 'image')} ({uris}); now {now}. Was that meant? {again}"
    return delivery.outcome("failed", problem, sum(item.files or 0 for item in found)), found


def _held_then(delivery: SessionDelivery, last: Mapping[str, object]) -> int:
    """How many images XNAT had after the upload. What replaces a session has its own, what was appended others, too."""
    held, sent = last.get("held"), len(delivery.body.contents.images)
    return held if isinstance(held, int) and delivery.watch.target.overwrite != "delete" else sent


def _standing(delivery: SessionDelivery) -> UploadOutcome | None:
    """What is there already decides, unless one was told to append to it or to replace it."""
    found, sent = delivery.known, len(delivery.body.contents.images)
    if not found or delivery.watch.target.overwrite:
        return None
    held = sum(item.files or 0 for item in found)
    uris = [item.uri for item in found]
    if delivery.is_there(found, sent):
        return delivery.outcome("present", held=held, uris=uris)
    problem = f"XNAT has this session already: {list_places(found)}; {sent} images would be sent. See --overwrite"
    return delivery.outcome("failed", problem, held, uris)


def _noted(journal: UploadJournal, session: SessionUpload, body: UploadBody, outcome: UploadOutcome) -> UploadOutcome:
    state = "failed" if outcome.state == "failed" else "done"
    journal.note(
        session.subject,
        session.label,
        state,
        fingerprint=body.contents.fingerprint,
        result=outcome.state,
        sent=outcome.sent,
        held=outcome.held,
        uris=list(outcome.uris),
        answers=list(outcome.answers),
        problem=outcome.problem,
    )
    return outcome


#: After these answers another try may succeed. 401: the login session was ended, twice in a row.
_TRY_AGAIN = (401, 409, *PASSING)

#: How often a session that XNAT was at work on is looked for again.
_LOOKS = 3

_LONGEST_PAUSE = 30.0


@dataclass
class SessionDelivery:
    """One session under way. ``known`` are the sightings of it from before it was first sent."""

    watch: Watch
    session: SessionUpload
    body: UploadBody
    journal: UploadJournal
    known: tuple[SessionStatus, ...] = ()
    answers: list[str] = field(default_factory=list)

    def outcome(
        self, state: str, problem: str = "", held: int | None = None, uris: Sequence[str] = ()
    ) -> UploadOutcome:
        contents = self.body.contents
        return UploadOutcome(
            subject=self.session.subject,
            label=self.session.label,
            state=state,  # type: ignore[arg-type]
            project=self.watch.target.project,
            sent=len(contents.images),
            held=held,
            size=len(self.body),
            tries=len(self.answers),
            uris=tuple(uris),
            answers=tuple(self.answers),
            problem=problem,
            left_out=tuple(item.name for item in contents.others),
        )

    def run(self) -> UploadOutcome:
        """Send until it is there, it is certain that it will not be, or the tries are used up."""
        target, result = self.watch.target, None
        for at in range(target.retries + 1):
            if at:
                self.watch.sleep(target.pause * 2 ** (at - 1))
            seen = self._new()
            result = self._arrived(seen)
            if result:
                return result
            answer = self._send("append" if seen and not target.overwrite else target.overwrite)
            if answer and answer.status == 200:
                return self._checked(rest.parse_session_uris(answer.text))
            if answer and answer.status not in _TRY_AGAIN:
                break
        return self._arrived(self._new(settle=True)) or self.outcome("failed", self._why())

    def _send(self, overwrite: str) -> Response | None:
        """One import; ``None`` where there was no answer."""
        self.watch.check()
        subject, label = self.session.subject, self.session.label
        keys = [item.key for item in self.known]
        self.journal.note(subject, label, "sending", fingerprint=self.body.contents.fingerprint, known=keys)
        query = rest.import_query(self.watch.target, subject, label, self.body.has_others, overwrite)
        try:
            answer = self.watch.xnat.request("POST", rest.IMPORT, query, self.body)
        except ConnectionLost as error:
            self.answers.append(error.problem)
            self._linger(isinstance(error, ResponseTimeout))
            return None
        self.answers.append(str(answer))
        return answer

    def _linger(self, was_silent: bool) -> None:
        """XNAT may be at work on the upload and show nothing of it yet: give it as long again as it was silent for.

        What goes directly into the archive may show as late as after an answer.
        """
        target = self.watch.target
        seconds = max(target.timeout if was_silent else 0.0, target.patience if target.direct_archive else 0.0)
        end, pause = time.monotonic() + seconds, target.pause
        while time.monotonic() < end and not self._arrived(self._new()):
            self.watch.sleep(min(pause, max(0.0, end - time.monotonic()), _LONGEST_PAUSE))
            pause *= 2

    # -- what there is ------------------------------------------------------------------------------------------------

    def _new(self, settle: bool = False) -> tuple[SessionStatus, ...]:
        """What has come of this session since it was first sent; waits while XNAT is at work on it."""
        if not self.answers and not settle and not self.journal_says_sending:
            return ()
        for _ in range(_LOOKS):
            fresh = self._fresh()
            unfinished = [item for item in fresh if item.at_work or item.status == rest.INTERRUPTED]
            if not unfinished:
                return fresh
            for item in unfinished:
                self._finish(item)
        return self._fresh()

    def _fresh(self) -> tuple[SessionStatus, ...]:
        known = {item.key for item in self.known}
        found = self.watch.find(self.session.subject, self.session.label)
        return tuple(item for item in found if item.key not in known)

    @property
    def journal_says_sending(self) -> bool:
        return self.journal.last(self.session.subject, self.session.label).get("state") == "sending"

    def _finish(self, found: SessionStatus) -> None:
        """Wait for XNAT; ask it to look at what there is of a session that broke off, or was left RECEIVING.

        That commit answers 200, or 301 where the project archives by itself, or 409 while the session is locked; what
        has become of the session is then looked up, whatever the answer was.
        """
        if self.watch.settled(found.uri).status not in (rest.INTERRUPTED, "RECEIVING"):
            return
        with suppress(ConnectionLost):
            answer = self.watch.xnat.request("POST", f"/data{found.uri}", {"action": "commit"})
            if answer.status in (200, 301):
                self.watch.settled(found.uri)

    def _arrived(self, seen: Sequence[SessionStatus]) -> UploadOutcome | None:
        """Whether what has come is the whole session, where it should be."""
        whole = [item for item in seen if item.files is not None]
        held = sum(item.files or 0 for item in whole)
        if not whole or len(whole) < len(seen) or not self._is_enough(held) or not self._is_placed(whole):
            return None
        return self.outcome("uploaded", held=held, uris=[item.uri for item in whole])

    def is_there(self, found: Sequence[SessionStatus], held: int) -> bool:
        """Whether what XNAT shows is ``held`` images, where they should be."""
        return bool(found) and self._is_placed(found) and sum(item.files or 0 for item in found) == held

    def look_again(self, found: Sequence[SessionStatus]) -> tuple[SessionStatus, ...]:
        """What XNAT shows now; where it is at work on it, when that is over, or patience is."""
        for item in found:
            if item.at_work:
                self.watch.settled(item.uri)
        return self.watch.find(self.session.subject, self.session.label)

    def _is_enough(self, held: int) -> bool:
        """As many files as were sent; beside those that were there if they were to be kept."""
        sent = len(self.body.contents.images)
        if self.watch.target.overwrite != "append":
            return held == sent
        before = sum(item.files or 0 for item in self.known)
        return max(before, sent) <= held <= before + sent

    def _is_placed(self, found: Sequence[SessionStatus]) -> bool:
        """In the archive, or ready in the prearchive if that was asked for; a project may archive it from there."""
        places = ("ARCHIVED",) if self.watch.target.dest == "archive" else ("READY", "ARCHIVED")
        return all(item.status in places for item in found)

    # -- after a success ----------------------------------------------------------------------------------------------

    def _checked(self, uris: tuple[str, ...]) -> UploadOutcome:
        """Hold XNAT's answer against what was asked: the project, the place, the number of files."""
        target = self.watch.target
        elsewhere = [uri for uri in uris if rest.project_of(uri) not in ("", target.project)]
        if not uris or elsewhere:
            where = ", ".join(sorted({rest.project_of(uri) for uri in elsewhere}))
            problem = (
                f"XNAT put it into project '{where}' instead of '{target.project}'; have it moved or deleted there"
            )
            return self.outcome("failed", problem if uris else "XNAT's answer names no session; look for it", uris=uris)
        known = {item.key for item in self.known}
        subject, label = self.session.subject, self.session.label
        found = [self.watch.answered(uri, subject, label, known) for uri in uris]
        if hidden := [item.uri for item in found if item.status == NOT_LISTED]:
            return self.outcome("failed", _late(hidden, target.patience), uris=uris)
        held = sum(item.files or 0 for item in found) if all(item.files is not None for item in found) else None
        if not self._is_placed(found):
            states = ", ".join(sorted({item.status for item in found}))
            wanted = "in the archive" if target.dest == "archive" else "READY in the prearchive"
            return self.outcome("failed", f"expected it {wanted}, found it {states}", held, uris)
        if held is None or not self._is_enough(held):
            sent = len(self.body.contents.images)
            has = "does not list its files" if held is None else f"has {held}"
            return self.outcome("failed", f"{sent} images were sent, and XNAT {has}", held, uris)
        return self.outcome("uploaded", held=held, uris=uris)

    def _why(self) -> str:
        last = self.answers[-1] if self.answers else "nothing was sent"
        left = self.watch.find(self.session.subject, self.session.label)
        has = f"it has {list_places(left)}" if left else "it has nothing of this session"
        return f"XNAT's last answer: {last}; {has}"


def _late(uris: Sequence[str], patience: float) -> str:
    remedy = "look for it in XNAT, then run the command again: it counts what is there, and else sends it anew"
    return (
        f"XNAT answered that it has {', '.join(uris)}, and has not shown it for {patience:g} s (--patience); {remedy}"
    )


def list_places(found: Sequence[SessionStatus]) -> str:
    return ", ".join(f"{item.uri} ({item.status}, {_files(item)})" for item in found)


def _files(item: SessionStatus) -> str:
    return "files not counted" if item.files is None else f"{item.files} images"
