"""Files that the system lets nobody replace (``chattr +i``, ``+a``): a change is refused before it begins."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from icf_utils import remove_visit, replace_visit
from icf_utils.curation.rename import rename_visit
from icf_utils.errors import StorageFailure
from icf_utils.store.layout import Visit
from tests.verify.stores import STUDY, contents

CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "replace": lambda root, later: replace_visit(later, root, STUDY, "v1", reason="more"),
    "replace, keep": lambda root, later: replace_visit(later, root, STUDY, "v1", reason="more", keep=True),
    "rename": lambda root, _: rename_visit(root, STUDY, "v1", STUDY, "v2"),
    "another study": lambda root, _: rename_visit(root, STUDY, "v1", "other", "v1"),
    "remove": lambda root, _: remove_visit(root, STUDY, "v1"),
}


@contextmanager
def fixed(path: Path, attribute: str) -> Iterator[None]:
    try:
        subprocess.run(["chattr", f"+{attribute}", path], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user or file system has no attributes of files")
    try:
        yield
    finally:
        subprocess.run(["chattr", f"-{attribute}", path], check=True)


@pytest.mark.parametrize("change", CHANGES)
def test_an_archive_that_is_immutable(place: Visit, model: Path, change: str) -> None:
    before = contents(place.root)
    with fixed(place.archive, "i"), pytest.raises(StorageFailure, match=r"v1_dicom.tar': Operation not permitted"):
        CHANGES[change](place.root, model / "later")
    assert contents(place.root) == before
    assert sorted(path.name for path in place.root.iterdir()) == [STUDY]
    CHANGES[change](place.root, model / "later")


def test_a_folder_to_which_files_can_be_added_only(place: Visit, model: Path) -> None:
    before = contents(place.root)
    for change in ("replace", "remove"):
        with fixed(place.of_study.catalog / "data/visits", "a"), pytest.raises(StorageFailure, match="not permitted"):
            CHANGES[change](place.root, model / "later")
        assert contents(place.root) == before
