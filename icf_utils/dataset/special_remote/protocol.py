"""git-annex's protocol for external special remotes, several jobs at a time. Reads and writes two streams.

Source: git-annex's pages "external special remote protocol" and its appendix on ``ASYNC``, by which one process serves
all jobs of ``git annex get -J``: it is asked for several images at once, and may get them by one connection. A
git-annex that does not know the appendix sends one request at a time, without job numbers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol, TextIO

from icf_utils.errors import IcfError, printable


class Job:
    """One request of git-annex under way, and what may be asked and told meanwhile."""

    def __init__(self, prefix: str, send: Callable[[str], None]) -> None:
        self._prefix, self._send = prefix, send
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def answered(self, line: str | None) -> None:
        """git-annex's next line for this job, None where it has gone away."""
        self._answers.put(line)

    def reply(self, line: str) -> None:
        self._send(f"{self._prefix}{line}")

    def ask(self, request: str) -> str:
        """One request with one answer."""
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
        """Say how many bytes of this transfer have come."""
        self.reply(f"PROGRESS {done}")

    def tell(self, text: str) -> None:
        """A line for the user."""
        self.reply(f"INFO {printable(text)}")

    def debug(self, text: str) -> None:
        """A line for who looks with ``--debug``."""
        self.reply(f"DEBUG {printable(text)}")

    def _value(self) -> str:
        line = self._answers.get()
        if line is None:
            raise EOFError
        return line.partition(" ")[2]


class Remote(Protocol):
    """What a special remote does; each call is on a thread of its own. Errors are told to git-annex."""

    def retrieve(self, job: Job, key: str, path: str) -> None:
        """Write the content of ``key`` to the file ``path``."""

    def is_present(self, job: Job, key: str) -> bool:
        """Whether the content can be got now. Raises where that cannot be known."""

    def whereis(self, job: Job, key: str) -> str:
        """Where the content comes from, in words; may be empty."""


def is_claimed(url: str) -> bool:
    """Whether an address is one of ours to read."""
    return url.startswith("dl+archive:")


class Conversation:
    """Listens to git-annex until it ends, and answers."""

    def __init__(self, remote: Remote, incoming: TextIO, outgoing: TextIO) -> None:
        self._remote, self._incoming, self._outgoing = remote, incoming, outgoing
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._is_async = False

    def run(self) -> None:
        """Serve until git-annex closes the stream."""
        self._send("VERSION 1")
        for raw in self._incoming:
            self._hear(raw.rstrip("\n"))
        for job in list(self._jobs.values()):
            job.answered(None)

    def _send(self, line: str) -> None:
        with self._lock:
            self._outgoing.write(f"{line}\n")
            self._outgoing.flush()

    def _hear(self, line: str) -> None:
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
            threading.Thread(target=self._do, args=(job, line), daemon=True).start()

    def _do(self, job: Job, line: str) -> None:
        """One request from beginning to end; nothing but its answer must come of it."""
        word, _, rest = line.partition(" ")
        try:
            if word == "TRANSFER":
                self._transfer(job, rest)
            elif word == "CHECKPRESENT":
                self._check(job, rest)
            else:
                job.reply(self._plain_answer(job, word, rest))
        except EOFError:
            return

    def _plain_answer(self, job: Job, word: str, rest: str) -> str:
        if word == "WHEREIS":
            words = self._remote.whereis(job, rest)
            return f"WHEREIS-SUCCESS {printable(words)}" if words else "WHEREIS-FAILURE"
        if word == "CLAIMURL":
            return "CLAIMURL-SUCCESS" if is_claimed(rest) else "CLAIMURL-FAILURE"
        if word == "CHECKURL":
            return "CHECKURL-CONTENTS UNKNOWN" if is_claimed(rest) else "CHECKURL-FAILURE"
        if word == "REMOVE":
            return f"REMOVE-FAILURE {rest} nothing can be removed from an archive"
        return _PLAIN_ANSWERS.get(word, "UNSUPPORTED-REQUEST")

    def _transfer(self, job: Job, rest: str) -> None:
        direction, key, path = rest.split(" ", 2)
        if direction != "RETRIEVE":
            job.reply(f"TRANSFER-FAILURE {direction} {key} nothing can be added to an archive")
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


_PLAIN_ANSWERS = {
    "PREPARE": "PREPARE-SUCCESS",
    "INITREMOTE": "INITREMOTE-SUCCESS",
    "GETCOST": "COST 200",
    "GETAVAILABILITY": "AVAILABILITY GLOBAL",
    "EXPORTSUPPORTED": "EXPORTSUPPORTED-FAILURE",
    "LISTCONFIGS": "CONFIGEND",
    "GETINFO": "INFOEND",
}


def _problem_of(action: Callable[[], None]) -> str:
    """Why an action failed, on one line; empty if it did not."""
    try:
        action()
    except IcfError as error:
        return " ".join(printable(line.strip()) for line in str(error).splitlines())
    except EOFError:
        raise
    except OSError as error:
        return f"{printable(error.filename or '')} {error.strerror or type(error).__name__}".strip()
    except Exception as error:  # noqa: BLE001 - a fault of ours must not leave git-annex waiting
        return f"internal error of icf-utils ({type(error).__name__}: {printable(str(error))}); please report it"
    return ""
