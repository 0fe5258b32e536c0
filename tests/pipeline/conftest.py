"""Small visits, a table of them, and the store that the four single commands make of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from icf_utils import (
    catalogify_studyvisit_from_meta,
    deposit_visit_dataset,
    deposit_visit_metadata,
    make_studyvisit_archive,
)
from tests.data.make_dicom import write_visit
from tests.verify.stores import in_any_order

#: Study and visit of the small inputs.
NAMES = (("study-a", "v1"), ("study-a", "v2"), ("study-b", "v1"))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with three small visits and the table ``visits.csv``."""
    folder = tmp_path / "inputs"
    lines = ["study,visit,input"]
    for number, (study, visit) in enumerate(NAMES):
        write_visit(folder / study / visit, {1: ("t1", 2), 2: ("bold", 1 + number)}, StudyInstanceUID=f"1.2.{number}")
        lines.append(f"{study},{visit},{study}/{visit}")
    (folder / "visits.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return folder


def make_one_by_one(folder: Path, store: Path) -> None:
    """What the four commands make of the small visits."""
    for study, visit in NAMES:
        make_studyvisit_archive(folder / study / visit, store, study, visit)
        deposit_visit_metadata(store, study, visit)
        deposit_visit_dataset(store, study, visit)
        catalogify_studyvisit_from_meta(store, study, visit)


def content(store: Path) -> dict[str, bytes]:
    """Every file of a store that is not in a work folder."""
    paths = (path for path in store.rglob("*") if path.is_file() and ".icf" not in path.parts)
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in paths}


def content_in_any_order(store: Path) -> dict[str, bytes]:
    """The same, whatever the order in which the visits came."""
    return in_any_order(store, content(store))
