"""Repairs: what hangs on the archive is built again, the archive itself is never touched, and nothing is lost."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from icf_utils import catalogify_studyvisit_from_meta, deposit_visit_dataset, verify_visit
from icf_utils.progress import SILENT
from icf_utils.store import locks
from icf_utils.store.layout import Visit
from icf_utils.store.sums import read_sums
from icf_utils.verify.repair import VisitRepair, repair_store, repair_visit
from tests.cli.program import icf
from tests.verify.stores import (
    STUDY,
    URL,
    blamed,
    catalog_files,
    check,
    contents,
    files_of,
    make_visit,
    renew_sums,
    write_input,
)

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
def test_a_flipped_bit_outside_the_archive(place: Visit, model: Path, kind: str) -> None:
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
def test_nothing_is_rebuilt_from_a_damaged_archive(place: Visit, number: int) -> None:
    flip(place.archive, random.Random(number))
    os.truncate(place.checksum, 0)
    before = contents(place.root)
    done = repaired(place)
    assert place.archive in blamed(done.check)
    assert any("Nothing was changed" in finding.problem for finding in done.check.findings)
    assert done.repairs == ()
    assert contents(place.root) == before


def test_an_archive_with_a_forged_checksum(place: Visit) -> None:
    data = bytearray(place.archive.read_bytes())
    data[json.loads(place.dicoms_json.read_bytes())[0]["offset"] + 20] ^= 1
    place.archive.write_bytes(data)
    md5 = hashlib.md5(place.archive.read_bytes(), usedforsecurity=False).hexdigest()
    place.checksum.write_text(f"{md5}  {place.archive.name}\n")
    before = contents(place.root)
    done = repaired(place)
    assert "it is not clear which is damaged" in done.check.findings[-1].problem
    assert contents(place.root) == before


def test_only_the_archive_is_left_of_a_visit_with_a_catalog(place: Visit) -> None:
    for kind in DERIVED:
        files_of(place)[kind].unlink()
    done = repaired(place)
    assert place.checksum.exists()
    assert place.dicoms_json.exists()
    assert "agrees with its SHA-256 sums, the list of visits and the catalog" in done.repairs[0].action


def test_a_dataset_of_which_nothing_is_left(place: Visit, model: Path) -> None:
    """Which store it was made for is not guessed."""
    place.export.write_bytes(b"")
    place.refs.write_bytes(b"")
    os.rename(place.of_study.catalog, place.root.parent / "aside")
    done = repaired(place)
    assert any("--store-url" in finding.problem or "too little" in finding.problem for finding in done.check.findings)
    assert place.export.read_bytes() == b""
    done = repair_visit(place.root, STUDY, "v1", store_url="https://data.example.org/store")
    assert done.check.findings == ()
    os.rename(place.root.parent / "aside", place.of_study.catalog)
    assert final(place.root) == contents(model)


def lose_dataset(place: Visit) -> None:
    place.export.unlink()
    place.refs.unlink()


def test_a_lost_dataset_is_proved_by_the_catalog(place: Visit, model: Path) -> None:
    lose_dataset(place)
    assert blamed(check(place)) == {place.refs, place.export}
    assert repaired(place).check == check(Visit(model, STUDY, "v1"))
    assert final(place.root) == contents(model)


def test_a_lost_dataset_with_a_day_of_its_own_is_not_built_with_another(tmp_path: Path) -> None:
    place = make_visit(write_input(tmp_path / "in"), tmp_path / "store", commit_date="2001-02-03")
    lose_dataset(place)
    before = contents(place.root)
    for url in (None, URL):
        done = repair_visit(place.root, STUDY, "v1", store_url=url)
        assert any("icf-utils deposit_visit_dataset" in finding.problem for finding in done.check.findings)
        assert contents(place.root) == before


def test_a_catalog_made_without_a_dataset_is_unchanged(tmp_path: Path) -> None:
    place = make_visit(write_input(tmp_path / "in"), tmp_path / "store")
    lose_dataset(place)
    renew_sums(place)
    shutil.rmtree(place.of_study.catalog)
    catalogify_studyvisit_from_meta(place.root, STUDY, "v1", store_url=URL)
    assert check(place).findings == ()
    before = contents(place.root)
    assert repaired(place).repairs == ()
    for path in catalog_files(place):
        names_store = URL.encode() in path.read_bytes() and "metadata" in path.parts  # the visit's record
        path.write_bytes(b"x")
        done = repaired(place)
        if names_store:  # the only place that does: nothing is guessed, and no page made for another store
            assert "--store-url" in done.check.findings[-1].problem
            assert sorted(catalog_files(place)) == sorted(place.root / name for name in before if "/catalog/" in name)
            done = repair_visit(place.root, STUDY, "v1", store_url=URL)
        assert done.check.findings == (), path
        assert final(place.root) == before


def test_a_dataset_of_another_program_is_not_replaced(place: Visit) -> None:
    place.export.write_bytes(b"PK in another form")
    place.refs.write_bytes(b"".join(b"%s refs/heads/%s\n" % (b"1" * 40, name) for name in (b"git-annex", b"main")))
    shutil.rmtree(place.of_study.catalog)
    before = contents(place.root)
    done = repair_visit(place.root, STUDY, "v1", store_url=URL)
    assert any("one that another program made" in finding.problem for finding in done.check.findings)
    assert contents(place.root) == before


@pytest.mark.parametrize("dataset", [True, False])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_lost_page_shows_all_visits_again(place: Visit, how: str, dataset: bool) -> None:
    second = Visit(place.root, STUDY, "v2")
    if not dataset:
        for one in (place, second):
            lose_dataset(one)
            renew_sums(one)
        shutil.rmtree(place.of_study.catalog)
        for visit in ("v1", "v2"):
            catalogify_studyvisit_from_meta(place.root, STUDY, visit, store_url=URL)
    page, before = _shared(place)[1], contents(place.root)
    page.write_bytes(b"{") if how == "cut" else page.unlink()
    for url in (None, URL):
        page.write_bytes(b"{") if how == "cut" else page.unlink(missing_ok=True)
        assert repair_visit(place.root, STUDY, "v1", store_url=url).check.findings == ()
        assert final(place.root) == before


@pytest.mark.parametrize("how", ["cut", "gone", "with its marker"])
def test_hidden_dates_stay_hidden(place: Visit, how: str) -> None:
    catalogify_studyvisit_from_meta(place.root, STUDY, "v1", hide_dates=True)
    marker, page, _ = _shared(place)
    before = contents(place.root)
    if how == "gone":
        page.unlink()
    else:
        os.truncate(page, 100)
    if how == "with its marker":
        marker.write_bytes(b"")
    assert repair_store(place.root).findings == ()
    assert final(place.root) == before


def test_a_locked_visit_does_not_stop_the_others(place: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    second = Visit(place.root, STUDY, "v2")
    for one in (place, second):
        one.checksum.unlink()
    with locks.visit_lock(second, SILENT):
        done = repair_store(place.root)
    assert [repair.path for visit in done.visits for repair in visit.repairs] == [place.checksum]
    assert [finding.path for finding in done.findings] == [second.archive]
    assert "process" in done.findings[0].problem
    assert repair_store(place.root).findings == ()


@pytest.mark.parametrize("loss", ["address", "bundle", "manifest", "everything but the address"])
def test_the_deposit_for_git_annex_alone(tmp_path: Path, loss: str) -> None:
    place = make_visit(write_input(tmp_path / "in"), tmp_path / "store")
    deposit_visit_dataset(place.root, STUDY, "v1", store_url=URL, annex_url=True)
    catalogify_studyvisit_from_meta(place.root, STUDY, "v1")
    before = contents(place.root)
    if loss == "address":
        place.annex_url.unlink()
    elif loss == "everything but the address":
        shutil.rmtree(place.annex_folder)
    else:
        (path,) = (path for path in place.annex_folder.rglob(f"GIT{loss.upper()}-*") if path.is_file())
        flip(path, random.Random(loss))
    assert check(place).findings != ()
    done = repaired(place)
    assert done.check.findings == ()
    assert done.repairs
    assert final(place.root) == before


@pytest.mark.parametrize("day", [None, "2001-02-03"])
@pytest.mark.parametrize("left", ["the address", "all of it"])
def test_a_lost_dataset_whose_other_deposit_is_left(tmp_path: Path, left: str, day: str | None) -> None:
    """It shows that there was a dataset, also where no day is shown; its names prove or disprove the day."""
    place = make_visit(write_input(tmp_path / "in"), tmp_path / "store", commit_date=day)
    deposit_visit_dataset(place.root, STUDY, "v1", store_url=URL, commit_date=day, annex_url=True)
    catalogify_studyvisit_from_meta(place.root, STUDY, "v1", hide_dates=True)
    before = contents(place.root)
    lose_dataset(place)
    if left == "the address":
        shutil.rmtree(place.annex_folder)
    assert check(place).findings != ()
    done = repaired(place)
    if day is None and left == "all of it":
        assert done.check.findings == ()
        assert final(place.root) == before
    else:
        assert any("deposit_visit_dataset" in finding.problem for finding in done.check.findings)
        assert not place.export.exists()


@pytest.mark.parametrize("kind", [*DERIVED, "archive", "list", "page", "marker"])
@pytest.mark.parametrize("how", ["pipe", "endless"])
def test_what_is_not_a_file_is_named_and_never_waited_for(place: Visit, model: Path, kind: str, how: str) -> None:
    more = {"list": place.of_study.visit_list, "page": _shared(place)[1], "marker": _shared(place)[0]}
    path = {**files_of(place), **more}[kind]
    path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    ran = icf("verify", "-o", place.root)
    assert ran.code == 1
    word = "a named pipe" if how == "pipe" else "a device"
    assert f"it is {word}, not a file" in ran.out
    done = repair_store(place.root)
    if kind == "archive":
        assert place.archive in {finding.path for finding in done.findings}
    else:
        assert done.findings == ()
        assert final(place.root) == contents(model)


def test_foreign_things_are_named(place: Visit) -> None:
    pipe, pages = place.of_study.folder / "x_output.tar", place.of_study.catalog / "metadata" / ("0" * 8 + "-0000" * 3)
    os.mkfifo(pipe)
    pages = pages.with_name(f"{pages.name}-{'0' * 12}")
    pages.mkdir()
    place.archive.chmod(0o666)
    ran = icf("verify", "-o", place.root)
    assert ran.code == 1
    assert f"'{pipe}': is a named pipe, not a file or folder" in ran.out
    assert f"'{pages}': belongs to no visit that the study's page shows" in ran.out
    assert "warning [world-writable]: " in ran.err
    assert str(place.archive) in ran.err


def test_an_archive_that_nothing_proves(place: Visit, model: Path) -> None:
    for kind in ("checksum", "tarball", "dicoms", "refs", "export"):
        files_of(place)[kind].unlink()
    place.sums.unlink()
    shutil.rmtree(place.of_study.catalog)
    place.of_study.visit_list.unlink()
    before = contents(place.root)
    command = ("verify", "-o", place.root, "--id", STUDY, "v1")
    for more in ((), ("--repair",)):
        ran = icf(*command, *more)
        assert ran.code == 1
        assert ran.out.count("nothing is left that could prove it") == 1
        assert contents(place.root) == before
    assert icf(*command, "--accept-archive").code == 2
    ran = icf(*command, "--repair", "--accept-archive")
    assert ran.code == 0
    assert "accepted by --accept-archive, as nothing is left that could prove it" in ran.out
    assert place.checksum.read_bytes() == files_of(Visit(model, STUDY, "v1"))["checksum"].read_bytes()
    flip(place.archive, random.Random(1))
    assert icf(*command, "--repair", "--accept-archive").code == 1


def test_intact_refs_are_not_replaced(place: Visit) -> None:
    """They name commits of something else, although the id of the dataset is left in the export and the catalog."""
    refs = b"".join(b"%s refs/heads/%s\n" % (b"1" * 40, name) for name in (b"git-annex", b"main"))
    place.refs.write_bytes(refs)
    place.dicoms_json.unlink()
    place.export.write_bytes(place.export.read_bytes()[:-1])
    done = repaired(place)
    assert place.refs.read_bytes() == refs
    assert any("one that another program made" in finding.problem for finding in done.check.findings)


def test_a_repair_adds_no_identifying_tag(place: Visit) -> None:
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
    assert f"{STUDY}/v1: repaired '{place.checksum}': rebuilt from the archive" in done.out
    assert "the damaged file is kept as" in done.out
    assert "everything is correct" in done.out
    place.checksum.unlink()
    done = icf(*command, "--repair", "--json")
    (visit,) = done.json["result"]["visits"]
    assert [repair["path"] for repair in visit["repairs"]] == [str(place.checksum)]
    flip(place.archive, random.Random(0))
    assert icf(*command, "--repair").code == 1


def test_the_lines_that_are_left_of_damaged_sums(place: Visit) -> None:
    """A line of a lost file shows the loss; it is not dropped with the damaged line."""
    place.sums.write_bytes(place.sums.read_bytes().replace(b"  v1_dicom.tar\n", b"  v1_dicom.tas\n"))
    place.export.unlink()
    place.refs.unlink()
    shutil.rmtree(place.of_study.catalog)
    place.of_study.visit_list.unlink()
    found = {finding.path: finding.problem for finding in verify_visit(place.root, place.study, place.visit).findings}
    assert found[place.refs] == found[place.export] == "is missing although 'v1_SHA256SUMS' lists it"
    repair_visit(place.root, place.study, place.visit)
    assert {place.refs.name, place.export.name, place.archive.name} < set(read_sums(place) or ())
