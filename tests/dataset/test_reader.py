"""A deposited dataset is read back completely, and no damaged byte is overlooked."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icf_utils.dataset.annex_branch import make_branches
from icf_utils.dataset.build import build_dataset
from icf_utils.dataset.export import ANNEX, MAIN, export_bytes, refs_bytes
from icf_utils.dataset.git_objects import FILE, BranchFile, GitObjects
from icf_utils.dataset.origin import make_origin
from icf_utils.dataset.reader import parse_dataset, read_dataset, read_store_url
from icf_utils.dataset.stage import deposit_visit_dataset
from icf_utils.errors import DepositDamaged, DepositMissing
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.store.layout import Visit
from tests.dataset.visits import SMALL, TIME, archive_and_metadata, make_visit

URL = "https://example.org/store"
PLACE = Visit(Path("store"), "study", "v1")
METADATA = archive_and_metadata(PLACE, SMALL)[1]
ORIGIN = make_origin(URL, "named", PLACE, TIME)
BUILT = build_dataset(METADATA, PLACE, ORIGIN)


def test_a_deposit_is_read_back(tmp_path: Path) -> None:
    place = make_visit(tmp_path)
    result = deposit_visit_dataset(tmp_path, "study", "v1", store_url=URL, store_id="named")
    found = read_dataset(place)
    assert found is not None
    assert found.origin == ORIGIN
    assert found.refs == {MAIN: result.main_commit, ANNEX: result.annex_commit}
    expected = make_branches(METADATA, place, ORIGIN)
    assert (found.main.files, found.annex.files) == (expected.main, expected.annex)
    assert read_store_url(place) == URL
    again = build_dataset(read_visit_metadata(place), place, found.origin)
    assert (again.refs, again.export) == (place.refs.read_bytes(), place.export.read_bytes())


def test_no_dataset(tmp_path: Path) -> None:
    place = make_visit(tmp_path)
    assert read_store_url(place) is None
    place.export.write_bytes(BUILT.export)
    assert read_store_url(place) is None


def test_refs_alone(tmp_path: Path) -> None:
    place = make_visit(tmp_path)
    place.refs.write_bytes(BUILT.refs)
    with pytest.raises(DepositMissing, match="repo-export"):
        read_dataset(place)


@given(at=st.integers(0, len(BUILT.export) - 1), change=st.integers(1, 255))
@settings(max_examples=400, deadline=None)
def test_any_changed_byte_is_damage(at: int, change: int) -> None:
    raw = bytearray(BUILT.export)
    raw[at] ^= change
    with pytest.raises(DepositDamaged, match="repo-export"):
        parse_dataset(BUILT.refs, bytes(raw), PLACE)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_shorter_or_longer_is_damage(chosen: st.DataObject) -> None:
    cut = chosen.draw(st.integers(0, len(BUILT.export) - 1))
    for raw in (BUILT.export[:cut], BUILT.export + b"\0", b"\0" + BUILT.export):
        with pytest.raises(DepositDamaged):
            parse_dataset(BUILT.refs, raw, PLACE)


@pytest.mark.parametrize("refs", [b"", BUILT.refs[:-1], BUILT.refs.replace(b"main", b"master"), BUILT.refs + b"\n"])
def test_other_refs_are_damage(refs: bytes) -> None:
    with pytest.raises(DepositDamaged, match="XDLRA--refs"):
        parse_dataset(refs, BUILT.export, PLACE)


def test_another_visit_s_dataset_is_damage() -> None:
    with pytest.raises(DepositDamaged, match="no file"):
        parse_dataset(BUILT.refs, BUILT.export, Visit(Path("store"), "study", "v2"))


def test_a_dataset_of_another_tool_is_named() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("HEAD", "ref: refs/heads/main\n")
    with pytest.raises(DepositDamaged, match="as icf-utils writes it"):
        parse_dataset(BUILT.refs, buffer.getvalue(), PLACE)


def _changed(path: bytes, content: bytes | None, *, refs: tuple[str, ...] = (MAIN, ANNEX)) -> tuple[bytes, bytes]:
    """A well-formed deposit that differs in one file."""
    made = make_branches(METADATA, PLACE, ORIGIN)
    objects, heads = GitObjects(), {}
    for ref, files in zip(refs, (made.main, made.annex), strict=False):
        kept = {name: item for name, item in files.items() if name != path}
        if path in files and content is not None:
            kept[path] = BranchFile(FILE, content)
        heads[ref] = objects.add_commit(kept, ORIGIN.time, "x").hex()
    return refs_bytes(heads), export_bytes(objects.objects, heads)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (b".datalad/config", None),
        (b".datalad/config", b"[datalad]\n"),
        (b".datalad/config", b'[datalad "dataset"]\n\tid = not-a-uuid\n'),
        (b"uuid.log", None),
        (b"uuid.log", b""),
        (b"remote.log", b""),
        (b"icf/v1_dicom.tar", b"elsewhere"),
    ],
)
def test_other_contents_are_damage(path: bytes, content: bytes | None) -> None:
    with pytest.raises(DepositDamaged):
        parse_dataset(*_changed(path, content), PLACE)


def test_another_url_record_is_damage() -> None:
    path = next(
        path for path, item in make_branches(METADATA, PLACE, ORIGIN).annex.items() if URL.encode() in item.content
    )
    with pytest.raises(DepositDamaged, match="record"):
        parse_dataset(*_changed(path, b"1s 1 https://example.org/x\n"), PLACE)


def test_other_branches_are_damage() -> None:
    with pytest.raises(DepositDamaged, match="other branches"):
        parse_dataset(*_changed(b"", None, refs=(MAIN, "refs/heads/other")), PLACE)


def test_missing_objects_are_damage() -> None:
    objects = GitObjects()
    refs = {MAIN: objects.add_commit({}, 0, "x").hex(), ANNEX: "0" * 40}
    with pytest.raises(DepositDamaged, match="no commit 0000"):
        parse_dataset(refs_bytes(refs), export_bytes(objects.objects, refs), PLACE)
    refs[ANNEX] = objects.add("commit", b"no tree\n").hex()
    with pytest.raises(DepositDamaged, match="without a tree"):
        parse_dataset(refs_bytes(refs), export_bytes(objects.objects, refs), PLACE)
