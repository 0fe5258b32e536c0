"""The address of one image inside the archive, as the ``archivist`` special remote reads it. Pure.

``dl+archive:<archive's key>#path=<path>&size=<bytes>&offset=<bytes>``. The form is that of datalad-next
(``datalad_next.types.archivist``), which ignores what follows ``size``; ``offset``, the position of the image's content
in the archive, is ours and always last. The archive's kind need not be said (``&atype=tar``): its key ends in ``.tar``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: What ends a path for archivist's parser, or a line of the protocol that git-annex speaks with it.
_BREAKS = re.compile(rb"[#&\r\n]")
_QUOTED = re.compile(rb"[%#&\r\n]")

#: A locator as text; a path may hold ``#``, as archivist's own locators do, but no ``&``.
_LOCATOR = re.compile(r"dl\+archive:(?P<key>[^#]+)#path=(?P<path>[^&]*)(?P<rest>(?:&[a-z]+=[^&]*)*)", re.DOTALL)

_NO_SUCH_NAME = "DataLad's archivist cannot read a name with '#', '&' or a line break"
_NO_UTF8 = "DataLad's archivist reads a name that is no UTF-8 in the locales C, POSIX and C.UTF-8 only"
_INSTEAD = "; get this image with icf-utils' special remote, or from the archive"


def image_locator(archive_key: bytes, path: bytes, size: int, offset: int) -> bytes:
    """The locator of the member ``path``; ``size`` and ``offset`` in bytes.

    archivist takes names as they are and decodes nothing. A name that it cannot read at all is percent-encoded, so
    that the record stays one line and archivist fails for this image alone; a reader of ``offset`` has no use for it.
    """
    written = _QUOTED.sub(_percent, path) if _BREAKS.search(path) else path
    return b"dl+archive:%s#path=%s&size=%d&offset=%d" % (archive_key, written, size, offset)


def archivist_obstacle(path: bytes) -> str:
    """Why archivist cannot get a member of this name, as a sentence; empty if it can."""
    if _BREAKS.search(path):
        return _NO_SUCH_NAME + _INSTEAD
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        return _NO_UTF8 + _INSTEAD
    return ""


@dataclass(frozen=True)
class Locator:
    """Where an image is: the archive's key, its name there, size and position of its content in bytes.

    ``size`` and ``offset`` are None where the locator does not tell them.
    """

    archive_key: str
    path: str
    size: int | None
    offset: int | None


def parse_locator(url: str) -> Locator | None:
    """What a ``dl+archive:`` address says; None for one that cannot be understood.

    >>> parse_locator("dl+archive:MD5E-s9--0.tar#path=a/b.dcm&size=3&offset=2")
    Locator(archive_key='MD5E-s9--0.tar', path='a/b.dcm', size=3, offset=2)
    """
    match = _LOCATOR.fullmatch(url)
    if not match:
        return None
    known = dict(part.split("=", 1) for part in match["rest"].split("&")[1:])
    return Locator(match["key"], match["path"], _count(known.get("size")), _count(known.get("offset")))


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match.group()[0]
