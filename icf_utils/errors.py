"""What can go wrong, as values: every error names its subject, what was found, and what to do.

No input or output happens here. Foreign exceptions are wrapped once, at the edge where they come in
(:func:`storage_errors` does it for the operating system's). The exit code of the command line stands with
each class and is documented in ``docs/errors.md``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

#: How many offenders a message names before it only counts the rest.
NAMED_AT_MOST = 20


def printable(text: str | os.PathLike[str]) -> str:
    r"""Text for a message: one line, printable, whatever a file name or a header holds.

    Control characters, line separators, bidirectional marks and undecodable bytes appear as backslash escapes, so
    that neither a terminal nor a log can be steered by a name.

    >>> printable("a\nb")
    'a\\nb'
    """
    return "".join(_printable_char(char) for char in os.fspath(text))


def _printable_char(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    if "\udc80" <= char <= "\udcff":  # a byte that is no UTF-8, as surrogateescape keeps it
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


class IcfError(Exception):
    """Base of every error that a user can cause or meet; ``str()`` is the whole message."""

    exit_code: ClassVar[int] = 1


class InvalidIdentifier(IcfError):
    """A study or visit identifier that cannot name files."""

    exit_code = 2
    RULE = (
        "letters, digits, '.', '_' and '-' are allowed, at most 100 characters, "
        "the first one is neither '.' nor '-', and no study is called like the settings file"
    )

    def __init__(self, kind: str, value: str) -> None:
        self.kind, self.value = kind, value
        super().__init__(f"the {kind} identifier '{printable(value[:120])}' cannot be used: {self.RULE}")


class InvalidSetting(IcfError):
    """An option or a line of a settings file that means nothing or contradicts another."""

    exit_code = 2

    def __init__(self, source: str, problem: str) -> None:
        self.source, self.problem = source, problem
        super().__init__(f"{printable(source)}: {problem}")


class TableRefused(IcfError):
    """A list of visits with mistakes; nothing was started. ``problems`` holds all of them, one sentence each."""

    exit_code = 2

    def __init__(self, source: str | os.PathLike[str], problems: Sequence[str]) -> None:
        self.source, self.problems = os.fspath(source), tuple(problems)
        body = "\n  ".join(problems)
        super().__init__(f"'{printable(source)}' is refused, nothing was started:\n  {body}")


class InputRefused(IcfError):
    """The input cannot become an archive; nothing was written.

    ``refusals`` holds one ``(name, reason)`` per offending file.
    """

    exit_code = 3

    def __init__(self, source: str | os.PathLike[str], refusals: Sequence[tuple[str, str]], advice: str = "") -> None:
        self.source, self.refusals = os.fspath(source), tuple(refusals)
        lines = [f"'{printable(name)}': {reason}" for name, reason in self.refusals[:NAMED_AT_MOST]]
        if len(self.refusals) > NAMED_AT_MOST:
            lines.append(f"... and {len(self.refusals) - NAMED_AT_MOST} more")
        body = "\n  ".join(lines)
        tail = f"\n{advice}" if advice else ""
        super().__init__(f"input '{printable(source)}' is refused, nothing was written:\n  {body}{tail}")


class DepositDiffers(IcfError):
    """Something else already stands under the name; it was not touched."""

    exit_code = 4

    def __init__(self, path: str | os.PathLike[str], how: str, remedy: str = "") -> None:
        self.path, self.how = os.fspath(path), how
        advice = remedy or "a deposit is never overwritten. Use another visit identifier, or move the old deposit away"
        super().__init__(f"'{printable(path)}' exists and is different: {how}. It was left as it is; {advice} first.")


class InputChanged(IcfError):
    """An input is not what it was when it was archived; the archive was not touched."""

    exit_code = 4

    def __init__(self, source: str | os.PathLike[str], archive: str | os.PathLike[str], how: str) -> None:
        self.source, self.archive, self.how = os.fspath(source), os.fspath(archive), how
        super().__init__(
            f"input '{printable(source)}' has changed after it was archived: in "
            f"'{printable(archive)}', {how}. The archive "
            "was left as it is. Put the input back, or archive it under another visit identifier"
        )


class DepositMissing(IcfError):
    """A file that this step builds on is not in the store."""

    exit_code = 5

    def __init__(self, path: str | os.PathLike[str], remedy: str) -> None:
        self.path, self.remedy = os.fspath(path), remedy
        super().__init__(f"'{printable(path)}' does not exist; {remedy}")


class DepositDamaged(IcfError):
    """A file in the store is not what it should be."""

    exit_code = 5

    def __init__(self, path: str | os.PathLike[str], expected: str, found: str, remedy: str) -> None:
        self.path, self.expected, self.found, self.remedy = os.fspath(path), expected, found, remedy
        super().__init__(f"'{printable(path)}': expected {expected}, found {found}; {remedy}")


class StorageFailure(IcfError):
    """The operating system refused: no space, no permission, a fault of the device."""

    exit_code = 6

    def __init__(self, path: str | os.PathLike[str], action: str, cause: OSError) -> None:
        self.path, self.action, self.errno = os.fspath(path), action, cause.errno
        reason = os.strerror(cause.errno) if cause.errno else str(cause)
        super().__init__(f"cannot {action} '{printable(path)}': {reason}{_ADVICE.get(cause.errno or 0, '')}")


_ADVICE = {
    errno.ENOSPC: ". Nothing half-written was left behind; free some space and run the same command again",
    errno.EDQUOT: ". Nothing half-written was left behind; raise the quota and run the same command again",
    errno.EROFS: ". The store must be writable for this command",
}


class MissingRequirement(IcfError):
    """A program or package that this command needs is not installed."""

    exit_code = 7

    def __init__(self, what: str, remedy: str) -> None:
        self.what, self.remedy = what, remedy
        super().__init__(f"{what} is needed and was not found; {remedy}")


class Busy(IcfError):
    """Another process is writing the same visit or catalog and did not finish in time."""

    exit_code = 8

    def __init__(self, path: str | os.PathLike[str], holder: str, waited: float, silent: bool = False) -> None:
        self.path, self.holder, self.silent = os.fspath(path), holder, silent
        found = f"has held '{printable(path)}' for longer than {waited:.0f} s. Wait for it"
        if silent:
            found = f"holds '{printable(path)}' and has given no sign of life for {waited:.0f} s: it is probably dead"
        super().__init__(
            f"{holder} {found}; if that process is dead for certain, remove the file and run the same command again"
        )


class ClusterRefused(IcfError):
    """SLURM did not take a job, or does not answer."""

    exit_code = 9

    def __init__(self, command: str, words: str, advice: str) -> None:
        self.command, self.words, self.advice = command, words, advice
        lines = "\n  ".join(printable(line) for line in words.splitlines())
        super().__init__(f"SLURM's '{command}' refused:\n  {lines}\n{printable(advice)}")


class RemoteFailure(IcfError):
    """Another system (a web server, an XNAT, a DICOM node, a database) did not do what it was asked.

    ``where`` names it without credentials, ``problem`` says what was expected and found, ``remedy`` what to do.
    """

    exit_code = 10

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        self.where, self.problem, self.remedy = where, problem, remedy
        super().__init__(f"{printable(where)}: {problem}; {remedy}")


@contextmanager
def storage_errors(path: str | os.PathLike[str], action: str) -> Iterator[None]:
    """Turn an ``OSError`` of the block into :class:`StorageFailure` about ``path``; ``action`` is a verb phrase."""
    try:
        yield
    except OSError as error:
        raise StorageFailure(path, action, error) from error
