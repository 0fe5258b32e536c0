"""Sessions seen from elsewhere: over HTTP, or in the receiver's own folder. Uses the network, or reads the journal.

Both give the same records and the same zips (see :mod:`icf_utils.receiver.web.records` and ``zips``).
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from icf_utils.credentials import Secret, without_credentials
from icf_utils.errors import InvalidSetting, RemoteFailure, printable, storage_errors
from icf_utils.progress import SILENT, Progress
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.spool import is_held
from icf_utils.receiver.web import downloads
from icf_utils.receiver.web.queries import parse_query
from icf_utils.receiver.web.records import session_record
from icf_utils.receiver.web.virtual_zip import make_virtual_zip
from icf_utils.store.files import keep_access, rename_file

Record = Mapping[str, Any]

_TIMEOUT = (10, 600)
_TRIES = 5


@dataclass(frozen=True)
class Download:
    """A zip on the disk. ``size`` in bytes; ``resumed_at`` is how much was there already."""

    path: Path
    size: int
    sha256: str
    resumed_at: int


class Sessions(Protocol):
    """Where sessions are asked for."""

    def list(self, words: Mapping[str, str]) -> list[Record]:
        """Sessions that fit the words of a query, the newest first."""

    def log(self, session_id: str) -> bytes:
        """A session's log."""

    def delete(self, session_id: str) -> None:
        """Delete a finished session."""

    def retry(self, session_id: str) -> None:
        """Queue a failed session once more."""

    def is_served(self) -> bool:
        """Whether a receiver works on them now, as far as can be seen from here."""

    def download(self, session_id: str, kind: str, folder: Path, progress: Progress) -> Download:
        """Put ``input`` or ``output`` of a session into ``folder`` as a zip, going on where an earlier try ended."""


class LocalSessions:
    """The journal of this machine's receiver; ``store`` is where its visits go."""

    def __init__(self, spool: Path, store: Path) -> None:
        if not spool.is_dir():
            raise InvalidSetting(str(spool), "there is no such folder; has the receiver ever run?")
        self._journal, self._store = Journal(spool), store

    def list(self, words: Mapping[str, str]) -> list[Record]:
        query = parse_query({word: [text] for word, text in words.items()})
        found = self._journal.sessions(query.wanted, query.limit, query.offset)
        return [session_record(item, *downloads.log_status(item), time.time()) for item in found]

    def log(self, session_id: str) -> bytes:
        return downloads.read_log(self._known(session_id))

    def delete(self, session_id: str) -> None:
        self._journal.delete_session(self._known(session_id).id)

    def retry(self, session_id: str) -> None:
        self._journal.retry(session_id)

    def is_served(self) -> bool:
        return is_held(self._journal.spool)

    def download(self, session_id: str, kind: str, folder: Path, progress: Progress) -> Download:
        session = self._known(session_id)
        is_input = kind == "input"
        members = downloads.input_members(session) if is_input else downloads.output_members(session, self._store)
        found = make_virtual_zip(members)
        target = _Target(folder, session.id, kind)
        with progress.task(target.path.name, found.size, "B") as task, target.writing(0) as write:
            for block in found.read(0, found.size):
                write(block)
                task.advance(len(block))
        target.finish(found.sha256)
        return Download(target.path, found.size, found.sha256.hex(), 0)

    def _known(self, session_id: str) -> Any:
        session = self._journal.session(session_id)
        if session is None or session.deleted:
            raise InvalidSetting("session", f"there is none called '{printable(session_id[:40])}'")
        return session


class HttpSessions:
    """The pages of a receiver at ``url``."""

    def __init__(self, url: str, token: Secret) -> None:
        import requests

        self._url, self._errors = without_credentials(url).rstrip("/"), requests.RequestException
        self._broken = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
        self._session = requests.Session()
        self._session.trust_env = False  # no netrc and no proxy for a token that is for this address alone
        self._session.headers.update({"Authorization": f"Bearer {token.value}", "Accept-Encoding": "identity"})

    def list(self, words: Mapping[str, str]) -> list[Record]:
        found = self._ask("GET", "/sessions", params=dict(words)).json()
        return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []

    def log(self, session_id: str) -> bytes:
        return bytes(self._ask("GET", f"/sessions/{_checked(session_id)}/log").content)

    def delete(self, session_id: str) -> None:
        self._ask("DELETE", f"/sessions/{_checked(session_id)}")

    def retry(self, session_id: str) -> None:
        self._ask("POST", f"/sessions/{_checked(session_id)}/retry")

    def is_served(self) -> bool:
        """Whoever has the pages knows; here it is believed until they stop to answer."""
        return True

    def download(self, session_id: str, kind: str, folder: Path, progress: Progress) -> Download:
        target, address = _Target(folder, _checked(session_id), kind), f"/sessions/{session_id}/{kind}.zip"
        first = target.begun()
        for _ in range(_TRIES):
            with suppress(*self._broken):
                return self._fetch(target, address, first, progress)
        problem = f"the download broke off {_TRIES} times; {target.begun()} bytes are there, and the next try goes on"
        raise self._failure(problem)

    def _fetch(self, target: _Target, address: str, first: int, progress: Progress) -> Download:
        start, tag = target.begun(), target.tag()
        headers = {"Range": f"bytes={start}-", "If-Range": f'"{tag}"'} if start and tag else {}
        with self._ask("GET", address, headers=headers, stream=True, allowed=(200, 206, 416)) as answer:
            if answer.status_code == 416:  # all of it is there, or something else is
                return self._whole(target, answer, first)
            start = start if answer.status_code == 206 else 0
            target.note_tag(answer.headers.get("ETag", "").strip('"'))
            size = int(answer.headers.get("Content-Length", 0))
            with progress.task(target.path.name, size, "B") as task, target.writing(start) as write:
                for block in answer.iter_content(1 << 20):
                    write(block)
                    task.advance(len(block))
            digest = _digest_of(answer.headers.get("Repr-Digest", ""))
        return self._done(target, digest, min(first, start))

    def _whole(self, target: _Target, answer: Any, first: int) -> Download:
        size = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if size != str(target.begun()):
            target.forget()
            return self._fetch(target, answer.request.path_url, 0, SILENT)
        head = self._ask("HEAD", answer.request.path_url)
        return self._done(target, _digest_of(head.headers.get("Repr-Digest", "")), first)

    def _done(self, target: _Target, digest: bytes, resumed_at: int) -> Download:
        found = target.digest()
        if not digest or found != digest:
            target.forget()
            raise self._failure(f"'{target.path.name}' did not arrive as it was sent; its checksum differs")
        size = target.begun()
        target.finish(digest)
        return Download(target.path, size, digest.hex(), resumed_at)

    def _ask(self, method: str, address: str, allowed: tuple[int, ...] = (200, 204), **more: Any) -> Any:
        try:
            answer = self._session.request(
                method, f"{self._url}{address}", timeout=_TIMEOUT, allow_redirects=False, **more
            )
        except self._errors as error:
            raise self._failure(f"no answer ({type(error).__name__})") from error
        if answer.status_code in allowed:
            return answer
        raise self._failure(f"{method} {address}: {answer.status_code}{_words(answer)}")

    def _failure(self, problem: str) -> RemoteFailure:
        return RemoteFailure(self._url, printable(problem), "check address and token, and whether the server runs")


class _Target:
    """A zip on its way to the disk: ``<name>.part``, beside it the tag that it belongs to."""

    def __init__(self, folder: Path, session_id: str, kind: str) -> None:
        self.path = folder / f"{session_id}-{kind}.zip"
        self._part, self._tag = self.path.with_suffix(".zip.part"), self.path.with_suffix(".zip.tag")
        with storage_errors(folder, "create"):
            folder.mkdir(parents=True, exist_ok=True)

    def begun(self) -> int:
        with suppress(OSError):
            return self._part.stat().st_size
        return 0

    def tag(self) -> str:
        with suppress(OSError, ValueError):
            return self._tag.read_text(encoding="ascii").strip()
        return ""

    def note_tag(self, tag: str) -> None:
        with storage_errors(self._tag, "write"):
            self._tag.write_text(tag, encoding="ascii")

    @contextmanager
    def writing(self, start: int) -> Iterator[Callable[[bytes], None]]:
        """What writes behind the first ``start`` bytes; failures of the block are not those of the disk."""
        with storage_errors(self._part, "create"):
            descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            file.truncate(start)
            file.seek(start)

            def write(block: bytes) -> None:
                with storage_errors(self._part, "write"):
                    while block:
                        block = block[file.write(block) or 0 :]

            yield write
            with storage_errors(self._part, "write"):
                keep_access(self.path, descriptor)
                os.fsync(descriptor)

    def digest(self) -> bytes:
        digest = hashlib.sha256()
        with storage_errors(self._part, "read"), self._part.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.digest()

    def forget(self) -> None:
        for path in (self._part, self._tag):
            path.unlink(missing_ok=True)

    def finish(self, digest: bytes) -> None:
        """Give the zip its name, if its bytes are the right ones."""
        with storage_errors(self.path, "write"):
            rename_file(self._part, self.path)
        self._tag.unlink(missing_ok=True)


def _checked(session_id: str) -> str:
    """An id as it may stand in an address."""
    if not (session_id.isascii() and session_id.isalnum() and len(session_id) < 20):
        raise InvalidSetting("session", f"'{printable(session_id[:40])}' is no session's id, such as s000017")
    return session_id


def _digest_of(header: str) -> bytes:
    """The SHA-256 in a Repr-Digest header (RFC 9530); empty where there is none."""
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name == "sha-256":
            with suppress(ValueError):
                return base64.b64decode(value.strip(":"))
    return b""


def _words(answer: Any) -> str:
    try:
        return f", {answer.json()['error']}"
    except (ValueError, KeyError, TypeError):
        return ""
