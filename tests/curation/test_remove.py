"""Removing a visit: nothing of it stays, and nothing of others goes."""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from icf_utils import make_studyvisit_archive, replace_visit, verify_store
from icf_utils.catalog.index_page import build_index
from icf_utils.catalog.rebuild import build_catalog
from icf_utils.curation.remove import remove_visit
from icf_utils.errors import DepositMissing, InvalidIdentifier, InvalidSetting, VisitRemoved
from icf_utils.receiver.journal import Journal
from icf_utils.store.layout import Visit
from icf_utils.store.visit_files import visit_files
from icf_utils.verify.repair import keep_damaged_file
from tests.cli.program import Inside
from tests.data.make_dicom import uid, write_visit
from tests.verify.stores import STUDY, URL, contents, make_visit


def everything(root: Path) -> bytes:
    """All names and bytes below a folder."""
    return b"\n".join(os.fsencode(path) + path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


@pytest.fixture
def busy(place: Visit, model: Path, inside: Inside) -> Visit:
    """A visit with a kept version, states of runs, a damaged copy and a page of all studies."""
    replace_visit(model / "later", place.root, STUDY, "v1", reason="late images", keep=True)
    build_index(place.root)
    url = ("--store-url", "https://data.example.org/store")
    assert inside("run", "-o", place.root, *url).code == 0
    place.checksum.write_text("0" * 32 + "  v1_dicom.tar\n")
    assert inside("verify", "-o", place.root, "--repair").code == 0
    assert list((place.workdir / "damaged").iterdir())
    jobs = place.workdir / "slurm" / "0001"
    jobs.mkdir(parents=True)
    (jobs / "visits.1").write_text(f"{STUDY}\tv1\t/scanner/MR1\n")
    (jobs / "visits.2").write_text(f"{STUDY}\tv1_b\t/scanner/MR2\n")
    return place


def test_nothing_stays(busy: Visit) -> None:
    before = contents(busy.root)
    uids = {image[key] for image in json.loads(busy.dicoms_json.read_bytes()) for key in image if key.endswith("UID")}
    md5s = {image["md5"] for image in json.loads(busy.dicoms_json.read_bytes())}
    result = remove_visit(busy.root, STUDY, "v1")
    assert result.removed
    assert result.traces == ()
    left = everything(busy.root)
    other = json.loads(Visit(busy.root, STUDY, "v1_b").dicoms_json.read_bytes())
    uids -= {image[key] for image in other for key in image if key.endswith("UID")}
    md5s -= {image["md5"] for image in other}
    assert md5s
    for needle in (*uids, *md5s, "v1_dicom", f"{STUDY}_v1/", "/v1_history", "late images"):
        assert needle.encode() not in left, needle
    assert verify_store(busy.root).findings == ()
    after = contents(busy.root)
    theirs = {name for name in before if "/v1_b" in name}
    assert theirs
    assert {name: before[name] for name in theirs} == {name: after[name] for name in theirs}
    assert [line["visit"] for line in json.loads(busy.of_study.visit_list.read_bytes())] == ["v1_b"]
    assert (busy.workdir / "slurm" / "0001" / "visits.2").exists()
    assert not (busy.workdir / "slurm" / "0001" / "visits.1").exists()


def test_the_last_visit_goes_and_foreign_files_stay(place: Visit) -> None:
    (place.of_study.folder / ".htaccess").write_text("Require valid-user\n")
    (place.of_study.catalog / ".htaccess").write_text("Require valid-user\n")
    (place.of_study.catalog / "notes").write_text("of somebody else\n")
    place.of_study.folder.chmod(0o2750)
    remove_visit(place.root, STUDY, "v1_b")
    remove_visit(place.root, STUDY, "v1")
    assert place.of_study.folder.stat().st_mode & 0o7777 == 0o2750
    assert {path.name for path in place.of_study.folder.iterdir()} == {".htaccess", "catalog"}
    assert {path.name for path in place.of_study.catalog.iterdir()} == {".htaccess", "notes"}
    (place.root / "icf.toml").touch()
    assert verify_store(place.root).visits == ()
    with pytest.raises(DepositMissing, match="nothing of this visit"):
        remove_visit(place.root, STUDY, "v1")


def test_a_visit_whose_name_begins_with_anothers(place: Visit) -> None:
    for name in ("v1_b_dcm2niix_output.tar", "v1_dcm2niix_output.tar", "v1_b_SHA256SUMS", "v1_notes.txt"):
        (place.of_study.folder / name).write_text("x")
    remove_visit(place.root, STUDY, "v1")
    left = {path.name for path in place.of_study.folder.iterdir()}
    assert {"v1_b_dcm2niix_output.tar", "v1_b_SHA256SUMS", "v1_notes.txt", "v1_b_dicom.tar"} <= left
    assert "v1_dcm2niix_output.tar" not in left


def test_a_tombstone(place: Visit, model: Path) -> None:
    result = remove_visit(place.root, STUDY, "v1", tombstone=True, date="2024-06-01", reason="withdrawn")
    assert result.tombstone == place.tombstone
    assert json.loads(place.tombstone.read_bytes()) == {"visit": "v1", "date": "2024-06-01", "reason": "withdrawn"}
    assert verify_store(place.root).findings == ()
    with pytest.raises(VisitRemoved, match="was removed from this store"):
        make_studyvisit_archive(model / "in", place.root, STUDY, "v1")
    place.tombstone.unlink()
    make_studyvisit_archive(model / "in", place.root, STUDY, "v1")


def test_removed_before(place: Visit, inside: Inside) -> None:
    command = (
        "visit",
        "remove",
        "-o",
        place.root,
        "--id",
        STUDY,
        "v1",
        "--tombstone",
        "--reason",
        "withdrawn",
        "--yes",
    )
    assert inside(*command).code == 0
    before = place.tombstone.read_bytes()
    again = inside(*command)
    assert (again.code, "found nothing" in again.out, place.tombstone.read_bytes()) == (0, True, before), again
    missing = inside("visit", "remove", "-o", place.root, "--id", STUDY, "v9", "--yes")
    assert (missing.code, "nothing of this visit" in missing.err) == (5, True), missing


def test_what_is_left_is_reported(place: Visit, inside: Inside) -> None:
    uid = json.loads(place.dicoms_json.read_bytes())[0]["SOPInstanceUID"]
    Visit(place.root, STUDY, "v1_b").dicoms_json.unlink()  # no other visit has these images then
    shutil.rmtree(place.root / STUDY / "catalog")
    (place.root / "list.txt").write_text(f"copied {STUDY}/v1 and {uid}\n")
    ran = inside("visit", "remove", "-o", place.root, "--id", STUDY, "v1", "--yes")
    assert ran.code == 1
    assert f"'{place.root / 'list.txt'}': UIDs and its identifier" in ran.out
    assert "clones of its dataset" in ran.out


def test_the_receiver_forgets(tmp_path: Path) -> None:
    with closing(Journal(tmp_path)) as journal:
        first = journal.open_session(rule="r", study=STUDY, visit="v1", state="success")
        other = journal.open_session(rule="r", study=STUDY, visit="v1_b", state="success")
        journal.record_digests(first.id, {"1.2.3.4.5": b"digest of an image"})
        (first.input / "x.dcm").write_bytes(b"x")
        assert journal.forget_visit(STUDY, "v1") == [first.id]
        assert journal.session(first.id) is None
        assert journal.session(other.id) is not None
        assert not first.folder.exists()
        busy = journal.open_session(rule="r", study=STUDY, visit="v2")
        with pytest.raises(InvalidSetting, match="receiving"):
            journal.forget_visit(STUDY, "v2")
        assert busy.folder.exists()
    assert b"digest of an image" not in everything(tmp_path)


def test_other_visits_with_its_images_are_named(place: Visit, model: Path, inside: Inside) -> None:
    """A subject who withdraws may be in other visits: the steward must know which."""
    for other in ("v1.x", "v9"):
        shutil.copytree(model / "in", model / other, dirs_exist_ok=True)
        make_visit(model / other, place.root, other)
    ran = inside("visit", "remove", "-o", place.root, "--id", STUDY, "v1", "--yes", "--reason", "withdrawn")
    assert f"other visits have images of it: {STUDY}/v1.x, {STUDY}/v1_b, {STUDY}/v9 (" in ran.out, ran


@pytest.mark.parametrize("other", ["v1.x", "v1_dicom.v2", "v1_annex", "v1_dcm2niix_output"])
def test_visits_with_confusing_names(place: Visit, model: Path, inside: Inside, other: str) -> None:
    """No name of a visit's files can be that of another visit's, whatever the identifiers are."""
    write_visit(model / other, {1: ("localizer", 1)}, StudyInstanceUID=uid(other))
    theirs = make_visit(model / other, place.root, other)
    replace_visit(model / "later", place.root, STUDY, "v1", reason="late images", keep=True)
    assert inside("run", "-o", place.root, "--store-url", URL).code == 0
    keep_damaged_file(theirs.of_study, theirs.archive)
    keep_damaged_file(theirs.of_study, place.archive)
    records = place.workdir / "processing"
    records.mkdir()
    for visit in ("v1", other):
        (records / f"{visit}.dcm2niix.log").write_text("done\n")
    kept = {name: data for name, data in contents(place.root).items() if Path(name).name.startswith(other)}
    assert len(kept) >= 12
    result = remove_visit(place.root, STUDY, "v1")
    assert result.traces == ()
    left = contents(place.root)
    assert {name: left.get(name) for name in kept} == kept
    assert [
        name for name in left if Path(name).name.startswith("v1") and not Path(name).name.startswith((other, "v1_b"))
    ] == []
    assert verify_store(place.root).findings == ()


@pytest.mark.parametrize(
    "visit",
    ["v1_dicom.tar", "v1_dicom.tar.md5sum", "v1_dicom.v2.tar", "v1_history.json", "v1.annex", "v1_a_output.tar"],
)
def test_names_of_files_are_not_identifiers(tmp_path: Path, visit: str) -> None:
    with pytest.raises(InvalidIdentifier, match="the name of a deposit's file"):
        Visit(tmp_path, STUDY, visit)


def test_a_run_after_a_removal_has_nothing_to_do(place: Visit, inside: Inside) -> None:
    url = ("--store-url", URL)
    assert inside("run", "-o", place.root, *url).code == 0
    remove_visit(place.root, STUDY, "v1")
    assert inside("run", "-o", place.root, *url, "-n").out == "1 visit: 0 to do (0 stages), 1 up to date\n"


@pytest.mark.parametrize("command", ["replace", "history", "merge", "merge from", "rename"])
def test_other_commands_say_that_it_was_removed(command: str, place: Visit, model: Path, inside: Inside) -> None:
    remove_visit(place.root, STUDY, "v1", tombstone=True)
    options = {
        "replace": ["--reason", "r", str(model / "in"), "-n"],
        "merge": ["--from", "v1_b", "-n"],
        "rename": ["--to", STUDY, "v7", "-n"],
    }
    name = command.partition(" ")[0]
    ids = [STUDY, "v1_b", "--from", "v1", "-n"] if command == "merge from" else [STUDY, "v1", *options.get(name, [])]
    ran = inside("visit", name, "-o", place.root, "--id", *ids)
    assert (ran.code, f"{STUDY}/v1 was removed from this store, as '{place.tombstone}' says" in ran.err) == (4, True)


def test_an_archive_that_is_a_link(place: Visit, model: Path, inside: Inside, tmp_path: Path) -> None:
    """What it leads to stays, as it is not in the store, and is named."""
    other = tmp_path / "big-disk.tar"
    place.archive.rename(other)
    place.archive.symlink_to(other)
    shown = inside("visit", "replace", "-o", place.root, "--id", STUDY, "v1", model / "later", "--reason", "late", "-n")
    assert f"'v1_dicom.tar' is a link; the file '{other}' stays" in shown.out
    ran = inside("visit", "remove", "-o", place.root, "--id", STUDY, "v1", "--yes")
    assert f"  the file '{other}', to which 'v1_dicom.tar' was a link" in ran.out.splitlines()
    assert other.exists()


def test_removed_by_hand(place: Visit, model: Path, inside: Inside, tmp_path: Path) -> None:
    """What runs have recorded of the visit, and its sums, are left: verify says so, and which command removes them."""
    (tmp_path / "t.csv").write_text(f"study,visit,input\n{STUDY},v1,{model / 'in'}\n")
    ran = inside(
        "run", "-o", place.root, "--table", tmp_path / "t.csv", "--store-url", "https://data.example.org/store"
    )
    assert ran.code == 0, ran
    for path in visit_files(place):
        if path != place.sums:
            path.unlink()
    build_catalog(place.root, STUDY)
    said = inside("verify", "-o", place.root)
    left = f"'{place.sums}': is left of the visit v1, which is not in the store; 'icf-utils visit remove' removes it"
    assert (said.code, left in said.out) == (1, True), said
    place.sums.unlink()
    said = inside("verify", "-o", place.root)
    assert (said.code, "v1.archive.json': is left of the visit v1" in said.out) == (1, True), said
    assert inside("visit", "remove", "-o", place.root, "--id", STUDY, "v1", "--yes").code == 0
    assert verify_store(place.root).findings == ()


@pytest.mark.parametrize("has_metadata", [True, False])
def test_on_a_full_disk(place: Visit, inside: Inside, monkeypatch: pytest.MonkeyPatch, has_metadata: bool) -> None:
    """The archive can go first, if its UIDs and MD5s are known without it; the visit is removed all the same."""
    mkdir = os.mkdir

    def full(path: str | Path, *more: int, **named: int) -> None:
        if Path(path).name == ".icf":
            raise OSError(errno.ENOSPC, "full", str(path))
        mkdir(path, *more, **named)

    if not has_metadata:
        place.dicoms_json.unlink()
    command = ("visit", "remove", "-o", place.root, "--id", STUDY, "v1", "--yes")
    before = contents(place.root)
    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", full)
        ran = inside(*command)
    assert ran.code == 6
    assert "No space left on device" in ran.err
    assert (f"you can delete '{place.archive}'" in ran.err) == has_metadata
    assert contents(place.root) == before
    place.archive.unlink()
    ran = inside(*command)
    assert (ran.code, "found nothing" in ran.out) == (0, True)
