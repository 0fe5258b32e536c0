"""Opens what a URL names, and reads small objects as a whole. Reading uses the network or files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from icf_utils.fetch.files import FileSource, path_of
from icf_utils.fetch.responses import web_page
from icf_utils.fetch.source import ByteSource

if TYPE_CHECKING:
    from icf_utils.credentials import Credential
    from icf_utils.fetch.http import HttpClient


#: How web pages begin; nothing that is read here as a whole does.
_PAGE_BEGINS = (b"<!doctype html", b"<html")


def open_source(
    url: str,
    client: HttpClient | None = None,
    credential: Credential | None = None,
    expected: int | None = None,
    advice: str = "give --user and a password, or a token",
) -> ByteSource:
    """The object that ``url`` (``file://``, ``http://``, ``https://``) names; nothing is requested yet.

    ``client`` has the connections that several sources share; without it the source has one connection of its own.
    ``credential`` is sent to the origin that it belongs to and to no other one. ``expected`` is the size in bytes that
    the object must have. ``advice`` says what to do where a server requires authentication. Raises
    :class:`~icf_utils.errors.InvalidSetting` for other addresses, and for credentials inside of one.
    """
    if urlsplit(url).scheme == "file":
        return FileSource(path_of(url), expected)
    from icf_utils.fetch.http import HttpClient
    from icf_utils.fetch.http_source import HttpSource

    return HttpSource(url, client or HttpClient(connections=1), credential, expected, advice)


def read_whole(source: ByteSource, limit: int) -> bytes:
    """The content of a small object that is not a web page.

    Raises :class:`~icf_utils.fetch.errors.FetchFailure` for a page, also one that the server does not call so, and
    for what exceeds ``limit`` bytes.
    """
    from icf_utils.fetch.errors import FetchFailure

    content = io.BytesIO()
    for chunk in source.read():
        content.write(chunk)
        if content.tell() > limit:
            raise FetchFailure(
                source.where,
                f"it is larger than the limit of {limit} bytes",
                "check the address",
                kind="size",
            )
    raw = content.getvalue()
    if raw[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGE_BEGINS):
        raise web_page(source.where)
    return raw
