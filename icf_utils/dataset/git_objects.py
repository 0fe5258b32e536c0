r"""git objects as values: blobs, trees and commits, to bytes and back. Pure.

Formats: "Git Internals - Git Objects" (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects) and git's
``object-file`` and ``tree`` documentation. The id of an object is the SHA-1 of ``<kind> <size>\0`` and its content.

A tree cannot contain every name. git reserves some on every platform, and ``git fsck --strict`` reports a tree with one
of them as broken: ``.git`` and ``.gitmodules``, in any case, as HFS+ compares names (ignoring some invisible
characters) and as NTFS does (ignoring trailing dots and spaces, ``:stream``, with short names such as ``git~1`` and
``\`` as a separator). The rule here is slightly stricter than git's; no name that git refuses passes it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

#: File modes that a tree records: a regular file, a symbolic link, a folder.
FILE, LINK, FOLDER = 0o100644, 0o120000, 0o40000

AUTHOR = b"icf-utils <icf-utils@icf-utils.invalid>"


class GitObject(NamedTuple):
    """``kind`` is ``commit``, ``tree`` or ``blob``."""

    kind: str
    data: bytes

    @property
    def oid(self) -> bytes:
        """The id of the object (20 bytes)."""
        head = f"{self.kind} {len(self.data)}\0".encode("ascii")
        return hashlib.sha1(head + self.data, usedforsecurity=False).digest()


class BranchFile(NamedTuple):
    """A file of a branch: ``mode`` is :data:`FILE` or :data:`LINK`, ``content`` a link's target or a file's bytes."""

    mode: int
    content: bytes


class TreeEntry(NamedTuple):
    """One name of a tree."""

    name: bytes
    mode: int
    oid: bytes


@dataclass
class GitObjects:
    """Objects by id, each once."""

    objects: dict[bytes, GitObject] = field(default_factory=dict)

    def add(self, kind: str, data: bytes) -> bytes:
        """Add an object and return its id."""
        item = GitObject(kind, data)
        oid = item.oid
        self.objects[oid] = item
        return oid

    def add_commit(self, files: Mapping[bytes, BranchFile], time: int, message: str, parent: bytes = b"") -> bytes:
        """Add a commit of ``files`` by path, dated ``time`` (seconds since 1970, UTC); returns its id.

        ``parent`` is the id of the previous commit; the first commit of a branch has none.
        """
        tree = self.add_tree({path: (item.mode, self.add("blob", item.content)) for path, item in files.items()})
        return self.add("commit", encode_commit(tree, time, message, parent))

    def add_tree(self, blobs: Mapping[bytes, tuple[int, bytes]]) -> bytes:
        """Add the trees of ``blobs`` (mode and id by path), one per folder; returns the id of the topmost tree.

        Linear in the number of files: git's own ``fast-import`` searches a folder for every name it adds to it, 11 s
        for 50,000 files in one folder.
        """
        folders: dict[bytes, list[TreeEntry]] = {b"": []}
        for path, (mode, oid) in blobs.items():
            _open(folders, path).append(TreeEntry(path.rpartition(b"/")[2], mode, oid))
        for folder in sorted(folders, key=lambda name: name.count(b"/") + bool(name), reverse=True):
            oid = self.add("tree", encode_tree(folders[folder]))
            if folder:
                _open(folders, folder).append(TreeEntry(folder.rpartition(b"/")[2], FOLDER, oid))
        return oid


def _open(folders: dict[bytes, list[TreeEntry]], path: bytes) -> list[TreeEntry]:
    """Return the entries of the folder of ``path``, and add the folders above it that are missing."""
    nearest = path.rpartition(b"/")[0]
    folder = nearest
    while folder not in folders:
        folders[folder] = []
        folder = folder.rpartition(b"/")[0]
    return folders[nearest]


def encode_tree(entries: list[TreeEntry]) -> bytes:
    """Encode a tree; git sorts folders as if their names ended with a slash."""
    ordered = sorted(entries, key=lambda entry: entry.name + b"/" if entry.mode == FOLDER else entry.name)
    return b"".join(b"%o %s\0%s" % entry_fields for entry_fields in ((e.mode, e.name, e.oid) for e in ordered))


def parse_tree(data: bytes) -> Iterator[TreeEntry]:
    """Parse the content of a tree. Raises ``ValueError`` if it is malformed."""
    at = 0
    while at < len(data):
        space, end = data.index(b" ", at), data.index(b"\0", at)
        yield TreeEntry(data[space + 1 : end], int(data[at:space], 8), data[end + 1 : end + 21])
        at = end + 21


def encode_commit(tree: bytes, time: int, message: str, parent: bytes = b"") -> bytes:
    """Encode a commit of the fixed author; ``parent`` as for :meth:`GitObjects.add_commit`."""
    who = b"%s %d +0000" % (AUTHOR, time)
    text = message.encode("utf-8")
    after = b"parent %s\n" % parent.hex().encode("ascii") if parent else b""
    return b"tree %s\n%sauthor %s\ncommitter %s\n\n%s\n" % (tree.hex().encode("ascii"), after, who, who, text)


#: Code points that HFS+ ignores when it compares names (Apple's Technical Note TN1150, as git applies it).
_INVISIBLE = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])

_OWN = re.compile(r"\.git|git~1|\.gitmodules|gitmod~[1-4]|(?=.{8}\Z)(?:gi7eba|gi7eb|gi7e|gi7|gi|g)?~[1-9][0-9]*")


def git_can_hold(path: str) -> bool:
    """Whether a git tree can contain a symbolic link at ``path``.

    >>> git_can_hold("a/b.dcm"), git_can_hold("a/.GIT/b.dcm"), git_can_hold("a/git~1")
    (True, False, False)
    """
    if "git" not in path.translate(_INVISIBLE).lower() and "~" not in path:
        return True  # nearly every path: no need to split it
    return not any(_OWN.fullmatch(_as_seen(part)) for part in re.split(r"[/\\]", path))


#: What Linux takes as a name, and as a path, in bytes.
_LONGEST_NAME, _LONGEST_PATH = 255, 4095


def fits_file_systems(path: bytes) -> bool:
    """Whether a work tree can have a file at ``path``: one that it cannot hold would spoil a whole checkout.

    >>> fits_file_systems(b"a/" + b"n" * 255), fits_file_systems(b"a/" + b"n" * 256)
    (True, False)
    """
    return len(path) <= _LONGEST_PATH and max(map(len, path.split(b"/"))) <= _LONGEST_NAME


def _as_seen(part: str) -> str:
    return part.translate(_INVISIBLE).partition(":")[0].rstrip(" .").lower()
