"""The address of one image inside the archive, as the ``archivist`` special remote reads it. Pure.

``dl+archive:<archive's key>#path=<path>&size=<bytes>&offset=<bytes>``. The form is that of datalad-next
(``datalad_next.types.archivist``), which ignores what follows ``size``; ``offset``, the position of the image's content
in the archive, is ours and always last. The archive's kind need not be said (``&atype=tar``): its key ends in ``.tar``.
"""

from __future__ import annotations

import re

#: What ends a path for archivist's parser, or a line of the protocol that git-annex speaks with it.
_BREAKS = re.compile(rb"[#&\r\n]")
_QUOTED = re.compile(rb"[%#&\r\n\x80-\xff]")


def image_locator(archive_key: bytes, path: bytes, size: int, offset: int) -> bytes:
    """The locator of the member ``path``; ``size`` and ``offset`` in bytes."""
    written = path if archivist_reads(path) else _QUOTED.sub(_percent, path)
    return b"dl+archive:%s#path=%s&size=%d&offset=%d" % (archive_key, written, size, offset)


def archivist_reads(path: bytes) -> bool:
    """Whether archivist finds a member of this name.

    It takes names as they are, without decoding. One that it could not read is percent-encoded, so that the record
    stays one line and archivist fails for this image alone, while a reader of ``offset`` has no use for the name.
    """
    return not _BREAKS.search(path) and _is_utf8(path)


def _is_utf8(path: bytes) -> bool:
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match.group()[0]
