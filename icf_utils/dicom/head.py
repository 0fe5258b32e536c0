"""As much of a file's beginning as its DICOM header takes, read once and in sequence by a given function."""

from __future__ import annotations

import struct
from collections.abc import Callable

from icf_utils.dicom.scan import HEAD_LIMIT, ITEM, SEQUENCE_END, UNDEFINED, Scan, scan

#: What is read at first, in bytes: most images are smaller, most headers much smaller.
FIRST_READ = 1 << 20


def read_head(read: Callable[[int], bytes], size: int, wanted: frozenset[int]) -> tuple[bytes, Scan]:
    """The beginning of a file of ``size`` bytes, and what is in it.

    ``read(n)`` returns up to ``n`` bytes, nothing at the end. The whole of a small file is returned; of a large one
    its first mebibyte, or more where its header goes on. What is no DICOM file is not read on. Where the whole file
    was read, encapsulated pixel data without an end counts as ``cut``.
    """
    head = _read_up_to(read, min(size, FIRST_READ))
    found = scan(head, size, wanted)
    while found.magic and found.state == "more" and len(head) < HEAD_LIMIT:
        more = _read_up_to(read, min(size, HEAD_LIMIT, 4 * len(head)) - len(head))
        if not more:
            break
        head += more
        found = scan(head, size, wanted)
    if len(head) == size:
        check_pixels(found, lambda at, count: head[at : at + count])
    return head, found


def check_pixels(found: Scan, read_at: Callable[[int, int], bytes]) -> None:
    """Set the state to ``cut`` where encapsulated pixel data does not run up to its end.

    ``read_at(position, n)`` returns up to ``n`` bytes of the file.
    """
    if found.pixels and found.pixels[1] < 0 and not encapsulated_is_whole(read_at, found.pixels[0]):
        found.state = "cut"


def _read_up_to(read: Callable[[int], bytes], size: int) -> bytes:
    first = read(size)
    if len(first) == size:
        return first
    blocks, missing = [first], size - len(first)
    while missing and (block := read(missing)):
        blocks.append(block)
        missing -= len(block)
    return b"".join(blocks)


def encapsulated_is_whole(read_at: Callable[[int, int], bytes], position: int) -> bool:
    """Whether encapsulated pixel data (PS3.5 section A.4) runs up to its delimiter.

    ``read_at(position, n)`` returns up to ``n`` bytes of the file; ``position`` is where the value starts.
    """
    while True:
        block = read_at(position, 8)
        if len(block) < 8:
            return False
        group, element, length = struct.unpack("<HHL", block)
        tag = group << 16 | element
        if tag == SEQUENCE_END:
            return True
        if tag != ITEM or length == UNDEFINED:
            return False
        position += 8 + length
