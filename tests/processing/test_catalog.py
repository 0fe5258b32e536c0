"""Outputs in the catalog: listed when they are deposited, the same after a rebuild, gone with their visit."""

from __future__ import annotations

from pathlib import Path

import pytest

from icf_utils.catalog.rebuild import build_catalog
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.curation.remove import remove_visit
from icf_utils.outputs.listing import OUTPUTS_PATH, OutputLine, parse_outputs
from icf_utils.store.layout import Visit
from icf_utils.verify.verify import verify_visit
from tests.processing.conftest import Process, shell

URL = "https://data.example.org"


def listed(store: Path) -> list[OutputLine]:
    return parse_outputs((store / "study/catalog" / OUTPUTS_PATH).read_bytes(), "")


def problems_of(store: Path, visit: str = "v1") -> list[str]:
    return [f"{one.path.name} {one.problem}" for one in verify_visit(store, "study", visit).findings if one.problem]


@pytest.fixture
def catalogued(store: Path) -> Path:
    for visit in ("v1", "v2"):
        catalogify_studyvisit_from_meta(store, "study", visit, store_url=URL)
    return store


def test_an_output_is_listed_when_it_is_deposited(catalogued: Path, process: Process) -> None:
    assert listed(catalogued) == []
    process(shell("echo 1 > x", name="late"), "v3")  # the catalog does not show this visit
    process(shell('echo 1 > x; echo \'{"success": "partial"}\' > proc.json', name="b"))
    process(shell("echo 1 > x", name="a"), "v2")
    lines = [(one.visit, one.processing, one.state, one.version, one.files) for one in listed(catalogued)]
    assert lines == [("v1", "b", "partial", "1", 2), ("v2", "a", "success", "1", 1)]
    process(shell("echo 1 > x", name="a", version="2"), "v2")
    assert [one.version for one in listed(catalogued)] == ["1", "2"]
    before = (catalogued / "study/catalog" / OUTPUTS_PATH).read_bytes()
    catalogify_studyvisit_from_meta(catalogued, "study", "v3", store_url=URL)
    assert [one.visit for one in listed(catalogued)] == ["v1", "v2", "v3"]
    assert problems_of(catalogued) == []
    build_catalog(catalogued, "study", store_url=URL)
    assert (catalogued / "study/catalog" / OUTPUTS_PATH).read_bytes().startswith(before[:-3])


def test_a_list_that_is_wrong_is_found(catalogued: Path, process: Process) -> None:
    process(shell("echo 1 > x"))
    path = catalogued / "study/catalog" / OUTPUTS_PATH
    right = path.read_bytes()
    for wrong in (right.replace(b"success", b"partial"), b"{}"):
        path.write_bytes(wrong)
        assert any("does not list the outputs" in problem for problem in problems_of(catalogued))
    path.unlink()
    assert problems_of(catalogued) == ["outputs.json is missing"]
    catalogify_studyvisit_from_meta(catalogued, "study", "v1", store_url=URL)
    assert path.read_bytes() == right


def test_outputs_go_with_their_visit(catalogued: Path, process: Process) -> None:
    process(shell("echo 1 > x", keep_old=True))
    process(shell("echo 1 > x", keep_old=True, version="2"))
    process(shell("echo 2 > x"), "v2")
    place = Visit(catalogued, "study", "v1")
    assert place.output("test", 1).exists()
    remove_visit(catalogued, "study", "v1")
    assert [one.visit for one in listed(catalogued)] == ["v2"]
    assert not list(place.of_study.folder.glob("v1_*"))
