"""Where an archive's bytes come from: the annex, ``file://``, a web server by ranges, or the whole archive after all.

Reads files and the network; has git-annex get a whole archive where nothing else helps.


What the clone has: an archive's file in the annex, and getting it there. Runs git-annex.
"""

from __future__ import annotations

import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from icf_utils.dataset.annex_keys import ImageLocator, key_size
from icf_utils.dataset.special_remote.logins import Logins
from icf_utils.dataset.special_remote.protocol import Job
from icf_utils.dataset.special_remote.reader import Reader
from icf_utils.errors import DepositDamaged, RemoteFailure
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.files import FileSource
from icf_utils.fetch.ranges import Span
from icf_utils.formatting import format_count

#: Address forms that bytes can be read from; the others are git-annex's affair.
_READABLE = ("https", "http", "file")

#: Failures after which the archive may still be had as a whole, from there or elsewhere.
_WHOLE_MAY_HELP = frozenset({"no-ranges", "encoded", "missing"})

#: Seconds for which an answer to "is the archive there" is taken to hold for its other images.
_HOLDS_FOR = 10.0


@dataclass
class Archive:
    """What is known of an archive by now; whoever holds ``lock`` may find out more.

    ``local`` is its file in the annex. ``asked`` and ``is_there`` are the latest answer about its presence and when it
    was given. ``members`` are the images of a local one by name, for locators that tell no position.
    """

    key: str
    urls: tuple[str, ...] = ()
    local: Path | None = None
    reader: Reader | None = None
    is_known: bool = False
    is_whole_only: bool = False
    asked: float = float("-inf")
    is_there: bool = False
    members: dict[str, Span] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)


class Archives:
    """The archives of one clone, as long as git-annex keeps the process."""

    def __init__(self, clone: Clone, logins: Logins) -> None:
        self._clone, self._logins = clone, logins
        self._lock = threading.Lock()
        self._known: dict[str, Archive] = {}

    def pieces(self, job: Job, locator: ImageLocator, size: int) -> Iterator[bytes]:
        """The bytes of the image, ``size`` by its key. Raises :class:`~icf_utils.errors.IcfError`."""
        archive = self._find(job, locator.archive_key)
        if archive.local is None and locator.offset is not None and not archive.is_whole_only:
            began = False
            try:
                for piece in self._reader(archive).pieces(Span(locator.offset, size)):
                    began = True
                    yield piece
                return
            except FetchFailure as failure:
                if began or failure.kind not in _WHOLE_MAY_HELP:
                    raise
                self._resort_to_whole(job, archive, failure)
        yield from self._local_pieces(archive, locator, size)

    def is_present(self, job: Job, locator: ImageLocator, size: int) -> bool:
        """Whether the image's bytes can be got now: the archive is there, and is as large as its key says."""
        archive, total = self._find(job, locator.archive_key), key_size(locator.archive_key)
        if locator.offset is not None and total is not None and locator.offset + size > total:
            return False
        if archive.local is not None:
            return total is None or archive.local.stat().st_size == total
        with archive.lock:
            if time.monotonic() - archive.asked > _HOLDS_FOR:
                archive.is_there = self._is_there(job, archive)
                archive.asked = time.monotonic()
            return archive.is_there

    def _find(self, job: Job, key: str) -> Archive:
        """The archive, after a look into the annex and at its addresses."""
        with self._lock:
            archive = self._known.setdefault(key, Archive(key))
        with archive.lock:
            if not archive.is_known:
                archive.urls = tuple(url for url in job.urls(key) if urlsplit(url).scheme in _READABLE)
                archive.local = self._clone.content_of(key)
                archive.is_known = True
            if archive.local is not None and not archive.local.exists():  # dropped meanwhile
                archive.local = None
        return archive

    def _reader(self, archive: Archive) -> Reader:
        """The archive at the first of its addresses that works; the one that did is kept."""
        with archive.lock:
            if archive.reader is None:
                archive.reader = self._open_first(archive)
            return archive.reader

    def _open_first(self, archive: Archive) -> Reader:
        total = key_size(archive.key)
        failure = FetchFailure(
            f"archive {archive.key}", "its size or its address is not known", "get it whole", kind="missing"
        )
        for url in archive.urls if total else ():
            try:
                return Reader(self._logins.open(url, total), total or 0)
            except FetchFailure as problem:  # noqa: PERF203
                failure = problem
        raise failure

    def _is_there(self, job: Job, archive: Archive) -> bool:
        """Asks the servers. A file of another size is not the archive.

        Other remotes are asked where no address can be read here: those that share an address with this one believe
        any file that they find there.
        """
        for url in archive.urls:
            try:
                self._logins.open(url, key_size(archive.key))
                return True
            except FetchFailure as failure:  # noqa: PERF203
                job.debug(str(failure))
                if failure.kind not in ("missing", "size"):
                    raise
        return not archive.urls and self._clone.is_present_elsewhere(archive.key)

    def _resort_to_whole(self, job: Job, archive: Archive, failure: FetchFailure) -> None:
        with archive.lock:
            if not archive.is_whole_only:
                job.tell(f"{failure}. Getting the whole archive instead")
            archive.is_whole_only = True

    def _local_pieces(self, archive: Archive, locator: ImageLocator, size: int) -> Iterator[bytes]:
        with archive.lock:
            if archive.local is None:
                archive.local = self._clone.get(archive.key)
            path = archive.local
            span = Span(locator.offset, size) if locator.offset is not None else _member(archive, path, locator.path)
        if span.size != size:
            raise _damaged(
                path, f"{format_count(size, 'byte')} of '{locator.path}'", f"{format_count(span.size, 'byte')}"
            )
        yield from FileSource(path, key_size(archive.key)).read(span.start, span.size)


def _member(archive: Archive, path: Path, name: str) -> Span:
    """Where a member lies, for locators of other programs, which do not say so."""
    if not archive.members:
        try:
            with tarfile.open(path, "r:") as tar:
                archive.members = {info.name: Span(info.offset_data, info.size) for info in tar if info.isreg()}
        except tarfile.TarError as error:
            raise _damaged(path, "an uncompressed TAR", str(error)) from error
    if name not in archive.members:
        raise _damaged(path, f"a file '{name}' in it", "none")
    return archive.members[name]


def _damaged(path: Path, expected: str, found: str) -> DepositDamaged:
    return DepositDamaged(path, expected, found, "check it with 'git annex fsck', and get it again")


_ENOUGH_TO_SAY = 500


class Clone:
    """The clone whose git directory is ``git_dir``."""

    def __init__(self, git_dir: Path) -> None:
        self._git_dir = git_dir

    def content_of(self, key: str) -> Path | None:
        """The file that holds the content of ``key``, None where it is not here."""
        done = self._annex("contentlocation", key)
        name = done.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")
        if done.returncode or not name:
            return None
        places = [self._git_dir / name, self._git_dir.parent / name]
        return next((place for place in places if place.is_file()), None)

    def get(self, key: str) -> Path:
        """Have git-annex get ``key`` from wherever it can. Raises :class:`~icf_utils.errors.RemoteFailure`."""
        done = self._annex("get", "--key", key)
        place = self.content_of(key)
        if done.returncode or place is None:
            said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()[-_ENOUGH_TO_SAY:]
            raise RemoteFailure(
                f"archive {key}",
                f"git-annex cannot get it whole either: {said}",
                "see 'git annex whereis --key' for who should have it",
            )
        return place

    def is_present_elsewhere(self, key: str) -> bool:
        """Whether some remote has ``key`` now. Raises :class:`~icf_utils.errors.RemoteFailure` if nobody knows."""
        code = self._annex("checkpresentkey", key).returncode
        if code not in (0, 1):
            raise RemoteFailure(f"archive {key}", "git-annex cannot find out whether it is there", "try again later")
        return code == 0

    def _annex(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Standard output is ours alone: the process's own is the conversation with git-annex."""
        command = ["git", f"--git-dir={self._git_dir}", "annex", *arguments]
        if self._git_dir.name == ".git":
            command[1:2] = ["-C", str(self._git_dir.parent)]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603 - no shell
