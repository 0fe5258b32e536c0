"""What a command prints: progress bars on a terminal, one line for each task elsewhere, notices in groups, or JSON.

Writes to standard output (results) and standard error (progress, warnings, errors); nothing else in the package does.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from icf_utils.errors import IcfError, StorageFailure, escape_controls, printable
from icf_utils.formatting import format_amount
from icf_utils.progress import Task
from icf_utils.results import Notice, to_json_value

#: How many subjects a warning names before it counts the rest; ``--json`` names all.
_NAMED_AT_MOST = 5


class Console:
    """The one place that prints. Also a :class:`~icf_utils.progress.Progress`."""

    def __init__(self, quiet: bool, as_json: bool) -> None:
        self._quiet, self._as_json = quiet, as_json
        self._has_bars = _can_show_bars(sys.stderr)

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Task]:
        """Show a bar on a terminal; elsewhere, print a line when the task is done."""
        if self._quiet:
            yield _Counter()
        elif self._has_bars:
            from tqdm import tqdm

            name = unit if unit == "B" else f" {unit}"
            with tqdm(
                total=total,
                desc=escape_controls(label),
                unit=name,
                unit_scale=unit == "B",
                leave=False,
                file=sys.stderr,
            ) as bar:
                yield _Bar(bar)
        else:
            started, counter = time.monotonic(), _Counter()
            yield counter
            amount = format_amount(counter.done, unit)
            self._line(f"{label}: {amount} in {time.monotonic() - started:.1f} s", sys.stderr)

    def message(self, text: str) -> None:
        """Print a line that is not a result, unless ``--quiet``."""
        if not self._quiet:
            self._line(text, sys.stderr)

    def warning(self, text: str) -> None:
        """Print a line about a possible mistake, even with ``--quiet``."""
        self._line(f"warning: {text}", sys.stderr)

    def ask(self, question: str) -> bool:
        """Ask on the terminal; anything but ``y`` or ``yes`` means no."""
        write_text(f"{escape_controls(question)} [y/N] ", sys.stderr)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def notices(self, notices: Iterable[Notice], word: str = "warning") -> None:
        """Print warnings. Those with the same code and message share a line, which names the first few subjects.

        A ``word`` other than "warning" introduces notes, which ``--quiet`` suppresses.
        """
        if self._as_json or (self._quiet and word != "warning"):
            return
        groups: dict[tuple[str, str], list[str]] = {}
        for notice in notices:
            groups.setdefault((notice.code, notice.message), []).append(notice.subject)
        for (code, message), subjects in groups.items():
            named = ", ".join(f"'{printable(subject)}'" for subject in subjects[:_NAMED_AT_MOST])
            rest = f" and {len(subjects) - _NAMED_AT_MOST} more" if len(subjects) > _NAMED_AT_MOST else ""
            self._line(f"{word} [{code}]: {named}{rest}: {message}", sys.stderr)

    def result(self, command: str, result: object, lines: Iterable[str], ok: bool = True) -> None:
        """Print what the command did: ``lines`` for people, or ``result`` as one JSON object for scripts."""
        if self._as_json:
            self._json({"command": command, "ok": ok, "result": to_json_value(result)})
        elif not self._quiet or not ok:
            for line in lines:
                self._line(line, sys.stdout)

    def error(self, command: str, error: IcfError) -> None:
        """Print why the command failed."""
        self.failure(command, type(error).__name__, str(error), error.exit_code)

    def failure(self, command: str, kind: str, message: str, exit_code: int) -> None:
        """Print why the command ended. If standard output cannot be written as well, that is not reported."""
        if self._as_json:
            details = {"type": kind, "message": message}
            with suppress(StorageFailure):
                self._json({"command": command, "ok": False, "exit_code": exit_code, "error": details})
        self._line(f"icf-utils {command}: {message}" if command else f"icf-utils: {message}", sys.stderr)

    def _json(self, value: object) -> None:
        # ASCII with escapes: names may contain what the terminal cannot encode
        self._line(json.dumps(value, ensure_ascii=True), sys.stdout)

    def _line(self, text: str, stream: TextIO) -> None:
        """Print a text; whatever it is about and wherever it comes from, it cannot control the terminal."""
        write_text(f"{escape_controls(text)}\n", stream)


def write_text(text: str, stream: TextIO) -> None:
    """Write to a standard stream at once. A reader of it that has gone away is not an error.

    Raises :class:`~icf_utils.errors.StorageFailure` if standard output cannot be written to.
    """
    try:
        print(text, end="", file=stream, flush=True)
    except BrokenPipeError:
        abandon(stream)
    except OSError as error:
        abandon(stream)
        if stream is sys.stdout:
            raise StorageFailure("standard output", "write to", error) from error


def print_help(text: str, file: object | None = None) -> None:
    """Print help or usage where argparse wants it: to standard output, unless ``file`` is another stream."""
    write_text(text, sys.stdout if file in (None, sys.stdout) else sys.stderr)


def prepare_streams() -> None:
    """Write UTF-8 whatever the locale, with escapes for what cannot be encoded; a closed stream is the null device."""
    if sys.stdout is None:
        sys.stdout = _null_device()
    if sys.stderr is None:
        sys.stderr = _null_device()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _null_device() -> TextIO:
    """The null device; open until the process ends."""
    return open(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False)


def flush_streams() -> None:
    """Flush both; a reader that has gone away is not an error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # noqa: PERF203 - two streams
            abandon(stream)


def is_on_terminal() -> bool:
    """Whether messages go to a terminal."""
    return sys.stderr.isatty()


def _can_show_bars(stream: TextIO) -> bool:
    """Whether the stream is a terminal of a usable size; those of build servers may have no columns."""
    return stream.isatty() and 0 not in os.get_terminal_size(stream.fileno())


def abandon(stream: TextIO) -> None:
    """Redirect a stream to the null device, with what is in its buffer and all that follows."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class _Counter:
    def __init__(self) -> None:
        self.done = 0

    def advance(self, amount: int) -> None:
        self.done += amount


class _Bar:
    def __init__(self, bar: object) -> None:
        self._update = bar.update  # type: ignore[attr-defined]

    def advance(self, amount: int) -> None:
        self._update(amount)
