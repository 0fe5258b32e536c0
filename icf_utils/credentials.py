"""Where passwords and tokens come from: the environment, a file, ``~/.netrc``, or a question on the terminal.

Never from the command line and never from a URL: both are shown to other users of a machine, and to logs. What is
held here shows itself as stars. Reads the environment, files and the terminal; writes nothing but the question.
"""

from __future__ import annotations

import getpass
import netrc
import os
import re
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from icf_utils.errors import InvalidSetting, shown, storage_errors

#: A secret longer than this is a wrong file.
_LONGEST = 65536


@dataclass(frozen=True)
class Secret:
    """A password or token that no message, log or traceback shows.

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


def find_secret(variable: str, file: Path | None = None, question: str = "") -> Secret | None:
    """A password or token: from ``file`` if one is named, else the environment's ``variable``, else by ``question``.

    The question is asked on a terminal only; without one, and with nothing else found, there is none. Raises
    :class:`~icf_utils.errors.InvalidSetting` for a file that others may read or that holds no single line.
    """
    if file is not None:
        return _from_file(file)
    if os.environ.get(variable):
        return Secret(os.environ[variable])
    if question and sys.stdin is not None and sys.stdin.isatty():
        return Secret(getpass.getpass(f"{question}: "))
    return None


def ask_secret(question: str) -> Secret:
    """A password or token that the user wants to be asked for.

    Raises :class:`~icf_utils.errors.InvalidSetting` where there is no terminal to ask on, or no answer.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise InvalidSetting(question, "there is no terminal to ask on: give it by a file or by the environment")
    answer = getpass.getpass(f"{question}: ")
    if not answer:
        raise InvalidSetting(question, "nothing was given")
    return Secret(answer)


def find_login(url: str, user: str, variable: str, file: Path | None = None) -> Login | None:
    """The login for a server: the password of ``user`` as :func:`find_secret` finds it, else what netrc says.

    ``$NETRC`` names another file than ``~/.netrc``. Raises :class:`~icf_utils.errors.InvalidSetting` for a netrc
    that cannot be understood, or whose login for this server others may read.
    """
    if user and (secret := find_secret(variable, file)):
        return Login(user, secret)
    known = _from_netrc(urlsplit(url).hostname or "")
    if known and user in ("", known.user):
        return known
    if user and (secret := find_secret(variable, None, f"Password of {shown(user)} at {shown(_place(url))}")):
        return Login(user, secret)
    return None


def check_token(token: Secret) -> Secret:
    """A bearer token that can be sent: visible ASCII characters only (RFC 6750, 2.1).

    Raises :class:`~icf_utils.errors.InvalidSetting`, which does not show it.
    """
    if re.fullmatch(r"[\x21-\x7e]+", token.value) is None:
        raise InvalidSetting(
            "token", "it is malformed: it has a line break, a blank, or another character in it that no token has"
        )
    return token


def without_credentials(url: str) -> str:
    """A URL as it may be shown: no user, password, query or fragment.

    >>> without_credentials("https://me:secret@host.org:8443/bucket?token=abc")
    'https://host.org:8443/bucket'
    """
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _place(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


_TAKE_AWAY = "others can read this file of a secret: take their rights away (chmod 600)"


def _is_open_to_others(mode: int) -> bool:
    return bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def _from_file(path: Path) -> Secret:
    with storage_errors(path, "read"), path.open("rb") as file:
        if _is_open_to_others(os.fstat(file.fileno()).st_mode):
            raise InvalidSetting(str(path), _TAKE_AWAY)
        raw = file.read(_LONGEST + 1)
    lines = raw.decode("utf-8", "replace").splitlines()
    if len(lines) != 1 or not lines[0].strip() or len(raw) > _LONGEST:
        raise InvalidSetting(str(path), "expected a file with a password or token on its only line")
    return Secret(lines[0].strip())


def _from_netrc(host: str) -> Login | None:
    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        entry = netrc.netrc(path).authenticators(host)
        others = entry is not None and bool(entry[2]) and _is_open_to_others(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except netrc.NetrcParseError as error:
        raise InvalidSetting(path, f"this is not a netrc file (line {error.lineno})") from error
    except OSError as error:
        raise InvalidSetting(path, f"it cannot be read ({os.strerror(error.errno or 0)})") from error
    if not entry or not entry[2]:
        return None
    if others:
        raise InvalidSetting(path, _TAKE_AWAY)
    return Login(entry[0], Secret(entry[2]))
