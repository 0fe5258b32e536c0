"""An archive that is damaged or lost is put back by the input that it was made from, and by no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icf_utils import replace_visit, verify_store
from icf_utils.errors import DepositDamaged, DepositMissing
from icf_utils.store.layout import Visit
from icf_utils.store.visit_files import visit_files
from tests.cli.program import Inside
from tests.curation.test_damaged_source import damage
from tests.verify.stores import STUDY, contents


def cut(visit: Visit) -> None:
    visit.archive.write_bytes(visit.archive.read_bytes()[:-1024])


def lose(visit: Visit) -> None:
    visit.archive.unlink()


def damage_with_its_checksum_file(visit: Visit) -> None:
    damage(visit)
    visit.checksum.write_bytes(b"")


def damage_with_its_metadata(visit: Visit) -> None:
    damage(visit)
    visit.tarball_json.write_bytes(b"{")


HARMS = (damage, cut, lose, damage_with_its_checksum_file, damage_with_its_metadata)


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: str(harm.__name__))
def test_the_input_of_the_present_version(harm: object, place: Visit, model: Path, inside: Inside) -> None:
    """Also of a second version; bytes and mode come back, and nothing else changes."""
    replace_visit(model / "later", place.root, STUDY, "v1", reason="late images")
    for path in visit_files(place):
        path.chmod(0o640)
    before = contents(place.root)
    harm(place)  # type: ignore[operator]
    command = ("visit", "replace", "-o", place.root, "--id", STUDY, "v1", model / "later", "--reason", "bit rot")
    harmed = contents(place.root)
    shown = inside(*command, "-n")
    assert (shown.code, f"{STUDY}/v1: version 2 stays" in shown.out) == (0, True)
    assert "its archive is damaged or missing, and is put back from the input: its MD5 agrees with " in shown.out
    assert contents(place.root) == harmed
    done = inside(*command, "--yes")
    assert (done.code, done.out.splitlines()[-1]) == (0, f"{STUDY}/v1: the archive of version 2 was put back")
    assert inside("verify", "-o", place.root, "--repair").code == 0
    after = {name: data for name, data in contents(place.root).items() if "/.icf/" not in name}
    assert after == {name: data for name, data in before.items() if "/.icf/" not in name}
    assert place.archive.stat().st_mode & 0o777 == 0o640
    assert verify_store(place.root).findings == ()


def test_a_run_puts_it_back_only_on_request(place: Visit, model: Path, inside: Inside, tmp_path: Path) -> None:
    whole = place.archive.read_bytes()
    damage(place)
    (tmp_path / "t.csv").write_text(f"study,visit,input\n{STUDY},v1,{model / 'in'}\n")
    command = ("run", "-o", place.root, "--table", tmp_path / "t.csv", "--store-url", "https://data.example.org/store")
    failed = inside(*command, "--allow", "shared-study")
    assert (failed.code, "'icf-utils visit replace' with the input that it was made from" in failed.out) == (1, True)
    done = inside(*command, "--allow", "shared-study", "--replace", "bit rot")
    assert (done.code, "v1_dicom.tar': was damaged; version 1 was put back from the input" in done.err) == (0, True), (
        done
    )
    assert place.archive.read_bytes() == whole
    assert not place.history.exists()


def test_verify_names_the_way(place: Visit, inside: Inside) -> None:
    damage(place)
    said = inside("verify", "-o", place.root, "--repair")
    assert "restore it from a copy, or by 'icf-utils visit replace' with the input" in said.out + said.err
    lose(place)
    said = inside("verify", "-o", place.root)
    assert "restore it from a copy, or by 'icf-utils visit replace' with the input" in said.out + said.err


def test_another_input(place: Visit, model: Path, inside: Inside) -> None:
    """It makes the next version of a damaged visit, and of one whose archive is lost, as of any other."""
    command = ("visit", "replace", "-o", place.root, "--id", STUDY, "v1", "--reason", "bit rot", "--yes")
    raw = bytearray(place.archive.read_bytes())
    raw[:512] = bytes(512)
    place.archive.write_bytes(raw)
    made = inside(*command, model / "later")
    assert (made.code, "the present archive is damaged or missing" in made.out) == (0, True), made
    lose(place)
    assert inside(*command, model / "in").code == 0
    assert [version["version"] for version in json.loads(place.history.read_bytes())] == [1, 2, 3]
    assert verify_store(place.root).findings == ()


def test_records_that_contradict_the_input(place: Visit, model: Path) -> None:
    """Somebody has written the checksum file anew: the input is not what the dataset has."""
    fresh = Visit(model / "store", STUDY, "v1_b")
    damage(place)
    place.checksum.write_bytes(fresh.checksum.read_bytes().replace(b"v1_b", b"v1"))
    before = contents(place.root)
    with pytest.raises(DepositDamaged):
        replace_visit(model / "in", place.root, STUDY, "v1", reason="bit rot", keep=True)
    assert contents(place.root) == before


def test_nothing_is_left_of_it(place: Visit, model: Path) -> None:
    lose(place)
    place.checksum.unlink()
    place.tarball_json.unlink()
    place.dicoms_json.unlink()
    for path in (place.export, place.refs, place.sums):
        path.unlink()
    with pytest.raises(DepositMissing, match="has not been deposited"):
        replace_visit(model / "in", place.root, STUDY, "v1", reason="bit rot")
