"""The interface of an input, and the rules about names and links in it. Pure: nothing is read here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from icf_utils.formatting import format_count
from icf_utils.results import Notice

#: The longest file name that common file systems hold, in bytes.
LONGEST_NAME = 255


@dataclass(frozen=True)
class InputFile:
    """One regular file of an input: ``name`` with ``/``, relative to the input; ``size`` in bytes.

    Bytes of a name outside UTF-8 are surrogates (PEP 383).
    """

    name: str
    size: int


class FileReader(Protocol):
    """An open file of an input."""

    def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes; empty at the end. Raises ``InputRefused`` if the input is damaged."""


class Source(Protocol):
    """An input (a directory, a zip or a tar) whose files are listed and found acceptable.

    ``label`` names it in messages; ``entries`` are its files in the order of the archive; ``notices`` are remarks about
    their names. ``newest_change`` is when it last changed, in seconds since 1970.
    """

    label: str
    newest_change: float
    entries: tuple[InputFile, ...]
    notices: tuple[Notice, ...]

    def open(self, entry: InputFile) -> AbstractContextManager[FileReader]:
        """Open one file for one sequential read."""

    def check_unchanged(self) -> None:
        """Raise ``InputRefused`` if anything has changed since the files were listed."""


def format_changes(added: int, changed: int, removed: int) -> str:
    """How an input has changed, in words.

    >>> format_changes(1, 0, 2)
    '1 file added, 0 changed, 2 removed'
    """
    return f"{format_count(added, 'file')} added, {changed} changed, {removed} removed"


def path_sort_key(entry: InputFile) -> list[str]:
    """Return the sort key of an archive's member: the parts of its path, as ``pathlib`` compares paths."""
    return entry.name.split("/")


def clean_member_name(name: str) -> str | None:
    """Return the relative name that a member of a zip or tar denotes, or ``None`` if it is unsafe.

    ``./a`` and ``a//b`` are normalised; absolute names, ``..`` and NUL are not accepted.
    """
    if name.startswith("/") or "\0" in name:
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/".join(parts)


def strip_components(name: str, count: int) -> str:
    """Remove the first ``count`` folders from ``name``; empty if nothing is left."""
    return "/".join(name.split("/")[count:])


def resolve_link(name: str, target: str) -> str | None:
    """Return where a symbolic link ``name`` points, relative to the input; ``None`` if that is outside."""
    if target.startswith("/") or "\0" in target:
        return None
    parts = name.split("/")[:-1]
    for part in target.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def follow_links(links: Mapping[str, str | None], files: Iterable[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Find the file that each link of a zip or tar leads to; the second value is refusals ``(name, reason)``.

    ``links`` maps the name of a link to the result of :func:`resolve_link`.
    """
    known = set(files)
    found: dict[str, str] = {}
    refused = []
    for name in sorted(links):
        target, steps = links[name], 0
        while target is not None and target in links and steps <= len(links):
            target, steps = links[target], steps + 1
        if target is not None and target in known:
            found[name] = target
        else:
            refused.append((name, "is a link that does not lead to a file in this input"))
    return found, refused


#: Names that Windows keeps for devices, with any extension, and the characters that its names cannot have. Source:
#: "Naming Files, Paths, and Namespaces", learn.microsoft.com/windows/win32/fileio/naming-a-file.
_NOT_WINDOWS = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])(?: *\..*)?"
    r'|.*[\0-\x1f<>:"|?*\\].*|.*[ .]',
    re.IGNORECASE | re.DOTALL,
)

WINDOWS_NAME = "cannot be the name of a file or folder on Windows"


@lru_cache(maxsize=1024)
def is_windows_name(part: str) -> bool:
    """Whether Windows can have a file or folder of this name.

    >>> [is_windows_name(name) for name in ("MR.1.2", "Con", "aux.dcm", "visit.", "12:30.dcm")]
    [True, False, False, False, False]
    """
    return _NOT_WINDOWS.fullmatch(part) is None


def name_notices(entries: Iterable[InputFile]) -> list[Notice]:
    """Warn about names that are archived unchanged but cannot be unpacked on every system."""
    notices, seen = [], dict[str, str]()
    for entry in entries:
        twin = seen.setdefault(unicodedata.normalize("NFC", entry.name).casefold(), entry.name)
        if twin != entry.name:
            how = "differs from another name only by upper and lower case or by the Unicode form of its letters"
            notices.append(Notice("case-clash", entry.name, how))
        parts = entry.name.split("/")
        if any(len(part.encode("utf-8", "surrogateescape")) > LONGEST_NAME for part in parts):
            notices.append(Notice("long-name", entry.name, f"has a part longer than {LONGEST_NAME} bytes"))
        if not all(map(is_windows_name, parts)):
            notices.append(Notice("windows-name", entry.name, WINDOWS_NAME))
    return notices


def empty_folder_notices(folders: Iterable[str], entries: Iterable[InputFile]) -> list[Notice]:
    """Name the folders without a file at any depth; they are lost, as an archive has no members for directories."""
    filled = set()
    for entry in entries:
        parent = entry.name.rpartition("/")[0]
        while parent and parent not in filled:
            filled.add(parent)
            parent = parent.rpartition("/")[0]
    empty = sorted(set(folders) - filled - {""})
    return [Notice("empty-folder", name, "contains no files and is not archived") for name in empty]
