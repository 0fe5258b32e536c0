"""Where an archive's bytes go: into a new file, or against an existing one. Both touch that one file only.

A member whose time is not known yet gets a provisional header, which is put right at the end (``patch``). The
checksum stops in front of the first such header and is completed from what then stands in the file.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import BinaryIO, ClassVar

from icf_utils.archive.hashing import BackgroundMd5
from icf_utils.archive.headers import header_time
from icf_utils.errors import DepositDiffers, shown, storage_errors

_BATCH = 1 << 20
_MOST_BUFFERS = 512


class Output(ABC):
    """What the packing of an archive writes to; ``position`` is the number of bytes taken so far.

    ``is_new`` tells whether its layout is not settled yet, so that packing may start again.
    """

    is_new: ClassVar[bool]

    def __init__(self, handle: BinaryIO, path: Path) -> None:
        self.path = path
        self.position = 0
        self._descriptor = handle.fileno()
        self._md5 = BackgroundMd5()
        self._held_from: int | None = None

    def write(self, data: bytes, part: str, name: str) -> None:
        """Take the next bytes; ``part`` of member ``name``, for a message."""
        self._take(data, part, name)
        self.position += len(data)

    def provisional(self, header: bytes) -> None:
        """Take a header that will be patched; from here on the checksum waits."""
        self._flush()
        if self._held_from is None:
            self._held_from = self.position
        self._take_unchecked(header)
        self.position += len(header)

    def time_there(self, most: int) -> float | None:
        """The time in the header at ``position``, of ``most`` bytes at most, if one stands there already."""
        return None

    def patch(self, position: int, header: bytes, name: str) -> None:
        """Put a provisional header right; it must be as long as before."""
        self._flush()
        self._replace(position, header, name)

    def finish(self) -> str:
        """Complete everything; returns the MD5 of all bytes as 32 hexadecimal digits."""
        self._flush()
        if self._held_from is not None:
            self._hash_again(self._held_from)
        self._check_end()
        return self._md5.finish()

    def close(self) -> None:
        """Let go of the background thread, after an error too."""
        self._md5.close()

    def _hash(self, batch: list[bytes]) -> None:
        if self._held_from is None:
            self._md5.update(batch)

    def _hash_again(self, position: int) -> None:
        while position < self.position:
            with storage_errors(self.path, "read back"):
                block = os.pread(self._descriptor, min(_BATCH, self.position - position), position)
            if not block:
                raise DepositDiffers(self.path, f"it ends at byte {position}")
            self._md5.update([block])
            position += len(block)

    @abstractmethod
    def _take(self, data: bytes, part: str, name: str) -> None: ...

    @abstractmethod
    def _take_unchecked(self, data: bytes) -> None: ...

    @abstractmethod
    def _replace(self, position: int, data: bytes, name: str) -> None: ...

    @abstractmethod
    def _flush(self) -> None: ...

    @abstractmethod
    def _check_end(self) -> None: ...


class NewFile(Output):
    """Write to a new file, in batches of about a megabyte."""

    is_new = True

    def __init__(self, handle: BinaryIO, path: Path) -> None:
        super().__init__(handle, path)
        self._batch: list[bytes] = []
        self._batch_size = 0

    def _take(self, data: bytes, part: str, name: str) -> None:
        self._take_unchecked(data)

    def _take_unchecked(self, data: bytes) -> None:
        self._batch.append(data)
        self._batch_size += len(data)
        if self._batch_size >= _BATCH or len(self._batch) >= _MOST_BUFFERS:
            self._flush()

    def _flush(self) -> None:
        batch, self._batch, self._batch_size = self._batch, [], 0
        if not batch:
            return
        with storage_errors(self.path, "write"):
            written, total = os.writev(self._descriptor, batch), sum(map(len, batch))
            while written < total:  # a nearly full disk or a signal: go on until the system says why
                written += os.write(self._descriptor, memoryview(b"".join(batch))[written:])
        self._hash(batch)

    def _replace(self, position: int, data: bytes, name: str) -> None:
        with storage_errors(self.path, "write"):
            os.pwrite(self._descriptor, data, position)

    def _check_end(self) -> None:
        pass


class ExistingFile(Output):
    """Compare with a file that is there; the first difference raises :class:`~icf_utils.errors.DepositDiffers`."""

    is_new = False

    def time_there(self, most: int) -> float | None:
        with storage_errors(self.path, "read"):
            return header_time(os.pread(self._descriptor, most, self.position))

    def _take(self, data: bytes, part: str, name: str) -> None:
        self._compare(self.position, data, part, name)
        self._hash([data])

    def _take_unchecked(self, data: bytes) -> None:
        pass

    def _replace(self, position: int, data: bytes, name: str) -> None:
        self._compare(position, data, "header", name)

    def _flush(self) -> None:
        pass

    def _compare(self, position: int, data: bytes, part: str, name: str) -> None:
        with storage_errors(self.path, "read"):
            there = os.pread(self._descriptor, len(data), position)
            if there == data:
                return
            size = os.fstat(self._descriptor).st_size
        if len(there) < len(data) and data.startswith(there):
            raise DepositDiffers(self.path, f"it ends at byte {size}, within the {part} of '{shown(name)}'")
        place = f"between bytes {position} and {position + len(data)}"
        raise DepositDiffers(self.path, f"the {part} of '{shown(name)}' is not the same there ({place})")

    def _check_end(self) -> None:
        with storage_errors(self.path, "examine"):
            size = os.fstat(self._descriptor).st_size
        if size != self.position:
            raise DepositDiffers(self.path, f"it has {size} bytes, this input gives {self.position}")
