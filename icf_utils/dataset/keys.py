"""git-annex keys and where their files lie, as bytes. Pure.

Sources: git-annex's pages "key format" and "hashing" (https://git-annex.branchable.com/internals/), and for the
extension in an ``MD5E`` key its behaviour: ``git annex calckey --backend=MD5E`` agreed on 28,000 made-up names.
"""

from __future__ import annotations

import hashlib
import re
import struct

#: git-annex's defaults for ``annex.maxextensionlength`` (bytes without the dot) and ``annex.maxextensions``.
_LONGEST_EXTENSION, _MOST_EXTENSIONS = 4, 2

_MIXED_ALPHABET = b"0123456789zqjxkmvwgpfZQJXKMVWGPF"


def md5e_key(size: int, md5: str, path: bytes) -> bytes:
    """The key of ``size`` bytes with the hexadecimal digest ``md5``, at ``path`` when git-annex first meets them.

    Such a key has no ``&``, ``%``, ``:`` or ``/``, so the name of its file is the key itself, without escapes.

    >>> md5e_key(1, "9dd4e461268c8034f5c8564e155c67a6", b"a/x.tar.gz")
    b'MD5E-s1--9dd4e461268c8034f5c8564e155c67a6.tar.gz'
    """
    return b"MD5E-s%d--%s%s" % (size, md5.encode("ascii"), extension(path.rpartition(b"/")[2]))


def key_size(key: str) -> int | None:
    """The size in bytes that a key names, None where it names none.

    >>> key_size("MD5E-s1--9dd4e461268c8034f5c8564e155c67a6.dcm"), key_size("WORM--x-s2")
    (1, None)
    """
    fields = key.partition("--")[0].split("-")[1:]
    sizes = [field[1:] for field in fields if field[:1] == "s" and field[1:].isdecimal()]
    return int(sizes[0]) if sizes else None


def key_md5(key: str) -> str:
    """The MD5 that a key of the backends ``MD5`` and ``MD5E`` names, empty for other keys.

    >>> key_md5("MD5E-s1--9dd4e461268c8034f5c8564e155c67a6.dcm"), key_md5("WORM--9dd4e461268c8034f5c8564e155c67a6")
    ('9dd4e461268c8034f5c8564e155c67a6', '')
    """
    head, _, name = key.partition("--")
    return name[:32] if head.partition("-")[0] in ("MD5", "MD5E") and re.match(r"[0-9a-f]{32}", name) else ""


def extension(name: bytes) -> bytes:
    """What git-annex takes for the extension of a file name, dots included; may be empty.

    Counted from the end, up to the first part that is longer than four bytes; a part with anything but ASCII letters,
    digits and bytes above 127 is passed over, and an empty one (``a..dcm``) uses up one of the two places.
    """
    parts: list[bytes] = []
    for part in reversed(name.lstrip(b".").split(b".")[1:]):
        if len(part) > _LONGEST_EXTENSION or len(parts) == _MOST_EXTENSIONS:
            break
        if all(byte > 127 or chr(byte).isalnum() for byte in part):
            parts.append(part)
    return b"".join(b"." + part for part in reversed(parts) if part)


def lower_folder(key: bytes) -> bytes:
    """The two folders of ``key`` in the ``git-annex`` branch.

    >>> lower_folder(b"XDLRA--refs")
    b'3f7/4a3'
    """
    digest = hashlib.md5(key, usedforsecurity=False).hexdigest().encode("ascii")
    return digest[:3] + b"/" + digest[3:6]


def mixed_folder(key: bytes) -> bytes:
    """The two folders of ``key`` below ``.git/annex/objects`` of a repository with a work tree.

    >>> mixed_folder(b"MD5E-s1--9dd4e461268c8034f5c8564e155c67a6")
    b'3V/f8'
    """
    (word,) = struct.unpack_from("<I", hashlib.md5(key, usedforsecurity=False).digest())
    first, second, third, fourth = (_MIXED_ALPHABET[word >> shift & 31] for shift in (0, 6, 12, 18))
    return bytes((second, first)) + b"/" + bytes((fourth, third))


def link_target(path: bytes, key: bytes) -> bytes:
    """What the symbolic link at ``path`` in the dataset holds for an annexed file."""
    up = b"../" * path.count(b"/")
    return b"%s.git/annex/objects/%s/%s/%s" % (up, mixed_folder(key), key, key)
