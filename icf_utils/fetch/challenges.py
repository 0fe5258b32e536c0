"""Which credential answers a server's 401: the one that the user has stored for just this server, or types.

A server, or a dataset that names one, can claim anything. Nothing that it says decides who gets a credential:

- A credential is looked for only after a 401, for the origin (scheme, host, port) that sent it.
- DataLad's credentials are filed under a realm that begins with an address. One is used only where that address is
  of the same origin; a server that names another site's realm gets nothing.
- netrc names hosts. An entry ``machine HOST`` is for ``https://HOST``, an entry ``machine HOST:PORT`` for that port.
  Its ``default`` entry is not used.
- The keyring's entry has the origin as its service, such as ``https://data.example.org``.
- What the user types at the question is for the origin that the question shows.

Uses netrc, DataLad's credential store (datalad-next, its documented ``CredentialManager``) and the keyring where these
are installed; asks on the terminal.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from icf_utils.credentials import (
    Credential,
    Login,
    Secret,
    WebOrigin,
    ask_login,
    bind_credential,
    find_keyring_login,
    find_netrc_login,
    origin_of,
)
from icf_utils.errors import InvalidSetting, printable

#: Authentication schemes that a transfer can use, and the type of DataLad's credentials for each.
_TYPES = {"basic": "user_password", "bearer": "token"}

_SUPPORTED = re.compile(r"(?:^|,)\s*((?:basic|bearer)\b)", re.IGNORECASE)

#: The realm in a challenge (RFC 9110, 11.2 and 5.6.4).
_QUOTED = re.compile(r'\brealm="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_PLAIN = re.compile(r'\brealm=([^\s,"]+)', re.IGNORECASE)


@dataclass(frozen=True)
class Challenge:
    """What a server's 401 asks for: ``scheme`` is one that icf-utils supports, else the first one of the server.

    ``realm`` is the name that DataLad files the credential under.
    """

    origin: WebOrigin
    scheme: str
    realm: str

    @property
    def is_supported(self) -> bool:
        return self.scheme in _TYPES

    @classmethod
    def of(cls, url: str, header: str) -> Challenge:
        """The challenge in a ``WWW-Authenticate`` header that ``url`` sent; of several, one that can be answered.

        >>> Challenge.of("https://example.org/a", 'Negotiate, Basic realm="my store"').scheme
        'basic'
        """
        supported = _SUPPORTED.search(header)
        header = header[supported.start(1) :] if supported else header
        return cls(origin_of(url), header.partition(" ")[0].rstrip(",").lower(), _realm_of(url, header))


def _advice(origin: WebOrigin, scheme: str, realm: str) -> str:
    if scheme not in _TYPES:
        return f"icf-utils supports Basic and Bearer authentication only, not '{printable(scheme)}'"
    kind = _TYPES[scheme]
    if importlib.util.find_spec("datalad_next"):
        name = realm if _is_of(realm, origin) else str(origin)
        user = " user=NAME" if kind == "user_password" else ""
        return f"store yours with: datalad credentials set my-store type={kind}{user} realm='{printable(name)}'"
    if kind == "token":
        return "install DataLad with datalad-next, which stores tokens, or use 'icf-utils retrieve --token-file FILE'"
    host = origin.host if (origin.scheme, origin.port) == ("https", 443) else f"{origin.host}:{origin.port}"
    return f"store yours in ~/.netrc (chmod 600): machine {host} login NAME password PASSWORD"


def _realm_of(url: str, challenge: str) -> str:
    """What DataLad files a server's credentials under: its realm, with the server's address in front.

    >>> _realm_of("https://example.org/a/b", 'Basic realm="my store"')
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


def find_credential(challenge: Challenge, *, may_ask: bool = True) -> tuple[Credential | None, str]:
    """The credential for a challenge, and how the user can store one.

    From DataLad, by the realm or by the origin itself; from netrc; from the keyring; if ``may_ask``, from the terminal.
    Raises :class:`~icf_utils.errors.InvalidSetting` for a netrc that cannot be used.
    """
    origin, scheme, realm = challenge.origin, challenge.scheme, challenge.realm
    advice = _advice(origin, scheme, realm)
    if scheme not in _TYPES:
        return None, advice
    realms = dict.fromkeys([realm, str(origin), f"{origin}/"] if _is_of(realm, origin) else [str(origin), f"{origin}/"])
    found: Login | Secret | None = None
    for name in realms:
        found = found or _from_datalad(name, _TYPES[scheme])
    if found is None and scheme == "basic":
        found = find_netrc_login(origin) or find_keyring_login(origin)
        found = found or (ask_login(origin, advice) if may_ask else None)
    return bind_credential(str(origin), found), advice


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
