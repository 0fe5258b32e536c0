"""Space on the spool's disk that is kept for the journal, so that what a full disk caused can be recorded.

Without it, images take the last byte, and neither their refusal nor the end of their session can be written: the
session would stay in ``receiving``. The space is a file of random bytes, which no file system stores in less. It is
removed when the disk is nearly full, and made again when there is room; in between, images are refused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

#: Below the spool: the file that keeps the space, and its size in bytes.
JOURNAL_SPACE_NAME, JOURNAL_SPACE = "journal.reserve", 1 << 20

#: Free bytes below which the journal gets the space. What is left over is enough for one update of the journal.
_NEARLY_FULL = JOURNAL_SPACE // 2


class JournalSpace:
    """The space that is kept in a spool folder. ``is_used`` says that the journal has it now. Safe for threads."""

    def __init__(self, spool: Path, free_space: Callable[[], int]) -> None:
        """``free_space`` returns the free bytes on the spool's disk."""
        self._path, self._free_space = spool / JOURNAL_SPACE_NAME, free_space
        self._lock, self.is_used = threading.Lock(), False
        if not self._is_whole():
            self._take_back()

    def update(self) -> None:
        """Give the space to the journal if the disk is nearly full, or take it back if there is room again."""
        with self._lock:
            if self.is_used:
                if self._free_space() > 2 * JOURNAL_SPACE:
                    self._take_back()
            elif self._free_space() < _NEARLY_FULL:
                self._give()

    def _is_whole(self) -> bool:
        with suppress(OSError):
            return self._path.stat().st_size == JOURNAL_SPACE
        return False

    def _give(self) -> None:
        self.is_used = True  # first, so that no image takes the space
        with suppress(OSError):
            self._path.unlink()

    def _take_back(self) -> None:
        try:
            with open(self._path, "wb") as file:
                file.write(os.urandom(JOURNAL_SPACE))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            self._give()
        else:
            self.is_used = False


def is_journal_space_used(spool: Path) -> bool:
    """Whether the receiver of a spool has given the space to the journal, and refuses images; for other processes."""
    return not (spool / JOURNAL_SPACE_NAME).exists()
