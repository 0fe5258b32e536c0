"""Opens what a dataset's addresses name: those that may be read, with the user's credentials for just that server.

A dataset, or a server that it names, can claim anything. Nothing that they say decides who gets a credential:

- A credential is looked for only after a 401, for the origin (scheme, host, port) that sent it.
- DataLad's credentials are filed under a realm that begins with an address. One is used only where that address is
  of the same origin; a server that names another site's realm gets nothing.
- netrc names hosts. An entry ``machine HOST`` is for ``https://HOST``, an entry ``machine HOST:PORT`` for that port.
  Its ``default`` entry is not used.
- What the user types at the question is for the origin that the question shows.

Uses the network, netrc, and DataLad's credential store (datalad-next, its documented ``CredentialManager``) where that
is installed; asks on the terminal.
"""

from __future__ import annotations

import getpass
import os
import re
import threading
from typing import Any
from urllib.parse import urlsplit

from icf_utils.credentials import (
    Credential,
    Login,
    Secret,
    WebOrigin,
    bind_credential,
    find_netrc_login,
    origin_of,
    without_credentials,
)
from icf_utils.dataset.special_remote.security import DatasetRule
from icf_utils.errors import InvalidSetting, printable
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.http import HttpClient
from icf_utils.fetch.open import open_source
from icf_utils.fetch.source import ByteSource

#: Authentication schemes that a transfer can use, and the type of DataLad's credentials for each.
_TYPES = {"basic": "user_password", "bearer": "token"}

#: The realm in a challenge (RFC 9110, 11.2 and 5.6.4).
_QUOTED = re.compile(r'\brealm="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_PLAIN = re.compile(r'\brealm=([^\s,"]+)', re.IGNORECASE)

#: Connections to a server at a time, more than one archive's reader keeps.
_CONNECTIONS = 16


class Opener:
    """Opens sources that ``rule`` allows. A user is asked once for each origin and realm."""

    def __init__(self, rule: DatasetRule) -> None:
        self._rule = rule
        self._lock = threading.Lock()
        self._client = HttpClient(connections=_CONNECTIONS, rule=rule)
        self._known: dict[tuple[WebOrigin, str, str], Credential | None] = {}
        self._used: set[WebOrigin] = set()

    def open(self, url: str, expected: int | None) -> ByteSource:
        """The source at ``url``, which exists, and has ``expected`` bytes if that is given.

        Raises :class:`~icf_utils.fetch.errors.FetchFailure`.
        """
        if urlsplit(url).scheme == "file":
            self._rule.check_file(url)
            return _present(open_source(url, expected=expected))
        try:
            return _present(open_source(url, self._client, None, expected))
        except FetchFailure as failure:
            if failure.kind != "unauthorised":
                raise
            credential, advice = self._answer(failure)
        if credential is None:
            problem = "the server requires authentication (401), and no credentials for it are known"
            raise FetchFailure(without_credentials(url), problem, advice, kind="unauthorised", status=401)
        self._used |= {credential.origin, origin_of(url)}
        try:
            return _present(open_source(url, self._client, credential, expected))
        except FetchFailure as failure:
            if failure.kind != "unauthorised":
                raise
            problem = f"the server rejects the known {credential.kind} (401)"
            raise FetchFailure(without_credentials(url), problem, advice, kind="unauthorised", status=401) from None

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

    def _answer(self, failure: FetchFailure) -> tuple[Credential | None, str]:
        """The credential for a challenge, and how the user can give one."""
        scheme = failure.challenge.split(" ", 1)[0].lower()
        realm = realm_of(failure.challenger, failure.challenge)
        origin = origin_of(failure.challenger)
        with self._lock:
            if (origin, scheme, realm) not in self._known:
                self._known[origin, scheme, realm] = _find_credential(origin, scheme, realm)
            return self._known[origin, scheme, realm], _advice(origin, scheme, realm)


def _present(source: ByteSource) -> ByteSource:
    if source.exists():
        return source
    raise FetchFailure(source.where, "not found (404)", "check the address", kind="missing", status=404)


def _advice(origin: WebOrigin, scheme: str, realm: str) -> str:
    if scheme not in _TYPES:
        return f"icf-utils knows Basic and Bearer authentication only, not '{printable(scheme)}'"
    name = realm if _is_of(realm, origin) else str(origin)
    kind = _TYPES[scheme]
    user = " user=NAME" if kind == "user_password" else ""
    return f"store yours with: datalad credentials set my-store type={kind}{user} realm='{printable(name)}'"


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


def _is_of(realm: str, origin: WebOrigin) -> bool:
    """Whether a realm is an address of this origin."""
    try:
        return origin_of(realm) == origin
    except InvalidSetting:
        return False


def _find_credential(origin: WebOrigin, scheme: str, realm: str) -> Credential | None:
    """From DataLad, by the realm or by the origin itself; from netrc; from the terminal."""
    if scheme not in _TYPES:
        return None
    realms = dict.fromkeys([realm, str(origin), f"{origin}/"] if _is_of(realm, origin) else [str(origin), f"{origin}/"])
    found: Login | Secret | None = None
    for name in realms:
        found = found or _from_datalad(name, _TYPES[scheme])
    if found is None and scheme == "basic":
        found = find_netrc_login(origin) or _ask(origin)
    return bind_credential(str(origin), found)


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


def _ask(origin: WebOrigin) -> Login | None:
    """Ask on the terminal, where there is one; not on standard input, which is git-annex's."""
    if os.environ.get("GIT_TERMINAL_PROMPT") == "0":
        return None
    try:
        with open("/dev/tty", "r+b", buffering=0) as terminal:
            words = f"{printable(str(origin))} requires authentication; 'datalad credentials set' keeps it.\nUser: "
            terminal.write(words.encode())
            user = terminal.readline().decode("utf-8", "replace").strip()
    except OSError:
        return None
    password = getpass.getpass("Password: ") if user else ""
    return Login(user, Secret(password)) if password else None
