"""Bit rot, a bounded part; the long trial: ``python -m tests.trust.trials --flips 5000``."""

from __future__ import annotations

import os
from pathlib import Path

from tests.trust.flips import KINDS, flip_anywhere


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    count = int(os.environ.get("ICF_TRIALS", "140"))
    figures = flip_anywhere(tmp_path, count, "0")
    assert figures.total() == count
    assert len(figures) > len(KINDS)
