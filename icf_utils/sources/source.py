"""What an input holds, as values, and the rules about names and links. Pure: nothing is read here."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from icf_utils.results import Notice

#: The longest file name that common file systems hold, in bytes.
LONGEST_NAME = 255


@dataclass(frozen=True)
class InputFile:
    """One regular file of an input: ``name`` with ``/``, relative to the input; ``size`` in bytes.

    Bytes of a name that are no UTF-8 stand as surrogates (PEP 383).
    """

    name: str
    size: int


class FileReader(Protocol):
    """An open file of an input."""

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end. Raises ``InputRefused`` where the input is damaged."""


class Source(Protocol):
    """An input: a directory, a zip or a tar, already looked through and found acceptable."""

    label: str
    entries: tuple[InputFile, ...]
    notices: tuple[Notice, ...]

    def open(self, entry: InputFile) -> AbstractContextManager[FileReader]:
        """Open one file for one sequential read."""

    def check_unchanged(self) -> None:
        """Raise ``InputRefused`` if anything is not as it was found at first."""


def path_sort_key(entry: InputFile) -> list[str]:
    """The sort key of the archive's members: path parts, as ``pathlib`` compares paths."""
    return entry.name.split("/")


def clean_member_name(name: str) -> str | None:
    """The relative name that a member of a zip or tar stands for, or ``None`` where it is unsafe.

    ``./a`` and ``a//b`` are tidied; absolute names, ``..`` and NUL are not accepted.
    """
    if name.startswith("/") or "\0" in name:
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/".join(parts)


def strip_components(name: str, count: int) -> str:
    """``name`` without its first ``count`` folders; empty where nothing is left."""
    return "/".join(name.split("/")[count:])


def resolve_link(name: str, target: str) -> str | None:
    """Where a symbolic link named ``name`` points, relative to the input; ``None`` where that is outside."""
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
    """Which file each link of a zip or tar stands for, and refusals ``(name, reason)`` of those without one.

    ``links`` maps a link's name to what :func:`resolve_link` says of it.
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
            refused.append((name, "is a link that does not lead to a file of this input"))
    return found, refused


def name_notices(entries: Iterable[InputFile]) -> list[Notice]:
    """Warnings about names that are archived as they are but cannot be unpacked everywhere."""
    notices, seen = [], dict[str, str]()
    for entry in entries:
        twin = seen.setdefault(unicodedata.normalize("NFC", entry.name).casefold(), entry.name)
        if twin != entry.name:
            how = "differs from another name by upper and lower case or by the form of its letters only"
            notices.append(Notice("case-clash", entry.name, how))
        if any(len(part.encode("utf-8", "surrogateescape")) > LONGEST_NAME for part in entry.name.split("/")):
            notices.append(Notice("long-name", entry.name, f"has a part of more than {LONGEST_NAME} bytes"))
    return notices


def empty_folder_notices(folders: Iterable[str], entries: Iterable[InputFile]) -> list[Notice]:
    """Folders that hold no file at any depth: an archive has no directory members, so they are dropped, and named."""
    filled = set()
    for entry in entries:
        parent = entry.name.rpartition("/")[0]
        while parent and parent not in filled:
            filled.add(parent)
            parent = parent.rpartition("/")[0]
    empty = sorted(set(folders) - filled - {""})
    return [Notice("empty-folder", name, "holds no file and is not kept") for name in empty]
