"""Check the address and the identity of a store, which users give. Pure.

Datasets and catalogs contain the address. There is no default: one that belongs to another institution would be noticed
years later, by those who try to clone.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from icf_utils.errors import InvalidSetting, printable

#: What is said where an address is needed and none is known.
NO_ADDRESS = (
    "the store has no address, which datasets and catalogs contain. Give it once, with 'icf-utils init STORE --url "
    "URL' or in the environment variable ICF_STORE_URL, or use --store-url"
)

#: URL schemes that DataLad's uncurl remote reads.
SCHEMES = ("https", "http", "file", "ssh")

_URL_TEXT = re.compile(r"(?:[A-Za-z0-9._~:/\[\]@!$()*+,;=-]|%[0-9A-Fa-f]{2})+")


def check_store_url(url: str) -> str:
    """Check that a clone on another machine can use ``url``, and return it without trailing slashes.

    Raises :class:`~icf_utils.errors.InvalidSetting`, also for an empty text, which is a store without an address; the
    message does not repeat credentials.
    """
    if not url:
        raise InvalidSetting("store URL", NO_ADDRESS)
    problem = _url_problem(url)
    if problem:
        raise InvalidSetting("store URL", problem)
    return url.rstrip("/")


def _url_problem(url: str) -> str:
    try:
        parts = urlsplit(url)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        return "not a URL"
    user, secret = parts.username, parts.password
    if secret is not None or (user is not None and parts.scheme != "ssh"):
        return "it contains a user name or password, which everyone who can read the dataset would see; leave it out"
    if parts.scheme not in SCHEMES or not url.startswith(f"{parts.scheme}://"):
        return f"{_quoted(url)} must be complete and start with one of {', '.join(s + '://' for s in SCHEMES)}"
    if not _URL_TEXT.fullmatch(url) or {".", ".."} & set(parts.path.split("/")):
        what = "characters that are not allowed in a URL, or a folder '.' or '..'"
        return f"{_quoted(url)} has {what}; write spaces and similar characters as %XX"
    is_file, names_folder = parts.scheme == "file", bool(parts.path.strip("/"))
    host = parts.hostname or ""
    if not (not parts.netloc and names_folder if is_file else host and host[0] != "-" and port_ok):
        example = "three slashes and a folder, as in file:///srv" if is_file else "a host, as in https://example.org"
        return f"{_quoted(url)} must have {example}"
    return ""


def _quoted(url: str) -> str:
    """Quote the address for a message, unless it may contain a password in an unusual place."""
    return "it (not repeated here)" if set("@?#&=") & set(url) else f"'{printable(url)}'"


def check_store_id(store_id: str) -> str:
    """Check that ``store_id`` is one printable line, or empty. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    if not store_id.isprintable() or (store_id and not store_id.strip()):
        raise InvalidSetting("store id", f"'{printable(store_id)}' must be printable text on one line")
    return store_id
