"""Upload sessions to a project of an XNAT, several at a time. Reads inputs, uses the network, writes journal and log.

Each session arrives exactly once, and success is claimed only for what XNAT shows. The rules, in the order of the work
on one session:

1. **Decide.** The upload journal records what was done once, XNAT shows what exists now. A session that the journal has
   as done, and that XNAT shows unchanged, is left alone. So is one that XNAT has with the same images, by
   StudyInstanceUID and checksums (:mod:`icf_utils.xnat.identity`). Where they differ, or where XNAT shows too little to
   prove that they are equal, a person decides by ``overwrite``; nothing is sent again without that.
2. **Send.** An import that ends without an answer, or with an error, may have been carried out, wholly or in part. So
   before a session is sent again, XNAT is asked what it has of it; what broke off is committed, and what XNAT is
   working on is waited for.
3. **Confirm.** XNAT puts what is for an unknown or forbidden project into another one, and answers 200. So after each
   success, the project, the place and the number of images are compared with what was asked for. Checksums are
   compared where XNAT shows them; a difference is reported, but is not an error, since XNAT may anonymise images.

:func:`upload_visit` uploads one visit of a store, :func:`upload` any number of sessions.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

from icf_utils.credentials import Login, without_credentials
from icf_utils.errors import IcfError, InvalidSetting, printable, storage_errors
from icf_utils.fetch.errors import ConnectionFailure, FetchFailure
from icf_utils.fetch.http import Retries, RetryPolicy
from icf_utils.formatting import format_count
from icf_utils.interrupts import note_leftovers
from icf_utils.progress import SILENT, Progress, Task
from icf_utils.store.layout import Visit
from icf_utils.waiting import poll
from icf_utils.xnat.identity import DIFFERENT, SAME, compare_images, contains_all, is_other_study
from icf_utils.xnat.model import INTERRUPTED, UploadOutcome, UploadResult, UploadState, UploadTarget, cleartext_notices
from icf_utils.xnat.rest import (
    ARCHIVED,
    ASK_AGAIN,
    NOT_LISTED,
    ListingRow,
    SessionStatus,
    XnatAnswer,
    XnatClient,
    import_query,
    is_in_prearchive,
    other_sessions_of_study,
    parse_session_uris,
    project_of,
)
from icf_utils.xnat.upload_body import SessionUpload, UploadBody
from icf_utils.xnat.upload_inputs import VISIT_LABEL, VISIT_SUBJECT, make_visit_upload
from icf_utils.xnat.upload_journal import UploadJournal

#: After these answers to an import another attempt may succeed. 409: XNAT is working on a session of this name.
_SEND_AGAIN = ASK_AGAIN | {409}

#: Attempts at a question. With the default pause they last some three minutes, in which an XNAT can be restarted.
_QUESTIONS = 12

#: How often a session that XNAT was working on is looked for again.
_LOOKS = 3

#: Seconds between two questions about one session: at first, and at most.
_FIRST_POLL, _LONGEST_POLL = 0.2, 10.0

#: Seconds between two questions while it is unknown whether an upload has arrived.
_LONGEST_LOOK = 30.0


class Stopped(IcfError):
    """The upload is being ended, by an interrupt or by an error of another session."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("the upload was stopped")


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
    """Upload the archive of one visit. Calling it again does nothing once XNAT has the visit.

    ``subject`` and ``label`` are templates with the fields ``{study}``, ``{visit}`` and DICOM keywords, whose values
    are those of the first image. Where something is wrong with the visit or with its arrival, the outcome's ``state``
    is ``failed``, and its ``problem`` says why; where XNAT has a session that may be this one, and does not prove it,
    it is ``unproved``. Raises
    :class:`~icf_utils.errors.RemoteFailure` where the server cannot be reached or refuses the login,
    :class:`~icf_utils.errors.InvalidSetting` for a template, and :class:`~icf_utils.errors.Busy` while another process
    uploads this study to the same project.
    """
    session = make_visit_upload(Visit(Path(store_dir), study, visit), subject, label)
    return upload([session], target, login, jobs=1, progress=progress).sessions[0]


def plan_upload(uploads: Sequence[SessionUpload], target: UploadTarget) -> UploadResult:
    """What :func:`upload` would send. Reads the files; sends nothing to the server."""
    refuse_duplicate_labels(uploads)
    url = without_credentials(target.url)
    return UploadResult(url, target.project, target.dest, tuple(_plan_session(item, target) for item in uploads))


def _plan_session(session: SessionUpload, target: UploadTarget) -> UploadOutcome:
    try:
        with session.open() as body:
            return UploadOutcome(
                session.subject,
                session.label,
                "planned",
                target.project,
                sent=len(body.contents.images),
                size=len(body),
                left_out=tuple(item.name for item in body.contents.others),
                copies=tuple(item.name for item in body.contents.copies),
                notices=body.contents.notices,
            )
    except IcfError as error:
        return UploadOutcome(session.subject, session.label, "failed", target.project, problem=str(error))


def refuse_duplicate_labels(uploads: Sequence[SessionUpload]) -> None:
    """Raise :class:`~icf_utils.errors.InvalidSetting` for two sessions of one name: XNAT would make them one."""
    twice = [key for key, count in Counter((item.subject, item.label) for item in uploads).items() if count > 1]
    if twice:
        subject, label = twice[0]
        places = [f"'{printable(item.where)}'" for item in uploads if (item.subject, item.label) == twice[0]]
        raise InvalidSetting(
            "labels",
            f"{' and '.join(places[:2])} would both be session '{label}' of subject '{subject}'; see --session",
        )


# -- a run: several sessions at a time ---------------------------------------------------------------------------------


def upload(
    uploads: Sequence[SessionUpload],
    target: UploadTarget,
    login: Login,
    *,
    jobs: int = 1,
    log: Path | None = None,
    progress: Progress = SILENT,
) -> UploadResult:
    """Upload sessions, ``jobs`` at a time. A session that fails does not stop the others.

    A line for each session is added to the file ``log``. Raises as :func:`upload_visit` does.
    """
    refuse_duplicate_labels(uploads)
    stop = threading.Event()
    with ExitStack() as stack:
        folders = dict.fromkeys(session.journal for session in uploads)
        journals = {folder: stack.enter_context(UploadJournal(folder, target)) for folder in folders}
        lines = stack.enter_context(_open_log(log))
        xnat = stack.enter_context(
            XnatClient(
                target.url,
                login,
                target.ca,
                timeout=target.timeout,
                retry=RetryPolicy(attempts=max(_QUESTIONS, target.retries + 1), first_pause=target.pause),
                connections=max(1, jobs),
                stop=stop,
            )
        )
        run = _Run(xnat, target, journals, xnat.list_prearchive(target.project), stop)
        task = stack.enter_context(progress.task(f"uploading to {target.project}", len(uploads), "session"))
        sessions = _upload_in_parallel(run, uploads, jobs, lambda outcome: _report(outcome, task, lines))
    return UploadResult(
        without_credentials(target.url),
        target.project,
        target.dest,
        tuple(sessions),
        cleartext_notices(target.url),
        tuple(journal.path for journal in journals.values()),
    )


@dataclass(frozen=True)
class _Run:
    """What the sessions of a run share. ``rows`` is the listing of the prearchive at the beginning of the run."""

    xnat: XnatClient
    target: UploadTarget
    journals: Mapping[Path, UploadJournal]
    rows: list[ListingRow]
    stop: threading.Event

    def __call__(self, session: SessionUpload) -> UploadOutcome:
        """Upload one session; an error that concerns this session only becomes its outcome."""
        self.check()
        try:
            with session.open() as body:
                return _Delivery(self, session, body).run()
        except Stopped:
            raise
        except IcfError as error:
            self.check()
            return UploadOutcome(session.subject, session.label, "failed", self.target.project, problem=str(error))

    def find(self, session: SessionUpload, rows: list[ListingRow] | None = None) -> tuple[SessionStatus, ...]:
        return self.xnat.find_sessions(self.target.project, session.subject, session.label, rows)

    def sleep(self, seconds: float) -> None:
        self.stop.wait(seconds)
        self.check()

    def check(self) -> None:
        if self.stop.is_set():
            raise Stopped


def _upload_in_parallel(
    run: _Run, uploads: Sequence[SessionUpload], jobs: int, report: Callable[[UploadOutcome], None]
) -> list[UploadOutcome]:
    """The outcomes in the order of ``uploads``. An interrupt ends all threads at their next step."""
    outcomes: dict[int, UploadOutcome] = {}
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        try:
            waiting: dict[Future[UploadOutcome], int] = {pool.submit(run, item): at for at, item in enumerate(uploads)}
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    outcomes[at := waiting.pop(future)] = future.result()
                    report(outcomes[at])
        except BaseException as error:
            run.stop.set()
            note_leftovers(error, "run the same command again: it first looks in XNAT for what was being sent")
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [outcomes[at] for at in range(len(uploads))]


@contextmanager
def _open_log(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    with storage_errors(path, "open"):
        file = path.open("a", encoding="utf-8", errors="backslashreplace")
    with file:
        yield file


def _report(outcome: UploadOutcome, task: Task, log: TextIO | None) -> None:
    """Show progress and write the log; called in the main thread."""
    task.advance(1)
    if log:
        moment = datetime.now(timezone.utc).isoformat(timespec="seconds")
        answers = "; ".join(outcome.answers)
        words = [moment, f"{outcome.subject}/{outcome.label}", outcome.state, f"{outcome.held}/{outcome.sent}"]
        line = f"{' '.join([*words, *outcome.uris])} [{printable(answers)}] {printable(outcome.problem)}"
        log.write(f"{line.rstrip()}\n")
        log.flush()


# -- one session -------------------------------------------------------------------------------------------------------


class _Delivery:
    """One session on its way into XNAT.

    ``known`` is what XNAT had of it before it was first sent, ``answers`` are XNAT's answers to the imports.
    """

    def __init__(self, run: _Run, session: SessionUpload, body: UploadBody) -> None:
        self._run, self._session, self._body = run, session, body
        self._xnat, self._target, self._journal = run.xnat, run.target, run.journals[session.journal]
        self._images = len(body.contents.images)
        self._digests = body.contents.digests
        self._found: tuple[SessionStatus, ...] = ()
        self._is_hidden = False
        self.known: tuple[SessionStatus, ...] = ()
        self.answers: list[str] = []

    def run(self) -> UploadOutcome:
        """Decide, send and confirm; what became of the session is written to the journal.

        Raises what is wrong with the input, or where the server cannot be reached or refuses the login.
        """
        last = self._journal.last(self._session.subject, self._session.label)
        same = last.get("fingerprint") == self._body.contents.fingerprint
        found = self._run.find(self._session, self._run.rows)
        if same and last.get("state") == "done":
            remembered, found = self._compare_with_journal(last, found)
            if remembered:
                return remembered  # not noted: the journal keeps what was done, whatever XNAT shows now
        if same and last.get("state") == "sending":
            keys = last.get("known") or []
            self.known = tuple(item for item in found if item.key in keys)  # type: ignore[operator]
            return self._note(self._send_until_certain())
        if same and last.get("state") == "answered" and (listed := self._listed_since(last, found)):
            return self._note(listed)
        self.known = found
        return self._note(self._leave_existing() or self._refuse_same_study() or self._send_until_certain())

    def _outcome(
        self,
        state: UploadState,
        problem: str = "",
        held: int | None = None,
        uris: Sequence[str] = (),
        found: Sequence[SessionStatus] = (),
    ) -> UploadOutcome:
        """``found`` are the sessions in XNAT whose images are those that were sent."""
        self._found = tuple(found)
        return UploadOutcome(
            subject=self._session.subject,
            label=self._session.label,
            state=state,
            project=self._target.project,
            sent=self._images,
            held=held,
            size=len(self._body),
            tries=len(self.answers),
            uris=tuple(uris),
            answers=tuple(self.answers),
            problem=problem,
            left_out=tuple(item.name for item in self._body.contents.others),
            copies=tuple(item.name for item in self._body.contents.copies),
            notices=self._body.contents.notices,
            identical=contains_all([item.images for item in found], self._digests) if found else None,
        )

    def _note(self, outcome: UploadOutcome) -> UploadOutcome:
        self._journal.note(
            self._session.subject,
            self._session.label,
            self._state(outcome),
            fingerprint=self._body.contents.fingerprint,
            result=outcome.state,
            sent=outcome.sent,
            held=outcome.held,
            shown=_shown_digest(self._found),
            uris=list(outcome.uris),
            answers=list(outcome.answers),
            problem=outcome.problem,
        )
        return outcome

    def _state(self, outcome: UploadOutcome) -> str:
        """The state for the journal: ``answered`` is what XNAT has acknowledged, but not listed."""
        if outcome.state in ("uploaded", "present", "before"):
            return "done"
        return "answered" if self._is_hidden else "failed"

    # -- decide -------------------------------------------------------------------------------------------------------

    def _compare_with_journal(
        self, last: Mapping[str, object], found: tuple[SessionStatus, ...]
    ) -> tuple[UploadOutcome | None, tuple[SessionStatus, ...]]:
        """What becomes of a session that the journal has as done (``None``: it is sent), and what XNAT has of it."""
        held = self._held_then(last)
        if not self._is_unchanged(found, held, last):
            found = self._look_again(found)  # the listing is as old as this run, and XNAT may be working on it
        if self._is_unchanged(found, held, last):
            return self._outcome("before", held=held, uris=[item.uri for item in found], found=found), found
        if self._target.overwrite:
            return None, found
        uris = ", ".join(map(str, last.get("uris") or ()))  # type: ignore[call-overload]
        now = f"XNAT has {_list_places(found)}" if found else "XNAT has no session of this label"
        if is_other_study([item.images for item in found], self._body.contents.study_uid):
            now = f"{now}, of another StudyInstanceUID"
        elif self._is_whole(found, held):
            now = f"{now}, with other checksums"
        remedy = "'--overwrite delete'" + (" without --direct-archive" if self._target.direct_archive else "")
        before = f"it was uploaded before, with {format_count(held, 'image')} ({uris}); now {now}"
        problem = f"{before}. If it is to be sent again, use {remedy}"
        return self._outcome("failed", problem, sum(item.files or 0 for item in found)), found

    def _listed_since(self, last: Mapping[str, object], found: tuple[SessionStatus, ...]) -> UploadOutcome | None:
        """The outcome where XNAT has what it acknowledged in an earlier run and did not list then."""
        uris, answered = [item.uri for item in found], last.get("uris")
        if not isinstance(answered, list) or set(uris) - set(answered) or not self._is_whole(found, self._images):
            return None
        return self._outcome("before", held=self._images, uris=uris, found=found)

    def _held_then(self, last: Mapping[str, object]) -> int:
        """How many images XNAT had after the upload: those sent, and with ``append`` those of before as well."""
        held = last.get("held")
        return held if isinstance(held, int) and self._target.overwrite != "delete" else self._images

    def _leave_existing(self) -> UploadOutcome | None:
        """The outcome where XNAT has the session already, unless ``overwrite`` says what to do with it."""
        if not self.known or self._target.overwrite:
            return None
        held, uris = sum(item.files or 0 for item in self.known), [item.uri for item in self.known]
        shown = [item.images for item in self.known]
        identity, reason = compare_images(shown, self._body.contents.study_uid, self._digests)
        there = f"XNAT has a session of this label already: {_list_places(self.known)}"
        if identity == DIFFERENT or not self._is_placed(self.known):
            sent = format_count(self._images, "image")
            why = reason if identity == DIFFERENT else "it is not in its place"
            problem = f"{there}; {sent} would be sent, and {why}. See --overwrite"
            return self._outcome("failed", problem, held, uris)
        if identity == SAME:
            return self._outcome("present", held=held, uris=uris, found=self.known)
        problem = f"{there}. Whether it has the same images is not proved: {reason}. Compare them, or see --overwrite"
        return self._outcome("unproved", problem, held, uris)

    def _refuse_same_study(self) -> UploadOutcome | None:
        """The outcome where the prearchive has this DICOM study under another label, unless that is allowed."""
        session = self._session
        study_uid = self._body.contents.study_uid
        others = other_sessions_of_study(self._run.rows, study_uid, session.subject, session.label)
        if not others or self._target.again:
            return None
        problem = f"XNAT has this StudyInstanceUID already, under another label: {', '.join(others)}. See --again"
        return self._outcome("failed", problem, uris=others)

    def _look_again(self, found: Sequence[SessionStatus]) -> tuple[SessionStatus, ...]:
        """What XNAT has of the session once it no longer works on it, or once the wait is over."""
        for item in found:
            if item.is_busy:
                self._wait_while_busy(item.uri)
        return self._run.find(self._session)

    # -- send ---------------------------------------------------------------------------------------------------------

    def _send_until_certain(self) -> UploadOutcome:
        """Send until XNAT has the session, until it is certain that it will not, or until the attempts are used up."""
        policy = RetryPolicy(attempts=self._target.retries + 1, first_pause=self._target.pause)
        retries = Retries(self._xnat.url, policy, self._run.stop)
        while True:
            seen = self._find_new()
            if arrived := self._arrived(seen):
                return arrived
            answer = self._send("append" if seen and not self._target.overwrite else self._target.overwrite)
            if answer and answer.status == 200:
                return self._confirm(parse_session_uris(answer.text))
            if answer and answer.status not in _SEND_AGAIN:
                last = str(answer)
                break
            try:
                retries.pause(self.answers[-1], answer.retry_after if answer else "")
            except FetchFailure as failure:
                self._run.check()
                last = failure.problem
                break
        return self._arrived(self._find_new(is_last=True)) or self._outcome("failed", self._why_not(last))

    def _send(self, overwrite: str) -> XnatAnswer | None:
        """One import; ``None`` where no answer came."""
        self._run.check()
        subject, label = self._session.subject, self._session.label
        keys = [item.key for item in self.known]
        self._journal.note(subject, label, "sending", fingerprint=self._body.contents.fingerprint, known=keys)
        query = import_query(self._target, subject, label, self._body.has_others, overwrite)
        try:
            answer = self._xnat.import_session(query, self._body)
        except ConnectionFailure as error:
            self.answers.append(error.problem)
            if error.kind != "unreachable":
                self._wait_for_arrival(was_silent=error.kind == "timeout")
            return None
        self.answers.append(str(answer))
        return answer

    def _wait_for_arrival(self, was_silent: bool) -> None:
        """After a lost answer, wait for XNAT, which may be working on the upload and show nothing of it yet.

        After a timeout, it is given as long again. What goes directly into the archive may appear as late as it may
        after an answer.
        """
        target = self._target
        seconds = max(target.timeout if was_silent else 0.0, target.wait if target.direct_archive else 0.0)
        if seconds:
            for _ in poll(target.pause, _LONGEST_LOOK, timeout=seconds, sleep=self._run.sleep):
                if self._arrived(self._find_new()):
                    return

    def _find_new(self, is_last: bool = False) -> tuple[SessionStatus, ...]:
        """What XNAT has of this session since it was first sent; waits while XNAT is working on it."""
        if not self.answers and not is_last and not self._was_sending():
            return ()
        for _ in range(_LOOKS):
            found = self._find_unknown()
            unfinished = [item for item in found if item.is_busy or item.status == INTERRUPTED]
            if not unfinished:
                return found
            for item in unfinished:
                self._finish(item)
        return self._find_unknown()

    def _find_unknown(self) -> tuple[SessionStatus, ...]:
        known = {item.key for item in self.known}
        return tuple(item for item in self._run.find(self._session) if item.key not in known)

    def _was_sending(self) -> bool:
        return self._journal.last(self._session.subject, self._session.label).get("state") == "sending"

    def _finish(self, found: SessionStatus) -> None:
        """Wait for XNAT, and have it finish a session whose upload broke off, or that it left RECEIVING.

        What became of the session is looked up afterwards, whatever the answer to the commit was.
        """
        if self._wait_while_busy(found.uri).status not in (INTERRUPTED, "RECEIVING"):
            return
        with suppress(ConnectionFailure):
            if self._xnat.commit(found.uri).status in (200, 301):
                self._wait_while_busy(found.uri)

    def _wait_while_busy(self, uri: str) -> SessionStatus:
        """The session at an address once XNAT no longer works on it, or once the wait is over."""
        return self._poll(lambda: self._xnat.read_session(uri), lambda found: not found.is_busy)

    def _poll(self, ask: Callable[[], SessionStatus], is_final: Callable[[SessionStatus], bool]) -> SessionStatus:
        """Ask until the answer is final, or until the wait is over; returns the last answer."""
        for _ in poll(_FIRST_POLL, _LONGEST_POLL, timeout=self._target.wait, sleep=self._run.sleep):
            found = ask()
            if is_final(found):
                break
        return found

    def _arrived(self, found: Sequence[SessionStatus]) -> UploadOutcome | None:
        """The outcome if what has arrived is the whole session, in its place."""
        counted = [item for item in found if item.files is not None]
        held = sum(item.files or 0 for item in counted)
        if not counted or len(counted) < len(found) or not self._is_enough(held) or not self._is_placed(counted):
            return None
        if is_other_study([item.images for item in counted], self._body.contents.study_uid):
            return None
        return self._outcome("uploaded", held=held, uris=[item.uri for item in counted], found=counted)

    def _why_not(self, last: str) -> str:
        left = self._run.find(self._session)
        has = f"it has {_list_places(left)}" if left else "it has no part of this session"
        return f"XNAT's last answer: {last}; {has}"

    # -- confirm ------------------------------------------------------------------------------------------------------

    def _confirm(self, uris: tuple[str, ...]) -> UploadOutcome:
        """Compare the sessions that XNAT's answer names with what was asked for: project, place, number of images."""
        if problem := self._misplacement(uris):
            return self._outcome("failed", problem, uris=uris)
        found = [self._wait_for_listing(uri) for uri in uris]
        if hidden := [item.uri for item in found if item.status == NOT_LISTED]:
            problem = (
                f"XNAT answered that it has {', '.join(hidden)}, but has not listed it within "
                f"{self._target.wait:g} s (--wait); look for it in XNAT, then run the command again: "
                "it counts what XNAT has by then, and sends the session again if that is nothing"
            )
            self._is_hidden = True
            return self._outcome("failed", problem, uris=uris)
        held = sum(item.files or 0 for item in found) if all(item.files is not None for item in found) else None
        if not self._is_placed(found):
            statuses = ", ".join(sorted({item.status for item in found}))
            expected = "in the archive" if self._target.dest == "archive" else "READY in the prearchive"
            return self._outcome("failed", f"expected it {expected}, found it {statuses}", held, uris)
        if held is None or not self._is_enough(held):
            has = "does not list its files" if held is None else f"has {held}"
            return self._outcome("failed", f"sent {format_count(self._images, 'image')}, but XNAT {has}", held, uris)
        return self._outcome("uploaded", held=held, uris=uris, found=found)

    def _misplacement(self, uris: tuple[str, ...]) -> str:
        """Why the sessions of an answer are not those that were asked for, by their addresses; empty if they may be."""
        if not uris:
            return f"XNAT's answer names no session ({self.answers[-1]}); look for it in XNAT"
        others = sorted({project for uri in uris if (project := project_of(uri)) not in ("", self._target.project)})
        if not others:
            return ""
        wanted = self._target.project
        return f"XNAT put it into project '{', '.join(others)}' instead of '{wanted}'; move or delete it there"

    def _wait_for_listing(self, uri: str) -> SessionStatus:
        """The session at an answer's address once XNAT lists it and has finished, or once the wait is over."""

        def is_final(found: SessionStatus) -> bool:
            is_empty = found.status == ARCHIVED and not found.files
            return not (found.is_busy or found.status == NOT_LISTED or is_empty)

        return self._poll(lambda: self._find_answered(uri), is_final)

    def _find_answered(self, uri: str) -> SessionStatus:
        """The session at an answer's address. It may have been archived since.

        The archive may also have an older session of this label, which must not be taken for the new one.
        """
        if is_in_prearchive(uri) and (found := self._xnat.read_session(uri)).status != NOT_LISTED:
            return found
        subject, label = self._session.subject, self._session.label
        archived = next(iter(self._xnat.find_archived(self._target.project, subject, label)), None)
        if archived and not (is_in_prearchive(uri) and archived.key in {item.key for item in self.known}):
            return archived
        return SessionStatus(uri, uri, NOT_LISTED)

    # -- what counts as arrived ---------------------------------------------------------------------------------------

    def _is_whole(self, found: Sequence[SessionStatus], held: int) -> bool:
        """Whether what XNAT has is ``held`` images of this study, in their place."""
        if is_other_study([item.images for item in found], self._body.contents.study_uid):
            return False
        return bool(found) and self._is_placed(found) and sum(item.files or 0 for item in found) == held

    def _is_unchanged(self, found: Sequence[SessionStatus], held: int, last: Mapping[str, object]) -> bool:
        """Whether what XNAT has is what the journal says, by the checksums where XNAT showed them then and now."""
        then, now = last.get("shown"), _shown_digest(found)
        return self._is_whole(found, held) and (not then or not now or then == now)

    def _is_enough(self, held: int) -> bool:
        """Whether XNAT has as many images as were sent; with ``append``, together with those of before."""
        if self._target.overwrite != "append":
            return held == self._images
        before = sum(item.files or 0 for item in self.known)
        return max(before, self._images) <= held <= before + self._images

    def _is_placed(self, found: Sequence[SessionStatus]) -> bool:
        """In the archive, or if the prearchive was asked for READY there; a project may archive it from there."""
        places = (ARCHIVED,) if self._target.dest == "archive" else ("READY", ARCHIVED)
        return all(item.status in places for item in found)


def _shown_digest(found: Sequence[SessionStatus]) -> str:
    """A text that changes when the checksums that XNAT shows of a session do; empty where it shows none."""
    if not found or not all(item.images.has_checksums for item in found):
        return ""
    lines = sorted(image.md5 for item in found for image in item.images.digests)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _list_places(found: Sequence[SessionStatus]) -> str:
    return ", ".join(f"{item.uri} ({item.status}, {_count_files(item)})" for item in found)


def _count_files(item: SessionStatus) -> str:
    return "files not counted" if item.files is None else format_count(item.files, "image")
