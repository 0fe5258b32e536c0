"""The queue of complete sessions: first come, first served within a rule, a bounded number at a time.

Starts a worker process for each session (:mod:`icf_utils.worker_process`), which runs the stages
(:mod:`icf_utils.receiver.run_session`), and writes the result to the journal. A process that dies costs its own session
only. Sessions that were running when a receiver ended are queued again.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from math import inf
from multiprocessing.connection import Connection

from icf_utils.errors import IcfError, InvalidSetting
from icf_utils.progress import Progress, RecurringProblem
from icf_utils.receiver.journal import Journal, has_images
from icf_utils.receiver.model import (
    CONFLICTING,
    OTHER_FAILED,
    PARTIAL_OUTPUT,
    Session,
    SessionFilter,
    SessionState,
    final_state,
    in_one_line,
)
from icf_utils.receiver.routing import start_sends
from icf_utils.receiver.run_session import SessionLog, SessionOutcome, SessionTask, remove_input, run_session
from icf_utils.receiver.settings import ReceiverSettings, Rule
from icf_utils.receiver.spool import count_quarantined, images_below
from icf_utils.receiver.unpacking import images_of_input
from icf_utils.worker_process import GRACE, WorkerProcess
from icf_utils.xnat.login import PASSWORD, TOKEN

#: Seconds between two looks into the journal, to which web pages and commands also add sessions.
_POLL_INTERVAL = 1.0

#: Seconds for the threads to end after the worker processes have been killed.
_AFTER_KILL = 5.0

#: Seconds; the longest pause before a session is retried whose disk was full.
_LONGEST_PAUSE = 3600.0


class _StorageRetries:
    """When to retry sessions that failed because a disk was full or a folder could not be used.

    The first pause is ``pause`` seconds, 0 for no retries; each further one of the same session is twice as long.
    """

    def __init__(self, pause: float) -> None:
        self._first, self._lock = pause, threading.Lock()
        self._waiting: dict[str, tuple[float, float]] = {}  # by session: when it is due, and the pause before that

    def add(self, session_id: str) -> None:
        """Plan the next retry of a session."""
        with self._lock:
            _, last = self._waiting.get(session_id, (0.0, self._first / 2))
            pause = min(2 * last, _LONGEST_PAUSE)
            if pause:
                self._waiting[session_id] = time.monotonic() + pause, pause

    def remove(self, session_id: str) -> None:
        """Forget a session, which failed for another reason or did not fail."""
        with self._lock:
            self._waiting.pop(session_id, None)

    def claim_due(self) -> list[str]:
        """The sessions that are due; none is given to two threads."""
        with self._lock:
            now = time.monotonic()
            found = [name for name, (due, _) in self._waiting.items() if due <= now]
            self._waiting.update({name: (inf, self._waiting[name][1]) for name in found})
            return found


class SessionQueue:
    """Processes queued sessions until it is closed. The caller holds the spool, so that there is one queue for it."""

    def __init__(self, settings: ReceiverSettings, journal: Journal, progress: Progress) -> None:
        self._settings, self._journal, self._progress = settings, journal, progress
        self._running: Counter[str] = Counter()  # by the rule's name
        self._workers: set[WorkerProcess] = set()
        self._wake_up, self._closing, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._threads: list[threading.Thread] = []
        self._storage_retries = _StorageRetries(settings.listen.retry)
        for session, _ in journal.running_sessions():  # of a receiver that was killed
            journal.change_state(session.id, "queued")
        self._retry_failed()

    def _retry_failed(self) -> None:
        """Retry each failed session once: the store may be writable again, or the settings may have changed."""
        rules = {rule.name for rule in self._settings.rules}
        for session in reversed(self._journal.sessions(SessionFilter(states=("failed",)))):
            if session.rule in rules and has_images(session):
                self._journal.retry(session.id)
                self._progress.message(f"{session.id}: {session.name} failed before; retrying it")

    def _retry_after_storage_failure(self) -> None:
        """Queue the sessions again whose disk may have room now, unless a person has retried or deleted them."""
        for session_id in self._storage_retries.claim_due():
            self._retry(session_id)

    def _retry(self, session_id: str) -> None:
        try:
            session = self._journal.retry(session_id)
        except InvalidSetting:
            self._storage_retries.remove(session_id)
        except IcfError:
            self._storage_retries.add(session_id)
            raise
        else:
            self._progress.message(f"{session.id}: {session.name} could not be written; retrying it")

    def start(self) -> None:
        """Start processing, in threads of its own."""
        for number in range(self._settings.listen.workers):
            thread = threading.Thread(target=self._work, name=f"worker-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def notify(self) -> None:
        """Say that a session has been queued."""
        self._wake_up.set()

    def close(self) -> None:
        """Ask running workers to end, and kill those that do not; their sessions are queued again."""
        with self._lock:
            self._closing.set()
            for worker in self._workers:
                worker.ask_to_end()
        self._wake_up.set()
        self._join_threads(GRACE)
        with self._lock:
            for worker in self._workers:
                worker.kill()
        self._join_threads(_AFTER_KILL)

    def _join_threads(self, seconds: float) -> None:
        limit = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, limit - time.monotonic()))

    def _work(self) -> None:
        turn, problem = 0, RecurringProblem(self._progress)
        while not self._closing.is_set():
            claimed = None
            try:
                self._retry_after_storage_failure()
                claimed = self._claim(turn)
                problem.end()
            except IcfError as error:  # usually the journal's disk, which may be full
                problem.report(error)
            if claimed is None:
                self._wake_up.wait(_POLL_INTERVAL)
                self._wake_up.clear()
                continue
            turn += 1
            rule, session = claimed
            try:
                self._finish_surely(rule, session, self._run_safely(rule, session))
            finally:
                with self._lock:
                    self._running[rule.name] -= 1
                self._wake_up.set()

    def _run_safely(self, rule: Rule, session: Session) -> SessionOutcome | None:
        try:
            return self._run(rule, session)
        except IcfError as error:  # of the journal
            return SessionOutcome(str(error))

    def _finish_surely(self, rule: Rule, session: Session, outcome: SessionOutcome | None) -> None:
        """Write the result to the journal as soon as that can be written, as on a disk that was full.

        Otherwise the session would be called running until the receiver starts again.
        """
        problem = RecurringProblem(self._progress, session.id)
        while True:
            try:
                self._finish(rule, session, outcome)
                return
            except IcfError as error:
                problem.report(error)
            if self._closing.wait(_POLL_INTERVAL):
                return

    def _claim(self, turn: int) -> tuple[Rule, Session] | None:
        """The next session of a rule that has a free worker; the rules take turns."""
        rules = self._settings.rules
        for at in range(len(rules)):
            rule = rules[(turn + at) % len(rules)]
            with self._lock:
                if self._running[rule.name] >= rule.workers:
                    continue
                session = self._journal.claim_next(rule.name, f"{socket.gethostname()} {os.getpid()}")
                if session is not None:
                    self._running[rule.name] += 1
                    return rule, session
        return None

    def _run(self, rule: Rule, session: Session) -> SessionOutcome | None:
        """Run the stages in a worker process; ``None`` where it was stopped because the queue is closing."""
        with self._lock:
            if self._closing.is_set():
                return None
            try:
                secrets = (PASSWORD, TOKEN) if rule.xnat else ()
                task = SessionTask(rule, session, self._journal.has_digests(session.id))
                worker = WorkerProcess(_run_session, self._settings, task, secrets=secrets)
            except OSError as error:  # no memory, or too many processes
                return SessionOutcome(f"cannot start a process for it ({error.strerror})")
            self._workers.add(worker)
        outcome: SessionOutcome | None = None
        with suppress(EOFError, OSError):
            while outcome is None:
                received = worker.connection.recv()
                if isinstance(received, SessionOutcome):
                    outcome = received
                else:
                    self._progress.message(f"{session.id}: {received}")
        worker.join()
        with self._lock:
            self._workers.discard(worker)
            was_stopped = outcome is None and self._closing.is_set()
        if was_stopped:
            return None
        return outcome or _outcome_of_a_crash(session, worker.exit_reason)

    def _count_conflicts(self, session: Session) -> None:
        """Record images that the worker has moved to the quarantine, also one that was killed after that."""
        now = self._journal.session(session.id) or session
        amount = count_quarantined(now)
        if amount > now.quarantined:
            self._journal.set_quarantined(session.id, amount, CONFLICTING)
        if amount and session.input.is_dir():
            self._journal.update_session(session.id, images=len(images_below(session.input)))

    def _own_digests(self, session: Session, others: list[Session], digests: Mapping[str, bytes]) -> dict[str, bytes]:
        """The digests to record of a session: of its own images, and of those of its visit that no session brought."""
        known = self._journal.digests([item.id for item in others])
        own = images_of_input(session) if others and session.input.exists() else digests.keys()
        return {image: md5 for image, md5 in digests.items() if image in own or known.get(image, ("", b""))[1] != md5}

    def _finish(self, rule: Rule, session: Session, outcome: SessionOutcome | None) -> None:
        if outcome is None:
            self._journal.change_state(session.id, "queued")
            return
        others = self._journal.sessions_of_visit(session) if session.study_uid else []
        has_failed = any(
            item.state == "failed" and item.images and not self._journal.has_digests(item.id) for item in others
        )
        for note in (*outcome.notes, *((OTHER_FAILED,) if has_failed else ())):
            self._journal.add_note(session.id, note)
        self._count_conflicts(session)
        if outcome.digests:
            self._journal.record_digests(session.id, self._own_digests(session, others, outcome.digests))
        if not outcome.failure and not rule.input_days and remove_input(session):
            self._progress.message(f"{session.id}: its input was removed (keep_input = 'never')")

        def decide(now: Session) -> SessionState:
            return final_state(now, outcome.failure, PARTIAL_OUTPUT in outcome.notes)

        # before the session is finished, so that a receiver which is killed now decides it again
        start_sends(self._settings, rule, session, decide(self._journal.session(session.id) or session))
        finished, completed = self._journal.finish_session(session.id, decide, outcome.failure)
        for other in completed:
            self._progress.message(f"{other}: what its visit lacked came with {session.id}")
        if outcome.is_storage_failure:
            self._storage_retries.add(session.id)
        else:
            self._storage_retries.remove(session.id)
        problem = f": {in_one_line(outcome.failure)}" if outcome.failure else ""
        self._progress.message(f"{session.id}: {session.name}: {finished.state}{problem}")


def _outcome_of_a_crash(session: Session, reason: str) -> SessionOutcome:
    """The outcome of a session whose worker could not give one, which the session's log gets as well."""
    problem = f"the process that worked on it {reason}"
    with suppress(OSError):
        SessionLog(session.log).line(problem)
    return SessionOutcome(problem)


def _run_session(connection: Connection, settings: ReceiverSettings, task: SessionTask) -> None:
    """What the worker process does: send lines for the receiver's log, then the outcome."""
    with suppress(OSError):  # the receiver was killed; the next one processes the session again
        connection.send(run_session(settings, task, partial(_send_line, connection)))


def _send_line(connection: Connection, text: str) -> None:
    with suppress(OSError):
        connection.send(text)
