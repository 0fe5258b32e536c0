"""The page of all studies follows the changes of visits, where a store has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from icf_utils.catalog.index_link import INDEX_PAGE
from icf_utils.catalog.index_page import build_index
from icf_utils.store.layout import Visit
from tests.cli.program import Inside
from tests.data.make_dicom import write_visit
from tests.verify.stores import STUDY, URL, make_visit


def table(root: Path, visit: str, source: Path) -> Path:
    path = root.parent / "visits.csv"
    path.write_text(f"study,visit,input\n{STUDY},{visit},{source}\n")
    return path


@pytest.mark.parametrize("command", ["replace", "merge", "refresh", "rename", "remove", "run", "run --replace"])
def test_renewed(command: str, place: Visit, model: Path, inside: Inside) -> None:
    root, page = place.root, place.root / INDEX_PAGE
    assert inside("catalog", "build", "-o", root, "--index").code == 0
    before = page.read_bytes()
    write_visit(root.parent / "new", {9: ("dwi", 2)}, StudyInstanceUID="1.2.3.9")
    if command == "merge":
        make_visit(root.parent / "new", root, "late")
    if command == "refresh":
        (place.of_study.folder / "icf.toml").write_text('[study]\nname = "Memory"\n')
    named = {"replace": (model / "later", "--reason", "late"), "merge": ("--from", "late"), "remove": ()}
    named["rename"] = ("--to", "study-b", "v9")
    if command == "run":
        words: tuple[str | Path, ...] = (
            "run",
            "-o",
            root,
            "--table",
            table(root, "v3", root.parent / "new"),
            "--store-url",
            URL,
        )
    elif command == "run --replace":
        words = (
            "run",
            "-o",
            root,
            "--table",
            table(root, "v1", model / "later"),
            "--replace",
            "late",
            "--store-url",
            URL,
        )
    elif command == "refresh":
        words = ("visit", "refresh", "-o", root, STUDY)
    else:
        words = ("visit", command, "-o", root, "--id", STUDY, "v1", *named[command], "--yes")
    ran = inside(*words)
    assert ran.code == 0, ran.err
    after = page.read_bytes()
    assert after != before
    assert not build_index(root).changed
    page.write_bytes(before)  # as if the command had been killed just before its end
    inside(*words)
    assert page.read_bytes() == after


def test_failure_is_a_notice(place: Visit, model: Path, inside: Inside) -> None:
    """The visit is replaced, though another study's catalog is damaged."""
    root = place.root
    assert inside("catalog", "build", "-o", root, "--index").code == 0
    assert inside("visit", "rename", "-o", root, "--id", STUDY, "v1_b", "--to", "study-b", "v1", "--yes").code == 0
    for path in (root / "study-b" / "catalog" / "metadata").rglob("*.json"):
        path.write_bytes(b"{")
    ran = inside("visit", "replace", "-o", root, "--id", STUDY, "v1", model / "later", "--reason", "late", "--yes")
    assert ran.code == 0, ran.err
    assert "[index-not-renewed]: 'index.html': the page of all studies was not renewed: " in ran.err
    assert "study-b" in ran.err
