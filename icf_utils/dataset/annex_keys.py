"""git-annex keys, the paths derived from them, and the address of an image inside an archive. Pure.

Sources for keys and paths: git-annex's pages "key format" and "hashing" (https://git-annex.branchable.com/internals/),
and for the extension in an ``MD5E`` key git-annex's behaviour: ``git annex calckey --backend=MD5E`` agreed for 28,000
generated names.

An image locator is the address that the ``archivist`` special remote reads:
``dl+archive:<archive's key>#path=<path>&size=<bytes>&offset=<bytes>``. The form is that of datalad-next
(``datalad_next.types.archivist``), which ignores what follows ``size``. ``offset``, the position of the image's content
in the archive, is an addition of icf-utils and always last. The archive's type (``&atype=tar``) is not needed, as its
key ends in ``.tar``.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass

#: git-annex's defaults for ``annex.maxextensionlength`` (bytes without the dot) and ``annex.maxextensions``.
_LONGEST_EXTENSION, _MOST_EXTENSIONS = 4, 2

_MIXED_ALPHABET = b"0123456789zqjxkmvwgpfZQJXKMVWGPF"


def md5e_key(size: int, md5: str, path: bytes) -> bytes:
    """Make the key of a file at ``path`` with ``size`` bytes and the hexadecimal digest ``md5``.

    Such a key has no ``&``, ``%``, ``:`` or ``/``, so that the name of its file is the key itself, without escapes.

    >>> md5e_key(1, "9dd4e461268c8034f5c8564e155c67a6", b"a/x.tar.gz")
    b'MD5E-s1--9dd4e461268c8034f5c8564e155c67a6.tar.gz'
    """
    return b"MD5E-s%d--%s%s" % (size, md5.encode("ascii"), key_extension(path.rpartition(b"/")[2]))


def key_size(key: str) -> int | None:
    """Return the size in bytes that a key states; ``None`` if it states none.

    >>> key_size("MD5E-s1--9dd4e461268c8034f5c8564e155c67a6.dcm"), key_size("WORM--x-s2")
    (1, None)
    """
    fields = key.partition("--")[0].split("-")[1:]
    sizes = [field[1:] for field in fields if field[:1] == "s" and field[1:].isdecimal()]
    return int(sizes[0]) if sizes else None


def key_md5(key: str) -> str:
    """Return the MD5 in a key of the backends ``MD5`` and ``MD5E``; empty for other keys.

    >>> key_md5("MD5E-s1--9dd4e461268c8034f5c8564e155c67a6.dcm"), key_md5("WORM--9dd4e461268c8034f5c8564e155c67a6")
    ('9dd4e461268c8034f5c8564e155c67a6', '')
    """
    head, _, name = key.partition("--")
    return name[:32] if head.partition("-")[0] in ("MD5", "MD5E") and re.match(r"[0-9a-f]{32}", name) else ""


def key_extension(name: bytes) -> bytes:
    """Return what git-annex regards as the extension of a file name, dots included; may be empty.

    At most two parts count, from the end up to the first part longer than four bytes. A part with anything but ASCII
    letters, digits and bytes above 127 is skipped; an empty part (``a..dcm``) counts as one of the two.
    """
    parts: list[bytes] = []
    for part in reversed(name.lstrip(b".").split(b".")[1:]):
        if len(part) > _LONGEST_EXTENSION or len(parts) == _MOST_EXTENSIONS:
            break
        if all(byte > 127 or chr(byte).isalnum() for byte in part):
            parts.append(part)
    return b"".join(b"." + part for part in reversed(parts) if part)


def lower_folder(key: bytes) -> bytes:
    """Return the two folders of ``key`` in the ``git-annex`` branch.

    >>> lower_folder(b"XDLRA--refs")
    b'3f7/4a3'
    """
    digest = hashlib.md5(key, usedforsecurity=False).hexdigest().encode("ascii")
    return digest[:3] + b"/" + digest[3:6]


def mixed_folder(key: bytes) -> bytes:
    """Return the two folders of ``key`` below ``.git/annex/objects`` of a repository with a work tree.

    >>> mixed_folder(b"MD5E-s1--9dd4e461268c8034f5c8564e155c67a6")
    b'3V/f8'
    """
    (word,) = struct.unpack_from("<I", hashlib.md5(key, usedforsecurity=False).digest())
    first, second, third, fourth = (_MIXED_ALPHABET[word >> shift & 31] for shift in (0, 6, 12, 18))
    return bytes((second, first)) + b"/" + bytes((fourth, third))


def link_target(path: bytes, key: bytes) -> bytes:
    """Return the target of the symbolic link at ``path`` of an annexed file."""
    up = b"../" * path.count(b"/")
    return b"%s.git/annex/objects/%s/%s/%s" % (up, mixed_folder(key), key, key)


#: Characters that end a path for archivist's parser, or a line of git-annex's protocol.
_BREAKS = re.compile(rb"[#&\r\n]")
_QUOTED = re.compile(rb"[%#&\r\n]")

#: A locator; its path may contain ``#``, as in archivist's own locators, but not ``&``.
_LOCATOR = re.compile(r"dl\+archive:(?P<key>[^#]+)#path=(?P<path>[^&]*)(?P<rest>(?:&[a-z]+=[^&]*)*)", re.DOTALL)

_NO_SUCH_NAME = "DataLad's archivist cannot read a name with '#', '&' or a line break"
_NO_UTF8 = "DataLad's archivist reads a name outside UTF-8 only in the locales C, POSIX and C.UTF-8"
_INSTEAD = "; get this image with the special remote of icf-utils, or from the archive"


def image_locator(archive_key: bytes, path: bytes, size: int, offset: int) -> bytes:
    """Make the locator of the member ``path``; ``size`` and ``offset`` in bytes.

    archivist does not decode names. A name that it cannot read at all is percent-encoded, so that the record stays on
    one line and archivist fails for this image only; readers that use ``offset`` do not need the name.
    """
    written = _QUOTED.sub(_percent, path) if _BREAKS.search(path) else path
    return b"dl+archive:%s#path=%s&size=%d&offset=%d" % (archive_key, written, size, offset)


def archivist_obstacle(path: bytes) -> str:
    """Say in a sentence why archivist cannot get a member of this name; empty if it can."""
    if _BREAKS.search(path):
        return _NO_SUCH_NAME + _INSTEAD
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        return _NO_UTF8 + _INSTEAD
    return ""


@dataclass(frozen=True)
class ImageLocator:
    """Where an image is: the archive's key, the member's name, size and position of its content in bytes.

    ``size`` and ``offset`` are ``None`` if the locator does not state them.
    """

    archive_key: str
    path: str
    size: int | None
    offset: int | None


def parse_locator(url: str) -> ImageLocator | None:
    """Parse a ``dl+archive:`` address; ``None`` if it is malformed.

    >>> parse_locator("dl+archive:MD5E-s9--0.tar#path=a/b.dcm&size=3&offset=2")
    ImageLocator(archive_key='MD5E-s9--0.tar', path='a/b.dcm', size=3, offset=2)
    """
    match = _LOCATOR.fullmatch(url)
    if not match:
        return None
    known = dict(part.split("=", 1) for part in match["rest"].split("&")[1:])
    return ImageLocator(match["key"], match["path"], _count(known.get("size")), _count(known.get("offset")))


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match.group()[0]
