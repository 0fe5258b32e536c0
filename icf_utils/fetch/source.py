"""The interface of a place that bytes come from. No input or output happens here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

#: Bytes of the pieces in which contents are handed on.
CHUNK = 256 * 1024


class ByteSource(Protocol):
    """One file or object somewhere; safe to use from several threads.

    All methods raise :class:`~icf_utils.fetch.errors.FetchFailure`. What is read belongs to one state of the object:
    a change between or during calls is noticed (by ETag, generation, modification time or size) and raised.
    """

    @property
    def where(self) -> str:
        """The address as it may be shown: without credentials and query."""

    def size(self) -> int | None:
        """The size in bytes, ``None`` where the server does not tell. Asks at most once."""

    def exists(self) -> bool:
        """Whether it is there now, as large as it must be; nothing of it is transferred."""

    def read(self, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """``size`` bytes from position ``start``, or all from there; exactly so many, else it raises.

        Nothing happens before the first piece is asked for. Close the iterator to stop early.
        """
