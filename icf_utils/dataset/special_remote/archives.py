"""Where an archive's bytes come from: the annex, ``file://``, a web server by ranges, or the whole archive after all.

An archive is asked for at one origin only (:mod:`icf_utils.dataset.special_remote.origins`).

Reads files and the network; lets git-annex get a whole archive where nothing else helps.
"""

from __future__ import annotations

import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from icf_utils.dataset.annex_keys import ImageLocator, key_size
from icf_utils.dataset.special_remote.clone import Clone
from icf_utils.dataset.special_remote.opener import Opener
from icf_utils.dataset.special_remote.origins import at_one_origin, origin_name, origins_of_remotes
from icf_utils.dataset.special_remote.protocol import Job
from icf_utils.dataset.special_remote.reader import ImageReader
from icf_utils.dataset.special_remote.rewriting import read_rewriting
from icf_utils.errors import DepositDamaged
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.files import FileSource
from icf_utils.fetch.ranges import Span
from icf_utils.formatting import format_count

#: The origin of an archive that is in the annex.
ANNEX = "annex"

#: Failures after which git-annex may still get the archive as a whole, from there or elsewhere.
_WHOLE_MAY_HELP = frozenset({"no-ranges", "encoded", "missing"})

#: Seconds for which an answer whether an archive exists holds for its other images.
_HOLDS_FOR = 10.0


@dataclass
class Archive:
    """What is known of an archive so far; ``lock`` is held while more is determined.

    ``local`` is its file in the annex, ``urls`` are its addresses at one origin, ``others`` the origins that are not
    asked (see above). ``asked`` and ``exists`` are when it was last asked for, and the answer. ``members`` are the
    images of a local one by name, for locators without a position.
    """

    key: str
    urls: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    local: Path | None = None
    reader: ImageReader | None = None
    is_known: bool = False
    is_whole_only: bool = False
    asked: float = float("-inf")
    exists: bool = False
    members: dict[str, Span] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def origin(self) -> str:
        """Where its bytes come from; empty where no address can be read here."""
        if self.local is not None:
            return ANNEX
        return origin_name(self.urls[0]) if self.urls else ""


class Archives:
    """The archives of one clone, while git-annex keeps this process running."""

    def __init__(self, clone: Clone, opener: Opener) -> None:
        self._clone, self._opener = clone, opener
        self._lock = threading.Lock()
        self._known: dict[str, Archive] = {}
        self._preferred = origins_of_remotes(clone)
        self._rewriting = read_rewriting(clone)

    def origin(self, job: Job, locator: ImageLocator) -> str:
        """Where the bytes of an image's archive come from: an origin, :data:`ANNEX`, or empty."""
        return self._find(job, locator.archive_key).origin

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
                if archive.others and any(map(self._opener.is_private, archive.urls)):
                    raise self._kept_here(archive, failure) from failure
                self._resort_to_whole(job, archive, failure)
        yield from self._local_pieces(archive, locator, size)

    def is_present(self, job: Job, locator: ImageLocator, size: int) -> bool:
        """Whether the image's bytes are available now: the archive exists, and is as large as its key says."""
        archive, total = self._find(job, locator.archive_key), key_size(locator.archive_key)
        if locator.offset is not None and total is not None and locator.offset + size > total:
            return False
        if archive.local is not None:
            return total is None or archive.local.stat().st_size == total
        with archive.lock:
            if time.monotonic() - archive.asked > _HOLDS_FOR:
                archive.exists = self._exists(job, archive)
                archive.asked = time.monotonic()
            return archive.exists

    def _find(self, job: Job, key: str) -> Archive:
        """The archive, with its file in the annex and its addresses."""
        with self._lock:
            archive = self._known.setdefault(key, Archive(key))
        with archive.lock:
            if not archive.is_known:
                archive.urls, archive.others = at_one_origin(
                    self._rewriting.rewrite(key, job.urls(key)), self._opener.may_ask, self._preferred
                )
                archive.local = self._clone.content_of(key)
                archive.is_known = True
            if archive.local is not None and not archive.local.exists():  # it was dropped in the meantime
                archive.local = None
        return archive

    def _kept_here(self, archive: Archive, failure: FetchFailure) -> FetchFailure:
        """git-annex would try the other origins next, which must not learn what this one has."""
        return FetchFailure(
            failure.where,
            f"{failure.problem}; other servers also have it, but are not asked ({', '.join(archive.others)})",
            f"if they may be asked, get the whole archive: git annex get --key '{archive.key}'",
            kind=failure.kind,
            status=failure.status,
        )

    def _reader(self, archive: Archive) -> ImageReader:
        """The archive at the first of its addresses that works, which is kept."""
        with archive.lock:
            if archive.reader is None:
                archive.reader = self._open_first(archive)
            return archive.reader

    def _open_first(self, archive: Archive) -> ImageReader:
        total = key_size(archive.key)
        failure = FetchFailure(
            f"archive {archive.key}", "its size or its address is unknown", "get it as a whole", kind="missing"
        )
        for url in archive.urls if total else ():
            try:
                return ImageReader(self._opener.open(url, total), total or 0)
            except FetchFailure as problem:  # noqa: PERF203
                failure = problem
        raise failure

    def _exists(self, job: Job, archive: Archive) -> bool:
        """Ask the servers. A file of another size is not the archive.

        Other remotes are asked only if no address can be read here, since those with the same address accept any file
        that they find there.
        """
        for url in archive.urls:
            try:
                self._opener.open(url, key_size(archive.key))
                return True
            except FetchFailure as failure:  # noqa: PERF203
                job.debug(str(failure))
                if failure.kind not in ("missing", "size"):
                    raise
        return not archive.urls and self._clone.is_present_elsewhere(archive.key)

    def _resort_to_whole(self, job: Job, archive: Archive, failure: FetchFailure) -> None:
        with archive.lock:
            if not archive.is_whole_only:
                job.inform(f"{failure}. Getting the whole archive instead")
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
    """The position of a member, for locators of other programs, which do not contain it."""
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
