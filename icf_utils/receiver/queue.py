"""Queued sessions go through the chain: first come, first served in each rule, a bounded number at a time.

Starts a process for each session and writes the session's log; the chain itself writes the store. A process that dies
costs its own session only.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
from collections import Counter
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import NoReturn

from icf_utils.errors import IcfError
from icf_utils.interrupts import quiet_interrupts
from icf_utils.progress import Progress
from icf_utils.receiver.archive_session import Done, process, remove_input
from icf_utils.receiver.journal import Journal, has_images
from icf_utils.receiver.model import Session, SessionFilter, final_state, in_one_line
from icf_utils.receiver.settings import ReceiverSettings, Rule

#: Seconds between two looks into the journal, where others may have queued something.
_PAUSE = 1.0

#: Seconds that a process has to unwind before it is killed.
_GRACE = 60.0


class Processing:
    """Works on queued sessions until it is closed. One for each spool: whoever runs it holds the spool's lock."""

    def __init__(self, settings: ReceiverSettings, journal: Journal, progress: Progress) -> None:
        self._settings, self._journal, self._progress = settings, journal, progress
        self._busy: Counter[str] = Counter()
        self._processes: set[BaseProcess] = set()
        self._bell, self._lock, self._ending = threading.Event(), threading.Lock(), threading.Event()
        self._threads: list[threading.Thread] = []
        for session, _ in journal.running():  # of a process that was killed
            journal.change_state(session.id, "queued")
        self._retry_failed()

    def _retry_failed(self) -> None:
        """Try once more what has failed: a store that was not writable may be, settings may be other ones."""
        rules = {rule.name for rule in self._settings.rules}
        for session in reversed(self._journal.sessions(SessionFilter(states=("failed",)))):
            if session.rule in rules and has_images(session):
                self._journal.retry(session.id)
                self._progress.message(f"{session.id}: {session.name} had failed, and is tried once more")

    def start(self) -> None:
        """Begin to work, on threads of its own."""
        for number in range(self._settings.listen.workers):
            thread = threading.Thread(target=self._work, name=f"worker-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def wake(self) -> None:
        """Something has been queued."""
        self._bell.set()

    def close(self) -> None:
        """End what is under way; it is queued again."""
        with self._lock:
            self._ending.set()
            for process_ in self._processes:
                process_.terminate()
        self._bell.set()
        for thread in self._threads:
            thread.join(_GRACE)

    def _work(self) -> None:
        turn = 0
        while not self._ending.is_set():
            claimed = self._claim(turn)
            if claimed is None:
                self._bell.wait(_PAUSE)
                self._bell.clear()
                continue
            turn += 1
            rule, session = claimed
            try:
                self._finish(rule, session, self._run(rule, session))
            except IcfError as error:  # the journal's disk, mostly
                self._progress.message(f"{session.id}: {error}")
            finally:
                with self._lock:
                    self._busy[rule.name] -= 1
                self._bell.set()

    def _claim(self, turn: int) -> tuple[Rule, Session] | None:
        """The next session of a rule that may have one more at work; the rules take turns."""
        rules = self._settings.rules
        for at in range(len(rules)):
            rule = rules[(turn + at) % len(rules)]
            with self._lock:
                if self._busy[rule.name] >= rule.workers:
                    continue
                session = self._journal.claim(rule.name, f"{socket.gethostname()} {os.getpid()}")
                if session is not None:
                    self._busy[rule.name] += 1
                    return rule, session
        return None

    def _run(self, rule: Rule, session: Session) -> Done | None:
        """What became of it; ``None`` where it was stopped to end the program."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        child = context.Process(target=_child, args=(theirs, self._settings, rule, session), daemon=True)
        with self._lock:
            if self._ending.is_set():
                return None
            child.start()
            self._processes.add(child)
        theirs.close()
        done: Done | None = None
        try:
            while done is None:
                found = ours.recv()
                if isinstance(found, Done):
                    done = found
                else:
                    self._progress.message(f"{session.id}: {found}")
        except (EOFError, OSError):
            pass
        child.join(_GRACE)
        with self._lock:
            self._processes.discard(child)
            is_stopped = done is None and self._ending.is_set()
        if is_stopped:
            return None
        return done or Done(f"the process that worked on it ended with exit code {child.exitcode}")

    def _finish(self, rule: Rule, session: Session, done: Done | None) -> None:
        if done is None:
            self._journal.change_state(session.id, "queued")
            return
        for note in done.notes:
            self._journal.add_note(session.id, note)
        if done.digests:
            self._journal.remember_images(session.id, done.digests)
        if not done.failure and not rule.keep_input and remove_input(session):
            self._progress.message(f"{session.id}: its input was removed, as the rule says")
        state = self._journal.settle(session.id, lambda now: final_state(now, done.failure), done.failure).state
        problem = f": {in_one_line(done.failure)}" if done.failure else ""
        self._progress.message(f"{session.id}: {session.name}: {state}{problem}")


def _child(connection: Connection, settings: ReceiverSettings, rule: Rule, session: Session) -> None:
    """What the process does; an interrupt of the terminal is the parent's to pass on."""
    quiet_interrupts()
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):  # the receiver was killed; the next one takes the session up again
        connection.send(process(settings, rule, session, partial(_tell, connection)))


def _tell(connection: Connection, text: str) -> None:
    with suppress(OSError):
        connection.send(text)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """Unwind, once."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)
