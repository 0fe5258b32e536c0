"""The archive's bytes are those of ``tarfile`` and pydicom, on every machine."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tarfile
from io import BytesIO
from pathlib import Path

import pydicom.data
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icf_utils.archive.stage import ArchiveResult, make_studyvisit_archive
from icf_utils.errors import DepositDiffers
from icf_utils.metadata.stage import deposit_visit_metadata
from tests.archive.reference import reference_archive
from tests.data.make_dicom import DEFLATED, EXPLICIT_BIG, IMPLICIT_LITTLE, dicom_bytes, uid, write_visit


def archive(source: Path, store: Path, zone: str = "UTC") -> bytes:
    """Archive, check what the result says of the file, and return the archive's bytes."""
    result = make_studyvisit_archive(source, store, "study", "visit", time_zone=zone)
    data = result.archive.path.read_bytes()
    check_result(result, data)
    return data


def check_result(result: ArchiveResult, data: bytes) -> None:
    md5 = hashlib.md5(data).hexdigest()
    assert (result.md5, result.size) == (md5, len(data))
    assert result.checksum.path.read_bytes() == f"{md5}  visit_dicom.tar\n".encode()
    assert not (result.archive.path.parent / ".icf").exists()


def test_open_visits(open_visit: Path, tmp_path: Path) -> None:
    assert archive(open_visit, tmp_path) == reference_archive(open_visit, "study_visit")


def test_a_structural_visit_of_384_images(tmp_path: Path) -> None:
    source = tmp_path / "in"
    folder = source / "dicoms"
    folder.mkdir(parents=True)
    for number in range(1, 385):
        data = dicom_bytes(
            InstanceNumber=number,
            StudyDate="20130717",
            StudyTime="141500.000000",
            Rows=32,
            Columns=32,
            PixelData=random.Random(number).randbytes(2048),
        )
        (folder / f"N2D_{number:04}.dcm").write_bytes(data)
    (source / "README.md").write_text("An example of a structural visit.\n")
    result = make_studyvisit_archive(source, tmp_path / "store", "study", "visit")
    assert (result.dicom_files, result.other_files, result.notices) == (384, 1, ())
    data = result.archive.path.read_bytes()
    check_result(result, data)
    assert data == reference_archive(source, "study_visit")


def package_files() -> list[Path]:
    """The DICOM files that pydicom's package itself holds; nothing is fetched."""
    root = Path(pydicom.data.__file__).parent / "test_files"
    return sorted(path for path in root.rglob("*") if path.is_file() and path.suffix in (".dcm", ""))


def test_files_of_pydicom(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number, path in enumerate(package_files()):
        shutil.copyfile(path, source / f"{number:03}_{path.name}")
    assert archive(source, tmp_path / "store") == reference_archive(source, "study_visit")


def test_transfer_syntaxes(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number, syntax in enumerate((IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED), 1):
        data = dicom_bytes(transfer_syntax=syntax, StudyTime=f"10111{number}.5")
        (source / f"{number}.dcm").write_bytes(data)
    assert archive(source, tmp_path / "store") == reference_archive(source, "study_visit")


part_of_name = st.binary(min_size=1, max_size=30).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_"))
odd_part = st.sampled_from(
    [
        *(b"new\nline", b"back\\slash", b" lead", b"trail ", b"-", b"...", b"a\r", b"\x1b[0m"),
        *(name.encode() for name in ("Sch\u00e4del", "\U0001f9e0", "\uffee", "\u00dc" * 120)),
        *(b"Sch\xe4del", b"\xff\xfe\x80", b"x" * 250),
    ]
)
file_name = st.lists(part_of_name | odd_part, min_size=1, max_size=4).map(b"/".join)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(file_name, min_size=1, max_size=8, unique=True), data=st.data())
def test_names(tmp_path_factory: pytest.TempPathFactory, names: list[bytes], data: st.DataObject) -> None:
    place = tmp_path_factory.mktemp("names")
    source = place / "in"
    made = 0
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(source), name)
        if any(part in (b".", b"..") for part in name.split(b"/")):
            continue
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as handle:
                has_time = data.draw(st.booleans())
                handle.write(dicom_bytes(InstanceNumber=number) if has_time else b"companion")
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
        made += 1
    if made:
        assert archive(source, place / "store") == reference_archive(source, "study_visit")
    shutil.rmtree(os.fsencode(place))


def tiny_visit(folder: Path) -> None:
    """Every kind of time that an archive can hold, and companions before, between and after the images."""
    times = {
        "b_fraction.dcm": ("20200229", "101112.123456"),
        "c_short.dcm": ("20200229", "1011"),
        "d_before_1970.dcm": ("19691231", "235959.75"),
        "e_far_before.dcm": ("18000101", "000000"),
        "f_first_second.dcm": ("19700101", "000001.100007"),
        "g_beyond_8_octal_digits.dcm": ("99991230", "235960.5"),
        "h_none.dcm": (None, None),
    }
    folder.mkdir()
    for number, (name, (date, clock)) in enumerate(times.items(), 1):
        data = dicom_bytes(InstanceNumber=number, StudyDate=date, StudyTime=clock)
        (folder / name).write_bytes(data)
    (folder / "a companion.txt").write_bytes(b"first\n")
    (folder / "empty").write_bytes(b"")
    (folder / "Sch\u00e4del").mkdir()
    (folder / "Sch\u00e4del" / ("long" * 40 + ".pdf")).write_bytes(b"%PDF\n" * 200)


#: What every version of Python from 3.10 and of pydicom from 3.0 must give.
TINY_SHA256 = {
    "UTC": "d89b0a85b1375eb8f92bf658e3248118fba87a72dc8b7ce625356fb0d0a840f3",
    "Europe/Berlin": "db35b1c75c7595c516fe924f74c4f3e5a0f36ced9056b09f68c8dd7678d9529c",
}


@pytest.mark.parametrize("zone", sorted(TINY_SHA256))
def test_pinned_bytes(tmp_path: Path, zone: str) -> None:
    tiny_visit(tmp_path / "in")
    data = archive(tmp_path / "in", tmp_path / "store", zone)
    assert data == reference_archive(tmp_path / "in", "study_visit", zone)
    assert hashlib.sha256(data).hexdigest() == TINY_SHA256[zone]


def test_pinned_metadata(tmp_path: Path) -> None:
    tiny_visit(tmp_path / "in")
    archive(tmp_path / "in", tmp_path / "store")
    result = deposit_visit_metadata(tmp_path / "store", "study", "visit")
    digests = {file.path.name: hashlib.sha256(file.path.read_bytes()).hexdigest() for file in result.files}
    assert digests == {
        "visit_metadata_dicoms.json": "0285777ca55a77c2fb5a49e9b6739682b7565f15bd2d7d169ae22f947034706d",
        "visit_metadata_tarball.json": "34cdf8dc4e6b1b4253ae0956e8db3951f085ffa3ce4e34e4ff2e767104318de5",
    }


@pytest.mark.parametrize(
    ("date", "clock"),
    [
        ("20240310", "023000"),  # in New York's gap, not in Berlin's
        ("20240331", "023000.25"),  # the hour that Berlin skips
        ("20241027", "023000.75"),  # the hour that Berlin has twice
        ("20240601", "120000"),
        ("18800101", "000000"),  # local mean time
        ("19450524", "023000"),  # double summer time
        ("20380120", "000000"),
        ("99991230", "235959.999999"),  # a day later, a local time is more than datetime holds
        ("19700101", "000000"),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"])
def test_zones(tmp_path: Path, zone: str, date: str, clock: str) -> None:
    (tmp_path / "in").mkdir()
    data = dicom_bytes(StudyDate=date, StudyTime=clock)
    (tmp_path / "in" / "a.dcm").write_bytes(data)
    (tmp_path / "in" / "z.txt").write_bytes(b"companion")
    assert archive(tmp_path / "in", tmp_path / "store", zone) == reference_archive(tmp_path / "in", "study_visit", zone)


def header_length(name: str, moment: float) -> int:
    info = tarfile.TarInfo(name)
    info.mtime = moment
    return len(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))


def growing_names() -> list[str]:
    """Names whose PAX header needs one block more with a real time than with 1970."""
    names = [f"{'d' * 240}/{'f' * length}" for length in range(150, 250)]
    moments = (0.0, 1582971072.123456)
    grow = [name for name in names if len({header_length(f"study_visit/{name}", moment) for moment in moments}) == 2]
    assert len(grow) > 5
    return grow


def visit_with_growing_header(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(b"companion")
    (folder / "e.dcm").write_bytes(dicom_bytes(StudyTime="101112.123456"))
    (folder / "z.txt").write_bytes(b"companion")


def test_header_that_grows_by_a_block_with_the_time(tmp_path: Path) -> None:
    """A companion in front of the first image, whose PAX header crosses a block's edge when the time is known."""
    for name in growing_names():
        source, store = tmp_path / f"in{len(name)}", tmp_path / f"store{len(name)}"
        visit_with_growing_header(source, name)
        assert archive(source, store) == reference_archive(source, "study_visit")


def test_header_that_grows_is_recognised_again(tmp_path: Path) -> None:
    """Another tool's archive with such a header, and ours after an interruption."""
    name = growing_names()[0]
    source, store = tmp_path / "in", tmp_path / "store"
    visit_with_growing_header(source, name)
    (store / "study").mkdir(parents=True)
    (store / "study" / "visit_dicom.tar").write_bytes(reference_archive(source, "study_visit"))
    result = make_studyvisit_archive(source, store, "study", "visit")
    assert (result.archive.state, result.checksum.state) == ("unchanged", "written")
    check_result(result, result.archive.path.read_bytes())
    # the same files with another time of the companion, shorter or as long: a difference, not an endless repetition
    for moment in (0.0, 1582971072.654321):
        buffer = BytesIO()
        with (
            tarfile.open(fileobj=BytesIO(result.archive.path.read_bytes())) as there,
            tarfile.open(fileobj=buffer, mode="w") as changed,
        ):
            for info in there:
                content = there.extractfile(info)
                info.name = info.name.replace("study_visit", "other_visit")
                info.mtime = moment if info.name.endswith("f") else 1582971072.123456
                info.pax_headers = {}
                changed.addfile(info, content)
        (store / "other").mkdir(exist_ok=True)
        (store / "other" / "visit_dicom.tar").write_bytes(buffer.getvalue())
        with pytest.raises(DepositDiffers, match="the header of 'dddd"):
            make_studyvisit_archive(source, store, "other", "visit")


def test_two_studies_are_named(tmp_path: Path) -> None:
    write_visit(tmp_path / "in" / "one", {1: ("a", 2)})
    write_visit(tmp_path / "in" / "two", {1: ("a", 2)}, StudyInstanceUID=uid("other"), StudyDate="20210101")
    result = make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "study", "visit")
    (notice,) = result.notices
    assert notice.code == "several-studies"
    assert f"{uid('study')} (first file 'one/01_a/0001.dcm')" in notice.message
    assert f"{uid('other')} (first file 'two/01_a/0001.dcm')" in notice.message
    assert result.archive.path.read_bytes() == reference_archive(tmp_path / "in", "study_visit")
