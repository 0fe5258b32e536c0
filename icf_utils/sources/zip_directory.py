"""Bound the directory of a zip before it is read: each entry takes memory, whatever the zip's size. Reads its end.

Python's ``zipfile`` reads the whole directory at once, and makes an object of each entry. The format is that of
APPNOTE.TXT: end of central directory record (4.3.16), zip64 (4.3.14 and 4.3.15), file headers (4.3.12).
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from icf_utils.errors import InputRefused

#: The most entries, and the most bytes of the directory. The largest visits have some ten thousand images.
MOST_ENTRIES, LARGEST_DIRECTORY = 200_000, 64 << 20

_END, _END_SIZE = b"PK\5\6", 22
_LOCATOR, _LOCATOR_SIZE = b"PK\6\7", 20
_END64, _END64_SIZE = b"PK\6\6", 56
_LONGEST_COMMENT = 0xFFFF
_HEADER, _HEADER_SIZE = b"PK\1\2", 46


def refuse_huge_directory(file: BinaryIO, label: str) -> None:
    """Refuse a zip with too many entries or too large a directory; one without a directory is left to its reader.

    Raises :class:`~icf_utils.errors.InputRefused`, in which ``label`` names the zip, and ``OSError``.
    """
    size = os.fstat(file.fileno()).st_size
    found = _find_directory(file, size)
    if found is None:
        return
    start, length = found
    if length > LARGEST_DIRECTORY:
        raise _refused(label, f"has a directory of {length} bytes; at most {LARGEST_DIRECTORY} are read")
    file.seek(start)
    if _has_more_entries(file.read(length), MOST_ENTRIES):
        raise _refused(label, f"has more than {MOST_ENTRIES} entries")


def _find_directory(file: BinaryIO, size: int) -> tuple[int, int] | None:
    """Position and length of the directory, by the record at the end; ``None`` without one.

    As in ``zipfile``, the directory is what lies in front of that record, whatever position the record names.
    """
    file.seek(max(0, size - _END_SIZE - _LONGEST_COMMENT))
    at, tail = file.tell(), file.read()
    end = tail.rfind(_END)
    if end < 0 or len(tail) - end < _END_SIZE:
        return None
    (length,) = struct.unpack_from("<L", tail, end + 12)
    before = at + end
    if before >= _LOCATOR_SIZE:
        file.seek(before - _LOCATOR_SIZE)
        if file.read(4) == _LOCATOR and before >= _LOCATOR_SIZE + _END64_SIZE:
            file.seek(before - _LOCATOR_SIZE - _END64_SIZE)
            record = file.read(_END64_SIZE)
            if record.startswith(_END64):
                (length,) = struct.unpack_from("<Q", record, 40)
                before -= _LOCATOR_SIZE + _END64_SIZE
    return max(0, before - length), length


def _has_more_entries(directory: bytes, most: int) -> bool:
    position = count = 0
    while directory.startswith(_HEADER, position) and position + _HEADER_SIZE <= len(directory):
        count += 1
        if count > most:
            return True
        position += _HEADER_SIZE + sum(struct.unpack_from("<HHH", directory, position + 28))
    return False


def _refused(label: str, reason: str) -> InputRefused:
    return InputRefused(label, [(label, reason)], "Check the file; pack one visit in each zip.")
