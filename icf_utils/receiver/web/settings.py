"""The settings of the web pages, and their token. Creates and reads the token's file."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from icf_utils.credentials import Secret, find_secret
from icf_utils.errors import InvalidSetting, printable, storage_errors
from icf_utils.receiver.processings import Bucket
from icf_utils.store.files import link_file, new_file, sync_file, temporary_name

#: The environment variable with the token, for server and clients.
TOKEN_VARIABLE = "ICF_SESSIONS_TOKEN"  # noqa: S105 - a name
#: Below the spool: the file with the token that is created if none is given.
TOKEN_NAME = "token"  # noqa: S105 - a name
#: The default address.
HOST, PORT = "127.0.0.1", 8042
#: The largest zip that is accepted, and its largest unpacked size, in bytes.
UPLOAD_LIMIT, UNPACKED_LIMIT = 16_000_000_000, 64_000_000_000
#: The space that stays free on the spool's disk, in bytes.
RESERVE = 1 << 30


@dataclass(frozen=True)
class WebSettings:
    """``store`` is where visits are deposited, ``token`` what clients must send.

    ``rules`` are the names of the receiver's rules, each with its study; zips can be uploaded for these. ``compatible``
    adds the URLs of MagickBox. ``processings`` are the names of those that each rule runs, ``late`` what it does with
    images of a visit that it has. ``store_url`` is the store's address on the web.
    """

    store: Path
    token: Secret
    rules: Mapping[str, str] = field(default_factory=dict)
    compatible: bool = False
    processings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[Bucket, ...] = ()
    late: Mapping[str, str] = field(default_factory=dict)
    upload_limit: int = UPLOAD_LIMIT
    unpacked_limit: int = UNPACKED_LIMIT
    reserve: int = RESERVE
    store_url: str = ""


def token_for(spool: Path, file: Path | None = None) -> Secret:
    """The token from ``file``, the environment, or the file in the spool, which is created if it is missing.

    Raises :class:`~icf_utils.errors.InvalidSetting` for one with fewer than 16 characters.
    """
    token = find_secret(TOKEN_VARIABLE, file) or find_secret("", _own_file(spool))
    assert token is not None
    if len(token.value) < 16:
        raise InvalidSetting("token", "it has fewer than 16 characters; use a longer one")
    return token


def _own_file(spool: Path) -> Path:
    path = spool / TOKEN_NAME
    with storage_errors(path, "create"):
        spool.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        part = temporary_name(path)
        with new_file(part, mode=0o600) as file, storage_errors(path, "write"):
            file.write(f"{secrets.token_urlsafe(32)}\n".encode("ascii"))
            sync_file(file, path)
        with storage_errors(path, "create"), suppress(FileExistsError):  # another process has just created it
            link_file(part, path)
    return path


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, ``HOST`` or ``:PORT``; what is missing is the default.

    >>> parse_address("[::1]:9000"), parse_address("")
    (('::1', 9000), ('127.0.0.1', 8042))
    """
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdecimal() and 0 <= int(port) < 65536):
        raise InvalidSetting("--http", f"'{printable(text)}' is not HOST:PORT")
    return host or HOST, int(port) if port else PORT


def is_loopback(host: str) -> bool:
    """Whether ``host`` can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
