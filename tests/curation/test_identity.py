"""An input of another visit or another patient does not become the next version of a visit by mistake."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from icf_utils.curation.merge import merge_visits
from icf_utils.errors import InputRefused
from icf_utils.metadata.study_uids import recorded_study_uids
from icf_utils.store.layout import Visit
from tests.cli.program import Inside
from tests.data.make_dicom import uid, write_visit
from tests.verify.stores import STUDY, contents, make_visit, write_input


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, in which two visits of two patients are in two studies; never changed."""
    folder = tmp_path_factory.mktemp("identity")
    visits = ((STUDY, "v1", "P1", 1), (STUDY, "v2", "P2", 2), ("study-b", "v1", "P3", 3))
    for study, visit, patient, number in visits:
        source = write_input(folder / f"{study}-{visit}", StudyInstanceUID=uid(number), PatientID=patient)
        make_visit(source, folder / "store", visit, study)
    return folder


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def replace(store: Path, inside: Inside) -> Command:
    """``visit replace --yes`` of the first visit."""

    def call(source: Path, *more: str) -> tuple[int, str]:
        command = ("visit", "replace", "-o", store / "store", "--id", STUDY, "v1", "--reason", "r", "-n", source)
        ran = inside(*command, *more)
        return ran.code, ran.out + ran.err

    return call


@pytest.mark.parametrize("other", [f"{STUDY}/v2", "study-b/v1"])
def test_the_input_of_another_visit(other: str, store: Path, replace: Command) -> None:
    before = contents(store / "store")
    code, said = replace(store / other.replace("/", "-"))
    problem = f"has images of the same StudyInstanceUID as {other}, a UID that this visit does not have"
    assert (code, problem in said) == (3, True)
    assert "--allow shared-study" in said
    code, said = replace(store / other.replace("/", "-"), "--allow", "shared-study")
    assert (code, "the images have another PatientID than its present version" in said) == (3, True)
    code, said = replace(store / other.replace("/", "-"), "--allow", "shared-study", "--allow", "several-patients")
    assert (code, "the images have a StudyInstanceUID that the present version does not have" in said) == (0, True)
    assert contents(store / "store") == before


def test_a_corrected_patient(store: Path, replace: Command, tmp_path: Path) -> None:
    """The PatientID itself is not printed."""
    source = write_input(tmp_path / "in", StudyInstanceUID=uid(1), PatientID="SECRET")
    code, said = replace(source)
    assert (code, "the images have another PatientID than its present version" in said) == (3, True)
    assert "SECRET" not in said
    assert replace(source, "--allow", "several-patients")[0] == 0
    write_visit(tmp_path / "in", {7: ("bold", 1)}, StudyInstanceUID=uid(1), PatientID="P1")
    code, said = replace(source)
    assert (code, "contains images of 2 PatientIDs" in said) == (3, True)


def test_late_images(store: Path, replace: Command, tmp_path: Path) -> None:
    source = write_input(tmp_path / "in", StudyInstanceUID=uid(1), PatientID="P1")
    write_visit(source, {7: ("bold", 1)}, StudyInstanceUID=uid(1), PatientID="P1")
    assert replace(source)[0] == 0


def test_a_study_that_the_visits_share_already(inside: Inside, tmp_path: Path) -> None:
    for visit in ("v1", "v2"):
        source = write_input(tmp_path / visit, StudyInstanceUID=uid(1), StudyTime=f"1{visit[1]}0000")
        make_visit(source, tmp_path / "store", visit)
    write_visit(tmp_path / "v1", {7: ("bold", 1)}, StudyInstanceUID=uid(1))
    command = ("visit", "replace", "-o", tmp_path / "store", "--id", STUDY, "v1", "--reason", "r", "-n")
    assert inside(*command, tmp_path / "v1").code == 0


def test_every_image_of_the_other_visit_counts(store: Path, inside: Inside, tmp_path: Path) -> None:
    """A visit of two DICOM studies is recognised by the second one."""
    root = tmp_path / "store"
    shutil.copytree(store / "store", root)
    write_visit(tmp_path / "two", {1: ("t1", 200)}, StudyInstanceUID=uid(4), PatientID="P4")
    write_visit(tmp_path / "two", {2: ("bold", 1)}, StudyInstanceUID=uid(5), PatientID="P4")
    place = make_visit(tmp_path / "two", root, "v4")
    assert recorded_study_uids(place) == {uid(4), uid(5)}
    write_visit(tmp_path / "in", {2: ("bold", 2)}, StudyInstanceUID=uid(5), PatientID="P1")
    ran = inside("visit", "replace", "-o", root, "--id", STUDY, "v1", "--reason", "r", "-n", tmp_path / "in")
    assert (ran.code, f"same StudyInstanceUID as {STUDY}/v4" in ran.err) == (3, True)
    (tmp_path / "t.csv").write_text(f"study,visit,input\n{STUDY},v5,{tmp_path / 'in'}\n")
    ran = inside("run", "-o", root, "--table", tmp_path / "t.csv", "--until", "archive")
    assert (ran.code, f"same StudyInstanceUID as {STUDY}/v4" in ran.out) == (1, True)


def test_a_run(store: Path, inside: Inside, tmp_path: Path) -> None:
    """``--replace`` refuses the same; a changed table with the inputs of two visits mixed up harms neither."""
    a, b = (store / f"{STUDY}-{name}" for name in ("v1", "v2"))
    (tmp_path / "t.csv").write_text(f"study,visit,input\n{STUDY},v1,{b}\n{STUDY},v2,{a}\n")
    command = ("run", "-o", store / "store", "--table", tmp_path / "t.csv", "--replace", "r", "--until", "archive")
    before = {name: data for name, data in contents(store / "store").items() if "/.icf/" not in name}
    ran = inside(*command)
    assert ran.code == 1
    assert f"same StudyInstanceUID as {STUDY}/v1" in ran.out + ran.err
    assert f"same StudyInstanceUID as {STUDY}/v2" in ran.out + ran.err
    assert {name: data for name, data in contents(store / "store").items() if "/.icf/" not in name} == before


def test_a_merge_of_two_patients(store: Path, inside: Inside) -> None:
    command = ("visit", "merge", "-o", store / "store", "--id", STUDY, "v1", "--from", "v2", "-n")
    refused = inside(*command)
    assert (refused.code, "the images have another PatientID than its present version" in refused.err) == (3, True)
    with pytest.raises(InputRefused):
        merge_visits(store / "store", STUDY, "v1", "v2", refuse=("several-patients",))
    assert Visit(store / "store", STUDY, "v2").archive.exists()
