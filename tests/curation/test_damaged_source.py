"""A change that takes files over from a deposited archive: one that is damaged must not get a new checksum."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from icf_utils import verify_store
from icf_utils.curation.extend import add_images
from icf_utils.curation.merge import merge_visits
from icf_utils.curation.rename import rename_visit
from icf_utils.curation.replace import replace_visit
from icf_utils.errors import DepositDamaged
from icf_utils.store.layout import Visit
from tests.cli.program import Inside
from tests.verify.stores import STUDY, contents, make_visit


def damage(visit: Visit) -> None:
    """Flip a bit of the last pixel of an image."""
    image = json.loads(visit.dicoms_json.read_bytes())[0]
    raw = bytearray(visit.archive.read_bytes())
    raw[image["offset"] + image["size"] - 1] ^= 1
    visit.archive.write_bytes(raw)


CHANGES: dict[str, Callable[[Visit, Path], object]] = {
    "rename": lambda place, _: rename_visit(place.root, STUDY, "v1", STUDY, "v7"),
    "rename into another study": lambda place, _: rename_visit(place.root, STUDY, "v1", "study-b", "v7"),
    "merge": lambda place, _: merge_visits(place.root, STUDY, "v1", "v1_2"),
    "merge into another": lambda place, _: merge_visits(place.root, STUDY, "v1_2", "v1"),
    "extend": lambda place, model: add_images(model / "last", place.root, STUDY, "v1"),
    "replace, keeping it": lambda place, model: replace_visit(
        model / "last", place.root, STUDY, "v1", reason="late", keep=True
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_refused(change: str, place: Visit, model: Path) -> None:
    make_visit(model / "last", place.root, "v1_2")
    damage(place)
    before = contents(place.root)
    with pytest.raises(DepositDamaged, match="restore it from a copy"):
        CHANGES[change](place, model)
    assert {name: data for name, data in contents(place.root).items() if "/v" in name} == {
        name: data for name, data in before.items() if "/v" in name
    }
    assert place.archive in {finding.path for finding in verify_store(place.root).findings}


def test_a_table_from_before_a_merge(place: Visit, model: Path, inside: Inside) -> None:
    """It neither drops what was merged, nor archives it a second time."""
    make_visit(model / "last", place.root, "v1_2")
    merge_visits(place.root, STUDY, "v1", "v1_2")
    before = place.archive.read_bytes()
    table = place.root.parent / "visits.csv"
    table.write_text(f"study,visit,input\n{STUDY},v1,{model / 'in'}\n{STUDY},v1_2,{model / 'last'}\n")
    ran = inside("run", "-o", place.root, "--table", table, "--allow", "shared-study", "--replace", "weekly")
    said = ran.out + ran.err
    assert ran.code == 1
    assert f"into which {STUDY}/v1_2 was merged" in said
    assert f"'{STUDY}/v1_2': was merged into {STUDY}/v1" in said
    assert place.archive.read_bytes() == before
    assert not Visit(place.root, STUDY, "v1_2").archive.exists()
