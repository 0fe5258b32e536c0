"""Every kind of damage is found, and the finding names the file and, where there is one, the image."""

from __future__ import annotations

import os
import random
import shutil
import tarfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from icf_utils import verify_store, verify_visit
from icf_utils.archive.checksum import format_checksum
from icf_utils.metadata.records import parse_images
from icf_utils.store.layout import Visit
from icf_utils.verify.verify import VisitCheck
from tests.verify.stores import (
    STUDY,
    URL,
    blamed,
    catalog_files,
    check,
    damaged,
    files_of,
)

KINDS = ("archive", "checksum", "dicoms", "tarball", "refs", "export")


def flipped(content: bytes, position: int, bit: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]


def assert_blamed(place: Visit, path: Path, what: object) -> VisitCheck:
    found = check(place)
    assert path in blamed(found), (path.name, what, found.findings)
    return found


# -- single bits


def places(size: int, count: int, seed: str) -> list[tuple[int, int]]:
    chance = random.Random(seed)
    return [(chance.randrange(size), chance.randrange(8)) for _ in range(count)]


@pytest.mark.parametrize(
    ("kind", "count"), [("checksum", 15), ("dicoms", 60), ("tarball", 25), ("refs", 20), ("export", 80)]
)
def test_a_bit_of_a_visits_file(place: Visit, kind: str, count: int) -> None:
    path = files_of(place)[kind]
    content = path.read_bytes()
    for position, bit in places(len(content), count, kind):
        with damaged(path, flipped(content, position, bit)):
            assert_blamed(place, path, (position, bit))
    assert check(place).findings == ()


def test_a_bit_of_every_file_of_the_catalog(place: Visit) -> None:
    files = catalog_files(place)
    assert {"index.html", "config.json", "super.json", ".icf-catalog", "icf_start.js"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        for position, bit in places(len(content), 2, path.name):
            with damaged(path, flipped(content, position, bit)):
                assert blamed(check(place)) == {path}
    assert check(place).findings == ()


def regions(archive: Path) -> dict[str, list[tuple[int, int, str]]]:
    """Start, length and member of every region of an archive, by the region's kind."""
    found: dict[str, list[tuple[int, int, str]]] = {"extended": [], "records": [], "header": [], "padding": []}
    found |= {"content": [], "end": []}
    with tarfile.open(archive) as opened:
        for info in opened:
            begin = info.offset  # of the extended header
            found["extended"].append((begin, 512, ""))
            found["records"].append((begin + 512, 512, ""))
            found["header"].append((info.offset_data - 512, 512, ""))
            found["content"].append((info.offset_data, info.size, info.name))
            if info.size % 512:
                found["padding"].append((info.offset_data + info.size, 512 - info.size % 512, ""))
            end = info.offset_data + -(-info.size // 512) * 512
    found["end"].append((end, archive.stat().st_size - end, ""))
    return found


@pytest.mark.parametrize("kind", ["extended", "records", "header", "content", "padding", "end"])
def test_a_bit_of_the_archive(place: Visit, kind: str) -> None:
    content, chance = place.archive.read_bytes(), random.Random(kind)
    images = {image.path for image in parse_images(place.dicoms_json.read_bytes(), "")}
    for start, length, member in regions(place.archive)[kind]:
        for _ in range(4):
            position, bit = start + chance.randrange(length), chance.randrange(8)
            with damaged(place.archive, flipped(content, position, bit)):
                found = assert_blamed(place, place.archive, (kind, position, bit))
                if member in images:
                    subjects = {(finding.path, finding.subject) for finding in found.findings}
                    assert (place.dicoms_json, member) in subjects
                    assert found.images in (len(images), len(images) - 1)
    assert check(place).findings == ()


# -- ends


@pytest.mark.parametrize("kind", KINDS)
def test_cut(place: Visit, kind: str) -> None:
    path = files_of(place)[kind]
    content = path.read_bytes()
    some = random.Random(kind).sample(range(len(content)), 8)
    blocks = range(512, len(content), 2048) if kind == "archive" else ()
    for size in {0, 1, len(content) // 2, len(content) - 1, *some, *blocks}:
        with damaged(path, content[:size]):
            assert_blamed(place, path, size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [b"\0", b"\n", b" ", b"x", bytes(512), bytes(10240)], ids=repr)
def test_something_appended(place: Visit, kind: str, more: bytes) -> None:
    path = files_of(place)[kind]
    with damaged(path, path.read_bytes() + more):
        assert_blamed(place, path, more)
    with damaged(path, more + path.read_bytes()):
        assert_blamed(place, path, more)


def test_cut_or_longer_files_of_the_catalog(place: Visit) -> None:
    for at, path in enumerate(catalog_files(place)):
        content = path.read_bytes()
        with damaged(path, (b"", content[:-1], content + b"\n")[at % 3]):
            assert blamed(check(place)) == {path}


# -- whole files


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["removed", "folder", "dangling"])
def test_something_else_in_place_of_a_file(own: Visit, kind: str, how: str) -> None:
    path = files_of(own)[kind]
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "dangling":
        path.symlink_to("nowhere")
    assert_blamed(own, path, how)
    assert blamed(verify_store(own.root).visits[0]) == blamed(check(own))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_cannot_be_read(
    model: Path, open_tmp_path: Path, as_nobody: Callable[[], AbstractContextManager[None]], kind: str
) -> None:
    shutil.copytree(model / "store", open_tmp_path / "store")
    shutil.copytree(model / "in", open_tmp_path / "in")
    place = Visit(open_tmp_path / "store", STUDY, "v1")
    path = files_of(place)[kind]
    path.chmod(0)
    with as_nobody():
        found = verify_visit(place.root, STUDY, "v1", rebuild=open_tmp_path / "in")
    assert [finding.path for finding in found.findings if "Permission denied" in finding.problem] == [path]


@pytest.mark.parametrize("kinds", [("dicoms", "tarball"), ("refs", "export"), ("archive", "checksum")])
def test_both_files_of_a_stage_are_lost(own: Visit, kinds: tuple[str, str]) -> None:
    for kind in kinds:
        files_of(own)[kind].unlink()
    found = check(own)
    if "refs" in kinds:  # the sums and the catalog, which are not blamed themselves, show that there was a dataset
        assert found.absent == ("dataset",)
        assert blamed(found) == blamed(verify_visit(own.root, STUDY, "v1", store_url=URL)) == {own.refs, own.export}
        own.sums.unlink()
        assert blamed(check(own)) == {own.refs}
    elif "dicoms" in kinds:
        assert blamed(found) == {own.dicoms_json, own.tarball_json}
        assert found.absent == ("metadata",)
        own.sums.unlink()
        assert blamed(check(own)) == {own.dicoms_json}
    else:
        assert blamed(found) == {own.archive, own.checksum}


def test_only_the_catalog_is_left(two: tuple[Visit, Visit]) -> None:
    for path in files_of(two[0]).values():
        path.unlink()
    first, second = verify_store(two[0].root).visits
    assert (first.visit, first.images, first.absent) == ("v1", 0, ("metadata", "dataset"))
    assert blamed(first) == set(files_of(two[0]).values())
    assert second.findings == ()
    assert verify_visit(two[0].root, STUDY, "v1") == first


def test_metadata_lost_with_a_catalog_that_shows_it(own: Visit) -> None:
    for kind in ("dicoms", "tarball", "refs", "export"):
        files_of(own)[kind].unlink()
    own.sums.unlink()
    first, second = check(own).findings
    assert first.path == own.dicoms_json
    assert "although a catalog shows the visit" in first.problem
    assert second.path == own.refs
    assert "although the catalog shows the dataset's date" in second.problem


# -- files of another visit


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


@pytest.mark.parametrize(
    "kinds", [*((kind,) for kind in KINDS), ("archive", "checksum"), ("dicoms", "tarball"), ("refs", "export"), KINDS]
)
def test_swapped_between_visits(two: tuple[Visit, Visit], kinds: Sequence[str]) -> None:
    for kind in kinds:
        swap(*(files_of(place)[kind] for place in two))
    visits = [found for found in verify_store(two[0].root).visits if found.visit]
    for place, found in zip(two, visits, strict=True):
        wrong = {files_of(place)[kind] for kind in kinds}
        if kinds == ("refs",) or kinds == ("export",):  # one does not fit the other
            assert blamed(found) & {place.refs, place.export}
        else:
            assert blamed(found) & wrong
        assert found.visit == place.visit


def test_the_archive_of_another_visit_with_a_right_checksum(two: tuple[Visit, Visit]) -> None:
    one, other = two
    shutil.copy(other.archive, one.archive)
    md5 = other.checksum.read_text().split()[0]
    one.checksum.write_bytes(format_checksum(md5, one.archive.name))
    found = check(one)
    assert one.archive in blamed(found)
    assert any("members of another visit" in finding.problem for finding in found.findings)
