"""The special remote ``git-annex-remote-icf``: gets an image's bytes from an archive. Writes the files of images."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

from icf_utils.child_environment import drop_secrets
from icf_utils.dataset.annex_keys import ImageLocator, key_md5, key_size, parse_locator
from icf_utils.dataset.special_remote.archives import Archives
from icf_utils.dataset.special_remote.clone import Clone
from icf_utils.dataset.special_remote.opener import Opener
from icf_utils.dataset.special_remote.protocol import Conversation, Job
from icf_utils.dataset.special_remote.security import read_rule, read_tls
from icf_utils.errors import DepositDamaged, DepositMissing, IcfError, storage_errors

_NO_ADDRESS = "get the archive and unpack it, or ask the dataset's author"
#: Bytes between two messages of progress; small images need none.
_REPORT_EACH = 512 * 1024

_OTHER_BYTES = "the archive at its address was changed; report it to the store's administrator"


class ImageRemote:
    """Gets images of archives; see :class:`icf_utils.dataset.special_remote.protocol.Remote`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._archives: Archives | None = None

    def retrieve(self, job: Job, key: str, path: str) -> None:
        """Try the image's addresses at one origin in turn. Raises the failure of the last one."""
        failure: IcfError | None = None
        places = self._places(job, key)
        if not places:
            raise DepositMissing(f"an address in an archive for {key}", _NO_ADDRESS)
        for locator, size in places:
            try:
                self._write(job, key, path, locator, size)
                return
            except IcfError as problem:  # noqa: PERF203
                failure = problem
                with suppress(OSError):
                    os.unlink(path)
        assert failure
        raise failure

    def is_present(self, job: Job, key: str) -> bool:
        archives = self._opened(job)
        return any(archives.is_present(job, locator, size) for locator, size in self._places(job, key))

    def whereis(self, job: Job, key: str) -> str:
        places = [parse_locator(url) for url in job.urls(key, "dl+archive:")]
        return ", ".join(f"{place.path} in {place.archive_key}" for place in places if place)

    def _places(self, job: Job, key: str) -> list[tuple[ImageLocator, int]]:
        """Where the image is, with its size: at the origin of its first address.

        Addresses that contradict the key are left out, and those at other origins
        (:mod:`icf_utils.dataset.special_remote.security`).
        """
        found = []
        for url in job.urls(key, "dl+archive:"):
            locator, size = parse_locator(url), key_size(key)
            size = size if size is not None or locator is None else locator.size
            if locator and size is not None and locator.size in (None, size):
                found.append((locator, size))
        if len(found) < 2:
            return found
        origins = [self._opened(job).origin(job, locator) for locator, _ in found]
        return [place for place, origin in zip(found, origins, strict=True) if origin == origins[0]]

    def _write(self, job: Job, key: str, path: str, locator: ImageLocator, size: int) -> None:
        digest, done, reported = hashlib.md5(usedforsecurity=False), 0, 0
        with storage_errors(path, "write"), open(path, "wb") as file:
            for piece in self._opened(job).pieces(job, locator, size):
                file.write(piece)
                digest.update(piece)
                done += len(piece)
                if done - reported >= _REPORT_EACH:
                    job.progress(done)
                    reported = done
        expected = key_md5(key)
        if expected and digest.hexdigest() != expected:
            place = f"{locator.archive_key} at byte {locator.offset}"
            raise DepositDamaged(place, f"an image with the MD5 {expected}", digest.hexdigest(), _OTHER_BYTES)

    def _opened(self, job: Job) -> Archives:
        with self._lock:
            if self._archives is None:
                clone = Clone(Path(job.ask("GETGITDIR")).absolute())

                def ask_uuid() -> str:
                    return job.ask("GETUUID")

                self._archives = Archives(clone, Opener(read_rule(clone, ask_uuid), read_tls(clone, ask_uuid)))
            return self._archives


def main() -> int:
    """The program, which git-annex starts.

    Standard output belongs to git-annex; whatever a library prints goes to standard error. Secrets that are not for
    datasets are dropped from the environment, so that no library can pass them to a program.
    """
    drop_secrets()
    if len(sys.argv) > 1 or sys.stdin.isatty():
        sys.stderr.write("git-annex-remote-icf is started by git-annex; see 'icf-utils configure-clone --help'\n")
        return 2
    with os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogateescape", newline="\n") as outgoing:
        os.dup2(2, 1)
        with (
            open(0, encoding="utf-8", errors="surrogateescape", newline="\n", closefd=False) as incoming,
            suppress(KeyboardInterrupt, BrokenPipeError),
        ):
            Conversation(ImageRemote(), incoming, outgoing).run()
    return 0
