"""Every hard input through all steps: refused at once and by name, or made completely, with warnings, and verified."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from icf_utils import (
    Notice,
    catalogify_studyvisit_from_meta,
    deposit_visit_dataset,
    deposit_visit_metadata,
    make_studyvisit_archive,
    verify_store,
    verify_visit,
)
from icf_utils.dataset.reader import read_dataset
from icf_utils.errors import InputRefused
from icf_utils.store.layout import Visit
from tests.cli.program import icf
from tests.conftest import HardInputs
from tests.data.make_hard_inputs import HARD_INPUTS, make_hard_inputs

STUDY = "hard"


@dataclass(frozen=True)
class Refused:
    """These files are named, and nothing is written; ``.`` stands for the input itself."""

    names: Sequence[str]


@dataclass(frozen=True)
class Made:
    """The number of images described, and how many notices of each code the steps gave."""

    images: int
    archive: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    dataset: Mapping[str, int] = field(default_factory=dict)


EXPECTED: Mapping[str, Refused | Made] = {
    "baseline": Made(9, skipped={"not-dicom": 2}),
    "charsets": Made(7),
    "charsets_wrong": Made(7, metadata={"odd-value": 6}),
    "date_empty": Made(3, archive={"no-study-time": 1}),
    "date_extreme": Made(7, dataset={"commit-date-limited": 1}),
    "date_garbage": Made(3, archive={"no-study-time": 1}),
    "date_impossible": Made(3, archive={"no-study-time": 1}),
    "date_missing": Made(3, archive={"no-study-time": 1}),
    "date_missing_all": Made(3, archive={"no-study-time": 3, "no-time": 1}, skipped={"not-dicom": 1}),
    "date_multivalue": Made(4, archive={"no-study-time": 3}),
    "date_retired_form": Made(3, archive={"no-study-time": 1}),
    "date_year_one": Made(3),
    "deep_nesting": Made(3),
    "description_multi": Made(3),
    "dicomdir": Made(2, archive={"dicomdir": 1}, skipped={"dicomdir": 1}),
    "empty_dir": Refused(["."]),
    "empty_folder_beside": Made(1, archive={"empty-folder": 2}),
    "empty_folders": Refused(["."]),
    "enhanced": Made(2),
    "fake_magic": Made(
        3,
        archive={"cut-dicom": 3},
        metadata={"cut-dicom": 1},
        skipped={"not-dicom": 1, "unreadable-dicom": 2},
    ),
    "fifo": Refused(["pipe.dcm"]),
    "hardlinks": Made(3),
    "hidden": Made(4, skipped={"not-dicom": 6}, dataset={"not-in-dataset": 1}),
    "json_values": Made(10, metadata={"odd-value": 1}),
    "large_header": Made(1),
    "modes": Made(6, skipped={"not-dicom": 2}),
    "modes_twin": Made(6, skipped={"not-dicom": 2}),
    "names": Made(45, archive={"windows-name": 14}, dataset={"archivist-unreachable": 6}),
    "names_bytes": Made(3, dataset={"archivist-unreachable": 2}),
    "names_case": Made(4, archive={"case-clash": 2}),
    "names_lie": Made(4, skipped={"not-dicom": 3}),
    "names_long": Made(7),
    "names_normal_forms": Made(2, archive={"case-clash": 1}),
    "names_order": Made(16, archive={"case-clash": 2}),
    "no_file_meta": Made(3),
    "no_preamble": Made(4, archive={"no-preamble": 3}, metadata={"no-preamble": 3}),
    "odd_elements": Made(7),
    "only_companions": Made(
        0,
        archive={"no-dicom": 1, "no-time": 1},
        metadata={"no-dicom": 1},
        skipped={"not-dicom": 2},
        dataset={"no-images": 1},
    ),
    "pet_ct": Made(4),
    "series_number_fraction": Made(3, metadata={"odd-value": 1}),
    "series_number_multi": Made(3),
    "series_number_text": Made(3, metadata={"odd-value": 1}),
    "sock": Refused(["s.sock"]),
    "sparse_small": Made(1),
    "study_time_varies": Made(3, skipped={"not-dicom": 1}),
    "symlink_dangling": Refused(["dangling.dcm"]),
    "symlink_folder": Refused(["e"]),
    "symlink_inside": Made(2),
    "symlinks": Refused(["absolute", "dangling.dcm", "link_dir", "link_up", "loop1", "loop2", "out.dcm", "self"]),
    "time_empty": Made(3, archive={"no-study-time": 1}),
    "time_forms": Made(12, archive={"no-study-time": 1}),
    "time_missing": Made(3, archive={"no-study-time": 1}),
    "time_zone": Made(3),
    "transfer_syntaxes": Made(9, archive={"cut-dicom": 2}, metadata={"cut-dicom": 2}),
    "truncated": Made(
        4,
        archive={"cut-dicom": 7, "repeated-instance": 2},
        metadata={"cut-dicom": 3},
        skipped={"not-dicom": 2, "unreadable-dicom": 4},
    ),
    "two_studies": Made(4, archive={"several-studies": 1, "several-patients": 1}, skipped={"not-dicom": 1}),
    "unreadable": Made(3),  # for root; see below
    "wrong_vr_bytes": Made(3, metadata={"odd-value": 1}),
    "wrong_vr_date": Made(3),
    "wrong_vr_name": Made(3, metadata={"odd-value": 1}),
    "wrong_vr_number": Made(3, metadata={"odd-value": 1}),
    "wrong_vr_sq": Made(3, metadata={"odd-value": 1}),
    "zero_byte": Made(1, skipped={"not-dicom": 2}),
}

#: Which images of a visit the dataset says something about.
NAMED = {
    ("hidden", "not-in-dataset"): ["sub/.git/b.dcm"],
    ("names", "archivist-unreachable"): [
        "#hash.dcm",
        "#path=x&size=1",
        "amp&ersand=1.dcm",
        "cr\rname.dcm",
        "new\nline.dcm",
        "sub #1 & 2/%20/im age.dcm",
    ],
    ("names_bytes", "archivist-unreachable"): ["Sch\udce4del.dcm", "\udcff\udcfe\udc80dir/\udc93\udcfa.dcm"],
}


@pytest.fixture
def cases(hard_inputs: HardInputs) -> Path:
    return hard_inputs.folder


def test_no_case_is_left_out() -> None:
    assert set(EXPECTED) == set(HARD_INPUTS)


def needs_everything(name: str, inputs: HardInputs) -> None:
    if inputs.missing[name]:
        pytest.skip(f"this file system or user cannot have {inputs.missing[name]}")
    if name == "unreadable" and os.geteuid() != 0:
        pytest.skip("only root reads all of it")


def codes(notices: Iterable[Notice]) -> dict[str, int]:
    return dict(Counter(notice.code for notice in notices))


def files_below(folder: Path) -> dict[str, bytes]:
    """Names and contents, of linked files, too."""
    found = {}
    for place, _, names in os.walk(os.fsencode(folder)):
        for name in names:
            path = os.path.join(place, name)
            with open(path, "rb") as handle:
                found[os.path.relpath(path, os.fsencode(folder)).decode("utf-8", "surrogateescape")] = handle.read()
    return found


@pytest.mark.parametrize("name", [name for name, outcome in EXPECTED.items() if isinstance(outcome, Made)])
def test_made(cases: Path, hard_inputs: HardInputs, tmp_path: Path, name: str) -> None:
    needs_everything(name, hard_inputs)
    expected, place = EXPECTED[name], Visit(tmp_path, STUDY, name)
    archive = make_studyvisit_archive(cases / name, tmp_path, STUDY, name)
    metadata = deposit_visit_metadata(tmp_path, STUDY, name)
    dataset = deposit_visit_dataset(tmp_path, STUDY, name, store_url="https://data.example.org")
    catalog = catalogify_studyvisit_from_meta(tmp_path, STUDY, name)
    found = Made(
        metadata.images,
        codes(archive.notices),
        codes(metadata.notices),
        codes(metadata.skipped),
        codes(dataset.notices),
    )
    assert found == expected
    assert catalog.notices == ()
    inputs = files_below(cases / name)
    assert archive.dicom_files + archive.other_files == len(inputs) == metadata.images + len(metadata.skipped)
    check_archive(place, inputs)
    check_metadata(place, inputs)
    check_dataset(place, dataset.notices)
    verified = verify_visit(tmp_path, STUDY, name, rebuild=cases / name)
    assert (verified.findings, verified.absent) == ((), ())
    assert (verified.images, catalog.images) == (metadata.images, metadata.images)


def check_archive(place: Visit, inputs: Mapping[str, bytes]) -> None:
    with tarfile.open(place.archive, encoding="utf-8", errors="surrogateescape") as archive:
        members = {}
        for info in archive:
            content = archive.extractfile(info)
            assert content is not None
            members[info.name.removeprefix(f"{place.member_root}/")] = content.read()
    assert members == inputs


def check_metadata(place: Visit, inputs: Mapping[str, bytes]) -> None:
    """Valid JSON, true of the input."""

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    records = json.loads(place.dicoms_json.read_bytes(), parse_constant=no_constant)
    content = place.archive.read_bytes()
    for record in records:
        data = inputs[record["path"].removeprefix(f"{place.member_root}/")]
        assert (record["size"], record["md5"]) == (len(data), hashlib.md5(data).hexdigest())
        assert content[record["offset"] : record["offset"] + record["size"]] == data


def check_dataset(place: Visit, notices: Iterable[Notice]) -> None:
    deposit = read_dataset(place)
    assert deposit is not None
    paths = {path.decode("utf-8", "surrogateescape") for path in deposit.main.files}
    records = {record["path"] for record in json.loads(place.dicoms_json.read_bytes())}
    left_out = {notice.subject for notice in notices if notice.code == "not-in-dataset"}
    assert records - left_out == paths - {".datalad/config", ".gitattributes", place.dspath}


@pytest.mark.parametrize(("name", "code"), NAMED)
def test_images_that_the_dataset_names(cases: Path, tmp_path: Path, name: str, code: str) -> None:
    make_studyvisit_archive(cases / name, tmp_path, STUDY, name)
    deposit_visit_metadata(tmp_path, STUDY, name)
    dataset = deposit_visit_dataset(tmp_path, STUDY, name)
    assert [notice.subject for notice in dataset.notices if notice.code == code] == [
        f"{STUDY}_{name}/{image}" for image in NAMED[name, code]
    ]


@pytest.mark.parametrize("name", [name for name, outcome in EXPECTED.items() if isinstance(outcome, Refused)])
def test_refused(cases: Path, hard_inputs: HardInputs, tmp_path: Path, name: str) -> None:
    needs_everything(name, hard_inputs)
    expected = EXPECTED[name]
    assert isinstance(expected, Refused)
    names = [str(cases / name) if item == "." else item for item in expected.names]
    with pytest.raises(InputRefused) as caught:
        make_studyvisit_archive(cases / name, tmp_path / "store", STUDY, name)
    assert sorted(item for item, _ in caught.value.refusals) == names
    assert not (tmp_path / "store" / STUDY).exists()
    ran = icf("make_studyvisit_archive", "-o", tmp_path / "store", "--id", STUDY, name, cases / name)
    assert (ran.code, ran.out) == (3, "")
    for item in names:
        assert f"'{item}': " in ran.err
    assert not (tmp_path / "store" / STUDY).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_unreadable_files_as_another_user(
    open_tmp_path: Path, as_nobody: Callable[[], AbstractContextManager[None]]
) -> None:
    make_hard_inputs(open_tmp_path, ["unreadable"])
    source = open_tmp_path / "unreadable"
    with as_nobody(), pytest.raises(InputRefused) as caught:
        make_studyvisit_archive(source, open_tmp_path / "store", STUDY, "v1")
    assert sorted(name for name, _ in caught.value.refusals) == ["b.dcm", "closed"]
    assert not (open_tmp_path / "store" / STUDY).exists()
    for path in (source / "b.dcm", source / "closed"):
        path.chmod(0o755)
    with as_nobody():
        assert make_studyvisit_archive(source, open_tmp_path / "store", STUDY, "v1").dicom_files == 3


def test_twins_give_one_archive(cases: Path, tmp_path: Path) -> None:
    """Modes, owners, times and the order of creation change nothing; nor do links in the place of copies."""
    shutil.copytree(cases / "hardlinks", tmp_path / "copies")
    pairs = [(cases / "modes", cases / "modes_twin"), (cases / "hardlinks", tmp_path / "copies")]
    for at, pair in enumerate(pairs):
        made = {
            make_studyvisit_archive(source, tmp_path / f"{n}", STUDY, f"v{at}").md5 for n, source in enumerate(pair)
        }
        assert len(made) == 1


def test_all_in_one_store_by_the_command_line(cases: Path, tmp_path: Path) -> None:
    """A study of nothing but hard visits, through the program with warnings as errors; its catalog holds them all."""
    made = [name for name, outcome in sorted(EXPECTED.items()) if isinstance(outcome, Made)][::4]
    for name in made:
        make_studyvisit_archive(cases / name, tmp_path, STUDY, name)
        deposit_visit_metadata(tmp_path, STUDY, name)
        deposit_visit_dataset(tmp_path, STUDY, name)
        catalogify_studyvisit_from_meta(tmp_path, STUDY, name)
    ran = icf("verify", "-o", tmp_path, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert [visit["visit"] for visit in ran.json["result"]["visits"]] == made
    assert verify_store(tmp_path).findings == ()
