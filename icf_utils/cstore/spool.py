"""An image as a file that pynetdicom can send. Makes unnamed files in memory, or below TMPDIR where they are large.

They are reached through ``/proc/self/fd``, so nothing is left behind whatever happens.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from icf_utils.cstore.images import Image
from icf_utils.errors import storage_errors
from icf_utils.sources.entries import Reader, Source

#: Up to this size in bytes an image is held in memory.
_IN_MEMORY = 64 << 20
_CHUNK = 1 << 20


@contextmanager
def spooled(source: Source, image: Image) -> Iterator[str]:
    """The path of a file that holds the image's data set, byte by byte, behind a header of ours.

    Raises :class:`~icf_utils.errors.InputRefused` or :class:`~icf_utils.errors.StorageFailure`.
    """
    with _unnamed(image.entry.size) as file:
        with source.open(image.entry) as reader, storage_errors(tempfile.gettempdir(), "write a temporary file below"):
            file.write(file_header(image))
            length = _copy(reader, image.dataset_at, file)
            file.write(bytes(length % 2))  # of deflated ones only: a zero behind the stream (PS3.5 section A.5)
            file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _unnamed(size: int) -> BinaryIO:
    if size <= _IN_MEMORY and hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("icf-utils"), "w+b")
    return tempfile.TemporaryFile()


def _copy(reader: Reader, skip: int, target: BinaryIO) -> int:
    """Copy all but the first ``skip`` bytes; returns how many these were."""
    length = 0
    while block := reader.read(_CHUNK):
        length += target.write(block[skip:])
        skip = max(0, skip - len(block))
    return length


def file_header(image: Image) -> bytes:
    """Preamble, prefix and the file meta elements that pynetdicom asks for (PS3.10 section 7.1)."""
    values = ((0x0002, image.sop_class), (0x0003, image.sop_instance), (0x0010, image.transfer_syntax))
    return bytes(128) + b"DICM" + b"".join(_meta(element, uid) for element, uid in values)


def _meta(element: int, uid: str) -> bytes:
    raw = uid.encode("ascii") + b"\0" * (len(uid) % 2)
    return struct.pack("<HH2sH", 0x0002, element, b"UI", len(raw)) + raw
