"""``<visit>_SHA256SUMS`` after every change of a visit: all of its files, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from icf_utils import RefreshOptions, refresh_visit, rename_visit, replace_visit, verify_store
from icf_utils.curation.merge import merge_visits
from icf_utils.errors import DepositDamaged, ExistingFileDiffers
from icf_utils.metadata.stage import deposit_visit_metadata
from icf_utils.store.layout import Visit
from icf_utils.store.sums import file_sha256, format_sums, list_summed, parse_sums, read_sums
from tests.cli.program import Inside
from tests.outputs.test_outputs import RECIPE, deposit
from tests.verify.stores import STUDY, URL, contents, make_visit


def is_right(place: Visit) -> bool:
    """What the program of GNU coreutils says of the list, and whether each file is in it."""
    folder = place.of_study.folder
    command = ["sha256sum", "-c", "--strict", "--quiet", place.sums.name]
    checked = subprocess.run(command, cwd=folder, check=False)
    own = {path.name for path in folder.iterdir() if path.name.startswith(f"{place.visit}_") and path.is_file()}
    own -= {name for name in own if name.startswith("v1_b") and place.visit == "v1"}
    listed = set(read_sums(place) or {})
    return checked.returncode == 0 and listed == own - {place.sums.name, place.signature.name}


def test_each_change_brings_the_list_up_to_date(place: Visit, model: Path, tmp_path: Path) -> None:
    assert is_right(place)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "x.nii").write_bytes(b"x")
    deposit(place, tmp_path / "made", replace(RECIPE, study=STUDY, visit="v1"))
    assert is_right(place)
    assert len(read_sums(place) or {}) == 8
    place.signature.write_text("of the list as it is\n")
    assert refresh_visit(place.root, STUDY, "v1", options=RefreshOptions(store_url=URL)).changes == ()
    assert place.signature.exists()
    replace_visit(model / "later", place.root, STUDY, "v1", reason="late images", keep=True)
    assert not place.signature.exists()
    sums = read_sums(place) or {}
    assert is_right(place)
    assert {"v1_dicom.v1.tar", "v1_history.json"} <= sums.keys()
    assert not any("output" in name for name in sums)
    late = make_visit(model / "last", place.root, "v1_2")
    assert is_right(late)
    merge_visits(place.root, STUDY, "v1", "v1_2")
    assert is_right(place)
    rename_visit(place.root, STUDY, "v1", STUDY, "v7")
    assert is_right(Visit(place.root, STUDY, "v7"))
    rename_visit(place.root, STUDY, "v7", "other", "v8")
    assert is_right(Visit(place.root, "other", "v8"))
    assert not [name for name in contents(place.root) if "/v1_S" in name or "/v7_" in name]
    assert verify_store(place.root).findings == ()


def test_the_same_list_however_it_was_made(place: Visit, inside: Inside) -> None:
    before = place.sums.read_bytes()
    place.sums.unlink()
    ran = inside("verify", "-o", place.root)
    assert (ran.code, "no-sums" in ran.err) == (0, True), ran
    assert inside("verify", "-o", place.root, "--repair").code == 0
    assert place.sums.read_bytes() == before
    place.sums.unlink()
    deposit_visit_metadata(place.root, STUDY, "v1")
    assert place.sums.read_bytes() == before


def test_a_changed_file_is_found(place: Visit, inside: Inside) -> None:
    before = place.sums.read_bytes()
    place.sums.write_bytes(before.replace(b"0", b"1", 1))
    ran = inside("verify", "-o", place.root)
    assert (ran.code, "its SHA-256 is" in ran.out) == (1, True), ran
    assert inside("verify", "-o", place.root, "--repair").code == 0
    assert place.sums.read_bytes() == before
    shutil.copy(place.archive, place.archive.with_name("v1_dicom.v1.tar"))
    ran = inside("verify", "-o", place.root)
    assert (ran.code, "is not in the visit's SHA-256 sums" in ran.out) == (1, True), ran


def test_a_list_that_says_something_else_is_not_replaced(place: Visit) -> None:
    sums = read_sums(place) or {}
    place.sums.write_bytes(format_sums(sums | {place.dicoms_json.name: "0" * 64}))
    with pytest.raises(ExistingFileDiffers, match="another SHA-256"):
        deposit_visit_metadata(place.root, STUDY, "v1")
    place.dicoms_json.unlink()
    deposit_visit_metadata(place.root, STUDY, "v1")
    assert read_sums(place) == {name: file_sha256(place.of_study.folder / name) for name in list_summed(place)}


@pytest.mark.parametrize("raw", [b"", b"x", b"0" * 64 + b"  /etc/passwd\n", b"0" * 64 + b" *a\n", b"\xff" * 70])
def test_another_form(raw: bytes) -> None:
    with pytest.raises(DepositDamaged):
        parse_sums(raw, "x")
