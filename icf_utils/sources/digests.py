"""The MD5 of an input's files, for comparisons. Reads the input."""

from __future__ import annotations

import hashlib

from icf_utils.sources.source import InputFile, Source

_CHUNK = 1 << 20


def digest_file(source: Source, entry: InputFile) -> tuple[int, str]:
    """Size in bytes and MD5 of a file's content. Raises ``InputRefused`` if the input is damaged."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    with source.open(entry) as reader:
        while data := reader.read(_CHUNK):
            digest.update(data)
            size += len(data)
    return size, digest.hexdigest()
