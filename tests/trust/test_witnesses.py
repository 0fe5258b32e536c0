"""Damage in all combinations: nothing hides it, and what is left decides; a sample, all of them with ICF_TRIALS."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from icf_utils.store.init_store import init_store
from icf_utils.store.layout import Visit
from icf_utils.verify.sign import sign_visit
from tests.data.make_dicom import uid, write_visit
from tests.trust.witnesses import COMBINATIONS, STATES, Case, damage, judge
from tests.verify.keys import make_key, signers
from tests.verify.stores import URL, make_visit

ALL, SEED = "ICF_TRIALS" in os.environ, os.environ.get("ICF_SEED", "0")

INTACT = dict.fromkeys(STATES, "intact")

#: What was found to hide damage, or to lose an intact record.
KNOWN = [
    {"archive": "image", "checksum": "gone", "tarball": "gone", "export": "gone", "refs": "gone", "derived": "gone"},
    {"archive": "image", "checksum": "refit", "tarball": "gone", "export": "gone", "refs": "gone", "derived": "gone"},
    {"archive": "image", "checksum": "refit", "tarball": "gone", "dicoms": "gone", "export": "gone", "refs": "gone"},
    {"archive": "image", "checksum": "refit", "tarball": "gone", "dicoms": "gone", "derived": "gone"},
    {"archive": "other", "checksum": "gone", "tarball": "gone", "dicoms": "gone", "export": "gone", "refs": "gone"},
    {"checksum": "gone", "tarball": "gone", "export": "gone", "refs": "gone", "derived": "gone"},
    {"checksum": "gone", "tarball": "gone", "dicoms": "gone", "export": "wiped", "derived": "gone"},
    {"checksum": "gone", "tarball": "gone", "dicoms": "gone", "export": "gone", "refs": "gone", "derived": "gone"},
    {"checksum": "flip", "tarball": "gone", "dicoms": "gone", "export": "gone", "refs": "gone", "derived": "gone"},
    {"export": "gone", "refs": "flip"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    folder = tmp_path_factory.mktemp("witnesses")
    write_visit(
        folder / "in",
        {1: ("localizer", 2), 2: ("t1", 2)},
        companions={"notes.txt": b"notes-of-the-visit" * 40},
        StudyInstanceUID=uid("witnesses"),
    )
    init_store(folder / "store", url=URL)
    place = make_visit(folder / "in", folder / "store", store_url=None)
    key = make_key(folder / "key")
    signers(folder / "signers", ("steward", "", key))
    assert sign_visit(place.root, place.study, place.visit, key).state == "signed"
    return place


@pytest.mark.parametrize("number", range(len(KNOWN)))
def test_what_is_left_decides(model: Visit, tmp_path: Path, number: int) -> None:
    case = {**INTACT, "sums": "gone", **KNOWN[number]}
    judge(model, damage(model, tmp_path / "store", case, random.Random(number)), model.root.parent / "signers")


def test_all_damage_with_all_that_is_left(model: Visit, tmp_path: Path) -> None:
    count = len(COMBINATIONS) if ALL else 12
    chance = random.Random(SEED)
    cases: list[Case] = chance.sample(COMBINATIONS, count)
    by = model.root.parent / "signers"
    figures = Counter(judge(model, damage(model, tmp_path / "store", case, chance), by) for case in cases)
    assert figures.total() == count
    print("\n".join(f"{what}: {number}" for what, number in sorted(figures.items())))  # noqa: T201 - with -s, figures
