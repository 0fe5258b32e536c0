"""What a search makes of words: letters in all forms of Unicode, names of tags that are not there, its own examples."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import pytest

from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from tests.catalog.browsing import Visitor, served
from tests.catalog.conftest import STUDY, deposit, make_series, make_visit

TEXTS = {
    "v1": "Café au lait",
    "v2": unicodedata.normalize("NFD", "CAFÉ noir"),
    "v3": "Größe der Straße",
    "v4": "ＭＰＲＡＧＥ ﬁne",
    "v5": "頭部 が",
    "v6": 'say "t1:weighted"',
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A study with a text per visit, and one that has an EchoTime and nothing that people typed."""
    root = tmp_path_factory.mktemp("words")
    for visit, text in TEXTS.items():
        deposit(root, visit, make_visit(visit, make_series(1, 1, text, ProtocolName=text)))
        catalogify_studyvisit_from_meta(root, STUDY, visit)
    deposit(root, "e1", make_visit("e1", make_series(1, 1, "", EchoTime=2.98), study="echo"), "echo")
    catalogify_studyvisit_from_meta(root, "echo", "e1")
    deposit(root, "n1", make_visit("n1", [], study="none"), "none")
    catalogify_studyvisit_from_meta(root, "none", "n1")
    with served(root) as address:
        yield address


def open_study(site: str, visitor: Visitor, study: str) -> None:
    visitor.open(f"{site}/{study}/catalog/")
    visitor.heading(f"Study {study}")


def hits(visitor: Visitor, text: str) -> list[str]:
    """Names of the visits that are found."""
    visitor.search(text)
    return [row[0].split("\n")[0] for row in visitor.rows()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafe", ["v1", "v2"]),
        ("Café", ["v1", "v2"]),
        (unicodedata.normalize("NFD", "café"), ["v1", "v2"]),
        ("GRÖSSE", ["v3"]),
        ("grösse", ["v3"]),
        ("große", ["v3"]),  # without its dots, too
        ("grosse", ["v3"]),
        ("strasse", ["v3"]),
        ("STRAẞE", ["v3"]),
        ("mprage fine", ["v4"]),
        ("が", ["v5"]),
        ("か", []),
        ('"t1:weighted"', ["v6"]),
        ("protocol:CAFÉ", ["v1", "v2"]),
    ],
)
def test_letters_are_found_in_every_form(site: str, visitor: Visitor, text: str, expected: list[str]) -> None:
    open_study(site, visitor, STUDY)
    assert hits(visitor, text) == expected


def test_a_tag_that_is_not_recorded_is_named(site: str, visitor: Visitor) -> None:
    open_study(site, visitor, STUDY)
    assert hits(visitor, "bogus:5") == []
    said = visitor.texts(".icf-count[role=status]")
    assert said[0].startswith("0 of 6 visits")
    assert (
        "“bogus” is not recorded in this catalog, which has: visit, modality, protocol, description, number" in said[0]
    )
    assert hits(visitor, "echotime:2.98") == []
    assert "“echotime” is not recorded" in visitor.one(".icf-unknown").text
    for known in ("protocol:none", "ProtocolName:none", "name:none", "visit:none", "nothing"):
        assert hits(visitor, known) == []
        assert not visitor.all(".icf-unknown")
    assert hits(visitor, "name:v3") == ["v3"]


@pytest.mark.parametrize(
    ("study", "one_of_them"), [(STUDY, "description:"), ("echo", "te:<=2.98"), ("none", "visit:n1")]
)
def test_the_examples_of_the_page_find_something_there(
    site: str, visitor: Visitor, study: str, one_of_them: str
) -> None:
    open_study(site, visitor, study)
    examples = visitor.texts("#icf-q-help code")
    assert [example for example in examples if example.startswith(one_of_them)]
    for example in examples:
        assert hits(visitor, example), example
        assert not visitor.all(".icf-unknown")


def test_words_of_a_visit_lead_to_it_whatever_they_hold(site: str, visitor: Visitor) -> None:
    open_study(site, visitor, STUDY)
    visitor.click(next(item for item in visitor.all("td a") if item.text == "v6"))
    visitor.heading(f"{STUDY} / v6")
    visitor.click(next(item for item in visitor.all(".icf-words a") if item.text == TEXTS["v6"]))
    visitor.heading(f"Study {STUDY}")
    visitor.wait(lambda: [row[0].split("\n")[0] for row in visitor.rows()] == ["v6"])
