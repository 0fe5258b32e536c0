"""Lists of additional tags: parsed as written, or refused as a whole with every mistake named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icf_utils.dicom.confidentiality import is_identifying
from icf_utils.errors import InvalidSetting, StorageFailure
from icf_utils.metadata.allowlist import AllowList, allow_list_from_settings, parse_allow_list, read_allow_list
from icf_utils.metadata.records import STANDARD_TAGS, UID_TAGS
from icf_utils.settings import TECHNICAL_TAGS, MetadataSettings

ECHO_TIME, REPETITION_TIME, PATIENT_NAME, PATIENT_AGE = 0x00180081, 0x00180080, 0x00100010, 0x00101010


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidSetting) as caught:
        parse_allow_list(text, "tags.txt")
    assert caught.value.source == "tags.txt"
    return [line.strip() for line in caught.value.problem.splitlines()]


def test_keywords_tags_comments_and_blank_lines() -> None:
    text = "# what we need\n\nRepetitionTime   # in ms\n(0018,0081)\n0018, 0081\nEchoTime\nallow_identifying: false\n"
    found = parse_allow_list(text, "tags.txt")
    assert found == AllowList({"EchoTime": ECHO_TIME, "RepetitionTime": REPETITION_TIME}, False)
    assert list(found.tags) == ["EchoTime", "RepetitionTime"]


def test_an_empty_list() -> None:
    assert parse_allow_list("", "tags.txt") == AllowList({}, False)
    assert allow_list_from_settings(MetadataSettings(technical_tags=()), "icf.toml") == AllowList({}, False)


def test_technical_tags_are_recorded_by_default() -> None:
    found = allow_list_from_settings(MetadataSettings(), "icf.toml")
    assert set(found.tags) == set(TECHNICAL_TAGS)
    assert not any(map(is_identifying, found.tags.values()))
    shorter = allow_list_from_settings(MetadataSettings(("StudyDescription",), True, ("EchoTime",)), "icf.toml")
    assert list(shorter.tags) == ["EchoTime", "StudyDescription"]


def test_tags_that_are_always_recorded_may_be_listed() -> None:
    assert parse_allow_list("\n".join([*STANDARD_TAGS, *UID_TAGS]), "tags.txt").tags == {}


def test_identifying_tags_need_the_permission() -> None:
    (problem,) = problems("PatientAge")
    assert problem == (
        "'PatientAge' is listed in the confidentiality profile of DICOM PS3.15 Table E.1-1; "
        "it is recorded only if the list also says 'allow_identifying: true'"
    )
    allowed = parse_allow_list("allow_identifying: true\nPatientAge\nPatientName", "tags.txt")
    assert allowed == AllowList({"PatientAge": PATIENT_AGE, "PatientName": PATIENT_NAME}, True)


def test_a_person_name_needs_permission_although_the_table_does_not_list_it() -> None:
    (problem,) = problems("EvaluatorName\nEchoTime")
    assert problem.startswith("'EvaluatorName' is a person name")


@pytest.mark.parametrize(
    "name", ["PixelData", "ReferencedImageSequence", "RedPaletteColorLookupTableData", "LUTData", "(7FE0,0010)"]
)
@pytest.mark.parametrize("permission", ["", "allow_identifying: true\n"])
def test_sequences_and_binary_data_are_refused_always(name: str, permission: str) -> None:
    (problem,) = problems(permission + name)
    assert "sequence or binary" in problem


@pytest.mark.parametrize("name", ["0029,1010", "(0009,0010)", "0010,0099", "(6000,3000)", "0008,0000"])
def test_tags_without_a_keyword_of_their_own_are_refused(name: str) -> None:
    (problem,) = problems(f"allow_identifying: true\n{name}")
    assert f"'{name}' is not a tag with its own DICOM keyword" in problem


@pytest.mark.parametrize(("name", "meant"), [("EchTime", "EchoTime"), ("echotime", "EchoTime"), ("RowsX", "Rows")])
def test_unknown_keywords_get_a_suggestion(name: str, meant: str) -> None:
    assert problems(name) == [f"'{name}' is not a DICOM keyword; did you mean '{meant}'?"]


def test_all_mistakes_are_named_at_once() -> None:
    found = problems("EchTime\nPatientID\nEchoTime\nPixelData\nqqqqqqqqqqqq\nallow_identifying: yes")
    assert len(found) == 5
    assert "'allow_identifying' must be given once" in found[0]
    assert found[-1] == "'qqqqqqqqqqqq' is not a DICOM keyword"


def test_a_flood_of_mistakes_is_counted() -> None:
    found = problems("\n".join(f"qq{at}zz" for at in range(100)))
    assert len(found) == 21
    assert found[-1] == "... and 80 more"


@pytest.mark.parametrize(
    "text", ["allow_identifying: true\nallow_identifying: false", "allow_identifying:", "allow_identifying: True"]
)
def test_an_ambiguous_permission_is_not_one(text: str) -> None:
    assert len(problems(text)) == 1


def test_settings_are_checked_alike() -> None:
    only_one = MetadataSettings(("EchoTime",), technical_tags=())
    assert allow_list_from_settings(only_one, "icf.toml").tags == {"EchoTime": ECHO_TIME}
    assert allow_list_from_settings(MetadataSettings(("PatientName",), True), "icf.toml").allow_identifying
    with pytest.raises(InvalidSetting, match=r"icf.toml.*'allow_identifying = true'"):
        allow_list_from_settings(MetadataSettings(("PatientName",)), "icf.toml")


def test_names_cannot_steer_a_terminal() -> None:
    (problem,) = problems("Echo\x1b[31mTime")
    assert "\x1b" not in problem


def test_reading_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tags.txt"
    path.write_bytes(b"\xef\xbb\xbfEchoTime\r\n# \xc3\xa4\r\n")
    assert read_allow_list(path).tags == {"EchoTime": ECHO_TIME}
    path.write_bytes(b"Echo\xff")
    with pytest.raises(InvalidSetting, match="UTF-8"):
        read_allow_list(path)
    with pytest.raises(StorageFailure):
        read_allow_list(tmp_path / "absent.txt")


@settings(deadline=None)  # the first example loads pydicom
@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse_allow_list(text, "tags.txt")
    except InvalidSetting:
        return
    assert list(found.tags) == sorted(found.tags)
