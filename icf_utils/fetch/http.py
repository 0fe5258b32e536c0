"""Bytes of objects on web servers, whole or by ranges, resumed where a stream was cut. Uses the network."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import requests

from icf_utils.credentials import Secret, without_credentials
from icf_utils.fetch.problems import FetchFailure
from icf_utils.fetch.replies import (
    PASSING,
    Asked,
    Body,
    Identity,
    condition,
    identity_of,
    judge,
    refusal,
    unauthorised,
    whole_size,
)
from icf_utils.fetch.source import CHUNK
from icf_utils.fetch.web import CUT, Attempts, Auth, Web, reason_of


class _CutShort(Exception):
    """A stream ended before what was announced."""


class HttpSource:
    """An object on a web server; see :class:`~icf_utils.fetch.source.Source`.

    ``expected`` is the size in bytes that it must have, if that is known; ``takes`` is what can be given to a server
    that wants to know who asks, for messages. What has come of a read is kept when the
    stream is cut: the rest is asked for on its own, and must come from the same object. A server that knows no ranges
    is read from the start again, which :meth:`read` does only for reads from the start; others raise
    :class:`~icf_utils.fetch.problems.RangesRefused` before anything is transferred.
    """

    def __init__(
        self, url: str, web: Web, auth: Auth = None, expected: int | None = None, takes: str = "a login"
    ) -> None:
        self._url, self._web, self._auth, self._takes = url, web, auth, takes
        self._where = without_credentials(url)
        self._pinned = Identity("", expected)
        self._lock = threading.Lock()
        self._head_is_disliked = False

    @property
    def where(self) -> str:
        return self._where

    def size(self) -> int | None:
        if self._pinned.size is None:
            self._ask_for_size()
        return self._pinned.size

    def exists(self) -> bool:
        """Whether the server has it now, by a request without a body; its size must be the expected one."""
        try:
            self._ask_for_size()
        except FetchFailure as failure:
            if failure.kind == "missing":
                return False
            raise
        return True

    def read(self, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        attempts, done = Attempts(self._where, self._web.patience, self._web.stop), 0
        while size is None or done < size:
            asked = Asked(start, size, done)
            try:
                response = self._send("GET", asked)
                with closing(response):
                    if response.status_code in PASSING:
                        self._pause(attempts, response)
                        continue
                    for chunk in self._body(response, asked):
                        attempts.check()
                        attempts.progressed()
                        done += len(chunk)
                        yield chunk
                if size is None:
                    return
            except _CutShort as error:
                attempts.pause(str(error))
            except CUT as error:
                attempts.pause(f"the connection failed ({reason_of(error)})")

    def _send(self, method: str, asked: Asked) -> requests.Response:
        headers = {}
        if asked.at or asked.size is not None:
            end = "" if asked.left is None else asked.at + asked.left - 1
            headers["Range"] = f"bytes={asked.at}-{end}"
            headers.update(condition(self._pinned.mark))
        response = self._web.request(method, self._url, headers, self._auth)
        if response.status_code == 401:
            with closing(response):
                raise unauthorised(self._where, response.headers, self._sent(response), self._takes)
        return response

    def _sent(self, response: requests.Response) -> str:
        """What the answered request carried, in words: nothing where it was redirected to another server."""
        if "Authorization" not in response.request.headers:
            return ""
        return "token" if isinstance(self._auth, Secret) else "user and password"

    def _body(self, response: requests.Response, asked: Asked) -> Iterator[bytes]:
        """The part of an answer's body that was asked for; raises :class:`_CutShort` if it ends early."""
        if response.status_code in (200, 206):
            self._refuse_replaced(identity_of(response.headers, None))
        body = judge(self._where, response.status_code, response.headers, asked)
        self._pin(body.identity)
        come = 0
        try:
            for chunk in _trimmed(response, body):
                come += len(chunk)
                yield chunk
        except _CutShort as error:
            raise _CutShort(f"the stream was cut after {asked.done + come} bytes ({error})") from error
        if body.length is not None and come < body.length:
            raise _CutShort(f"the stream was cut after {asked.done + come} bytes")
        end = asked.at + come
        if asked.size is None and self._pinned.size is not None and end < self._pinned.size:
            raise _CutShort(f"the stream was cut after {end} of {self._pinned.size} bytes")

    def _pin(self, found: Identity) -> None:
        """What is read is one state of the object: the one of the first answer."""
        with self._lock:
            pinned = self._pinned
            if not pinned.mark and not pinned.agrees(found):
                problem = f"expected {pinned.size} bytes in all, found {found.size}"
                raise FetchFailure(self._where, problem, "it is another or a damaged file", kind="size")
            self._refuse_replaced(found)
            size = found.size if pinned.size is None else pinned.size
            self._pinned = Identity(pinned.mark or found.mark, size)

    def _refuse_replaced(self, found: Identity) -> None:
        """Before anything else that an answer may be wrong about: of another object, all else says nothing."""
        if not self._pinned.agrees(found):
            raise FetchFailure(self._where, "it was replaced during the transfer", "begin again", kind="changed")

    def _ask_for_size(self) -> None:
        """By HEAD; where a server dislikes that, by the answer to a request for the first byte, which is not read."""
        attempts = Attempts(self._where, self._web.patience, self._web.stop)
        asked = {"HEAD": Asked(0, None), "GET": Asked(0, 1)}
        method = "HEAD"
        while not self._ask(method, asked[method], attempts):
            method = "GET" if self._head_is_disliked else "HEAD"

    def _ask(self, method: str, asked: Asked, attempts: Attempts) -> bool:
        """Learn size and state from one answer; false where another attempt is needed."""
        try:
            with closing(self._send(method, asked)) as response:
                if response.status_code in PASSING - {501}:
                    self._pause(attempts, response)
                    return False
                if method == "HEAD" and _is_dislike(response):
                    self._head_is_disliked = True
                    return False
                self._learn(response)
                return True
        except CUT as error:
            attempts.pause(f"the connection failed ({reason_of(error)})")
            return False

    def _learn(self, response: requests.Response) -> None:
        status, headers = response.status_code, response.headers
        if status == 200:
            self._pin(judge(self._where, 200, headers, Asked(0, None)).identity)
        elif status == 206:
            self._pin(judge(self._where, 206, headers, Asked(0, 1)).identity)
        elif status == 416:  # of an empty object there is no first byte
            self._pin(identity_of(headers, 0))
        else:
            raise refusal(self._where, status)

    def _pause(self, attempts: Attempts, response: requests.Response) -> None:
        status = response.status_code
        attempts.pause(f"the server answered {status}", response.headers.get("Retry-After", ""), status)


def _trimmed(response: requests.Response, body: Body) -> Iterator[bytes]:
    """The body without what precedes and follows the part that is ours; bytes as they were sent, not decoded."""
    skip, left = body.skip, body.length
    for chunk in _raw(response):
        piece = chunk[skip:] if skip else chunk
        skip -= len(chunk) - len(piece)
        if left is not None:
            piece = piece[:left]
            left -= len(piece)
        if piece:
            yield piece
        if left == 0:
            return


def _raw(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.raw.stream(CHUNK, decode_content=False)
    except CUT as error:
        raise _CutShort(reason_of(error)) from error


def _is_dislike(response: requests.Response) -> bool:
    """Of HEAD: signed addresses allow GET only, and streaming servers tell no length of what they do not send."""
    status = response.status_code
    return status in (400, 403, 405, 501) or (status == 200 and whole_size(response.headers) is None)
