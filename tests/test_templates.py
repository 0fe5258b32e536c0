"""One template language, and one rule for characters that names cannot have."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icf_utils.errors import InvalidSetting
from icf_utils.templates import IDENTIFIER, EmptyField, NameRule, Template, parse_template


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *(
            ("sub 01", "sub_01"),
            ("Doe^Eva^^", "Doe_Eva__"),
            ("  a / b  ", "a___b"),
            ("a_ _b", "a___b"),
            ("T1 w (3D)", "T1_w__3D_"),
        ),
        *(("Müller", "M_ller"), ("a.b-c", "a.b-c"), ("..", ""), ("^^", ""), ("", ""), ("_", ""), ("\n", "")),
    ],
)
def test_each_other_character_becomes_an_underscore(value: str, name: str) -> None:
    assert IDENTIFIER.replace(value) == name


@given(st.text())
def test_replaced_values_are_names_and_stay_as_they_are(value: str) -> None:
    name = IDENTIFIER.replace(value)
    assert re.fullmatch(r"[A-Za-z0-9._-]*", name, re.ASCII)
    assert IDENTIFIER.replace(name) == name


def test_a_template_is_filled() -> None:
    template = Template("mri_{subject}-{session}_{subject}")
    assert template.fields == ("subject", "session")
    assert template.fill({"subject": "s 1", "session": "2"}) == "mri_s_1-2_s_1"


@pytest.mark.parametrize("values", [{}, {"subject": ""}, {"subject": " ^ "}, {"subject": "..."}])
def test_a_value_that_leaves_nothing_is_named(values: dict[str, str]) -> None:
    with pytest.raises(EmptyField) as caught:
        Template("a_{subject}").fill(values)
    assert caught.value.field == "subject"


def test_identifiers_do_not_begin_with_a_sign() -> None:
    assert Template("{a}").fill({"a": ".-hidden"}) == "hidden"


@pytest.mark.parametrize(
    "text", ["", "{", "}", "a{b", "{}", "{a b}", "{{a}}", "{a!r}", "{a:>3}", "{a.b}", "{0}", "a/{a}", "a {a}"]
)
def test_what_is_not_a_template(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"--visit: '.*' is not a template: expected letters, digits"):
        parse_template("--visit", text, {"a"})


def test_an_unknown_field_is_named_with_what_was_probably_meant() -> None:
    with pytest.raises(
        InvalidSetting, match=re.escape("unknown field {sesion}; did you mean {session}? (fields: session, subject)")
    ):
        parse_template("--visit", "{subject}_{sesion}", {"subject", "session"})


def test_any_field_where_they_are_checked_later() -> None:
    assert parse_template("--visit", "{PatientID}", None).fields == ("PatientID",)


def test_other_names_have_other_characters() -> None:
    paths = NameRule(r"\w.+=@-", "letters", around=r"\w/")
    assert (
        parse_template("--layout", "{a}/{b}", {"a", "b"}, paths).fill({"a": "Müller/x", "b": "T1+"}, paths)
        == "Müller_x/T1+"
    )


def test_a_pattern_finds_what_a_template_makes() -> None:
    found = re.fullmatch(Template("sub-{study}.{visit}.zip").expression(), "sub-a.b.c.zip")
    assert found
    assert found.groupdict() == {"study": "a", "visit": "b.c"}
