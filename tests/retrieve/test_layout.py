"""Unsafe names are refused, and templates give each image its own path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from icf_utils.errors import InvalidSetting
from icf_utils.fetch.ranges import Span
from icf_utils.retrieve.layout import path_of_image, plan_files, template_keywords, why_unsafe
from icf_utils.retrieve.model import Digest, Image
from icf_utils.retrieve.selection import Selection, parse_tag


def image(path: str = "instances/1.dcm", **tags: object) -> Image:
    return Image("1.2", "v1", "1.2.3", "1.2.3.4", path, "k", Span(0, 1), Digest("md5", ""), tags)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../b", "a//b", "./a", "a/", "a/\0", "x" * 300])
def test_unsafe_names(path: str) -> None:
    assert why_unsafe(path)


@pytest.mark.parametrize("path", ["a", "a/b", "..a/b..", "ä/ b", "a\\b", "-rf"])
def test_unusual_but_safe_names(path: str) -> None:
    assert not why_unsafe(path)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{study}/{series}/instances/{name}", "1.2/1.2.3/instances/1.dcm"),
        ("{path}", "instances/1.dcm"),
        ("{visit}/{SeriesNumber}_{SeriesDescription}/{sop}.dcm", "v1/3_T1_w_.._x/1.2.3.4.dcm"),
        ("{StationName}/{name}", "_/1.dcm"),
    ],
)
def test_templates(template: str, expected: str) -> None:
    found = path_of_image(image(SeriesNumber=3, SeriesDescription="T1 w/../x"), template)
    assert found == PurePosixPath(expected)


@pytest.mark.parametrize("value", ["..", ".", "", "/", "../..", "\0", "\n"])
def test_values_cannot_leave_their_component(value: str) -> None:
    assert path_of_image(image(SeriesDescription=value), "{SeriesDescription}/{name}").parts[0].strip("_.") == ""
    assert len(path_of_image(image(SeriesDescription=value), "{SeriesDescription}/{name}").parts) == 2


@pytest.mark.parametrize(
    "template",
    [
        "{name",
        "a{{b}}/{name}",
        "{name.__class__}",
        "{name!r}",
        "{name:>9}",
        "{0}",
        "{}",
        "{unknown}/{name}",
        "{study}",
        "all",
    ],
)
def test_invalid_templates(template: str) -> None:
    with pytest.raises(InvalidSetting):
        template_keywords(template)


@pytest.mark.parametrize("template", ["../{name}", "/etc/{name}", "a//{name}"])
def test_a_template_that_leaves_the_directory(template: str) -> None:
    with pytest.raises(InvalidSetting):
        plan_files([image()], template)


def test_two_images_of_one_name() -> None:
    with pytest.raises(InvalidSetting, match="would both become"):
        plan_files([image("a/1.dcm"), image("b/1.dcm")], "{name}")


def test_visits_of_two_studies_with_one_folder() -> None:
    """The TAR of 'a/b_c' has the same top folder as that of 'a_b/c'."""
    images = [replace(image("a_b_c/1.dcm"), study=study, visit=visit) for study, visit in (("a", "b_c"), ("a_b", "c"))]
    with pytest.raises(InvalidSetting, match=r"of a/b_c and .* of a_b/c would both become .*'{study}/{visit}/{path}'"):
        plan_files(images, "{path}")
    assert len({item.path for item in plan_files(images, "{study}/{visit}/{path}")}) == 2
    assert len(plan_files(images, "{path}", zipped=True)) == 2
    with pytest.raises(InvalidSetting, match="a file and a folder"):
        plan_files([images[0], replace(images[1], path="a_b_c")], "{path}")


def test_a_file_that_would_be_a_folder() -> None:
    with pytest.raises(InvalidSetting, match="a file and a folder"):
        plan_files([image("a"), image("a/b")], "{path}")


def test_selections() -> None:
    found = image(SeriesNumber=3, Modality="MR", ImageType=["ORIGINAL", "PRIMARY"])
    for series in ("3", "+03", "1.2.3"):
        assert Selection(series=(series,)).matches(found)
    assert not Selection(series=("4",)).matches(found)
    assert Selection(images=("1.2.3.4",)).matches(found)
    assert Selection(images=("instances/1.dcm",)).matches(found)
    assert Selection(tags=(("Modality", "MR"), ("ImageType", "PRIMARY"))).matches(found)
    assert not Selection(tags=(("Modality", "MR"), ("SeriesNumber", "4"))).matches(found)


def test_unmatched_conditions_are_named() -> None:
    first, second = image("a", Modality="MR"), image("b", Modality="CT")
    assert Selection(series=("7",), images=("a",)).unmatched([first, second]) == ("--series 7",)
    assert Selection(images=("a",), tags=(("Modality", "CT"),)).unmatched([first, second]) == (
        "--image and --tag Modality=CT together",
    )
    assert Selection(tags=(("Modality", "MR"), ("Modality", "CT"))).unmatched([first, second]) == (
        "--tag Modality=MR and --tag Modality=CT together",
    )


@pytest.mark.parametrize(
    ("keyword", "value", "recorded", "reason"),
    [
        (
            "Bogus",
            "1",
            ("SeriesNumber", "Modality"),
            ": Bogus is not recorded here; recorded are Modality, SeriesNumber",
        ),
        (
            "MODALITY",
            "MR",
            ("Modality",),
            ": MODALITY is not recorded here; recorded is Modality (upper and lower case differ)",
        ),
        ("Bogus", "1", (), ": no image here has Bogus"),
        ("Modality", "mr", ("Modality",), ": an image has the same value in other upper and lower case"),
        ("Modality", "CT", ("Modality",), ""),
    ],
)
def test_why_a_tag_matches_nothing(keyword: str, value: str, recorded: tuple[str, ...], reason: str) -> None:
    found = Selection(tags=((keyword, value),)).unmatched([image(Modality="MR")], recorded)
    assert found == (f"--tag {keyword}={value}{reason}",)


@pytest.mark.parametrize("text", ["Modality", "=MR", "modality=MR", "Patient Name=x"])
def test_invalid_tags(text: str) -> None:
    with pytest.raises(InvalidSetting):
        parse_tag(text)
