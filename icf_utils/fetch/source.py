"""The interface of an object that bytes are read from. Pure, no input or output happens here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

#: Bytes of the pieces in which contents are read.
CHUNK = 256 * 1024


class ByteSource(Protocol):
    """A file or object; safe to use from several threads.

    All methods raise :class:`~icf_utils.fetch.errors.FetchFailure`. All bytes are of one state of the object:
    a change during or between calls (of ETag, generation, modification time or size) is raised.
    """

    @property
    def where(self) -> str:
        """The address for messages: without credentials and query."""

    def size(self) -> int | None:
        """The size in bytes, ``None`` where the server does not say. Asks at most once."""

    def exists(self) -> bool:
        """Whether it exists now, with the expected size; no content is transferred."""

    def read(self, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """Exactly ``size`` bytes from position ``start``, or all bytes from there.

        Nothing is requested before the first piece is. Close the iterator to stop early.
        """
