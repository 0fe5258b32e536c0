"""An archive read back in one pass: members, positions and digests are right, or the archive is refused."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icf_utils.archive.stage import make_studyvisit_archive
from icf_utils.archive.tar_headers import content_padding, end_of_archive
from icf_utils.errors import DepositDamaged, IcfError
from icf_utils.metadata.allowlist import AllowList, parse_allow_list
from icf_utils.metadata.describe import ArchiveDescription, describe_archive
from icf_utils.progress import SILENT
from tests.archive.tars import archive_of, record
from tests.data.make_dicom import JPEG_BASELINE, dicom_bytes, uid, write_visit

NOTHING_MORE = AllowList({}, allow_identifying=False)


def describe(path: Path, allowed: AllowList = NOTHING_MORE) -> ArchiveDescription:
    return describe_archive(path, "study_visit", allowed, SILENT)


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_open_visits(open_visit: Path, tmp_path: Path) -> None:
    """Positions and digests, compared with ``tarfile``."""
    result = make_studyvisit_archive(open_visit, tmp_path, "study", "visit")
    found = describe(result.archive.path)
    assert (found.md5, found.size) == (result.md5, result.size)
    data = result.archive.path.read_bytes()
    with tarfile.open(result.archive.path, encoding="utf-8") as archive:
        infos = {info.name: info for info in archive}
    described = {image.path: image for image in found.images}
    assert {*described, *(notice.subject for notice in found.others)} == set(infos)
    assert list(described) == [name for name in infos if name in described]
    assert len(described) == result.dicom_files
    for path, image in described.items():
        assert (image.offset, image.size) == (infos[path].offset_data, infos[path].size)
        content = data[image.offset : image.offset + image.size]
        assert hashlib.md5(content).hexdigest() == image.md5
        assert image.uids["StudyInstanceUID"]


def test_values_and_uids(tmp_path: Path) -> None:
    write_visit(tmp_path / "in", {3: ("bold rest", 2)}, companions={"a.txt": b"x"})
    result = make_studyvisit_archive(tmp_path / "in", tmp_path, "study", "visit")
    first, second = describe(result.archive.path, parse_allow_list("EchoTime\nRows", "list")).images
    assert first.path == "study_visit/03_bold_rest/0001.dcm"
    assert first.tags == {
        "SeriesDescription": "bold rest",
        "SeriesNumber": 3,
        "Modality": "MR",
        "MRAcquisitionType": "3D",
        "ProtocolName": "bold rest",
        "PulseSequenceName": "",
        "EchoTime": 2.98,
        "Rows": 2,
    }
    assert first.uids == {
        "SOPInstanceUID": uid(uid("study"), 3, 1),
        "SeriesInstanceUID": uid(uid("study"), 3),
        "StudyInstanceUID": uid("study"),
    }
    assert second.uids["SOPInstanceUID"] != first.uids["SOPInstanceUID"]


def test_malformed_uids_are_not_recorded(tmp_path: Path) -> None:
    data = dicom_bytes(SOPInstanceUID=b"not a uid", SeriesInstanceUID=b"1.2\\1.3", StudyInstanceUID=None)
    (image,) = describe(put(tmp_path / "a", archive_of({"a": data}))).images
    assert set(image.uids.values()) == {""}


def test_large_images_are_followed_to_their_end(tmp_path: Path) -> None:
    """Pixel data beyond the part that is read for a header: fragments are followed in the archive."""
    whole = dicom_bytes(transfer_syntax=JPEG_BASELINE, PixelData=os.urandom(3 << 20))
    members = {"a_whole": whole, "b_cut": whole[:-100], "c_plain": dicom_bytes(PixelData=bytes(3 << 20))}
    found = describe(put(tmp_path / "a", archive_of(members)))
    assert len(found.images) == 3
    assert [(notice.code, notice.subject) for notice in found.notices] == [("cut-dicom", "study_visit/b_cut")]
    for image, content in zip(found.images, members.values(), strict=True):
        assert image.md5 == hashlib.md5(content).hexdigest()


# -- archives of other makers


def tarfile_archive(form: int, members: Iterable[tuple[str, bytes, str, bytes]], mtime: float = 5.25) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, kind, link, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.mtime = kind, link, len(content), mtime
            archive.addfile(info, BytesIO(content))
    return buffer.getvalue()


def test_links_of_older_tools(tmp_path: Path) -> None:
    """The original tool stored links as such; they have no record, and nothing is followed."""
    members = [
        ("study_visit/a.dcm", tarfile.REGTYPE, "", dicom_bytes()),
        ("study_visit/b.dcm", tarfile.SYMTYPE, "../../etc/passwd", b""),
        ("study_visit/c.dcm", tarfile.LNKTYPE, "study_visit/a.dcm", b""),
        ("study_visit/d.dcm", tarfile.REGTYPE, "", dicom_bytes(InstanceNumber=2)),
    ]
    found = describe(put(tmp_path / "a", tarfile_archive(tarfile.PAX_FORMAT, members)))
    assert [image.path for image in found.images] == ["study_visit/a.dcm", "study_visit/d.dcm"]
    assert [notice.code for notice in found.others] == ["not-a-file", "not-a-file"]


def test_an_archive_without_records(tmp_path: Path) -> None:
    """Whole seconds as integers need no PAX header."""
    members = [("study_visit/a.dcm", tarfile.REGTYPE, "", dicom_bytes())]
    data = tarfile_archive(tarfile.USTAR_FORMAT, members, 5)
    assert len(describe(put(tmp_path / "a", data)).images) == 1


@pytest.mark.parametrize(
    "name", ["other/a.dcm", "study_visit", "study_visitor/a.dcm", "/study_visit/a.dcm", "../a.dcm"]
)
def test_members_elsewhere(tmp_path: Path, name: str) -> None:
    data = tarfile_archive(tarfile.PAX_FORMAT, [(name, tarfile.REGTYPE, "", b"x")])
    with pytest.raises(DepositDamaged, match="members below 'study_visit/'"):
        describe(put(tmp_path / "a", data))


def test_members_of_unknown_kinds(tmp_path: Path) -> None:
    long_name = ("study_visit/" + "x" * 200, tarfile.REGTYPE, "", b"x")
    with pytest.raises(DepositDamaged, match="a header of type b'L'"):
        describe(put(tmp_path / "a", tarfile_archive(tarfile.GNU_FORMAT, [long_name])))


def test_cut_at_every_block_and_elsewhere(tmp_path: Path) -> None:
    data = archive_of({"a.dcm": dicom_bytes(), "b": b"x" * 700, "c.dcm": dicom_bytes(InstanceNumber=2)})
    marks = len(data.rstrip(b"\0")) // 512 * 512 + 512
    for size in [*range(0, marks, 100), *range(0, marks + 1, 512)]:
        with pytest.raises(DepositDamaged) as caught:
            describe(put(tmp_path / "a", data[:size]))
        assert caught.value.path == str(tmp_path / "a")
        assert f"byte {size}" in str(caught.value)


@pytest.mark.parametrize("data", [b"text" * 1000, b"\x1f\x8b" + bytes(600), b"\0" * 100 + b"x" * 1000])
def test_no_tar(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DepositDamaged, match="tar header at byte 0"):
        describe(put(tmp_path / "a", data))


def pax_archive(records: bytes, size_field: int | None = None) -> bytes:
    """A member with arbitrary extended records in front."""
    extended = tarfile.TarInfo("././@PaxHeader")
    extended.type, extended.size = tarfile.XHDTYPE, len(records) if size_field is None else size_field
    member = tarfile.TarInfo("study_visit/a")
    member.size = 4
    header = extended.tobuf(tarfile.USTAR_FORMAT) + records + content_padding(len(records))
    data = header + member.tobuf(tarfile.USTAR_FORMAT) + b"text" + content_padding(4)
    return data + end_of_archive(len(data))


@pytest.mark.parametrize(
    "records",
    [
        *(record("size=-1"), record("size=x"), record("size=1e3"), record("mtime=nan"), record("mtime=inf")),
        *(record("mtime="), b"5 a=b", b"x a=b\n", b"0 a=b\n", b"-6 a=b\n", b"6 a-b\n", b"99 a=b\n", b"\xff", b" a=b\n"),
        b"6 \xff=b\n",
    ],
)
def test_malformed_records(tmp_path: Path, records: bytes) -> None:
    with pytest.raises(DepositDamaged, match=r"PAX header|size and a time"):
        describe(put(tmp_path / "a", pax_archive(records)))


def test_a_record_of_size_counts(tmp_path: Path) -> None:
    found = describe(put(tmp_path / "a", pax_archive(record("size=4") + record("comment=x"))))
    assert [notice.subject for notice in found.others] == ["study_visit/a"]
    with pytest.raises(DepositDamaged, match="the end of the file"):
        describe(put(tmp_path / "a", pax_archive(record("size=99999999999999999999"))))


def test_a_header_of_records_without_end(tmp_path: Path) -> None:
    with pytest.raises(DepositDamaged, match="plausible length"):
        describe(put(tmp_path / "a", pax_archive(record("a=b"), size_field=2 << 30)))


def test_a_negative_size(tmp_path: Path) -> None:
    """Binary numbers in headers may be negative."""
    data = bytearray(archive_of({"a": b"x" * 2000}))
    info = tarfile.TarInfo.frombuf(bytes(data[1024:1536]), "utf-8", "strict")
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = b"\xff" * 10 + b"\xfe\x00"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    data[1024:1536] = block
    with pytest.raises(DepositDamaged, match="size and a time"):
        describe(put(tmp_path / "a", bytes(data)))


_SAMPLE = archive_of({"a.dcm": dicom_bytes(), "N\u00e4me" * 40: b"x" * 10, "c": b""})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=12)), min_size=1, max_size=4),
    cut=st.floats(0, 1) | st.none(),
)
def test_any_damage(tmp_path: Path, changes: list[tuple[float, bytes]], cut: float | None) -> None:
    data = bytearray(_SAMPLE)
    for where, what in changes:
        at = int(where * (len(data) - 1))
        data[at : at + len(what)] = what
    if cut is not None:
        del data[int(cut * len(data)) :]
    try:
        found = describe(put(tmp_path / "a", bytes(data)))
    except IcfError as error:
        assert str(tmp_path / "a") in str(error)  # noqa: PT017 - either is right
    else:
        assert found.md5 == hashlib.md5(data).hexdigest()
