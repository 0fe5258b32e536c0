"""From a URL to the place that bytes come from. Touches neither disk nor network by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from icf_utils.credentials import without_credentials
from icf_utils.errors import InvalidSetting
from icf_utils.fetch.files import FileSource, path_of
from icf_utils.fetch.responses import web_page
from icf_utils.fetch.source import Source

if TYPE_CHECKING:
    from icf_utils.fetch.http import Auth, Web


#: How web pages begin; what is read here as a whole never does.
_PAGE_BEGINS = (b"<!doctype html", b"<html")


def open_source(
    url: str,
    web: Web | None = None,
    auth: Auth = None,
    expected: int | None = None,
    takes: str = "user and password, or a token",
) -> Source:
    """The place that ``url`` (``file://``, ``http://``, ``https://``) names; nothing is asked yet.

    ``web`` holds the connections of several sources; without it the source has one connection of its own.
    ``auth`` is sent to that server alone. ``expected`` is the size in bytes that the object must have. ``takes``
    is what can be given to a server that wants to know who asks, for messages. Raises
    :class:`~icf_utils.errors.InvalidSetting` for other addresses, and for credentials inside of one.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FileSource(path_of(url), expected)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidSetting(without_credentials(url), "expected an address that begins with file, http or https")
    if parts.username or parts.password:
        raise InvalidSetting(
            without_credentials(url), "credentials do not belong into an address: others can see it; give them apart"
        )
    from icf_utils.fetch.http import HttpSource, Web

    return HttpSource(url, web or Web(connections=1), auth, expected, takes)


def read_all(source: Source, limit: int) -> bytes:
    """A whole small object that is no web page.

    Raises :class:`~icf_utils.fetch.errors.FetchFailure` for a page, also one that the server does not call so, and
    for what exceeds ``limit`` bytes.
    """
    from icf_utils.fetch.errors import FetchFailure

    parts: list[bytes] = []
    total = 0
    for chunk in source.read():
        parts.append(chunk)
        total += len(chunk)
        if total > limit:
            raise FetchFailure(
                source.where, f"it is larger than the {limit} bytes that make sense", "check the address", kind="size"
            )
    raw = b"".join(parts)
    if raw[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGE_BEGINS):
        raise web_page(source.where)
    return raw
