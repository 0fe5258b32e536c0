"""Every hard input through the stages: archived as it should be, or refused by name.

What is expected of each case stands in :data:`ARCHIVED` and :data:`REFUSED`. Later stages have their place in
:func:`run_stages`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from icf_utils.archive.stage import ArchiveResult, make_studyvisit_archive
from icf_utils.errors import InputRefused
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.metadata.stage import MetadataResult, deposit_visit_metadata
from icf_utils.results import Notice
from icf_utils.store.layout import Visit
from tests.archive.reference import files_below, reference_archive
from tests.conftest import HardInputs
from tests.data.make_hard_inputs import HARD_INPUTS, make_hard_inputs

DISTURB = str(Path(__file__).parent / "data" / "disturb.py")


@dataclass(frozen=True)
class Archived:
    """What an archived case should come to.

    ``images`` and ``others`` as the archive stage counts, ``records`` in the metadata (as many as images where not
    said). Notices: code to the files named, without the input itself; ``metadata`` those of the second stage,
    ``skipped`` the codes of its files without a record where that is more than not being DICOM.
    """

    images: int
    others: int = 0
    records: int = -1
    notices: dict[str, list[str]] = field(default_factory=dict)
    metadata: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)


NO_TIME = Archived(3, notices={"no-study-time": ["b_odd.dcm"]})
ODD_VALUE = Archived(3, metadata={"odd-value": ["b_odd.dcm"]})
PLAIN = Archived(3)
BARE = ["b_bare_explicit.dcm", "c_bare_implicit.dcm", "d_meta_only.dcm"]
CUT_IMAGES = ["late_header.dcm", "pixel_head.dcm", "pixels.dcm"]
CUT_EARLY = ["meta.dcm", "meta_head.dcm", "mid_element.dcm", "only_magic.dcm"]

ARCHIVED = {
    "baseline": Archived(9, 2),
    "date_missing": NO_TIME,
    "time_missing": NO_TIME,
    "date_empty": NO_TIME,
    "time_empty": NO_TIME,
    "date_missing_all": Archived(3, 1, notices={"no-study-time": ["1.dcm", "2.dcm", "3.dcm"], "no-time": []}),
    "date_garbage": NO_TIME,
    "date_retired_form": NO_TIME,
    "date_impossible": NO_TIME,
    "time_forms": Archived(12, notices={"no-study-time": ["12.dcm"]}),
    "date_multivalue": Archived(4, notices={"no-study-time": ["b.dcm", "c.dcm", "d.dcm"]}),
    "date_extreme": Archived(7),
    "date_year_one": PLAIN,
    "time_zone": PLAIN,
    "two_studies": Archived(4, 1, notices={"several-studies": [], "several-patients": []}),
    "study_time_varies": Archived(3, 1),
    "no_preamble": Archived(4, 0, notices={"no-preamble": BARE}, metadata={"no-preamble": BARE}),
    "no_file_meta": PLAIN,
    "dicomdir": Archived(2, 1, notices={"dicomdir": ["DICOMDIR"]}, skipped={"dicomdir": ["DICOMDIR"]}),
    "truncated": Archived(
        4,
        6,
        notices={"cut-dicom": sorted(CUT_IMAGES + CUT_EARLY), "repeated-instance": CUT_IMAGES[1:]},
        metadata={"cut-dicom": CUT_IMAGES},
        skipped={"unreadable-dicom": CUT_EARLY},
    ),
    "zero_byte": Archived(1, 2),
    "fake_magic": Archived(
        3,
        3,
        notices={"cut-dicom": ["b.dcm", "c.dcm", "f.dcm"]},
        metadata={"cut-dicom": ["f.dcm"]},
        skipped={"unreadable-dicom": ["b.dcm", "c.dcm"]},
    ),
    "transfer_syntaxes": Archived(
        9,
        notices={"cut-dicom": ["deflate_broken.dcm", "jpeg_no_end.dcm"]},
        metadata={"cut-dicom": ["deflate_broken.dcm", "jpeg_no_end.dcm"]},
    ),
    "enhanced": Archived(2),
    "deep_nesting": PLAIN,
    "odd_elements": Archived(7),
    "json_values": Archived(10, metadata={"odd-value": ["description_control.dcm"]}),
    "series_number_text": ODD_VALUE,
    "series_number_fraction": ODD_VALUE,
    "series_number_multi": PLAIN,
    "description_multi": PLAIN,
    "wrong_vr_sq": ODD_VALUE,
    "wrong_vr_bytes": ODD_VALUE,
    "wrong_vr_name": ODD_VALUE,
    "wrong_vr_number": ODD_VALUE,
    "wrong_vr_date": PLAIN,
    "charsets": Archived(7),
    "charsets_wrong": Archived(
        7,
        metadata={
            "odd-value": [
                *("broken_escape.dcm", "empty.dcm", "latin1_as_utf8.dcm", "misspelt.dcm", "none_declared.dcm"),
                "unknown.dcm",
            ]
        },
    ),
    "pet_ct": Archived(4),
    "names_lie": Archived(4, 3),
    "empty_folder_beside": Archived(1, notices={"empty-folder": ["empty", "empty/inner"]}),
    "only_companions": Archived(0, 2, notices={"no-dicom": [], "no-time": []}, metadata={"no-dicom": []}),
    "names": Archived(
        45,
        notices={
            "windows-name": [
                *("...", "<angle>.dcm", "back\\slash.dcm", "bell\x07.dcm", "con.dcm", "cr\rname.dcm", "new\nline.dcm"),
                *("pipe|.dcm", "question?.dcm", "quote\"'.dcm", "semi;colon:.dcm", "star*.dcm", "tab\tname.dcm"),
                "trailing space ",
            ]
        },
    ),
    "names_bytes": PLAIN,
    "names_normal_forms": Archived(2, notices={"case-clash": [unicodedata.normalize("NFC", "Schädel.dcm")]}),
    "names_case": Archived(4, notices={"case-clash": ["im0001.dcm", "sub/a.dcm"]}),
    "names_long": Archived(7),
    "names_order": Archived(16, notices={"case-clash": ["a.dcm", "z.dcm"]}),
    "hidden": Archived(4, 6),
    "symlink_inside": Archived(2),
    "hardlinks": PLAIN,
    "modes": Archived(6, 2),
    "modes_twin": Archived(6, 2),
    "sparse_small": Archived(1),
    "large_header": Archived(1),
}

#: Case to the files that are named; the input itself where there are none.
REFUSED = {
    "empty_dir": [],
    "empty_folders": [],
    "symlinks": ["absolute", "dangling.dcm", "link_dir", "link_up", "loop1", "loop2", "out.dcm", "self"],
    "symlink_dangling": ["dangling.dcm"],
    "symlink_folder": ["e"],
    "fifo": ["pipe.dcm"],
    "sock": ["s.sock"],
    "unreadable": ["b.dcm", "closed"],  # as somebody who is not root
}


@pytest.fixture
def cases(hard_inputs: HardInputs) -> Path:
    return hard_inputs.folder


@dataclass(frozen=True)
class Stages:
    """The results of all stages of a visit."""

    place: Visit
    archive: ArchiveResult
    metadata: MetadataResult


def run_stages(source: Path, store: Path, name: str) -> Stages:
    """A visit through the stages, in their order; what all cases have in common is checked here.

    Later stages are added here: dataset, catalog, verify.
    """
    place = Visit(store, "study", name)
    archive = make_studyvisit_archive(source, store, "study", name)
    metadata = deposit_visit_metadata(store, "study", name)
    check_archive(source, place, archive)
    check_metadata(place, archive, metadata)
    left = {"_SHA256SUMS", "_dicom.tar", "_dicom.tar.md5sum", "_metadata_dicoms.json", "_metadata_tarball.json"}
    assert set(os.listdir(place.root / "study")) == {f"{name}{suffix}" for suffix in left}
    return Stages(place, archive, metadata)


def check_archive(source: Path, place: Visit, result: ArchiveResult) -> None:
    data = place.archive.read_bytes()
    assert hashlib.md5(data).hexdigest() == result.md5
    contents = {}
    with tarfile.open(place.archive, encoding="utf-8", errors="surrogateescape") as archive:
        for info in archive:
            handle = archive.extractfile(info)
            assert handle is not None, info.name
            contents[info.name] = handle.read()
    expected = {}
    for name, path in files_below(source).items():
        with open(path, "rb") as handle:
            expected[f"{place.member_root}/{name}"] = handle.read()
    assert list(contents) == list(expected)
    assert contents == expected


def strict_json(path: Path) -> Any:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    return json.loads(path.read_bytes().decode("utf-8"), parse_constant=refuse)


def check_metadata(place: Visit, archive: ArchiveResult, result: MetadataResult) -> None:
    records = strict_json(place.dicoms_json)
    tarball = strict_json(place.tarball_json)
    assert (tarball["md5"], tarball["size"]) == (archive.md5, archive.size)
    data = place.archive.read_bytes()
    for record in records:
        content = data[record["offset"] : record["offset"] + record["size"]]
        assert hashlib.md5(content).hexdigest() == record["md5"]
    assert len(records) == result.images == len(read_visit_metadata(place).images)
    again = deposit_visit_metadata(place.root, place.study, place.visit)
    assert {written.state for written in again.files} == {"unchanged"}


def by_code(notices: tuple[Notice, ...], source: Path, place: Visit) -> dict[str, list[str]]:
    """Code to the files named, each once; about the visit as a whole: none."""
    found: dict[str, list[str]] = {}
    for notice in notices:
        names = found.setdefault(notice.code, [])
        subject = notice.subject.removeprefix(f"{place.member_root}/")
        if subject not in (str(source), place.storepath, *names):
            names.append(subject)
    return found


def test_every_case_is_expected() -> None:
    assert set(HARD_INPUTS) == set(ARCHIVED) | set(REFUSED)


@pytest.mark.parametrize("name", ARCHIVED)
def test_archived(cases: Path, tmp_path: Path, name: str) -> None:
    source, expected = cases / name, ARCHIVED[name]
    done = run_stages(source, tmp_path, name)
    assert (done.archive.dicom_files, done.archive.other_files) == (expected.images, expected.others)
    assert done.metadata.images == (expected.images if expected.records < 0 else expected.records)
    assert by_code(done.archive.notices, source, done.place) == expected.notices
    assert by_code(done.metadata.notices, source, done.place) == expected.metadata
    skipped = by_code(done.metadata.skipped, source, done.place)
    skipped.pop("not-dicom", None)
    assert skipped == expected.skipped


#: What pydicom cannot read although it is DICOM, and what it reads although it was cut.
NOT_AS_PYDICOM = {"date_year_one", "deep_nesting", "transfer_syntaxes", "truncated", "fake_magic"}


@pytest.mark.parametrize("name", sorted(set(ARCHIVED) - NOT_AS_PYDICOM))
def test_archived_as_pydicom_and_tarfile_do(cases: Path, tmp_path: Path, name: str) -> None:
    result = make_studyvisit_archive(cases / name, tmp_path, "study", "visit")
    assert result.archive.path.read_bytes() == reference_archive(cases / name, "study_visit")


@pytest.mark.parametrize("name", REFUSED)
def test_refused(
    cases: Path, open_tmp_path: Path, name: str, as_nobody: Callable[[], AbstractContextManager[None]]
) -> None:
    source, store = cases / name, open_tmp_path / "store"
    if name == "unreadable":
        source = open_tmp_path / name
        make_hard_inputs(open_tmp_path, [name])
    with as_nobody() if name == "unreadable" else open(os.devnull), pytest.raises(InputRefused) as caught:
        make_studyvisit_archive(source, store, "study", "visit")
    assert sorted(refused for refused, _ in caught.value.refusals) == (REFUSED[name] or [str(source)])
    assert [path for path in store.rglob("*") if path.name != "store"] == []
    if name == "unreadable":
        os.chmod(source / "closed", 0o755)


# -- what some of the cases are about


def values(cases: Path, tmp_path: Path, name: str, tag: str) -> dict[str, Any]:
    """A tag's values by the files' names."""
    stages = run_stages(cases / name, tmp_path, name)
    root = f"{stages.place.member_root}/"
    return {record["path"].removeprefix(root): record[tag] for record in strict_json(stages.place.dicoms_json)}


def times(cases: Path, tmp_path: Path, name: str) -> dict[str, float]:
    stages = run_stages(cases / name, tmp_path, name)
    with tarfile.open(stages.place.archive, encoding="utf-8", errors="surrogateescape") as archive:
        return {info.name.partition("/")[2]: float(info.mtime) for info in archive}


MORNING = 1582971072.0  # 2020-02-29 10:11:12 UTC


@pytest.mark.parametrize("name", [name for name, expected in ARCHIVED.items() if expected is NO_TIME])
def test_an_image_without_time_gets_the_latest(cases: Path, tmp_path: Path, name: str) -> None:
    assert times(cases, tmp_path, name) == dict.fromkeys(("a_good.dcm", "b_odd.dcm", "c_good.dcm"), MORNING)


def test_forms_of_time(cases: Path, tmp_path: Path) -> None:
    found = times(cases, tmp_path, "time_forms")
    midnight = MORNING - 36672
    offsets = [36000, 36660, 36672, 36672.1, 36672.123, 36672.123456, 36672.999999, 86399, 86399.5, 36672, 0, 86399.5]
    assert list(found.values()) == pytest.approx([midnight + offset for offset in offsets], abs=1e-6)


def test_companions_get_the_latest_time(cases: Path, tmp_path: Path) -> None:
    found = times(cases, tmp_path, "study_time_varies")
    assert found == {"1.dcm": MORNING, "2.dcm": MORNING + 1, "3.dcm": MORNING + 49727, "note.txt": MORNING + 49727}


def test_modes_owners_and_times_change_nothing(cases: Path, tmp_path: Path) -> None:
    made = [make_studyvisit_archive(cases / name, tmp_path / name, "s", "v").md5 for name in ("modes", "modes_twin")]
    assert made[0] == made[1]


def test_names_are_kept_to_the_byte(cases: Path, tmp_path: Path) -> None:
    for name in ("names", "names_bytes", "names_normal_forms", "names_long", "names_order"):
        on_disk = {raw.encode("utf-8", "surrogateescape") for raw in files_below(cases / name)}
        found = values(cases, tmp_path / name, name, "path")
        assert {path.encode("utf-8", "surrogateescape") for path in found} == on_disk
    forms = values(cases, tmp_path / "again", "names_normal_forms", "path")
    assert {unicodedata.normalize("NFC", path) for path in forms} == {"Sch\u00e4del.dcm"}


def test_character_sets(cases: Path, tmp_path: Path) -> None:
    assert values(cases, tmp_path, "charsets", "SeriesDescription") == {
        "de.dcm": "Sch\u00e4del-\u00dcbersicht \u00df",
        "el.dcm": "\u039a\u03b5\u03c6\u03ac\u03bb\u03b9",
        "ja.dcm": "\u982d\u90e8",
        "ja13.dcm": "\uff94\uff8f\uff80\uff9e",
        "ko.dcm": "\uba38\ub9ac",
        "u8.dcm": "Kopf \u2013 \u982d \U0001f9e0",
        "zh.dcm": "\u5934\u90e8\u626b\u63cf",
    }


def test_character_sets_that_lie(cases: Path, tmp_path: Path) -> None:
    found = values(cases, tmp_path, "charsets_wrong", "SeriesDescription")
    assert found["misspelt.dcm"] == "Sch\u00e4del"
    assert found["utf8_as_latin1.dcm"] == "Sch\u00c3\u00a4del"  # what the file says
    for name in ("none_declared.dcm", "latin1_as_utf8.dcm", "unknown.dcm", "empty.dcm"):
        assert found[name].startswith("Sch\ufffd")
        assert found[name].endswith("del")


def test_values_of_all_kinds(cases: Path, tmp_path: Path) -> None:
    numbers = values(cases, tmp_path / "1", "json_values", "SeriesNumber")
    assert numbers["plain.dcm"] == 1
    assert numbers["series_number_two.dcm"] == [1, 2]
    assert numbers["series_number_empty.dcm"] == ""
    assert numbers["series_number_big.dcm"] == 99999999999
    descriptions = values(cases, tmp_path / "2", "json_values", "SeriesDescription")
    assert descriptions["description_two.dcm"] == ["first", "second"]
    assert descriptions["description_empty.dcm"] == ""
    assert descriptions["description_control.dcm"] == 'tab\there\x1bnul\0end"quote"'
    assert descriptions["description_long.dcm"] == "x" * 60000
    assert values(cases, tmp_path / "3", "json_values", "Modality")["modality_two.dcm"] == ["PT", "CT"]
    assert values(cases, tmp_path / "4", "json_values", "ProtocolName")["protocol_missing.dcm"] == ""


@pytest.mark.parametrize(
    ("name", "tag", "value"),
    [
        ("series_number_text", "SeriesNumber", "abc"),
        ("series_number_fraction", "SeriesNumber", 1.5),
        ("series_number_multi", "SeriesNumber", [1, 2]),
        ("description_multi", "SeriesDescription", ["first", "second"]),
        ("wrong_vr_sq", "SeriesDescription", ""),
        ("wrong_vr_bytes", "ProtocolName", ""),
        ("wrong_vr_name", "ProtocolName", ""),
        ("wrong_vr_number", "SeriesNumber", "nan"),
    ],
)
def test_odd_values(cases: Path, tmp_path: Path, name: str, tag: str, value: object) -> None:
    found = values(cases, tmp_path, name, tag)
    assert found["b_odd.dcm"] == value
    assert type(found["b_odd.dcm"]) is type(value)
    assert found["a_good.dcm"] == {"SeriesNumber": 1, "SeriesDescription": "t1_mprage_sag"}.get(tag, "t1_mprage")


def test_a_cut_value_is_not_recorded(cases: Path, tmp_path: Path) -> None:
    names = values(cases, tmp_path / "1", "truncated", "ProtocolName")
    assert names["0_good.dcm"] == names["pixels.dcm"] == "t1_mprage"
    assert set(names.values()) <= {"t1_mprage", ""}
    for tag in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        found = values(cases, tmp_path / tag, "truncated", tag)
        whole = found["0_good.dcm"]
        assert all(value == "" or len(value) > len(whole) - 3 for value in found.values())


def test_modalities_stay_apart(cases: Path, tmp_path: Path) -> None:
    found = values(cases, tmp_path, "pet_ct", "Modality")
    assert found == {"ct/1.dcm": "CT", "ct/2.dcm": "CT", "pt/1.dcm": "PT", "pt/2.dcm": "PT"}


def test_what_is_said_of_two_studies(cases: Path, tmp_path: Path) -> None:
    stages = run_stages(cases / "two_studies", tmp_path, "two_studies")
    uids = {image.uids["StudyInstanceUID"] for image in read_visit_metadata(stages.place).images}
    assert len(uids) == 2
    notice = next(item for item in stages.archive.notices if item.code == "several-studies")
    assert all(uid in notice.message for uid in uids)
    assert "'one/1.dcm'" in notice.message
    assert "'two/1.dcm'" in notice.message


@pytest.mark.parametrize("mode", ["grow", "shrink", "rewrite"])
def test_files_that_another_process_changes(tmp_path: Path, mode: str) -> None:
    """Refused, or as it was at one moment: the disturbance changes the last byte, or the length."""
    make_hard_inputs(tmp_path, ["baseline"])
    image = tmp_path / "baseline" / "s02_mprage" / "0002.dcm"
    whole = image.read_bytes() + bytes(300_000)
    image.write_bytes(whole)
    with subprocess.Popen(
        [sys.executable, DISTURB, str(image), mode, "1.5"], stdout=subprocess.PIPE, text=True
    ) as disturbing:
        rounds, refused = 0, 0
        while disturbing.poll() is None:
            rounds += 1
            try:
                result = make_studyvisit_archive(tmp_path / "baseline", tmp_path / f"store{rounds}", "study", "visit")
            except InputRefused:
                refused += 1
                assert not (tmp_path / f"store{rounds}" / "study").exists()
                continue
            with tarfile.open(result.archive.path) as archive:
                handle = archive.extractfile("study_visit/s02_mprage/0002.dcm")
                assert handle is not None
                content = handle.read()
            start = min(len(content), len(whole) - 1)
            assert content[:start] == whole[:start]
        assert disturbing.stdout is not None
        assert int(disturbing.stdout.read()) > 5
    assert refused > 0
