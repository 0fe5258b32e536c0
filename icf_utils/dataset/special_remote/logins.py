"""Who asks, for web servers that want to know: DataLad's credentials, netrc, or a question on the terminal.

Uses the network, and DataLad's credential store (datalad-next, its documented ``CredentialManager``) where that is
installed.
"""

from __future__ import annotations

import getpass
import os
import re
import threading
from typing import Any
from urllib.parse import urlsplit

from icf_utils.credentials import Login, Secret, bind_credential, find_login, without_credentials
from icf_utils.errors import printable
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.http import HttpClient
from icf_utils.fetch.open import open_source
from icf_utils.fetch.source import Source

#: Authentication schemes that a transfer can use, and the type of DataLad's credentials for each.
_TYPES = {"basic": "user_password", "bearer": "token"}

#: The realm in a challenge (RFC 9110, 11.2 and 5.6.4).
_QUOTED = re.compile(r'\brealm="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_PLAIN = re.compile(r'\brealm=([^\s,"]+)', re.IGNORECASE)


#: Connections to a server at a time, more than one archive's reader keeps.
CONNECTIONS = 16


class Logins:
    """Opens sources, with credentials where a server wants them. A user is asked once for each realm."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client = HttpClient(connections=CONNECTIONS)
        self._known: dict[tuple[str, str], Login | Secret | None] = {}

    def open(self, url: str, expected: int | None) -> Source:
        """The source at ``url``, which is there, and has ``expected`` bytes if that is said.

        Raises :class:`~icf_utils.fetch.errors.FetchFailure`.
        """
        source = open_source(url, self._client, None, expected)
        try:
            return _present(source)
        except FetchFailure as failure:
            if failure.kind != "unauthorised":
                raise
            scheme, realm = failure.challenge.split(" ", 1)[0].lower(), realm_of(url, failure.challenge)
        with self._lock:
            if (scheme, realm) not in self._known:
                self._known[scheme, realm] = _look(url, scheme, realm)
            login = self._known[scheme, realm]
        if login is None:
            raise _unauthorised(url, "the server wants to know who asks (401), and nobody told", realm)
        try:
            return _present(open_source(url, self._client, bind_credential(url, login), expected))
        except FetchFailure as failure:
            if failure.kind != "unauthorised":
                raise
            raise _unauthorised(url, "the server refuses the user and password that are known", realm) from None


def _present(source: Source) -> Source:
    if source.exists():
        return source
    raise FetchFailure(source.where, "there is no such thing (404)", "check the address", kind="missing", status=404)


def _unauthorised(url: str, problem: str, realm: str) -> FetchFailure:
    remedy = (
        f"store yours with: datalad credentials set my-store type=user_password user=NAME realm='{printable(realm)}'"
    )
    return FetchFailure(without_credentials(url), problem, remedy, kind="unauthorised", status=401)


def realm_of(url: str, challenge: str) -> str:
    """What DataLad files a server's credentials under: its realm, with the server's address in front.

    >>> realm_of("https://example.org/a/b", 'Basic realm="my store"')
    'https://example.org/my store'
    """
    quoted, plain = _QUOTED.search(challenge), _PLAIN.search(challenge)
    realm = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else plain[1] if plain else ""
    parts = urlsplit(realm)
    if parts.scheme and parts.netloc:
        return realm
    place = urlsplit(url)
    return f"{place.scheme}://{place.netloc}{'' if realm.startswith('/') else '/'}{realm}"


def _look(url: str, scheme: str, realm: str) -> Login | Secret | None:
    if scheme not in _TYPES:
        return None
    found = _from_datalad(realm, _TYPES[scheme])
    if found or scheme != "basic":
        return found
    return find_login(url, "", "") or _ask(realm)


def _from_datalad(realm: str, kind: str) -> Login | Secret | None:
    """The credential of this realm that was last used, from DataLad's store; without a prompt."""
    try:
        from datalad_next.credman import CredentialManager
    except ImportError:
        return None
    try:
        _, found = CredentialManager().obtain(query_props={"realm": realm, "type": kind})
    except ValueError:  # there is none
        return None
    return _as_login(found, kind)


def _as_login(found: dict[str, Any], kind: str) -> Login | Secret | None:
    secret = found.get("secret")
    if not secret:
        return None
    if kind == "token":
        return Secret(secret)
    return Login(found["user"], Secret(secret)) if found.get("user") else None


def _ask(realm: str) -> Login | None:
    """Ask on the terminal, where there is one; not on standard input, which is git-annex's."""
    if os.environ.get("GIT_TERMINAL_PROMPT") == "0":
        return None
    try:
        with open("/dev/tty", "r+b", buffering=0) as terminal:
            terminal.write(
                f"{printable(realm)} wants to know who asks; 'datalad credentials set' keeps it.\nUser: ".encode()
            )
            user = terminal.readline().decode("utf-8", "replace").strip()
    except OSError:
        return None
    password = getpass.getpass("Password: ") if user else ""
    return Login(user, Secret(password)) if password else None
