"""What is done about a server's 401, in one way for everything that reads stores and datasets.

- A credential that the user has given for a server (:meth:`Authenticator.give`) is sent with the first request to it.
- Other servers are asked without one. After a 401, a credential is looked for (:mod:`icf_utils.fetch.challenges`),
  and the request is repeated once.
- What has opened an address is sent at once for all addresses in the same folder and below (RFC 7617, 2.2).
- A rejected credential is not sent again, and where none was found, the server is not asked again: servers lock
  accounts after some rejected passwords. The first request to a folder with a credential is sent alone; requests of
  other threads wait for its outcome.
- The user is asked only about the host of the address that was to be opened. A host that this redirects to gets a
  credential only where one is stored for just that origin.

All of it holds for as long as an :class:`Authenticator` lives, which one run of a command shares. Uses the network and
what :mod:`icf_utils.fetch.challenges` uses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from icf_utils.credentials import Credential, WebOrigin, origin_of, without_credentials
from icf_utils.fetch.challenges import Challenge, find_credential
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.open import open_source
from icf_utils.fetch.source import ByteSource

if TYPE_CHECKING:
    from icf_utils.fetch.http import HttpClient

_T = TypeVar("_T")


@dataclass
class _Answer:
    """A credential that answers challenges, or the reason why there is none; and the folders that it opens or not.

    ``realm`` is that of the challenge, and empty for a credential that was given for all of a server.
    """

    credential: Credential | None
    advice: str
    realm: str = ""
    why_none: str = "the server requires authentication (401), and no credentials for it are known"
    lock: threading.Lock = field(default_factory=threading.Lock)
    accepted: set[str] = field(default_factory=set)
    rejected: dict[str, FetchFailure] = field(default_factory=dict)

    def rejection(self, folder: str) -> FetchFailure | None:
        """The rejection that counts for a folder: its own one, or any if the credential has opened nothing."""
        if folder in self.rejected or self.accepted:
            return self.rejected.get(folder)
        return next(iter([*self.rejected.values()]), None)


class Authenticator:
    """The credentials of a run, and which server rejected them; safe for threads.

    ``options`` says in messages which options give a credential. Without ``may_ask``, the user is not asked; without
    ``may_find``, no other credentials are used than those that are given.
    """

    def __init__(self, options: str = "", *, may_ask: bool = True, may_find: bool = True) -> None:
        self._options, self._may_ask, self._may_find = options, may_ask, may_find
        self._lock, self._finding = threading.Lock(), threading.Lock()
        self._given: dict[WebOrigin, _Answer] = {}
        self._found: dict[tuple[Challenge, bool], _Answer] = {}
        self._folders: dict[str, _Answer] = {}
        self._used: set[WebOrigin] = set()

    def give(self, credential: Credential | None) -> None:
        """Send ``credential`` with each request to its origin, and look for no other one there."""
        if credential is None:
            return
        with self._lock:
            known = self._given.get(credential.origin)
            if known is None or known.credential != credential:
                known = self._given[credential.origin] = _Answer(credential, f"check the {credential.kind}")
            self._folders[str(credential.origin)] = known

    def source(self, url: str, client: HttpClient | None = None, expected: int | None = None) -> ByteSource:
        """The object at ``url``, like :func:`~icf_utils.fetch.open.open_source`; nothing is requested yet."""
        if urlsplit(url).scheme == "file":
            return open_source(url, expected=expected)
        advice = self._options or "check the address"
        return _AuthenticatedSource(self, url, lambda secret: open_source(url, client, secret, expected, advice))

    def run(self, url: str, attempt: Callable[[Credential | None], _T]) -> _T:
        """The result of ``attempt`` with the credential that the server at ``url`` requires: ``None`` where none is.

        Calls it once, and once more after a 401. Raises :class:`~icf_utils.fetch.errors.FetchFailure` of the kind
        ``unauthorised`` where no credential is known, or the server rejects it; and
        :class:`~icf_utils.errors.InvalidSetting` for a netrc that cannot be used.
        """
        folder = _folder_of(url)
        answer = self._known_for(folder)
        try:
            return attempt(None) if answer is None else self._send(answer, url, attempt)
        except FetchFailure as failure:
            found = self._other_answer(failure, url, answer)
            if found is None:
                raise
        return self._send(found, url, attempt)

    def login_for(self, url: str, client: HttpClient | None = None) -> tuple[Credential, str] | None:
        """The credential that the server at ``url`` requires, and the realm that it names; ``None`` without any.

        Raises as :meth:`run` does.
        """
        if urlsplit(url).scheme == "file":
            return None
        try:
            open_source(url, client).exists()
        except FetchFailure as failure:
            answer = self._other_answer(failure, url, None)
            if answer is None:
                raise
            realm = Challenge.of(failure.challenger, failure.challenge).realm
        else:
            return None
        self._send(answer, url, lambda credential: open_source(url, client, credential).exists())
        return (answer.credential, realm) if answer.credential else None

    def was_used_for(self, url: str) -> bool:
        """Whether a request for an address of the server of ``url`` has needed a credential."""
        return origin_of(url) in self._used

    def _known_for(self, folder: str) -> _Answer | None:
        """What is known for a folder, or for the nearest one above it."""
        with self._lock:
            while folder and folder not in self._folders:
                folder = folder.rpartition("/")[0]
            return self._folders.get(folder)

    def _other_answer(self, failure: FetchFailure, url: str, tried: _Answer | None) -> _Answer | None:
        """What answers the challenge in a failure, kept for the folder of ``url``; ``None`` if nothing does.

        ``tried`` has failed: if the folder's own one has, no other is looked for, whatever the server names next.
        """
        folder = _folder_of(url)
        if failure.kind != "unauthorised" or not failure.challenge or not failure.challenger:
            return None
        with self._lock:
            if tried is not None and folder in self._folders:
                return None
        found = self._find_answer(Challenge.of(failure.challenger, failure.challenge), url)
        is_new = tried is None or found.credential != tried.credential
        with self._lock:
            self._folders[folder] = found if is_new or tried is None else tried
        return found if is_new else None

    def _find_answer(self, challenge: Challenge, url: str) -> _Answer:
        with self._lock:
            given = self._given.get(challenge.origin)
        if given:
            return given
        is_same_host = challenge.origin.host == origin_of(url).host
        may_ask = self._may_ask and is_same_host and challenge.origin.scheme in ("https", origin_of(url).scheme)
        with self._finding:  # one question at a time
            answer = self._found.get((challenge, may_ask))
            if answer is None:
                found = find_credential(challenge, may_ask=may_ask) if self._may_find else (None, "")
                answer = _Answer(*found, challenge.realm)
                if answer.credential is None and challenge.is_supported:
                    options = self._options if is_same_host else "use that address if you trust it"
                    answer.advice = ", or ".join(filter(None, (options, answer.advice)))
                if answer.credential is None and not is_same_host:
                    answer.why_none = f"it redirects to {challenge.origin}, which requires authentication (401)"
                self._found[challenge, may_ask] = answer
        return answer

    def _send(self, answer: _Answer, url: str, attempt: Callable[[Credential | None], _T]) -> _T:
        """One attempt with a credential; alone, until it has opened the folder."""
        folder = _folder_of(url)
        if answer.credential is None:
            raise _unauthorised(url, answer.why_none, answer.advice)
        with nullcontext() if folder in answer.accepted else answer.lock:
            if known := answer.rejection(folder):
                raise _unauthorised(url, known.problem, known.remedy)
            try:
                result = attempt(answer.credential)
            except FetchFailure as failure:
                if not _is_rejection(failure, answer.credential):
                    raise
                problem = f"the server rejects the {answer.credential.kind} (401)"
                rejection = answer.rejected[folder] = _unauthorised(url, problem, answer.advice)
                rejection.challenge, rejection.challenger = failure.challenge, failure.challenger
                raise rejection from None
            answer.accepted.add(folder)
        self._used |= {answer.credential.origin, origin_of(url)}
        return result


def _is_rejection(failure: FetchFailure, credential: Credential) -> bool:
    """Whether the server that has got the credential rejects it, and not another one that this redirects to."""
    if failure.kind != "unauthorised":
        return False
    return not failure.challenger or origin_of(failure.challenger) == credential.origin


def _unauthorised(url: str, problem: str, remedy: str) -> FetchFailure:
    return FetchFailure(without_credentials(url), problem, remedy, kind="unauthorised", status=401)


def _folder_of(url: str) -> str:
    """The address of the folder that an object is in, beginning with its origin."""
    path = urlsplit(url).path.rpartition("/")[0]
    return f"{origin_of(url)}{path}"


class _AuthenticatedSource:
    """A :class:`~icf_utils.fetch.source.ByteSource` that is opened with the credential its server requires."""

    def __init__(
        self, authenticator: Authenticator, url: str, opened: Callable[[Credential | None], ByteSource]
    ) -> None:
        self._authenticator, self._url, self._open = authenticator, url, opened
        self._sources: dict[Credential | None, ByteSource] = {}
        self._lock = threading.Lock()
        self._with(None)  # raises for what cannot be opened

    @property
    def where(self) -> str:
        return without_credentials(self._url)

    def size(self) -> int | None:
        return self._authenticator.run(self._url, lambda credential: self._with(credential).size())

    def exists(self) -> bool:
        return self._authenticator.run(self._url, lambda credential: self._with(credential).exists())

    def read(self, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        def begin(credential: Credential | None) -> tuple[bytes | None, Iterator[bytes]]:
            pieces = self._with(credential).read(start, size)
            return next(pieces, None), pieces

        first, rest = self._authenticator.run(self._url, begin)
        if first is not None:
            yield first
            yield from rest

    def _with(self, credential: Credential | None) -> ByteSource:
        with self._lock:
            if credential not in self._sources:
                self._sources[credential] = self._open(credential)
            return self._sources[credential]
