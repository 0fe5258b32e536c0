"""What processings made, on the pages: the outputs of a visit, and a facet of the study."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from icf_utils.catalog.rebuild import build_catalog
from icf_utils.outputs.listing import OUTPUTS_PATH, OutputLine, encode_outputs
from tests.catalog.browsing import Visitor, served
from tests.catalog.conftest import STUDY, deposit, digest, make_visit, typical_images

LINES = [
    OutputLine("v001", "dcm2niix", "success", "1", 4, 5_000_000, 5_010_240, digest("a")),
    OutputLine("v001", "segment", "partial", "2.1", 1, 100, 10_240, digest("b")),
    OutputLine("v002", "dcm2niix", "success", "<b>1</b>", 4, 5_000_000, 5_010_240, digest("c")),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("outputs")
    for at, visit in enumerate(("v001", "v002", "v003")):
        deposit(root, visit, make_visit(visit, typical_images(at)))
    build_catalog(root, STUDY, store_url="https://data.example.org")
    (root / STUDY / "catalog" / OUTPUTS_PATH).write_bytes(encode_outputs(LINES))
    with served(root) as address:
        yield f"{address}/{STUDY}/catalog/"


def test_a_visit_shows_its_outputs(site: str, visitor: Visitor) -> None:
    visitor.open(f"{site}#/visit/v001")
    visitor.wait(lambda: visitor.texts("[data-processing] h3") == ["dcm2niix", "segment"])
    (first, second) = visitor.texts("[data-processing]")
    assert "4 files, 5.0 MB" in first
    assert digest("a") in first
    assert "partial" in second
    assert (
        "icf-utils retrieve --store https://data.example.org --id proj-1 v001 --processing dcm2niix -d v001-output"
        in first
    )
    link = visitor.link("v001_dcm2niix_output.tar")
    assert link.get_attribute("href") == "https://data.example.org/proj-1/v001_dcm2niix_output.tar"
    visitor.open(f"{site}#/visit/v002")
    visitor.wait(lambda: visitor.texts("[data-processing] h3") == ["dcm2niix"])
    assert "<b>1</b>" in visitor.texts("[data-processing]")[0]


def test_outcomes_are_a_facet(site: str, visitor: Visitor) -> None:
    visitor.open(site)
    visitor.wait(lambda: visitor.texts(".icf-count") == ["3 visits"])
    assert "Processing" in visitor.texts("legend")
    found = [text for text in visitor.texts(".icf-facet-text") if ": " in text]
    assert found == [*("dcm2niix: not made", "dcm2niix: success", "segment: not made", "segment: partial")]
    visitor.click(next(item for item in visitor.all(".icf-facet-value") if "dcm2niix: not made" in item.text))
    visitor.wait(lambda: visitor.texts(".icf-count") == ["1 of 3 visits"])
    assert [row[0] for row in visitor.rows()] == ["v003"]
