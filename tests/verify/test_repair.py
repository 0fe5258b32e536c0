"""Repairs: what hangs on the archive is built again, the archive itself is never touched, and nothing is lost."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from icf_utils.store import Visit
from icf_utils.verify.repair import VisitRepair, repair_store, repair_visit
from tests.cli.program import icf
from tests.verify.stores import STUDY, blamed, catalog_files, check, contents, files_of, make_visit, write_input

DERIVED = ("checksum", "dicoms", "tarball", "refs", "export")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two visits."""
    root = tmp_path_factory.mktemp("model")
    tags = root / "tags.txt"
    tags.write_text("EchoTime\n")
    for visit in ("v1", "v2"):
        make_visit(write_input(root / visit, StudyTime=f"1{visit[1]}0000"), root / "store", visit, tags=tags)
    return root / "store"


@pytest.fixture
def place(model: Path, tmp_path: Path) -> Visit:
    shutil.copytree(model, tmp_path / "store")
    return Visit(tmp_path / "store", STUDY, "v1")


def repaired(place: Visit) -> VisitRepair:
    return repair_visit(place.root, place.study, place.visit)


def final(root: Path) -> dict[str, bytes]:
    """Without what was kept of damaged files."""
    return {name: data for name, data in contents(root).items() if "/.icf/damaged/" not in name}


def flip(path: Path, chance: random.Random) -> bytes:
    """Change one bit; the bytes from before."""
    before = path.read_bytes()
    data = bytearray(before)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return before


@pytest.mark.parametrize("kind", DERIVED)
def test_a_bit_beside_the_archive(place: Visit, model: Path, kind: str) -> None:
    chance = random.Random(kind)
    tar = place.archive.stat()
    for _ in range(6):
        path = files_of(place)[kind]
        flip(path, chance)
        damaged = path.read_bytes()
        done = repaired(place)
        assert done.check.findings == (), (kind, done)
        (repair,) = [repair for repair in done.repairs if repair.path == path]
        assert repair.kept
        assert repair.kept.read_bytes() == damaged
        assert final(place.root) == contents(model)
    now = place.archive.stat()
    assert (tar.st_mtime_ns, tar.st_ino, tar.st_size) == (now.st_mtime_ns, now.st_ino, now.st_size)


@pytest.mark.parametrize("kind", DERIVED)
@pytest.mark.parametrize("how", ["cut", "empty", "gone", "other"])
def test_a_file_that_is_cut_or_gone(place: Visit, model: Path, kind: str, how: str) -> None:
    path = files_of(place)[kind]
    if how == "gone":
        path.unlink()
    elif how == "other":
        shutil.copyfile(files_of(Visit(place.root, STUDY, "v2"))[kind], path)
    else:
        os.truncate(path, path.stat().st_size // 2 if how == "cut" else 0)
    done = repaired(place)
    assert done.check.findings == (), done
    assert final(place.root) == contents(model)


def test_everything_beside_the_archive_at_once(place: Visit, model: Path) -> None:
    """The id in the dataset's own bytes proves the address that is left in them."""
    for kind in DERIVED:
        path = files_of(place)[kind]
        if kind == "dicoms":
            flip(path, random.Random(1))
        elif kind == "export":
            data = bytearray(path.read_bytes())
            data[20] ^= 1
            path.write_bytes(data)
        else:
            path.write_bytes(b"")
    for path in catalog_files(place):
        path.write_bytes(path.read_bytes()[:-1])
    done = repair_store(place.root)
    assert [finding.problem for finding in done.findings] == []
    wanted, found = contents(model), final(place.root)
    assert {name: found.get(name) for name in wanted if "dicoms.json" not in name} == {
        name: data for name, data in wanted.items() if "dicoms.json" not in name
    }


@pytest.mark.parametrize("number", range(12))
def test_a_bit_of_the_catalog(place: Visit, model: Path, number: int) -> None:
    chance = random.Random(number)
    path = chance.choice(catalog_files(place)) if number > 2 else _shared(place)[number]
    flip(path, chance)
    assert repair_store(place.root).findings == ()
    assert final(place.root) == contents(model)


def _shared(place: Visit) -> list[Path]:
    catalog = place.of_study.catalog
    page = max((path for path in catalog.rglob("*.json")), key=lambda path: b'"subdatasets"' in path.read_bytes())
    return [catalog / ".icf-catalog", page, catalog / "metadata" / "super.json"]


@pytest.mark.parametrize("number", range(6))
def test_a_damaged_archive_is_never_built_on(place: Visit, number: int) -> None:
    flip(place.archive, random.Random(number))
    os.truncate(place.checksum, 0)
    before = contents(place.root)
    done = repaired(place)
    assert place.archive in blamed(done.check)
    assert any("Nothing was changed" in finding.problem for finding in done.check.findings)
    assert done.repairs == ()
    assert contents(place.root) == before


def test_an_archive_with_a_checksum_that_somebody_made_to_fit(place: Visit) -> None:
    data = bytearray(place.archive.read_bytes())
    data[json.loads(place.dicoms_json.read_bytes())[0]["offset"] + 20] ^= 1
    place.archive.write_bytes(data)
    md5 = hashlib.md5(place.archive.read_bytes(), usedforsecurity=False).hexdigest()
    place.checksum.write_text(f"{md5}  {place.archive.name}\n")
    before = contents(place.root)
    done = repaired(place)
    assert "is damaged cannot be told" in done.check.findings[-1].problem
    assert contents(place.root) == before


def test_only_the_archive_is_left_of_a_visit_with_a_catalog(place: Visit) -> None:
    for kind in DERIVED:
        files_of(place)[kind].unlink()
    done = repaired(place)
    assert place.checksum.exists()
    assert place.dicoms_json.exists()
    assert "taken as it is" in done.repairs[0].action or "taken as it was" in done.repairs[0].action or done.repairs


def test_a_dataset_of_which_nothing_is_left(place: Visit, model: Path) -> None:
    """Which store it was made for is not guessed."""
    place.export.write_bytes(b"")
    place.refs.write_bytes(b"")
    done = repaired(place)
    assert any("--store-url" in finding.problem or "too little" in finding.problem for finding in done.check.findings)
    assert place.export.read_bytes() == b""
    done = repair_visit(place.root, STUDY, "v1", store_url="https://data.example.org/store")
    assert done.check.findings == ()
    assert final(place.root) == contents(model)


def test_no_tag_that_names_a_person_comes_in_by_a_repair(place: Visit) -> None:
    records = json.loads(place.dicoms_json.read_bytes())
    for record in records:
        record["PatientName"] = "x"
    place.dicoms_json.write_text(json.dumps(records))
    repaired(place)
    assert b"PatientName" not in place.dicoms_json.read_bytes()
    assert b"EchoTime" in place.dicoms_json.read_bytes()


def test_nothing_to_do(place: Visit) -> None:
    before = contents(place.root)
    done = repaired(place)
    assert (done.repairs, done.check) == ((), check(place))
    assert contents(place.root) == before


def test_what_the_command_says(place: Visit) -> None:
    place.checksum.write_bytes(b"x")
    command = ("verify", "-o", place.root, "--id", STUDY, "v1")
    assert icf(*command).code == 1
    done = icf(*command, "--repair")
    assert done.code == 0
    assert f"{STUDY}/v1: repaired '{place.checksum}': built again from the archive" in done.out
    assert "the damaged one is kept as" in done.out
    assert "everything is as it should be" in done.out
    place.checksum.unlink()
    done = icf(*command, "--repair", "--json")
    (visit,) = done.json["result"]["visits"]
    assert [repair["path"] for repair in visit["repairs"]] == [str(place.checksum)]
    flip(place.archive, random.Random(0))
    assert icf(*command, "--repair").code == 1
