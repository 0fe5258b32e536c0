"""Bags and OCFL objects of visits, judged by the programs of BagIt and OCFL."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from icf_utils.store.layout import Visit
from tests.cli.program import Inside
from tests.verify.stores import STUDY, URL, contents, make_visit, write_input


@pytest.fixture
def place(tmp_path: Path) -> Visit:
    made = make_visit(write_input(tmp_path / "in"), tmp_path / "store")
    (made.root / "icf.toml").write_text(f'[store]\nurl = "{URL}"\n')
    return made


@pytest.fixture
def inside(capsys: pytest.CaptureFixture[str]) -> Inside:
    """The program, run in this process."""
    return Inside(capsys)


def export(place: Visit, to: Path, *more: str) -> tuple[str | Path, ...]:
    return ("export", "-o", place.root, "--to", to, *more)


def test_a_bag(place: Visit, tmp_path: Path, inside: Inside) -> None:
    bagit = pytest.importorskip("bagit")
    store = contents(place.root)
    ran = inside(*export(place, tmp_path / "bags", "--bagit", STUDY))
    assert (ran.code, "1 visit: 1 exported" in ran.out) == (0, True), ran
    folder = tmp_path / "bags" / STUDY / "v1"
    bag = bagit.Bag(str(folder))
    bag.validate()
    assert bag.info["External-Identifier"] == f"{STUDY}/v1"
    payload = {name for name in contents(folder) if name.startswith("data/")}
    assert payload == {f"data/{path.name}" for path in place.of_study.folder.glob("v1_*")}
    assert os.path.samefile(place.archive, folder / "data" / place.archive.name)
    assert contents(place.root) == store
    made = contents(folder)
    ran = inside(*export(place, tmp_path / "bags", "--bagit"))
    assert (ran.code, "0 exported (0 B), 1 exported before" in ran.out) == (0, True), ran
    inside(*export(place, tmp_path / "more", "--bagit"))
    assert contents(tmp_path / "more" / STUDY / "v1") == made
    (folder / "data" / place.refs.name).unlink()
    (folder / "data" / place.refs.name).write_bytes(b"x")
    with pytest.raises(bagit.BagValidationError):
        bagit.Bag(str(folder)).validate()


def test_a_bag_that_is_fetched(place: Visit, tmp_path: Path, inside: Inside) -> None:
    bagit = pytest.importorskip("bagit")
    assert inside(*export(place, tmp_path / "bags", "--bagit", "--fetch")).code == 0
    folder = tmp_path / "bags" / STUDY / "v1"
    line = f"{URL}/{STUDY}/v1_dicom.tar {place.archive.stat().st_size} data/v1_dicom.tar\n"
    assert (folder / "fetch.txt").read_text() == line
    assert not (folder / "data" / "v1_dicom.tar").exists()
    shutil.copy(place.archive, folder / "data")
    bagit.Bag(str(folder)).validate()


def test_an_object(place: Visit, tmp_path: Path, inside: Inside) -> None:
    ocfl = pytest.importorskip("ocfl")
    assert inside(*export(place, tmp_path / "root", "--ocfl")).code == 0
    folder = tmp_path / "root" / STUDY / "v1"
    root = ocfl.StorageRoot(root=str(tmp_path / "root"))
    assert root.validate(validate_objects=True, check_digests=True)
    before = contents(folder)
    assert inside(*export(place, tmp_path / "root", "--ocfl")).code == 0
    assert contents(folder) == before


def test_refused(place: Visit, tmp_path: Path, inside: Inside) -> None:
    """A bag of another version stays, and nothing is made of a visit that is not whole."""
    assert inside(*export(place, tmp_path / "bags", "--bagit")).code == 0
    before = contents(tmp_path / "bags")
    place.signature.write_text("new\n")
    assert inside(*export(place, tmp_path / "bags", "--bagit")).code == 4
    assert contents(tmp_path / "bags") == before
    assert inside(*export(place, tmp_path / "bags", "--ocfl")).code == 2
    for form in ("--bagit", "--ocfl"):
        for folder in (place.root, place.of_study.folder, place.root / "new"):
            ran = inside(*export(place, folder, form))
            assert (ran.code, "is in the store" in ran.err) == (2, True), ran
    assert not (place.root / "new").exists()
    place.refs.unlink()
    assert inside(*export(place, tmp_path / "new", "--bagit")).code == 5
    place.sums.unlink()
    assert inside(*export(place, tmp_path / "new", "--bagit")).code == 5
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_file()]
