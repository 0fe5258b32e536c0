"""Puts images into the annex of a clone as they arrive. Writes files; runs git-annex.

An image is written into a work folder of the repository, named by its key, and its MD5 is compared as it arrives.
``git annex reinject`` then moves it to its place: it hashes it again, records the location, and fills unlocked files.
It takes many images at a time, several processes of it, while the next ones arrive. Its records are committed once, at
the end; until then they are in git-annex's journal, which any other command of git-annex commits.

What is complete stays in the work folder if the program ends early, and is placed by the next one.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from icf_utils.dataset.clone_files import CloneFiles, key_file
from icf_utils.errors import Busy, printable, storage_errors
from icf_utils.fetch.files import FileSource
from icf_utils.interrupts import remove_file
from icf_utils.retrieve.model import PlannedFile
from icf_utils.store.flock import open_locked

#: Images for one call of git-annex, and characters of its command line; how many images are waited for, how long.
_MOST, _LONGEST, _ENOUGH, _PAUSE = 1000, 500_000, 100, 1.0

#: Processes of git-annex at a time: they wait for each other and for git.
_PLACERS = 3

#: Without this, each process commits what it has recorded.
_LATER = ("-c", "annex.alwayscommit=false")

_PART = ".part"

#: Characters of what git-annex said that a message repeats.
_ENOUGH_TO_SAY = 300


class AnnexDestination:
    """The work folder of a clone; complete images go to ``placer``."""

    def __init__(self, work: Path, placer: Placer) -> None:
        self._work, self._placer = work, placer

    def begin(self, planned: PlannedFile) -> IncomingImage:
        """Begin to write an image, whose key is ``planned.image.key``."""
        return IncomingImage(planned, self._work, self._placer)

    def share(self, planned: PlannedFile, source: FileSource) -> bool:
        """Place a file that is all of ``source`` without copying it; false where the file system cannot do that."""
        with self.begin(planned) as incoming:
            return incoming.share(source)


class IncomingImage:
    """An image that is being received; a context manager that removes it unless :meth:`save` has returned true."""

    def __init__(self, planned: PlannedFile, work: Path, placer: Placer) -> None:
        self._planned, self._placer = planned, placer
        self._target = work / key_file(planned.image.key)
        self._part = work / f"{id(self)}{_PART}"
        self._digest, self._size = hashlib.md5(usedforsecurity=False), 0
        self._stack = ExitStack()
        with storage_errors(self._part, "create"):
            self._file = self._stack.enter_context(self._part.open("wb"))

    def __enter__(self) -> IncomingImage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        remove_file(self._part)

    def write(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self._size += len(chunk)
        with storage_errors(self._part, "write"):
            self._file.write(chunk)

    def share(self, source: FileSource) -> bool:
        """Hand on a file that shares the blocks of ``source``, which git-annex will check; returns whether it can."""
        if not source.share_with(self._file):
            return False
        self._hand_on()
        return True

    def save(self) -> bool:
        """Hand the image on, if size and checksum are right; returns whether they are."""
        image = self._planned.image
        if self._size != image.span.size or self._digest.hexdigest() != image.digest.value:
            return False
        self._hand_on()
        return True

    def _hand_on(self) -> None:
        with storage_errors(self._part, "write"):
            self._file.close()
            os.rename(self._part, self._target)
        self._placer.add(self._target, self._planned.image.path)


class Placer:
    """Moves complete images into the annex, in other threads; a context manager, whose end waits for all of them.

    Each image is a file named by its key, and a path of the work tree with this key. :attr:`placed` has the paths of
    those that git-annex has placed, :attr:`failures` the others, each with what git-annex said. If the block ends by an
    exception, only what git-annex is doing is waited for; :attr:`left` counts the images that remain.
    """

    def __init__(self, clone: CloneFiles) -> None:
        self._clone = clone
        self.placed: list[str] = []
        self.failures: dict[str, str] = {}
        self.left = 0
        self._waiting: list[tuple[Path, str]] = []
        self._condition = threading.Condition()
        self._is_closed = self._is_uncommitted = False
        self._running = 0
        self._problems: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, name="reinject") for _ in range(_PLACERS)]

    def __enter__(self) -> Placer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._condition:
            self._is_closed = True
            if kind is not None:
                self.left, self._waiting = len(self._waiting), []
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()
        if self._is_uncommitted:
            self._clone.annex("reinject", "--known", is_apart=True)
        if self._problems and kind is None:
            raise self._problems[0]

    def add(self, file: Path, path: str) -> None:
        with self._condition:
            self._waiting.append((file, path))
            self._condition.notify()

    def _run(self) -> None:
        try:
            while True:
                batch, is_last = self._next()
                if not batch:
                    return
                try:
                    self._place(batch, is_last)
                finally:
                    with self._condition:
                        self._running -= 1
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            self._problems.append(error)

    def _next(self) -> tuple[list[tuple[Path, str]], bool]:
        """The images that wait: some, or what has come in a while; none at the end. And whether they are the last."""
        with self._condition:
            self._condition.wait_for(lambda: self._is_closed or self._waiting)
            self._condition.wait_for(lambda: self._is_closed or len(self._waiting) >= _ENOUGH, _PAUSE)
            if not self._waiting and not self._is_closed:  # another thread has taken them
                return self._next()
            count = length = 0
            for file, path in self._waiting[:_MOST]:
                length += len(os.fspath(file)) + len(path)
                if count and length > _LONGEST:
                    break
                count += 1
            batch = self._waiting[:count]
            del self._waiting[:count]
            self._running += bool(batch)
            is_last = self._is_closed and not self._waiting and self._running == 1
            self._is_uncommitted = (self._is_uncommitted or bool(batch)) and not (is_last and batch)
            return batch, is_last

    def _place(self, batch: Sequence[tuple[Path, str]], is_last: bool) -> None:
        done = self._clone.annex(*self._arguments(batch), options=() if is_last else _LATER, is_apart=True)
        answers = dict(_answers(done.stdout))
        said = done.stderr.decode("utf-8", "replace").strip()[-_ENOUGH_TO_SAY:]
        placed = []
        for file, path in batch:
            problem = answers.get(os.fspath(file), said or f"it ended with exit code {done.returncode}")
            if problem:
                self.failures[path] = f"git-annex did not place it: {printable(' '.join(problem.split()))}"
                remove_file(file)
            else:
                placed.append(path)
        self.placed += placed

    def _arguments(self, batch: Sequence[tuple[Path, str]]) -> Iterator[str]:
        yield from ("reinject", "--json", "--json-error-messages")
        if self._clone.is_bare:
            yield from ("--guesskeys", "--", *(os.fspath(file) for file, _ in batch))
            return
        yield "--"
        for file, path in batch:
            yield from (os.fspath(file), path)


def _answers(output: bytes) -> Iterator[tuple[str, str]]:
    """For each file that git-annex reports of: why it was not placed, empty if it was."""
    for line in output.splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict) and answer.get("input"):
            why = " ".join(map(str, answer.get("error-messages") or ["no reason was given"]))
            yield str(answer["input"][0]), "" if answer.get("success") else why


@contextmanager
def lock_work_folder(work: Path) -> Iterator[None]:
    """Lock the work folder for this process; it is removed at the end if nothing is left in it.

    Raises :class:`~icf_utils.errors.Busy` if another process has it.
    """
    lock = work / "lock"
    with storage_errors(work, "create"):
        work.mkdir(parents=True, exist_ok=True)
        file = open_locked(lock)
    if file is None:
        raise Busy(work, "another 'icf-utils get'", 0)
    with file:
        _remove_parts(work)
        try:
            yield
        finally:
            _remove_parts(work)
            if os.listdir(work) == ["lock"]:
                remove_file(lock)
                work.rmdir()


def _remove_parts(work: Path) -> None:
    for path in work.glob(f"*{_PART}"):
        remove_file(path)


def leftovers(work: Path, paths: Mapping[str, str]) -> list[tuple[Path, str]]:
    """Complete images of an earlier run that are still to be placed; ``paths`` has a path for each key. Others go."""
    found, by_name = [], {key_file(key): path for key, path in paths.items()}
    for file in work.iterdir():
        if file.name in by_name:
            found.append((file, by_name[file.name]))
        elif file.name != "lock":
            remove_file(file)
    return found
