"""The time of a study, the kind of a file and its study: as in pydicom, and nothing is raised."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from io import BytesIO
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from icf_utils.dicom.constants import (
    MEDIA_STORAGE_DIRECTORY_STORAGE,
    MEDIA_STORAGE_SOP_INSTANCE_UID,
    PATIENT_ID,
    SERIES_INSTANCE_UID,
    SERIES_NUMBER,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    TRANSFER_SYNTAX_UID,
)
from icf_utils.dicom.elements import scan_header
from icf_utils.dicom.header import FACT_TAGS, FileFacts, FileKind, file_facts, file_kind, posix_time, read_head
from tests.archive.reference import local_zone, study_time
from tests.data.make_dicom import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, dicom_bytes, element, uid

UTC = timezone.utc


def facts(data: bytes) -> FileFacts:
    return file_facts(scan_header(data, len(data), FACT_TAGS), UTC)


digits = st.text("0123456789", max_size=10)
odd_text = st.text("0123456789 .:-+*\\_\n", max_size=12)
real_date = st.dates().map(lambda day: f"{day:%Y%m%d}".zfill(8))
real_time = st.times().map(lambda clock: f"{clock:%H%M%S.%f}")
cut_time = st.tuples(real_time, st.integers(0, 13)).map(lambda pair: pair[0][: pair[1]])


@given(date=real_date | digits | odd_text, clock=real_time | cut_time | digits | odd_text)
@example("20200229", "235960.5")
@example("1994.01.30", "10")
@example("1994.01.30", "11:25:01")
@example("2020 1 1", "101112.")
@example("+200+1+1", "101112\n")
@example("2_20 1 1", "101112")
@example("20200229", "1011.5")
@example("19700101", "000000.000001")
@example("19700101", "000001.100007")
@example("19691231", "235959.999999")
@example("00010101", "000000")
@example("99991231", "235959.999999")
def test_times_are_those_of_pydicom(date: str, clock: str) -> None:
    """The very same float, since it is written as text into the archive."""
    with local_zone("UTC"):
        expected = study_time(date, clock)
    found = posix_time(date, clock, UTC)
    if expected is None and found is not None:  # within a day of the calendar's ends, only this package has a result
        assert not -62135510400 <= found < 253402214400
    else:
        assert found == expected


@given(moment=st.datetimes(min_value=datetime(1800, 1, 1), max_value=datetime(9999, 12, 30)))  # noqa: DTZ001
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"])
def test_local_times_are_those_of_the_system(zone: str, moment: datetime) -> None:
    date, clock = f"{moment:%Y%m%d}", f"{moment:%H%M%S.%f}"
    with local_zone(zone):
        expected = study_time(date, clock)
    assert posix_time(date, clock, ZoneInfo(zone)) == expected


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_hours_that_clocks_skip_and_repeat(zone: str) -> None:
    """Every half hour of the days around the changes of two years."""
    for start in (datetime(2024, 3, 9), datetime(2024, 3, 30), datetime(2024, 10, 26), datetime(2024, 11, 2)):  # noqa: DTZ001
        for step in range(96):
            moment = start + timedelta(minutes=30 * step)
            date, clock = f"{moment:%Y%m%d}", f"{moment:%H%M%S}"
            with local_zone(zone):
                expected = study_time(date, clock)
            assert posix_time(date, clock, ZoneInfo(zone)) == expected


def test_dates_at_the_edge_of_the_calendar() -> None:
    far_east, far_west = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))
    for date in ("00010101", "99991231"):
        for zone in (far_east, far_west):
            assert isinstance(posix_time(date, "120000", zone), float)


@pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED])
def test_an_image(syntax: str) -> None:
    assert facts(dicom_bytes(transfer_syntax=syntax)) == FileFacts(
        kind=FileKind.IMAGE,
        time=1582971072.0,
        study_uid=uid("study"),
        is_cut=False,
        sop_uid=uid(uid("study"), 1, 1),
        patient_id=b"TEST01",
    )


@pytest.mark.parametrize("meta", [True, False])
def test_an_image_without_preamble(meta: bool) -> None:
    """It has no time, because pydicom does not read it, but it is recognised."""
    found = facts(dicom_bytes(preamble=False, file_meta=meta))
    assert (found.kind, found.time) == (FileKind.BARE_IMAGE, None)


def test_bare_needs_proof() -> None:
    assert facts(dicom_bytes(preamble=False, file_meta=False)).kind is FileKind.BARE_IMAGE
    assert facts(dicom_bytes(preamble=False, file_meta=False, SOPClassUID=None)).kind is FileKind.OTHER
    assert facts(dicom_bytes(preamble=False, file_meta=False, SOPInstanceUID=None)).kind is FileKind.OTHER
    assert facts(dicom_bytes(preamble=False, file_meta=False, SOPInstanceUID=b"not.a.uid!")).kind is FileKind.OTHER


@pytest.mark.parametrize("preamble", [True, False])
def test_a_directory(preamble: bool) -> None:
    """A DICOMDIR is not an image, whatever its data set claims."""
    data = dicom_bytes(preamble=preamble, SOPClassUID=MEDIA_STORAGE_DIRECTORY_STORAGE)
    assert facts(data).kind is (FileKind.DIRECTORY if preamble else FileKind.OTHER)
    assert not facts(data).kind.is_image


def test_every_scan_of_a_head_can_tell_an_image() -> None:
    """The elements that this requires are present, whatever the caller asks for."""
    for data in (dicom_bytes(), dicom_bytes(preamble=False, file_meta=False)):
        _, found = read_head(BytesIO(data).read, len(data), frozenset())
        assert file_kind(found).is_image


@pytest.mark.parametrize(
    "data", [b"", b"text", bytes(132), b"x" * 128 + b"DICM", b"x" * 128 + b"DICM" + b"plain text, no data set\n" * 9]
)
def test_files_that_are_not_dicom(data: bytes) -> None:
    found = facts(data)
    assert (found.time, found.study_uid) == (None, "")
    assert found.kind is (FileKind.UNREADABLE if b"DICM" in data else FileKind.OTHER)
    assert found.is_cut == (b"DICM" in data)


def test_elements_that_are_not_sorted() -> None:
    """pydicom reads them, so the file's own time counts."""
    number_first = {0x00080000: element(0x00200011, "IS", b"77")}
    found = facts(dicom_bytes(raw=number_first))
    assert (found.kind, found.time, found.study_uid, found.is_cut) == (
        FileKind.IMAGE,
        1582971072.0,
        uid("study"),
        False,
    )


def test_a_prefix_with_zeros_behind_it() -> None:
    found = facts(bytes(128) + b"DICM" + bytes(400))
    assert (found.kind, found.is_cut) == (FileKind.UNREADABLE, True)


@pytest.mark.parametrize("vr", ["DA", "LO", "UN", "OB", "SQ"])
def test_representations_of_the_date(vr: str) -> None:
    data = dicom_bytes(raw={0x00080020: element(0x00080020, vr, b"20200229")})
    assert (facts(data).time is None) == (vr == "SQ")


def test_values_in_a_scan() -> None:
    """UIDs of data set and file meta information, those that are not valid included, and text; empty if absent."""
    data = dicom_bytes(SeriesNumber=7, StudyInstanceUID=b"1.x")
    found = scan_header(
        data, len(data), frozenset({STUDY_INSTANCE_UID, SOP_INSTANCE_UID, SERIES_NUMBER, SERIES_INSTANCE_UID})
    )
    assert found.uid(TRANSFER_SYNTAX_UID) == EXPLICIT_LITTLE
    assert found.uid(SOP_INSTANCE_UID) == found.uid(MEDIA_STORAGE_SOP_INSTANCE_UID) != ""
    assert (found.uid(STUDY_INSTANCE_UID), found.uid(PATIENT_ID)) == ("1.x", "")
    assert (found.ascii_text(SERIES_NUMBER).strip(), found.ascii_text(PATIENT_ID)) == ("7", "")
