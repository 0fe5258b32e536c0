"""The annexed files of a clone: their keys, which contents are here, and what git-annex has recorded of a key.

Reads git's index and the ``git-annex`` branches through git, which takes the same time for one file as for thousands.
Formats: https://git-annex.branchable.com/internals/ and ".../internals/pointer_file/". Runs git and git-annex.
"""

from __future__ import annotations

import base64
import binascii
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from icf_utils.child_environment import user_environment
from icf_utils.dataset.annex_keys import lower_folder
from icf_utils.dataset.annex_logs import PRESENT, parse_log, parse_tags
from icf_utils.dataset.special_remote.clone import Clone, run_git
from icf_utils.errors import InvalidSetting, RemoteFailure, printable

#: The largest pointer file of git-annex, in bytes; larger files are not read.
_LARGEST_POINTER = 32 * 1024

_LINK, _SUBDATASET = b"120000", b"160000"
_FILES = (b"100644", b"100755")


@dataclass(frozen=True)
class AnnexedFile:
    """A file of a clone: its path below the top folder, and the key of its content."""

    path: str
    key: str


@dataclass(frozen=True)
class CloneTree:
    """The annexed files of a clone, and the paths of its subdatasets, both below the top folder."""

    files: tuple[AnnexedFile, ...]
    subdatasets: tuple[str, ...]


class CloneFiles:
    """A clone whose work tree, or bare repository, is ``top``."""

    def __init__(self, top: Path, is_bare: bool) -> None:
        self.top, self.is_bare = top, is_bare
        self.clone = Clone.at(top)
        self._branches: list[dict[bytes, bytes]] | None = None

    @classmethod
    def at(cls, folder: Path) -> CloneFiles:
        """The clone that ``folder`` is in. Raises as :meth:`Clone.at` does."""
        clone = Clone.at(folder)
        done = _git(folder, "rev-parse", "--show-toplevel")
        if done.returncode == 0 and done.stdout.strip():
            return cls(Path(os.fsdecode(done.stdout.removesuffix(b"\n"))), False)
        return cls(clone.git_dir, True)

    def work_folder(self) -> Path:
        """A folder for files on their way into the annex, on its file system; it may not exist yet."""
        found = _git(self.top, "rev-parse", "--git-common-dir").stdout.removesuffix(b"\n")
        return (self.top / os.fsdecode(found)).resolve() / "icf-utils"

    def tree(self) -> CloneTree:
        """What the index, or the commit of a bare repository, lists.

        Raises :class:`~icf_utils.errors.InvalidSetting` where there is nothing.
        """
        entries = list(self._entries())
        contents = self._pointers([(mode, oid) for mode, oid, _ in entries])
        files = []
        for _, oid, path in entries:
            key = _key_of_pointer(contents.get(oid, b""))
            if key:
                files.append(AnnexedFile(os.fsdecode(path), key))
        return CloneTree(tuple(files), tuple(os.fsdecode(path) for mode, _, path in entries if mode == _SUBDATASET))

    def present(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys whose content is in this clone. Raises :class:`~icf_utils.errors.RemoteFailure`."""
        return set(self.contents(keys))

    def contents(self, keys: Sequence[str]) -> dict[str, Path]:
        """The files with the contents of those keys that are in this clone; raises like :meth:`present`."""
        if not keys:
            return {}
        done = self.annex("contentlocation", "--batch", stdin="".join(f"{key}\n" for key in keys))
        found = done.stdout.decode("utf-8", "surrogateescape").split("\n")
        if done.returncode not in (0, 1) or len(found) != len(keys) + 1:
            said = printable(done.stderr.decode("utf-8", "replace").strip()[-300:])
            raise RemoteFailure(os.fspath(self.top), f"git-annex failed: {said}", "run 'git annex init' in the clone")
        return {key: self.top / place for key, place in zip(keys, found, strict=False) if place}

    def addresses(self, keys: Sequence[str]) -> dict[str, list[str]]:
        """The addresses that are recorded for each key, in their order; without the sign that a remote claims them."""
        found = {}
        for key, contents in self._logs(keys, ".log.web").items():
            latest: dict[bytes, tuple[int, bytes]] = {}
            for content in contents:
                for line in parse_log(content):
                    if line.value not in latest or line.time > latest[line.value][0]:
                        latest[line.value] = (line.time, line.status)
            values = [value for value, (_, status) in latest.items() if status == PRESENT]
            found[key] = [value.removeprefix(b":").decode("utf-8", "surrogateescape") for value in values]
        return found

    def tags(self, keys: Sequence[str]) -> dict[str, dict[str, list[str]]]:
        """The metadata fields of each key, by their names in lower case."""
        found = {}
        for key, contents in self._logs(keys, ".log.met").items():
            lines = sorted({line for content in contents for line in content.splitlines()}, key=_time)
            fields = parse_tags(b"\n".join(lines))
            found[key] = {
                name.decode("utf-8", "replace"): sorted(map(_decode_value, values)) for name, values in fields.items()
            }
        return found

    def annex(
        self, *arguments: str, options: Sequence[str] = (), stdin: str = "", is_apart: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        """Run git-annex in this clone with ``options`` of git, whatever it answers.

        With ``is_apart``, it runs in a session of its own, which an interrupt at the terminal does not reach.
        """
        return subprocess.run(  # noqa: S603 - no shell
            ["git", *options, "annex", *arguments],  # noqa: S607 - as the user has it
            cwd=self.top,
            env=user_environment(),
            input=stdin.encode("utf-8", "surrogateescape"),
            capture_output=True,
            start_new_session=is_apart,
            check=False,
        )

    def _entries(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Mode, object and path of everything."""
        if self.is_bare:
            done = _git(self.top, "ls-tree", "-r", "-z", "--full-tree", "HEAD")
            lines = [line.replace(b" blob ", b" ").replace(b" commit ", b" ") for line in done.stdout.split(b"\0")]
        else:
            done = _git(self.top, "ls-files", "-s", "-z")
            lines = done.stdout.split(b"\0")
        if done.returncode:
            said = printable(done.stderr.decode("utf-8", "replace").strip())
            raise InvalidSetting(os.fspath(self.top), f"git cannot list the files of the clone: {said}")
        for line in filter(None, lines):
            head, _, path = line.partition(b"\t")
            mode, oid = head.split()[:2]
            yield mode, oid, path

    def _pointers(self, items: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
        """The contents of links and of files small enough to be pointers, by object."""
        files = list(dict.fromkeys(oid for mode, oid in items if mode in _FILES))
        sizes = _git(self.top, "cat-file", "--batch-check=%(objectname) %(objectsize)", "--buffer", stdin=_lines(files))
        small = []
        for line in sizes.stdout.splitlines():
            oid, _, size = line.partition(b" ")
            if size.isdigit() and int(size) <= _LARGEST_POINTER:
                small.append(oid)
        wanted = list(dict.fromkeys([*(oid for mode, oid in items if mode == _LINK), *small]))
        return dict(zip(wanted, _read_objects(self.top, wanted), strict=True))

    def _logs(self, keys: Sequence[str], suffix: str) -> dict[str, list[bytes]]:
        """The files of all ``git-annex`` branches that this clone has, which git-annex merges by the union of lines."""
        paths = [os.fsencode(_log_path(key) + suffix) for key in keys]
        found: dict[str, list[bytes]] = {key: [] for key in keys}
        for files in self._branch_files() if keys else ():
            known = [(key, files[path]) for key, path in zip(keys, paths, strict=True) if path in files]
            contents = _read_objects(self.top, [oid for _, oid in known])
            for (key, _), content in zip(known, contents, strict=True):
                found[key].append(content)
        return found

    def _branch_files(self) -> list[dict[bytes, bytes]]:
        """The objects of each branch by their paths. git takes as long for a path of one as for hundreds by object."""
        if self._branches is None:
            own, others = "refs/heads/git-annex", "refs/remotes/*/git-annex"
            names = _git(self.top, "for-each-ref", "--format=%(refname)", own).stdout.split()
            merged = [f"--no-merged={own}"] if names else []
            names += _git(self.top, "for-each-ref", "--format=%(refname)", *merged, others).stdout.split()
            listings = (_git(self.top, "ls-tree", "-r", "-z", "--full-tree", os.fsdecode(name)) for name in names)
            self._branches = [_objects_by_path(listing.stdout) for listing in listings]
        return self._branches


def _objects_by_path(listing: bytes) -> dict[bytes, bytes]:
    """Read the output of ``ls-tree -z``: mode, kind and object; a tab; the path."""
    entries = (line.partition(b"\t") for line in listing.split(b"\0") if line)
    return {path: head.rpartition(b" ")[2] for head, _, path in entries}


def _read_objects(folder: Path, names: Sequence[bytes]) -> Iterator[bytes]:
    """The contents of objects, empty for those that are missing."""
    if not names:
        return
    output = _git(folder, "cat-file", "--batch=%(objectsize)", "--buffer", stdin=_lines(names)).stdout
    at = 0
    for _ in names:
        end = output.index(b"\n", at)
        head = output[at:end]
        if not head.isdigit():
            at = end + 1
            yield b""
            continue
        at = end + 1 + int(head) + 1
        yield output[end + 1 : at - 1]


def _lines(names: Iterable[bytes]) -> bytes:
    return b"".join(name + b"\n" for name in names)


def _key_of_pointer(content: bytes) -> str:
    """The key in a symbolic link's target or a pointer file; empty for other contents.

    >>> _key_of_pointer(b"../.git/annex/objects/aa/bb/MD5E-s1--x.dcm/MD5E-s1--x.dcm"), _key_of_pointer(b"x")
    ('MD5E-s1--x.dcm', '')
    """
    line = content.partition(b"\n")[0]
    if b"annex/objects/" not in line:
        return ""
    return _unescape(os.fsdecode(line.rpartition(b"/")[2]))


#: How git-annex writes a key as a file name.
_ESCAPES = (("&s", "%"), ("&c", ":"), ("%", "/"), ("&a", "&"))


def _unescape(name: str) -> str:
    """Read a key from its file name.

    >>> _unescape("URL--http&c%%example.org%a&sb&ac")
    'URL--http://example.org/a%b&c'
    """
    if "&" not in name and "%" not in name:
        return name
    found, at = [], 0
    while at < len(name):
        code = next(((code, char) for code, char in _ESCAPES if name.startswith(code, at)), (name[at], name[at]))
        found.append(code[1])
        at += len(code[0])
    return "".join(found)


def key_file(key: str) -> str:
    """The file name of a key; the inverse of reading it.

    >>> key_file("URL--http://example.org/a%b&c")
    'URL--http&c%%example.org%a&sb&ac'
    """
    escaped = key.replace("&", "&a").replace("%", "&s").replace(":", "&c")
    return escaped.replace("/", "%")


def _log_path(key: str) -> str:
    return f"{lower_folder(os.fsencode(key)).decode()}/{key_file(key)}"


def _time(line: bytes) -> float:
    """The time of a line of a log; later lines hold."""
    try:
        return float(line.partition(b"s ")[0])
    except ValueError:
        return 0.0


def _decode_value(value: bytes) -> str:
    """A value as git-annex writes it: in base64 after an exclamation mark, if it must be."""
    if value.startswith(b"!"):
        with suppress(binascii.Error):
            value = base64.b64decode(value[1:], validate=True)
    return value.decode("utf-8", "replace")


def _git(folder: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return run_git("-C", os.fspath(folder), *arguments, stdin=stdin)
