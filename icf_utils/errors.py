"""Errors that users can cause or meet: each names its subject, what was found, and what to do. No input or output.

Exceptions of other libraries are converted once, where they enter the package; :func:`storage_errors` converts those
of the operating system. Each class has the exit code of the command line, which ``docs/errors.md`` documents. Whatever
comes from outside (a file name, a header's value, another program's words) passes through :func:`printable` first.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike, fspath, strerror
from typing import ClassVar

#: The number of files that a message names before it only counts the rest.
NAMED_AT_MOST = 20


def printable(text: str | PathLike[str]) -> str:
    r"""Make text fit for a message: one printable line, whatever a file name or a header contains.

    Control characters, line separators, bidirectional marks and undecodable bytes become backslash escapes, so that no
    name can control a terminal or forge a line of a log. Different texts stay different.

    >>> printable("a\nb")
    'a\\nb'
    """
    return "".join(_printable_char(char) for char in fspath(text))


def escape_controls(text: str) -> str:
    r"""Make a text of several lines fit for a terminal: what :func:`printable` escapes, but line breaks and tabs.

    Backslashes stay, so that a text which is printable already does not change.

    >>> escape_controls("a\x1b[2J\n")
    'a\\x1b[2J\n'
    """
    if text.isprintable():
        return text
    return "".join(char if char in "\n\t\\" else _printable_char(char) for char in text)


def _printable_char(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    if "\udc80" <= char <= "\udcff":  # a byte that is not UTF-8, as surrogateescape decodes it
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


class IcfError(Exception):
    """Base of all errors that a user can cause or meet; ``str()`` is the whole message."""

    exit_code: ClassVar[int] = 1


class InvalidIdentifier(IcfError):
    """A study or visit identifier that cannot name files."""

    exit_code = 2
    RULE = (
        "expected at most 100 letters, digits, '.', '_' and '-', the first of them not '.' or '-'; "
        "a study cannot be named 'icf.toml', and a visit cannot have the name of a deposit's file, "
        "such as 'x_dicom.tar'"
    )

    def __init__(self, kind: str, value: str) -> None:
        self.kind, self.value = kind, value
        super().__init__(f"the {kind} identifier '{printable(value[:120])}' cannot be used: {self.RULE}")


class InvalidSetting(IcfError):
    """An option or a key of a settings file that is wrong or contradicts another; ``source`` names it."""

    exit_code = 2

    def __init__(self, source: str, problem: str) -> None:
        self.source, self.problem = source, problem
        super().__init__(f"{printable(source)}: {problem}")


class TableRefused(IcfError):
    """A table of visits with mistakes; nothing was started. ``problems`` has all of them, one sentence each."""

    exit_code = 2

    def __init__(self, source: str | PathLike[str], problems: Sequence[str]) -> None:
        self.source, self.problems = fspath(source), tuple(problems)
        body = "\n  ".join(problems)
        super().__init__(f"'{printable(source)}' is refused; nothing was started:\n  {body}")


class InputRefused(IcfError):
    """An input that cannot become an archive; nothing was written. ``refusals`` has ``(name, reason)`` of each file.

    ``reasons`` is the message without its first line.
    """

    exit_code = 3

    def __init__(self, source: str | PathLike[str], refusals: Sequence[tuple[str, str]], advice: str = "") -> None:
        self.source, self.refusals = fspath(source), tuple(refusals)
        lines = [f"'{printable(name)}': {reason}" for name, reason in self.refusals[:NAMED_AT_MOST]]
        if len(self.refusals) > NAMED_AT_MOST:
            lines.append(f"... and {len(self.refusals) - NAMED_AT_MOST} more")
        body = "\n  ".join(lines)
        tail = f"\n{advice}" if advice else ""
        self.reasons = f"{body}{tail}"
        super().__init__(f"input '{printable(source)}' is refused; nothing was written:\n  {self.reasons}")


class NotSettled(IcfError):
    """An input that changed a short while ago, and may still be growing; nothing was written."""

    exit_code = 11

    def __init__(self, source: str | PathLike[str], age: str, settle: str) -> None:
        self.source = fspath(source)
        super().__init__(
            f"input '{printable(source)}' changed {age} ago and may still be growing; nothing was "
            f"written. It is taken once it has not changed for {settle} (--settle); run the command "
            "again then"
        )


class ExistingFileDiffers(IcfError):
    """Another file has the name already; it was not touched. ``how`` says in what it differs."""

    exit_code = 4

    def __init__(self, path: str | PathLike[str], how: str, remedy: str) -> None:
        self.path, self.how = fspath(path), how
        super().__init__(f"'{printable(path)}' exists and is different: {how}. It was not touched; {remedy}")


class DepositDiffers(ExistingFileDiffers):
    """A file of a deposit has other content than the one to be written; a deposit is never overwritten."""

    def __init__(self, path: str | PathLike[str], how: str) -> None:
        remedy = (
            "a deposit is never overwritten. If the visit's images have changed, 'icf-utils visit replace' makes its "
            "next version; if it was made already, give the new input instead of the old one. 'icf-utils visit "
            "refresh' brings the other files to the present settings. Another visit needs another identifier"
        )
        super().__init__(path, how, remedy)


class InputChanged(IcfError):
    """An input that has changed since it was archived; the archive was not touched."""

    exit_code = 4

    def __init__(self, source: str | PathLike[str], archive: str | PathLike[str], how: str) -> None:
        self.source, self.archive, self.how = fspath(source), fspath(archive), how
        super().__init__(
            f"input '{printable(source)}' has changed since it was archived: in '{printable(archive)}', {how}. The "
            "archive was not touched. Put the input back, or make it the next version of the visit with "
            "'icf-utils visit replace' or 'icf-utils run --replace'"
        )


class VisitRemoved(IcfError):
    """A visit that was removed and is not to be archived again, as its ``tombstone`` says."""

    exit_code = 4

    def __init__(self, study: str, visit: str, tombstone: str | PathLike[str]) -> None:
        self.tombstone = fspath(tombstone)
        super().__init__(
            f"{study}/{visit} was removed from this store, as '{printable(tombstone)}' says; "
            "take it out of visit tables, or remove that file to archive the visit again"
        )


class DepositMissing(IcfError):
    """A file that a stage needs is not in the store."""

    exit_code = 5

    def __init__(self, path: str | PathLike[str], remedy: str) -> None:
        self.path, self.remedy = fspath(path), remedy
        super().__init__(f"'{printable(path)}' does not exist; {remedy}")


class DepositDamaged(IcfError):
    """A file of the store that does not have the content that it should have."""

    exit_code = 5

    def __init__(self, path: str | PathLike[str], expected: str, found: str, remedy: str) -> None:
        self.path, self.expected, self.found, self.remedy = fspath(path), expected, found, remedy
        super().__init__(f"'{printable(path)}': expected {expected}, found {found}; {remedy}")


class StorageFailure(IcfError):
    """The operating system refused an action: no space, no permission, a fault of the device."""

    exit_code = 6

    def __init__(self, path: str | PathLike[str], action: str, cause: OSError, advice: str = "") -> None:
        self.path, self.action, self.errno = fspath(path), action, cause.errno
        reason = strerror(cause.errno) if cause.errno else str(cause)
        what_to_do = f"{_ADVICE.get(cause.errno or 0, '')}{advice}"
        super().__init__(f"cannot {action} '{printable(path)}': {reason}{what_to_do}")

    @property
    def is_full(self) -> bool:
        """Whether the disk or the quota has no room left."""
        return self.errno in (errno.ENOSPC, errno.EDQUOT)


_ADVICE = {
    errno.ENOSPC: ". Nothing half-written was left behind; free some space and run the same command again",
    errno.EDQUOT: ". Nothing half-written was left behind; raise the quota and run the same command again",
    errno.EROFS: ". Make it writable, or choose another folder",
}


class MissingRequirement(IcfError):
    """A program or package that a command needs is not installed."""

    exit_code = 7

    def __init__(self, what: str, remedy: str) -> None:
        self.what, self.remedy = what, remedy
        super().__init__(f"{what} is required but was not found; {remedy}")


class Busy(IcfError):
    """Another process is writing the same visit or catalog, and did not finish in time.

    ``silent``: it has not touched its lock for ``waited`` seconds, as a living one does.
    """

    exit_code = 8

    def __init__(self, path: str | PathLike[str], holder: str, waited: float, silent: bool = False) -> None:
        self.path, self.holder, self.silent = fspath(path), holder, silent
        found = f"has held '{printable(path)}' for longer than {waited:.0f} s. Wait for it"
        if silent:
            found = f"holds '{printable(path)}' and has not touched it for {waited:.0f} s: it is probably dead"
        super().__init__(
            f"{holder} {found}; if you are certain that the process is dead, remove the file "
            "and run the same command again"
        )


class ClusterRefused(IcfError):
    """SLURM did not accept a job, or does not respond."""

    exit_code = 9

    def __init__(self, command: str, words: str, advice: str) -> None:
        self.command, self.words, self.advice = command, words, advice
        lines = "\n  ".join(printable(line) for line in words.splitlines())
        super().__init__(f"SLURM's '{command}' refused:\n  {lines}\n{printable(advice)}")


class RemoteFailure(IcfError):
    """A request to another system (a web server, an XNAT, a DICOM node, a database) failed.

    ``where`` names the system without credentials, ``problem`` says what was expected and found, ``remedy`` what to do.
    """

    exit_code = 10

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        self.where, self.problem, self.remedy = where, problem, remedy
        super().__init__(f"{printable(where)}: {problem}; {remedy}")


@contextmanager
def storage_errors(path: str | PathLike[str], action: str) -> Iterator[None]:
    """Convert an ``OSError`` of the block to a :class:`StorageFailure` about ``path``; ``action`` is a verb phrase."""
    try:
        yield
    except OSError as error:
        raise StorageFailure(path, action, error) from error
