"""Opens what a dataset's addresses name: those that may be read, with the user's credentials for just that server.

Which credential a server gets is decided by :mod:`icf_utils.fetch.challenges`. A folder of a server that has refused
it is not asked again while git-annex keeps this process running: servers lock accounts after some refused passwords.

Uses the network and the user's credentials; asks on the terminal.
"""

from __future__ import annotations

import threading
from urllib.parse import urlsplit

from icf_utils.credentials import Credential, WebOrigin, origin_of, without_credentials
from icf_utils.dataset.special_remote.security import DatasetRule
from icf_utils.errors import InvalidSetting
from icf_utils.fetch.challenges import CredentialFinder
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.http import HttpClient
from icf_utils.fetch.open import open_source
from icf_utils.fetch.source import ByteSource
from icf_utils.fetch.tls import TlsFiles

#: Connections to a server at a time, more than one archive's reader keeps.
_CONNECTIONS = 16


class Opener:
    """Opens sources that ``rule`` allows, with the trusted certificates of ``tls``.

    ``credential`` is sent to its own server at once; for others, ``finder`` finds one after a 401. Setting ``stop``
    ends transfers.
    """

    def __init__(
        self,
        rule: DatasetRule,
        tls: TlsFiles | None = None,
        *,
        finder: CredentialFinder | None = None,
        credential: Credential | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._rule, self._given = rule, credential
        self._client = HttpClient(connections=_CONNECTIONS, rule=rule, tls=tls, stop=stop)
        self._finder = finder or CredentialFinder()
        self._used: set[WebOrigin] = set()
        self._lock = threading.Lock()
        self._refused: dict[str, FetchFailure] = {}

    def open(self, url: str, expected: int | None) -> ByteSource:
        """The source at ``url``, which exists, and has ``expected`` bytes if that is given.

        Raises :class:`~icf_utils.fetch.errors.FetchFailure`.
        """
        if urlsplit(url).scheme == "file":
            self._rule.check_file(url)
            return _present(open_source(url, expected=expected))
        folder = without_credentials(url).rpartition("/")[0]
        with self._lock:
            known = self._refused.get(folder)
        if known:
            raise known
        try:
            return _present(open_source(url, self._client, self._given, expected))
        except FetchFailure as failure:
            if failure.kind != "unauthorised" or self._was_given(failure.challenger):
                raise
            try:
                return self._open_with_credential(url, expected, failure)
            except FetchFailure as second:
                if second.kind == "unauthorised":
                    with self._lock:
                        self._refused[folder] = second
                raise

    def _open_with_credential(self, url: str, expected: int | None, challenge: FetchFailure) -> ByteSource:
        credential, advice = self._finder.answer(challenge)
        if credential is None:
            problem = "the server requires authentication (401), and no credentials for it are known"
            raise FetchFailure(without_credentials(url), problem, advice, kind="unauthorised", status=401) from None
        self._used |= {credential.origin, origin_of(url)}
        try:
            return _present(open_source(url, self._client, credential, expected))
        except FetchFailure as failure:
            if failure.kind != "unauthorised":
                raise
            problem = f"the server rejects the known {credential.kind} (401)"
            raise FetchFailure(without_credentials(url), problem, advice, kind="unauthorised", status=401) from None

    def _was_given(self, challenger: str) -> bool:
        """Whether this server has refused the credential that the user gave for it."""
        return self._given is not None and self._given.origin == origin_of(challenger)

    def may_ask(self, url: str) -> bool:
        """Whether an address is allowed, as far as it says so itself: names are not resolved."""
        try:
            if urlsplit(url).scheme == "file":
                self._rule.check_file(url)
            else:
                self._rule.check_url(url)
        except (FetchFailure, InvalidSetting):
            return False
        return True

    def is_private(self, url: str) -> bool:
        """Whether what is at ``url`` is the user's: on this machine's disk, or at a server that got credentials."""
        return urlsplit(url).scheme == "file" or origin_of(url) in self._used


def _present(source: ByteSource) -> ByteSource:
    if source.exists():
        return source
    raise FetchFailure(source.where, "not found (404)", "check the address", kind="missing", status=404)
