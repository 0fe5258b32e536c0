"""The hard inputs are the same everywhere, and each is as hard as it says."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.conftest import HardInputs
from tests.data.make_hard_inputs import HARD_INPUTS, make_hard_inputs

#: Their contents could differ by the file system's rights to make them.
SPECIAL = {"symlinks", "unreadable"}
DIGEST = "fffed225ed96d241fb72778bf53ee7e99eabe0b120386309827b5505a68fc747"


def digest(folder: Path) -> str:
    """Of names and contents of all files, in the order of their bytes."""
    seen = hashlib.sha256()
    found = [os.path.join(place, name) for place, _, names in os.walk(os.fsencode(folder)) for name in names]
    for path in sorted(found):
        seen.update(os.path.relpath(path, os.fsencode(folder)) + b"\0")
        if os.path.isfile(path):
            with open(path, "rb") as handle:
                seen.update(handle.read())
    return seen.hexdigest()


def test_bytes_are_the_same_on_every_machine(hard_inputs: HardInputs) -> None:
    seen = hashlib.sha256()
    for name in sorted(set(HARD_INPUTS) - SPECIAL):
        if hard_inputs.missing[name]:
            pytest.skip(f"this file system or user cannot have {hard_inputs.missing[name]}")
        seen.update(f"{name} {digest(hard_inputs.folder / name)}\n".encode())
    assert seen.hexdigest() == DIGEST


def test_every_case_says_what_it_is_about() -> None:
    assert [name for name, make in HARD_INPUTS.items() if not (make.__doc__ or "").endswith(".")] == []


def test_chosen_cases_come_alone(tmp_path: Path) -> None:
    assert make_hard_inputs(tmp_path, ["fifo"]) == {"fifo": []}
    assert os.listdir(tmp_path) == ["fifo"]
    with pytest.raises(FileExistsError):
        make_hard_inputs(tmp_path, ["fifo"])
