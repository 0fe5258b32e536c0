"""Readers without a lock, such as a web server's clients, while a visit changes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from icf_utils import replace_visit
from icf_utils.errors import IcfError
from icf_utils.retrieve.api import Retriever, StoreSource
from icf_utils.store.layout import Visit
from tests.verify.stores import STUDY


def retrieved(place: Visit, target: Path) -> frozenset[tuple[str, str]] | str:
    """The names and digests of the visit's images, or why they could not be retrieved."""
    try:
        with Retriever(StoreSource(place.root, visits=((STUDY, place.visit),)), target) as retriever:
            result = retriever.job().start().result()
    except IcfError as error:
        return str(error)
    if result.failures:
        return "; ".join(failure.problem for failure in result.failures)
    images = target.rglob("*.dcm")
    return frozenset((path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in images)


def test_every_reader_gets_one_version(
    place: Visit, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two steps of a change, all images are of one version, or the reader is refused and may try again."""
    old = retrieved(place, tmp_path / "before")
    seen: list[frozenset[tuple[str, str]] | str] = []
    replace = os.replace

    def replace_and_read(source: str | Path, target: str | Path) -> None:
        replace(source, target)
        if Path(target).parent == place.of_study.folder:
            monkeypatch.setattr(os, "replace", replace)
            seen.append(retrieved(place, tmp_path / f"during{len(seen)}"))
            monkeypatch.setattr(os, "replace", replace_and_read)

    monkeypatch.setattr(os, "replace", replace_and_read)
    replace_visit(model / "later", place.root, STUDY, "v1", reason="late images")
    monkeypatch.setattr(os, "replace", replace)
    new = retrieved(place, tmp_path / "after")
    assert isinstance(old, frozenset)
    assert isinstance(new, frozenset)
    assert old != new
    assert len(seen) > 5
    refused = [number for number, found in enumerate(seen) if isinstance(found, str)]
    words = ("another file, or damaged", "its metadata cannot be used")
    assert [seen[number] for number in refused if not any(word in str(seen[number]) for word in words)] == []
    states = ["old" if found == old else "new" if found == new else "refused" for found in seen]
    assert [found for found in seen if isinstance(found, frozenset) and found not in (old, new)] == []
    assert states == sorted(states, key=["old", "refused", "new"].index)
    for number in refused:
        assert retrieved(place, tmp_path / f"during{number}") == new
