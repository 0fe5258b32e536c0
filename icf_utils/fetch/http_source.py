"""Bytes of objects on web servers, whole or by ranges, resumed where a stream was cut. Uses the network."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from icf_utils.credentials import Credential, WebOrigin, origin_of, without_credentials
from icf_utils.fetch.errors import ConnectionFailure, FetchFailure
from icf_utils.fetch.http import HttpClient, Response, Retries, pause_after
from icf_utils.fetch.responses import (
    TRANSIENT,
    BodyPart,
    ObjectState,
    RequestedRange,
    failure_for,
    interpret,
    range_condition,
    state_of,
    unauthorised,
    whole_size,
)
from icf_utils.formatting import format_count


class _CutShort(Exception):
    """A stream ended before what was announced."""


#: So many bytes are progress, and so is a hundredth of what is left. Fewer are not: a server that sends some bytes for
#: each request could keep a client for days.
_ENOUGH = 1 << 16


class HttpSource:
    """An object on a web server; see :class:`~icf_utils.fetch.source.Source`.

    ``credential`` is sent to the origin that it belongs to. ``expected`` is the size in bytes that the object must
    have, ``known`` the state of it that must be found, as far as they are known. ``advice`` says what to do where the
    server requires authentication and nothing was sent.

    When a stream is cut, the bytes that have arrived are kept: only the rest is requested, and must come from the same
    state of the object. From a server without ranges, it is read from the start again, which :meth:`read` does for
    reads from the start; others raise :class:`~icf_utils.fetch.errors.RangesRefused` before anything is transferred.

    Raises :class:`~icf_utils.errors.InvalidSetting` for an address that is not the web's, and for credentials in one.
    """

    def __init__(
        self,
        url: str,
        client: HttpClient,
        credential: Credential | None = None,
        expected: int | None = None,
        advice: str = "give a user name and password, or a token",
        known: ObjectState | None = None,
    ) -> None:
        self._url, self._client, self._advice = url, client, advice
        origin_of(url)  # raises for what is not a web address
        self._credential = credential
        self._where = without_credentials(url)
        self._pinned = known or ObjectState("", expected)
        self._lock = threading.Lock()

    @property
    def where(self) -> str:
        return self._where

    def size(self) -> int | None:
        if self._pinned.size is None:
            self._ask_for_size()
        return self._pinned.size

    def exists(self) -> bool:
        """Whether the server has it now, with the expected size."""
        try:
            self._ask_for_size()
        except FetchFailure as failure:
            if failure.kind == "missing":
                return False
            raise
        return True

    def read(self, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        retries, done = Retries(self._where, self._client.retry, self._client.stop), 0
        while size is None or done < size:
            asked = RequestedRange(start, size, done)
            try:
                with self._ask("GET", asked) as response:
                    if response.status in TRANSIENT:
                        pause_after(retries, response)
                        continue
                    before, enough = done, _least_progress(asked)
                    for chunk in self._body(response, asked):
                        retries.check()
                        done += len(chunk)
                        if done - before >= enough:
                            retries.progressed()
                        yield chunk
                if size is None:
                    return
                if done < size and done - before < enough:  # a part of the range, with which a server may answer
                    retries.pause(f"the server sent {format_count(done - before, 'byte')} of the {size} requested")
            except _CutShort as error:
                retries.pause(str(error))
            except ConnectionFailure as failure:
                retries.pause(failure.problem)

    def _ask(self, method: str, asked: RequestedRange) -> Response:
        """One request; 401 is raised."""
        headers = {}
        if asked.at or asked.size is not None:
            end = "" if asked.left is None else asked.at + asked.left - 1
            headers["Range"] = f"bytes={asked.at}-{end}"
            headers.update(range_condition(self._pinned.mark))
        response = self._client.request_once(method, self._url, credential=self._credential, headers=headers)
        return self._authorised(response)

    def _authorised(self, response: Response) -> Response:
        if response.status == 401:
            with response:
                advice = self._advice
                if self._credential and not response.carried:
                    advice = _meant_for_another(self._credential.origin, response.url)
                raise unauthorised(self._where, response.headers, response.url, response.carried, advice)
        return response

    def _body(self, response: Response, asked: RequestedRange) -> Iterator[bytes]:
        """The part of an answer's body that was asked for; raises :class:`_CutShort` if it ends early."""
        if response.status in (200, 206):
            self._refuse_replaced(state_of(response.headers, None))
        body = interpret(self._where, response.status, response.headers, asked)
        self._pin(body.identity)
        come = 0
        try:
            for chunk in _trimmed(response, body):
                come += len(chunk)
                yield chunk
        except ConnectionFailure as failure:
            problem = failure.problem if failure.kind == "timeout" else "the transfer was cut off"
            raise _CutShort(f"{problem} after {asked.done + come} bytes") from failure
        if body.length is not None and come < body.length:
            raise _CutShort(f"the transfer was cut off after {asked.done + come} bytes")
        end = asked.at + come
        if asked.size is None and self._pinned.size is not None and end < self._pinned.size:
            raise _CutShort(f"the transfer was cut off after {end} of {self._pinned.size} bytes")

    def _pin(self, found: ObjectState) -> None:
        """What is read is one state of the object: the one of the first answer."""
        with self._lock:
            pinned = self._pinned
            if not pinned.mark and not pinned.agrees(found):
                problem = f"expected {pinned.size} bytes in total, found {found.size}"
                raise FetchFailure(self._where, problem, "it is another file, or damaged", kind="size")
            self._refuse_replaced(found)
            size = found.size if pinned.size is None else pinned.size
            self._pinned = ObjectState(pinned.mark or found.mark, size)

    def _refuse_replaced(self, found: ObjectState) -> None:
        """Comes before all other checks, whose results would be meaningless for another object."""
        if not self._pinned.agrees(found):
            raise FetchFailure(
                self._where, "it was replaced during the transfer", "run the same command again", kind="changed"
            )

    def _ask_for_size(self) -> None:
        """By HEAD; where a server does not support that, by a request for the first byte, whose body is not read."""
        with self._request("HEAD", {}) as response:
            if not _lacks_head(response):
                self._learn(response)
                return
        with self._request("GET", {"Range": "bytes=0-0", **range_condition(self._pinned.mark)}) as response:
            self._learn(response)

    def _request(self, method: str, headers: dict[str, str]) -> Response:
        return self._authorised(self._client.request(method, self._url, credential=self._credential, headers=headers))

    def _learn(self, response: Response) -> None:
        status, headers = response.status, response.headers
        if status == 200:
            self._pin(interpret(self._where, 200, headers, RequestedRange(0, None)).identity)
        elif status == 206:
            self._pin(interpret(self._where, 206, headers, RequestedRange(0, 1)).identity)
        elif status == 416:  # an empty object has no first byte
            self._pin(state_of(headers, 0))
        else:
            raise failure_for(self._where, status)


def _least_progress(asked: RequestedRange) -> int:
    """How many bytes an answer must bring to count as progress."""
    return _ENOUGH if asked.left is None else max(1, min(_ENOUGH, asked.left // 100))


def _meant_for_another(origin: WebOrigin, url: str) -> str:
    return f"it redirects to {origin_of(url)}, and the credentials are for {origin}: use the address it redirects to"


def _trimmed(response: Response, body: BodyPart) -> Iterator[bytes]:
    """The bytes of the body that are part of ``body``; as they were sent, not decoded."""
    skip, left = body.skip, body.length
    for chunk in response.stream():
        piece = chunk[skip:] if skip else chunk
        skip -= len(chunk) - len(piece)
        if left is not None:
            piece = piece[:left]
            left -= len(piece)
        if piece:
            yield piece
        if left == 0:
            return


def _lacks_head(response: Response) -> bool:
    """HEAD is not supported: signed addresses allow GET only, and streaming servers send no length without a body."""
    status = response.status
    return status in (400, 403, 405, 501) or (status == 200 and whole_size(response.headers) is None)
