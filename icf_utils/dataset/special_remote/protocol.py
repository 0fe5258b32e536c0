"""git-annex's protocol for external special remotes, several jobs at a time. Reads and writes two streams.

Source: git-annex's pages "external special remote protocol" and its appendix on ``ASYNC``, by which one process serves
all jobs of ``git annex get -J``: it gets several requests at a time, and can use one connection for them. A git-annex
without this extension sends one request at a time, without job numbers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol, TextIO

from icf_utils.errors import IcfError, printable


class Job:
    """A request of git-annex, and what can be asked and reported while it is handled."""

    def __init__(self, prefix: str, send: Callable[[str], None]) -> None:
        self._prefix, self._send = prefix, send
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def answered(self, line: str | None) -> None:
        """Pass on git-annex's next line for this job, ``None`` once its stream has ended."""
        self._answers.put(line)

    def reply(self, line: str) -> None:
        self._send(f"{self._prefix}{line}")

    def ask(self, request: str) -> str:
        """Ask git-annex; returns the value that it answers."""
        self.reply(request)
        return self._value()

    def urls(self, key: str, prefix: str = "") -> list[str]:
        """The addresses that git-annex knows for a key."""
        self.reply(f"GETURLS {key} {prefix}")
        found = []
        while value := self._value():
            found.append(value)
        return found

    def progress(self, done: int) -> None:
        """Report how many bytes of this transfer have arrived."""
        self.reply(f"PROGRESS {done}")

    def inform(self, text: str) -> None:
        """Show a line to the user."""
        self.reply(f"INFO {printable(text)}")

    def debug(self, text: str) -> None:
        """Show a line with ``--debug``."""
        self.reply(f"DEBUG {printable(text)}")

    def _value(self) -> str:
        line = self._answers.get()
        if line is None:
            raise EOFError
        return line.partition(" ")[2]


class Remote(Protocol):
    """A special remote. Each call is made in its own thread; errors are reported to git-annex."""

    def retrieve(self, job: Job, key: str, path: str) -> None:
        """Write the content of ``key`` to the file ``path``."""

    def is_present(self, job: Job, key: str) -> bool:
        """Whether the content is available now. Raises where that cannot be determined."""

    def whereis(self, job: Job, key: str) -> str:
        """Where the content is, for ``git annex whereis``; may be empty."""


def is_claimed(url: str) -> bool:
    """Whether the special remote handles an address."""
    return url.startswith("dl+archive:")


class Conversation:
    """Answers the requests of git-annex."""

    def __init__(self, remote: Remote, incoming: TextIO, outgoing: TextIO) -> None:
        self._remote, self._incoming, self._outgoing = remote, incoming, outgoing
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._is_async = False

    def run(self) -> None:
        """Serve until git-annex closes the stream."""
        self._send("VERSION 1")
        for raw in self._incoming:
            self._receive(raw.rstrip("\n"))
        for job in list(self._jobs.values()):
            job.answered(None)

    def _send(self, line: str) -> None:
        with self._lock:
            self._outgoing.write(f"{line}\n")
            self._outgoing.flush()

    def _receive(self, line: str) -> None:
        prefix = ""
        if self._is_async and line.startswith("J "):
            _, number, line = line.split(" ", 2)
            prefix = f"J {number} "
        if line.startswith("VALUE ") or line == "VALUE":
            if prefix in self._jobs:
                self._jobs[prefix].answered(line)
        elif line.startswith("EXTENSIONS "):
            self._is_async = "ASYNC" in line.split()
            self._send("EXTENSIONS INFO ASYNC" if self._is_async else "EXTENSIONS INFO")
        elif line.partition(" ")[0] not in ("ERROR", ""):
            job = self._jobs[prefix] = Job(prefix, self._send)
            threading.Thread(target=self._handle, args=(job, line), daemon=True).start()

    def _handle(self, job: Job, line: str) -> None:
        """Handle one request; every outcome is an answer."""
        word, _, rest = line.partition(" ")
        try:
            if word == "TRANSFER":
                self._transfer(job, rest)
            elif word == "CHECKPRESENT":
                self._check(job, rest)
            else:
                job.reply(self._simple_answer(job, word, rest))
        except EOFError:
            return

    def _simple_answer(self, job: Job, word: str, rest: str) -> str:
        if word == "WHEREIS":
            words = self._remote.whereis(job, rest)
            return f"WHEREIS-SUCCESS {printable(words)}" if words else "WHEREIS-FAILURE"
        if word == "CLAIMURL":
            return "CLAIMURL-SUCCESS" if is_claimed(rest) else "CLAIMURL-FAILURE"
        if word == "CHECKURL":
            return "CHECKURL-CONTENTS UNKNOWN" if is_claimed(rest) else "CHECKURL-FAILURE"
        if word == "REMOVE":
            return f"REMOVE-FAILURE {rest} archives are read-only"
        return _SIMPLE_ANSWERS.get(word, "UNSUPPORTED-REQUEST")

    def _transfer(self, job: Job, rest: str) -> None:
        direction, key, path = rest.split(" ", 2)
        if direction != "RETRIEVE":
            job.reply(f"TRANSFER-FAILURE {direction} {key} archives are read-only")
            return
        problem = _problem_of(lambda: self._remote.retrieve(job, key, path))
        if problem:
            job.reply(f"TRANSFER-FAILURE RETRIEVE {key} {problem}")
        else:
            job.reply(f"TRANSFER-SUCCESS RETRIEVE {key}")

    def _check(self, job: Job, key: str) -> None:
        found: list[bool] = []
        problem = _problem_of(lambda: found.append(self._remote.is_present(job, key)))
        if problem:
            job.reply(f"CHECKPRESENT-UNKNOWN {key} {problem}")
        else:
            job.reply(f"CHECKPRESENT-{'SUCCESS' if found[0] else 'FAILURE'} {key}")


_SIMPLE_ANSWERS = {
    "PREPARE": "PREPARE-SUCCESS",
    "INITREMOTE": "INITREMOTE-SUCCESS",
    "GETCOST": "COST 200",
    "GETAVAILABILITY": "AVAILABILITY GLOBAL",
    "EXPORTSUPPORTED": "EXPORTSUPPORTED-FAILURE",
    "LISTCONFIGS": "CONFIGEND",
    "GETINFO": "INFOEND",
}


def _problem_of(action: Callable[[], None]) -> str:
    """Why an action failed, on one line; empty if it succeeded."""
    try:
        action()
    except IcfError as error:
        return " ".join(printable(line.strip()) for line in str(error).splitlines())
    except EOFError:
        raise
    except OSError as error:
        return f"{printable(error.filename or '')} {error.strerror or type(error).__name__}".strip()
    except Exception as error:  # noqa: BLE001 - git-annex must not be left waiting
        return f"internal error of icf-utils ({type(error).__name__}: {printable(str(error))}); please report it"
    return ""
