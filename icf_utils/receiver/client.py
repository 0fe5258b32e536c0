"""The sessions of a receiver: over HTTP by :class:`HttpSessions`, or from its spool by :class:`LocalSessions`.

Both give the same records and the same zips (:mod:`icf_utils.receiver.web.records`,
:mod:`icf_utils.receiver.web.downloads`). Uses the network, or reads the journal; writes the zips that are downloaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

from icf_utils.credentials import Secret, bind_credential, origin_of, without_credentials
from icf_utils.errors import InvalidSetting, RemoteFailure, printable, storage_errors
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.http import HttpClient, Response, RetryPolicy
from icf_utils.fetch.http_source import HttpSource
from icf_utils.fetch.responses import ObjectState
from icf_utils.fetch.tls import TlsFiles
from icf_utils.formatting import format_size
from icf_utils.progress import Progress
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import Session
from icf_utils.receiver.processings import request_rerun, session_processings
from icf_utils.receiver.quarantine import accept_quarantine, drop_quarantine, quarantined_images
from icf_utils.receiver.routing import read_states, request_resend
from icf_utils.receiver.spool import is_held, space_problem
from icf_utils.receiver.web import downloads, shapes
from icf_utils.receiver.web.queries import parse_query
from icf_utils.receiver.web.records import event_records, quarantine_record, rejection_record, session_record
from icf_utils.receiver.web.virtual_zip import make_virtual_zip
from icf_utils.store.files import keep_access, rename_file

#: What the pages say of a session (:func:`icf_utils.receiver.web.records.session_record`).
SessionRecord = Mapping[str, Any]

#: Seconds to wait for an answer: the receiver may have to make a zip first.
_TIMEOUT = 600.0
_RETRY = RetryPolicy(connect=10.0, read=_TIMEOUT)

#: Bytes of the longest answers that are read.
_LARGEST_LIST, _LARGEST_LOG = 1 << 26, 1 << 26


@dataclass(frozen=True)
class Download:
    """A zip that was downloaded. ``size`` in bytes; ``resumed_at`` is how many of them were there before."""

    path: Path
    size: int
    sha256: str
    resumed_at: int


class Sessions(Protocol):
    """The sessions of one receiver.

    Methods raise :class:`~icf_utils.errors.InvalidSetting` for an unknown session, and
    :class:`~icf_utils.errors.RemoteFailure` where the receiver does not answer or refuses.
    """

    def list(self, words: Mapping[str, str]) -> Sequence[SessionRecord]:
        """Sessions that match a query (field and value), the newest first."""

    def log(self, session_id: str) -> bytes:
        """A session's log."""

    def delete(self, session_id: str) -> None:
        """Delete a session that is finished or held."""

    def retry(self, session_id: str) -> None:
        """Queue a failed session again."""

    def release(self, session_id: str) -> None:
        """Queue a held session."""

    def rerun(self, session_id: str, processings: Sequence[str]) -> None:
        """Queue a finished session again, with these processings, or all for none, whether needed or not."""

    def resend(self, session_id: str, targets: Sequence[str]) -> None:
        """Send a finished session again to these targets, or to all for none."""

    def quarantine(self, session_id: str) -> Sequence[SessionRecord]:
        """The images in a session's quarantine (:func:`~icf_utils.receiver.web.records.quarantine_record`)."""

    def accept(self, session_id: str) -> str:
        """Accept the images in a session's quarantine; returns the ID of the session with the corrected visit."""

    def drop(self, session_id: str) -> None:
        """Delete the images in a session's quarantine."""

    def rejected(self) -> Sequence[SessionRecord]:
        """The associations that were rejected last (:func:`~icf_utils.receiver.web.records.rejection_record`)."""

    def events(self, state: str) -> Sequence[SessionRecord]:
        """The last deliveries of events in a state, or in any for an empty text.

        They are as :func:`~icf_utils.receiver.web.records.event_record` describes them.
        """

    def retry_events(self) -> int:
        """Queue the deliveries that failed again; returns their number."""

    def is_served(self) -> bool:
        """Whether a receiver is processing them now, as far as is known here."""

    def space_problem(self) -> str:
        """Why the receiver refuses images for lack of space at present; empty if it does not."""

    def download(self, session_id: str, kind: str, folder: Path, progress: Progress) -> Download:
        """Download the zip of a session's ``input``, ``output`` or ``quarantine`` into ``folder``.

        An earlier attempt is resumed.
        """


class LocalSessions:
    """The sessions in the spool of a receiver on this machine; ``store`` is where its visits go.

    ``processings`` are those of each rule, ``reserve`` the space in bytes that stays free on the spool's disk.
    """

    def __init__(
        self, spool: Path, store: Path, processings: Mapping[str, tuple[str, ...]] | None = None, reserve: int = 0
    ) -> None:
        if not spool.is_dir():
            raise InvalidSetting(
                str(spool), "this folder does not exist; check that the receiver has been started, and with this spool"
            )
        self._journal, self._store = Journal(spool), store
        self._processings, self._reserve = processings or {}, reserve

    def list(self, words: Mapping[str, str]) -> Sequence[SessionRecord]:
        query = parse_query({word: [text] for word, text in words.items()})
        found = self._journal.sessions(query.wanted, query.limit, query.offset)
        return [self._record(item) for item in found]

    def _record(self, session: Session) -> SessionRecord:
        found = session_processings(session, self._store, self._processings.get(session.rule, ()))
        return session_record(session, *downloads.log_status(session), time.time(), found, read_states(session))

    def log(self, session_id: str) -> bytes:
        return downloads.read_log(self._session(session_id))

    def delete(self, session_id: str) -> None:
        self._journal.delete_session(self._session(session_id).id)

    def retry(self, session_id: str) -> None:
        self._journal.retry(session_id)

    def release(self, session_id: str) -> None:
        self._journal.release(session_id)

    def rerun(self, session_id: str, processings: Sequence[str]) -> None:
        session = self._session(session_id)
        if not session.is_finished:
            raise InvalidSetting("session", f"{session.id} is {session.state}; only a finished one can be rerun")
        known = self._processings.get(session.rule, ())
        if not known or not set(processings) <= set(known):
            raise InvalidSetting("--processing", f"the processings of its rule are: {', '.join(known) or 'none'}")
        request_rerun(session, processings)
        self._journal.rerun(session_id)

    def resend(self, session_id: str, targets: Sequence[str]) -> None:
        request_resend(self._journal.spool, self._session(session_id), targets)

    def quarantine(self, session_id: str) -> Sequence[SessionRecord]:
        return [quarantine_record(item) for item in quarantined_images(self._session(session_id), self._store)]

    def accept(self, session_id: str) -> str:
        return accept_quarantine(self._journal, self._store, self._session(session_id)).id

    def drop(self, session_id: str) -> None:
        drop_quarantine(self._journal, self._session(session_id))

    def rejected(self) -> Sequence[SessionRecord]:
        return [rejection_record(item) for item in self._journal.rejected_associations(downloads.MOST_REJECTED)]

    def events(self, state: str) -> Sequence[SessionRecord]:
        return event_records(self._journal, state)

    def retry_events(self) -> int:
        return self._journal.events.retry_failed()

    def is_served(self) -> bool:
        return is_held(self._journal.spool)

    def space_problem(self) -> str:
        return space_problem(self._journal.spool, self._reserve) if self.is_served() else ""

    def download(self, session_id: str, kind: str, folder: Path, progress: Progress) -> Download:
        session = self._session(session_id)
        names = self._processings.get(session.rule, ())
        found = make_virtual_zip(downloads.members_of(session, kind, self._store, names))
        zip_file = _PartialZip(folder, session.id, kind)
        with progress.task(zip_file.path.name, found.size, "B") as task, zip_file.writing(0) as write:
            for block in found.read(0, found.size):
                write(block)
                task.advance(len(block))
        zip_file.finish()
        return Download(zip_file.path, found.size, found.sha256.hex(), 0)

    def _session(self, session_id: str) -> Any:
        session = self._journal.session(session_id)
        if session is None or session.deleted:
            raise InvalidSetting("session", f"no session '{printable(session_id[:40])}'")
        return session


class HttpSessions:
    """The sessions of the receiver whose pages are at ``url``; ``token`` is sent to that origin alone, by no proxy."""

    def __init__(self, url: str, token: Secret, tls: TlsFiles | None = None, retry: RetryPolicy = _RETRY) -> None:
        self._url = without_credentials(url).rstrip("/")
        self._credential = bind_credential(url, token)
        self._client = HttpClient(1, retry, tls=tls, with_proxies=False)

    def list(self, words: Mapping[str, str]) -> Sequence[SessionRecord]:
        return self._records("/sessions", shapes.SESSION, words)

    def _records(
        self, address: str, shape: shapes.Shape, words: Mapping[str, str] | None = None
    ) -> Sequence[SessionRecord]:
        with self._request("GET", address, query=words) as response:
            found = self._json(response)
        if not isinstance(found, list) or not all(shapes.has_shape(item, shape) for item in found):
            raise self._failure("expected a list of sessions, found something else")
        return found

    @staticmethod
    def _json(response: Response) -> Any:
        """The JSON of an answer; ``None`` for anything else."""
        try:
            return json.loads(response.read(_LARGEST_LIST))
        except (ValueError, RecursionError):
            return None

    def log(self, session_id: str) -> bytes:
        with self._request("GET", f"/sessions/{_checked(session_id)}/log", limit=_LARGEST_LOG) as response:
            return response.read(_LARGEST_LOG, _TIMEOUT)

    def delete(self, session_id: str) -> None:
        self._request("DELETE", f"/sessions/{_checked(session_id)}", is_repeatable=False).close()

    def retry(self, session_id: str) -> None:
        self._request("POST", f"/sessions/{_checked(session_id)}/retry", is_repeatable=False).close()

    def release(self, session_id: str) -> None:
        self._request("POST", f"/sessions/{_checked(session_id)}/release", is_repeatable=False).close()

    def resend(self, session_id: str, targets: Sequence[str]) -> None:
        words = urlencode([("target", name) for name in targets])
        self._request("POST", f"/sessions/{_checked(session_id)}/resend?{words}", is_repeatable=False).close()

    def rerun(self, session_id: str, processings: Sequence[str]) -> None:
        words = urlencode([("processing", name) for name in processings])
        self._request("POST", f"/sessions/{_checked(session_id)}/rerun?{words}", is_repeatable=False).close()

    def quarantine(self, session_id: str) -> Sequence[SessionRecord]:
        return self._records(f"/sessions/{_checked(session_id)}/quarantine", shapes.QUARANTINED)

    def accept(self, session_id: str) -> str:
        address = f"/sessions/{_checked(session_id)}/quarantine/accept"
        with self._request("POST", address, is_repeatable=False) as response:
            found = self._json(response)
        if not shapes.has_shape(found, shapes.SESSION):
            raise self._failure("expected a session, found something else")
        return str(found["id"])

    def drop(self, session_id: str) -> None:
        self._request("POST", f"/sessions/{_checked(session_id)}/quarantine/drop", is_repeatable=False).close()

    def rejected(self) -> Sequence[SessionRecord]:
        return self._records("/associations/rejected", shapes.REJECTION)

    def events(self, state: str) -> Sequence[SessionRecord]:
        return self._records("/events", shapes.EVENT, {"state": state} if state else None)

    def retry_events(self) -> int:
        with self._request("POST", "/events/retry", is_repeatable=False) as response:
            found = self._json(response)
        amount = found.get("queued") if isinstance(found, dict) else None
        if not isinstance(amount, int):
            raise self._failure("expected a number of events, found something else")
        return amount

    def announce(self, key: str, words: Sequence[str]) -> None:
        """Give the arguments of the next send of a study, by its :func:`~icf_utils.receiver.identify.study_key`."""
        query = {"study_key": key, "arguments": shlex.join(words)}
        self._request("POST", "/arguments", query=query).close()

    def is_served(self) -> bool:
        """The pages are the receiver's own; when they stop answering, the next request says so."""
        return True

    def space_problem(self) -> str:
        with self._request("GET", "/space") as response:
            found = self._json(response)
        if not shapes.has_shape(found, shapes.SPACE):
            raise self._failure("expected the state of the spool's disk, found something else")
        return str(found["problem"])

    def download(self, session_id: str, kind: str, folder: Path, progress: Progress) -> Download:
        zip_file = _PartialZip(folder, _checked(session_id), kind)
        address = f"/sessions/{session_id}/{kind}.zip"
        size, tag, digest = self._describe(address)
        first = zip_file.resume(tag, size)
        source = HttpSource(
            f"{self._url}{address}", self._client, self._credential, known=ObjectState(f'"{tag}"' if tag else "", size)
        )
        try:
            with progress.task(zip_file.path.name, size - first, "B") as task, zip_file.writing(first) as write:
                for block in source.read(first, size - first):
                    write(block)
                    task.advance(len(block))
        except FetchFailure as failure:
            if failure.kind in ("changed", "no-ranges"):
                zip_file.discard()
            raise self._interrupted(failure, zip_file.size) from failure
        if not digest or zip_file.digest() != digest:
            zip_file.discard()
            raise self._failure(f"'{zip_file.path.name}' was damaged on its way: its checksum differs")
        zip_file.finish()
        return Download(zip_file.path, size, digest.hex(), first)

    def _describe(self, address: str) -> tuple[int, str, bytes]:
        """Size, entity tag and SHA-256 of a zip, as the receiver describes it."""
        with self._client.request("HEAD", f"{self._url}{address}", credential=self._credential) as response:
            size, headers = response.headers.get("Content-Length", ""), response.headers
            if response.status == 200 and size.isascii() and size.isdecimal():
                return int(size), headers.get("ETag", "").strip('"'), _digest_of(headers.get("Repr-Digest", ""))
        self._request("GET", address).close()  # which says in words why there is none
        raise self._failure("expected a zip of known size, found something else")

    def _interrupted(self, failure: FetchFailure, size: int) -> RemoteFailure:
        if size:
            received = f"{format_size(size)} are kept, and the same command continues from there"
            return RemoteFailure(failure.where, f"{failure.problem}; {received}", failure.remedy)
        return failure

    def _request(
        self,
        method: str,
        address: str,
        *,
        query: Mapping[str, str] | None = None,
        limit: int = _LARGEST_LIST,
        is_repeatable: bool = True,
    ) -> Response:
        """The answer to a request that the receiver accepted. Raises :class:`~icf_utils.errors.RemoteFailure`."""
        response = self._client.request(
            method,
            f"{self._url}{address}",
            credential=self._credential,
            query=query,
            timeout=_TIMEOUT,
            limit=limit if not address.endswith(".zip") else None,
            is_repeatable=is_repeatable,
        )
        if response.status in (200, 204):
            return response
        with response:
            if response.status == 401 and not response.carried:
                problem = f"it redirects to {origin_of(response.url)}, and the token is not for that address"
                raise RemoteFailure(self._url, problem, "give that address with --url, if it is the receiver's")
            raise self._failure(f"{method} {address}: {response.status}{_reason_in(response)}")

    def _failure(self, problem: str) -> RemoteFailure:
        return RemoteFailure(
            self._url, printable(problem), "check the address and the token, and that the server is running"
        )


class _PartialZip:
    """A zip that is being downloaded: ``<name>.part``, and ``<name>.tag`` with the entity tag that it belongs to."""

    def __init__(self, folder: Path, session_id: str, kind: str) -> None:
        self.path = folder / f"{session_id}-{kind}.zip"
        self._part, self._tag = self.path.with_suffix(".zip.part"), self.path.with_suffix(".zip.tag")
        with storage_errors(folder, "create"):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def size(self) -> int:
        """Bytes that are there."""
        with suppress(OSError):
            return self._part.stat().st_size
        return 0

    def resume(self, tag: str, size: int) -> int:
        """How many bytes of the zip with this entity tag are there; those of another one are discarded."""
        if not tag or self._read_tag() != tag or self.size > size:
            self.discard()
        with storage_errors(self._tag, "write"):
            self._tag.write_text(tag, encoding="ascii", errors="replace")
        return self.size

    def _read_tag(self) -> str:
        with suppress(OSError, ValueError):
            return self._tag.read_text(encoding="ascii").strip()
        return ""

    @contextmanager
    def writing(self, start: int) -> Iterator[Callable[[bytes], None]]:
        """A function that appends to the first ``start`` bytes. Failures of the block are not the disk's."""
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

    def discard(self) -> None:
        for path in (self._part, self._tag):
            path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the zip its name."""
        with storage_errors(self.path, "write"):
            rename_file(self._part, self.path)
        self._tag.unlink(missing_ok=True)


def _checked(session_id: str) -> str:
    """An ID that can be part of an address."""
    if not (session_id.isascii() and session_id.isalnum() and len(session_id) < 20):
        raise InvalidSetting("session", f"'{printable(session_id[:40])}' is not the ID of a session, such as s000017")
    return session_id


def _digest_of(header: str) -> bytes:
    """The SHA-256 in a Repr-Digest header (RFC 9530); empty where there is none."""
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name == "sha-256":
            with suppress(ValueError):
                return base64.b64decode(value.strip(":"))
    return b""


def _reason_in(response: Response) -> str:
    """The reason that the receiver gives, as JSON; empty where it gives none."""
    try:
        return f", {json.loads(response.read(_LARGEST_LIST))['error']}"
    except (ValueError, RecursionError, KeyError, TypeError, FetchFailure):
        return ""
