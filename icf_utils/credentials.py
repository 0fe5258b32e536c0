"""Passwords, tokens and session cookies: where they come from, and which server they may be sent to.

They come from the environment, a file, ``~/.netrc``, the system's keyring, or a question at the terminal; never from
the command line and never from a URL, both of which other users of a machine and its logs can see. The objects here
print as stars.

A secret becomes sendable by :func:`bind_credential` only, which ties it to one origin: scheme, host and port of a web
address (RFC 6454). The HTTP client (:mod:`icf_utils.fetch.http`) sends it to that origin and to no other one.

Reads the environment, files, the keyring and the terminal; writes the question to the terminal and nothing else.
"""

from __future__ import annotations

import base64
import getpass
import netrc
import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from icf_utils.errors import InvalidSetting, printable, storage_errors

#: Bytes of the longest file of a secret.
_LONGEST = 65536


@dataclass(frozen=True)
class Secret:
    """A password or token, which no message, log or traceback shows.

    >>> Secret("hunter2"), str(Secret("hunter2"))
    (Secret(***), '***')
    """

    value: str = field(repr=False)

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"


@dataclass(frozen=True)
class Login:
    """A user's name and password."""

    user: str
    password: Secret


@dataclass(frozen=True)
class SessionCookie:
    """A cookie that replaces the login, until the server ends it."""

    name: str
    value: Secret


#: What can be sent in a header: visible ASCII characters (RFC 6750, 2.1; RFC 6265, 4.1.1).
_TOKEN = re.compile(r"[\x21-\x7e]+")

#: Default ports of the schemes that credentials can be sent by.
_PORTS = {"http": 80, "https": 443}

#: Hosts as they are written in an address: ASCII names, IPv4, IPv6 without its brackets.
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_.])?|[0-9a-f:.]*:[0-9a-f:.]*")


@dataclass(frozen=True)
class WebOrigin:
    """Scheme, host and port of a web address (RFC 6454): what a credential belongs to.

    >>> str(origin_of("https://Data.Example.org/store?x=1")), str(origin_of("http://[::1]:8080/"))
    ('https://data.example.org', 'http://[::1]:8080')
    """

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")


def origin_of(url: str) -> WebOrigin:
    """The origin of a web address.

    Raises :class:`~icf_utils.errors.InvalidSetting` for what is not an ``http`` or ``https`` address with a host in
    ASCII, and for one with a user name or password in it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidSetting(printable(url[:200].rpartition("@")[2]), "this is not a web address") from None
    if parts.scheme not in _PORTS or not _HOST.fullmatch(host):
        raise InvalidSetting(without_credentials(url), "expected an address like https://HOST[:PORT]/PATH")
    if "@" in parts.netloc:
        raise InvalidSetting(
            without_credentials(url),
            "an address must not contain credentials, which others could see; give them separately",
        )
    return WebOrigin(parts.scheme, host, _PORTS[parts.scheme] if port is None else port)


@dataclass(frozen=True)
class Credential:
    """A secret and the only origin that it may be sent to; made by :func:`bind_credential`."""

    origin: WebOrigin
    secret: Login | Secret | SessionCookie = field(repr=False)

    @property
    def kind(self) -> str:
        """What it is called in messages."""
        if isinstance(self.secret, SessionCookie):
            return "login session"
        return "token" if isinstance(self.secret, Secret) else "user and password"

    def header(self) -> tuple[str, str]:
        """Name and value of the request header that carries it (RFC 7617, RFC 6750, RFC 6265)."""
        if isinstance(self.secret, SessionCookie):
            value = self.secret.value.value
            if not _TOKEN.fullmatch(value):
                problem = "expected a login session, found something else; check that the address is right"
                raise InvalidSetting(str(self.origin), problem)
            return "Cookie", "=".join((self.secret.name, value))
        if isinstance(self.secret, Secret):
            return "Authorization", f"Bearer {check_token(self.secret).value}"
        pair = ":".join((self.secret.user, self.secret.password.value))
        return "Authorization", f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"


def bind_credential(url: str, secret: Login | Secret | SessionCookie | None) -> Credential | None:
    """``secret`` for the server at ``url`` and no other one; ``None`` for ``None``.

    Raises :class:`~icf_utils.errors.InvalidSetting` as :func:`origin_of` does.
    """
    return None if secret is None else Credential(origin_of(url), secret)


def find_secret(variable: str, file: Path | None = None, question: str = "") -> Secret | None:
    """A password or token: from ``file`` if given, else from the environment's ``variable``, else by ``question``.

    The question is asked on a terminal only; without one, and if nothing else is found, there is none. Raises
    :class:`~icf_utils.errors.InvalidSetting` for a file that others may read, or that is not a single line.
    """
    if file is not None:
        return _from_file(file)
    if os.environ.get(variable):
        return Secret(os.environ[variable])
    if question and sys.stdin is not None and sys.stdin.isatty():
        return Secret(getpass.getpass(f"{question}: "))
    return None


def ask_secret(question: str) -> Secret:
    """A password or token that the user asked to be prompted for.

    Raises :class:`~icf_utils.errors.InvalidSetting` without a terminal, or without an answer.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise InvalidSetting(
            question, "icf-utils cannot ask without a terminal: give it in a file or in the environment"
        )
    answer = getpass.getpass(f"{question}: ")
    if not answer:
        raise InvalidSetting(question, "no answer was given")
    return Secret(answer)


def find_login(url: str, user: str, variable: str, file: Path | None = None) -> Login | None:
    """The login for a server that the user has named: by :func:`find_secret`, else that of netrc or the keyring.

    ``$NETRC`` replaces ``~/.netrc``. The keyring is asked for a named ``user`` only. Raises
    :class:`~icf_utils.errors.InvalidSetting` for a netrc that cannot be parsed, or that others may read, and for a
    ``user`` that no server can be sent.
    """
    check_user(user)
    if user and (secret := find_secret(variable, file)):
        return Login(user, secret)
    known = _from_netrc(urlsplit(url).hostname or "")
    if known and user in ("", known.user):
        return known
    if user and (stored := find_keyring_login(origin_of(url), user)):
        return stored
    if user and (secret := find_secret(variable, None, f"Password of {printable(user)} at {printable(_place(url))}")):
        return Login(user, secret)
    return None


def check_user(user: str) -> None:
    """Refuse a user name with a colon, which separates it from the password (RFC 7617, 2), or a control character.

    Raises :class:`~icf_utils.errors.InvalidSetting`, which does not show it: it may contain a password.
    """
    if ":" in user:
        raise InvalidSetting(
            "--user",
            "give the name alone, without ':'; other users of this machine can see a password on the command line, and "
            "the shell keeps it in its history. You are asked for the password",
        )
    if not user.isprintable():
        raise InvalidSetting("--user", "a user name cannot contain control characters")


def find_keyring_login(origin: WebOrigin, user: str = "") -> Login | None:
    """The login that the system's keyring has for an origin, such as ``https://data.example.org``: that of ``user`` if
    one is named. ``None`` where the package ``keyring`` is not installed or has none.
    """
    try:
        import keyring
        import keyring.errors
    except ImportError:
        return None
    try:
        found = keyring.get_credential(str(origin), user or None)
    except (keyring.errors.KeyringError, RuntimeError, OSError):  # without a usable keyring
        return None
    if found is None or not found.username or not found.password:
        return None
    return Login(found.username, Secret(found.password))


def ask_login(origin: WebOrigin, advice: str = "") -> Login | None:
    """Ask for user and password at the controlling terminal; ``None`` where there is none, or without an answer.

    ``advice`` says how to avoid the question. Standard input may belong to another program. As for git, there is no
    question with ``GIT_TERMINAL_PROMPT=0``.
    """
    if os.environ.get("GIT_TERMINAL_PROMPT") == "0":
        return None
    try:
        with open("/dev/tty", "r+b", buffering=0) as terminal:
            after = f"; {advice}" if advice else ""
            terminal.write(b"\r\x1b[K")  # a progress bar may be there
            terminal.write(f"{printable(str(origin))} requires authentication{after}.\nUser: ".encode())
            user = terminal.readline().decode("utf-8", "replace").strip()
    except OSError:
        return None
    check_user(user)
    password = getpass.getpass("Password: ") if user else ""
    return Login(user, Secret(password)) if password else None


def check_token(token: Secret) -> Secret:
    """A bearer token that can be sent: visible ASCII characters only (RFC 6750, 2.1).

    Raises :class:`~icf_utils.errors.InvalidSetting`, which does not show it.
    """
    if not _TOKEN.fullmatch(token.value):
        raise InvalidSetting(
            "token",
            "it is malformed: it contains a line break, a space, or another character that tokens cannot contain",
        )
    return token


def without_credentials(url: str) -> str:
    """A URL for messages: without user, password, query and fragment.

    >>> without_credentials("https://me:secret@host.org:8443/bucket?token=abc")
    'https://host.org:8443/bucket'
    """
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _place(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


_TOO_OPEN = "other users can read this file, which contains a secret: remove their permissions (chmod 600)"


def _is_open_to_others(mode: int) -> bool:
    return bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def _from_file(path: Path) -> Secret:
    with storage_errors(path, "read"), path.open("rb") as file:
        if _is_open_to_others(os.fstat(file.fileno()).st_mode):
            raise InvalidSetting(str(path), _TOO_OPEN)
        raw = file.read(_LONGEST + 1)
    lines = raw.decode("utf-8", "replace").splitlines()
    if len(lines) != 1 or not lines[0].strip() or len(raw) > _LONGEST:
        raise InvalidSetting(str(path), "expected a file with a password or token on its only line")
    return Secret(lines[0].strip())


def _from_netrc(host: str) -> Login | None:
    """The login of netrc for a host that the user has named: by its entry, else by the ``default`` one, as in curl."""
    path, entries = _read_netrc()
    return _usable(path, entries.get(host) or entries.get("default"))


def find_netrc_login(origin: WebOrigin) -> Login | None:
    """The login of netrc for an origin that the user has not named: by an entry for just this one.

    netrc knows hosts only. ``machine HOST`` is taken for ``https://HOST``, ``machine HOST:PORT`` for that port. Raises
    :class:`~icf_utils.errors.InvalidSetting` as :func:`find_login` does.
    """
    path, entries = _read_netrc()
    entry = entries.get(f"{origin.host}:{origin.port}")
    if entry is None and (origin.scheme, origin.port) == ("https", 443):
        entry = entries.get(origin.host)
    return _usable(path, entry)


_Entries = Mapping[str, tuple[str, str, str]]


def _read_netrc() -> tuple[str, _Entries]:
    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        return path, netrc.netrc(path).hosts  # type: ignore[return-value]  # accounts may be None
    except (FileNotFoundError, NotADirectoryError):
        return path, {}
    except netrc.NetrcParseError as error:
        raise InvalidSetting(path, f"this is not a netrc file (line {error.lineno})") from error
    except OSError as error:
        raise InvalidSetting(path, f"it cannot be read ({os.strerror(error.errno or 0)})") from error


def _usable(path: str, entry: tuple[str, str, str] | None) -> Login | None:
    if not entry or not entry[2]:
        return None
    if _is_open_to_others(os.stat(path).st_mode):
        raise InvalidSetting(path, _TOO_OPEN)
    return Login(entry[0], Secret(entry[2]))
