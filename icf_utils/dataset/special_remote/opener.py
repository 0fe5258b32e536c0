"""Opens what a dataset's addresses name: those that may be read, with the user's credentials for just that server.

Which credential a server gets is decided by :mod:`icf_utils.fetch.authentication`; a server that has rejected one is
not asked again while git-annex keeps this process running. Uses the network and the user's credentials.
"""

from __future__ import annotations

import threading
from urllib.parse import urlsplit

from icf_utils.dataset.special_remote.security import DatasetRule
from icf_utils.errors import InvalidSetting
from icf_utils.fetch.authentication import Authenticator
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.http import HttpClient
from icf_utils.fetch.source import ByteSource
from icf_utils.fetch.tls import TlsFiles

#: Connections to a server at a time, more than one archive's reader keeps.
_CONNECTIONS = 16


class Opener:
    """Opens sources that ``rule`` allows, with the trusted certificates of ``tls``. Setting ``stop`` ends transfers."""

    def __init__(
        self,
        rule: DatasetRule,
        tls: TlsFiles | None = None,
        *,
        authenticator: Authenticator | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._rule, self._authenticator = rule, authenticator or Authenticator()
        self._client = HttpClient(connections=_CONNECTIONS, rule=rule, tls=tls, stop=stop)

    def open(self, url: str, expected: int | None) -> ByteSource:
        """The source at ``url``, which exists, and has ``expected`` bytes if that is given.

        Raises :class:`~icf_utils.fetch.errors.FetchFailure`.
        """
        if urlsplit(url).scheme == "file":
            self._rule.check_file(url)
        return _present(self._authenticator.source(url, self._client, expected))

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
        return urlsplit(url).scheme == "file" or self._authenticator.was_used_for(url)


def _present(source: ByteSource) -> ByteSource:
    if source.exists():
        return source
    raise FetchFailure(source.where, "not found (404)", "check the address", kind="missing", status=404)
