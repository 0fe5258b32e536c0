"""A process that changes a file again and again: ``python -m tests.data.disturb FILE grow|shrink|rewrite SECONDS``.

It prints how often it did. ``rewrite`` changes the last byte only, ``grow`` and ``shrink`` the length.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def disturb(path: Path, mode: str, seconds: float) -> int:
    """Disturb a file for a while; returns the number of changes."""
    content, end, count = path.read_bytes(), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        count += 1
        if mode == "grow":
            with path.open("ab") as handle:
                handle.write(bytes(4096))
        elif mode == "shrink":
            os.truncate(path, max(200, len(content) // (1 + count % 3)))
        else:
            path.write_bytes(content[:-1] + bytes([count & 255]))
        time.sleep(0.001)
    return count


if __name__ == "__main__":
    sys.stdout.write(f"{disturb(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))}\n")
