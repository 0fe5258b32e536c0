"""Names in git trees: names that pass the rule must pass git's check."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icf_utils.dataset.build import build_dataset
from icf_utils.dataset.git_check import check_with_git
from icf_utils.dataset.git_objects import git_can_hold
from icf_utils.dataset.origin import make_origin
from icf_utils.metadata.records import ImageRecord, TarballRecord, VisitMetadata
from icf_utils.store.layout import Visit
from tests.dataset.visits import GIT_NAMES, ODD_NAMES

PLACE = Visit(Path("store"), "study", "v1")

NTFS_NAMES = (
    "GIT~1",
    "git~1:x",
    ".git::$INDEX_ALLOCATION",
    "GITMOD~2",
    "gi7eba~1",
    "gi7~1234",
    "~1234567",
    "x\\.gitmodules. ",
)


@pytest.mark.parametrize("name", [*GIT_NAMES, *NTFS_NAMES])
def test_names_reserved_by_git(name: str) -> None:
    assert not git_can_hold(f"root/{name}")


@pytest.mark.parametrize(
    "name", [*ODD_NAMES, "git", "x.git", ".gitignore", ".gitattributes", "git~x", "~1", "gi7eba~x"]
)
def test_other_names(name: str) -> None:
    assert git_can_hold(f"root/{name}")


_BITS = st.sampled_from(
    [
        ".",
        "g",
        "G",
        "i",
        "I",
        "t",
        ".git",
        "git",
        "modules",
        "mod",
        "~1",
        "~",
        "4",
        " ",
        ":",
        "\\",
        "/",
        "\u200d",
        "\ufeff",
        "7eba",
    ]
)
_WEIRD = st.lists(_BITS, min_size=1, max_size=6).map("".join)
_ANY = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)
_PATHS = (_WEIRD | _ANY).filter(lambda path: {"", ".", ".."}.isdisjoint(path.split("/")))


@given(paths=st.sets(_PATHS, min_size=20, max_size=60))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_git_accepts_what_passes(paths: set[str]) -> None:
    metadata = _metadata([f"study_v1/{number}/{path}" for number, path in enumerate(sorted(paths))])
    built = build_dataset(metadata, PLACE, make_origin("https://example.org", "", PLACE, 0))
    check_with_git(built.export, built.refs, "test")
    assert built.images == sum(git_can_hold(record.path) for record in metadata.images)


def _metadata(paths: list[str]) -> VisitMetadata:
    records = tuple(ImageRecord(path, f"{at:032x}", 1, at, {}, {}) for at, path in enumerate(paths))
    return VisitMetadata(TarballRecord(10**6, "0" * 32, PLACE.dspath, PLACE.storepath), records)
