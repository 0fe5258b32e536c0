"""Every kind of damage is found, and the finding names the file and, where there is one, the image."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from icf_utils import catalogify_studyvisit_from_meta, deposit_visit_metadata, verify_store, verify_visit
from icf_utils.archive.checksum import checksum_line
from icf_utils.catalog.study import study_id, study_path
from icf_utils.metadata.records import ImageRecord, images_bytes, parse_images, parse_tarball, tarball_bytes
from icf_utils.store import Visit
from icf_utils.verify.stage import VisitCheck
from tests.verify.stores import (
    STUDY,
    URL,
    blamed,
    catalog_files,
    check,
    files_of,
    make_derived,
    make_visit,
    names,
    snapshot,
    write_input,
)

KINDS = ("archive", "checksum", "dicoms", "tarball", "refs", "export")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one visit, and its input; never changed for longer than a check."""
    folder = tmp_path_factory.mktemp("model")
    make_visit(write_input(folder / "in"), folder / "store")
    return folder


@pytest.fixture
def place(model: Path) -> Visit:
    return Visit(model / "store", STUDY, "v1")


@pytest.fixture
def own(model: Path, tmp_path: Path) -> Visit:
    """A copy of the same that a test may change for good."""
    shutil.copytree(model, tmp_path / "own")
    return Visit(tmp_path / "own" / "store", STUDY, "v1")


@pytest.fixture
def two(model: Path, tmp_path: Path) -> tuple[Visit, Visit]:
    """A store with two visits of different content."""
    write_input(tmp_path / "other", StudyTime="111213", EchoTime="9.5")
    root = tmp_path / "store"
    return make_visit(model / "in", root), make_visit(tmp_path / "other", root, "v2")


@contextmanager
def damaged(path: Path, content: bytes) -> Iterator[None]:
    """For a while, a file with other content."""
    before, status = path.read_bytes(), path.stat()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


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
    assert {"index.html", "config.json", "super.json", ".icf-catalog", "app.js"} <= {path.name for path in files}
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
def test_a_file_that_is_none(own: Visit, kind: str, how: str) -> None:
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
def test_both_files_of_a_step_are_lost(own: Visit, kinds: tuple[str, str]) -> None:
    for kind in kinds:
        files_of(own)[kind].unlink()
    found = check(own)
    if "refs" in kinds:  # as if the step had not been made; the catalog is compared with what the settings say
        assert found.absent == ("dataset",)
        assert verify_visit(own.root, STUDY, "v1", store_url=URL).findings == ()
    elif "dicoms" in kinds:
        assert blamed(found) == {own.dicoms_json}
        assert found.absent == ("metadata",)
    else:
        assert blamed(found) == {own.archive, own.checksum}


def test_only_the_catalog_is_left(two: tuple[Visit, Visit]) -> None:
    for path in files_of(two[0]).values():
        path.unlink()
    first, second = verify_store(two[0].root).visits
    assert (first.visit, first.images, first.absent) == ("v1", 0, ("metadata", "dataset"))
    assert blamed(first) == {two[0].archive, two[0].checksum, two[0].dicoms_json}
    assert second.findings == ()
    assert verify_visit(two[0].root, STUDY, "v1") == first


def test_metadata_lost_with_a_catalog_that_shows_it(own: Visit) -> None:
    for kind in ("dicoms", "tarball", "refs", "export"):
        files_of(own)[kind].unlink()
    ((finding,), absent) = check(own).findings, check(own).absent
    assert finding.path == own.dicoms_json
    assert "a catalog that shows the visit" in finding.problem
    assert absent == ("metadata", "dataset")


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
    for place, found in zip(two, verify_store(two[0].root).visits, strict=True):
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
    one.checksum.write_bytes(checksum_line(md5, one.archive.name))
    found = check(one)
    assert one.archive in blamed(found)
    assert any("another visit's" in finding.problem for finding in found.findings)


# -- statements that are well-formed and wrong


def change_images(place: Visit, change: Callable[[ImageRecord], ImageRecord]) -> str:
    """Change the record of the second image, in proper form; returns its path."""
    images = list(parse_images(place.dicoms_json.read_bytes(), ""))
    path = images[1].path
    images[1] = change(images[1])
    place.dicoms_json.write_bytes(images_bytes(images))
    return path


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("md5", lambda image: replace(image, md5="0" * 32)),
        ("size", lambda image: replace(image, size=image.size + 1)),
        ("offset", lambda image: replace(image, offset=image.offset + 512)),
        ("Modality", lambda image: replace(image, tags={**image.tags, "Modality": "CT"})),
        ("SeriesNumber", lambda image: replace(image, tags={**image.tags, "SeriesNumber": "1"})),
        ("EchoTime", lambda image: replace(image, tags={**image.tags, "EchoTime": 3})),
        ("NoKeyword", lambda image: replace(image, tags={**image.tags, "NoKeyword": "x"})),
        ("SOPInstanceUID", lambda image: replace(image, uids={**image.uids, "SOPInstanceUID": "1.2"})),
    ],
)
def test_a_record_that_is_wrong(own: Visit, field: str, change: Callable[[ImageRecord], ImageRecord]) -> None:
    path = change_images(own, change)
    findings = [finding for finding in check(own).findings if finding.path == own.dicoms_json]
    assert path in {finding.subject for finding in findings}
    assert any(field in finding.problem for finding in findings)
    for finding in check(own).findings:
        assert "t1 mprage" not in finding.problem  # a value of a header


def test_records_missing_added_repeated_and_out_of_order(own: Visit) -> None:
    images = parse_images(own.dicoms_json.read_bytes(), "")
    made_up = replace(images[0], path=f"{own.member_root}/made-up.dcm")
    for changed, subject, problem in (
        (images[1:], images[0].path, "has no record"),
        ((*images, made_up), made_up.path, "no image of the archive"),
        ((*images, images[0]), "", "more than one record"),
        (images[::-1], "", "the archive's order"),
    ):
        own.dicoms_json.write_bytes(images_bytes(changed))
        found = {(finding.path, finding.subject, finding.problem) for finding in check(own).findings}
        assert any(item[:2] == (own.dicoms_json, subject) and problem in item[2] for item in found), found


def test_the_same_said_in_other_bytes(own: Visit) -> None:
    for path in (own.dicoms_json, own.tarball_json):
        value = json.loads(path.read_bytes())
        with damaged(path, json.dumps(value, indent=1).encode()):
            (finding,) = check(own).findings
            assert (finding.path, finding.problem[:22]) == (path, "says the right things,")


@pytest.mark.parametrize(
    "change",
    [{"md5": "0" * 32}, {"size": 1}, {"dspath": "icf/v2_dicom.tar"}, {"storepath": "\x1b[31mstudy-a/v1_dicom.tar"}],
)
def test_a_tarball_record_that_is_wrong(own: Visit, change: dict[str, object]) -> None:
    record = parse_tarball(own.tarball_json.read_bytes(), "")
    own.tarball_json.write_bytes(tarball_bytes(replace(record, **change)))  # type: ignore[arg-type]
    found = check(own)
    assert own.tarball_json in blamed(found)
    assert own.archive not in blamed(found)
    assert all(finding.problem.isprintable() for finding in found.findings)


@pytest.mark.parametrize(
    ("kind", "content", "subject"),
    [
        ("dicoms", b"null", ""),
        ("dicoms", b"[1]", "record 1"),
        ("dicoms", b'[{"path": 1}]', "record 1"),
        ("dicoms", b"[" * 100_000, ""),
        ("dicoms", b"\xff\xfe", ""),
        ("tarball", b"[]", ""),
        ("tarball", b'{"size": NaN}', ""),
        ("tarball", b'{"size": 1e400}', ""),
    ],
)
def test_json_of_another_kind(own: Visit, kind: str, content: bytes, subject: str) -> None:
    path = files_of(own)[kind]
    path.write_bytes(content)
    assert (path, subject) in {(finding.path, finding.subject) for finding in check(own).findings}


def test_a_checksum_of_another_archive_is_told_from_a_changed_archive(own: Visit) -> None:
    own.checksum.write_bytes(checksum_line("0" * 32, own.archive.name))
    assert blamed(check(own)) == {own.checksum}
    own.tarball_json.unlink()  # nobody takes the archive's side any more
    assert own.archive in blamed(check(own))


def test_an_archive_that_was_made_again_from_other_files(own: Visit, model: Path, tmp_path: Path) -> None:
    """Archive, checksum and metadata agree; dataset and catalog are of before."""
    for kind in ("archive", "checksum", "dicoms", "tarball"):
        files_of(own)[kind].unlink()
    write_input(tmp_path / "other", StudyTime="111213")
    other = make_visit(tmp_path / "other", tmp_path / "store")
    for kind in ("archive", "checksum", "dicoms", "tarball"):
        shutil.copy(files_of(other)[kind], files_of(own)[kind])
    found = check(own)
    assert own.export in blamed(found)
    assert not blamed(found) & {own.archive, own.checksum, own.dicoms_json, own.tarball_json}
    assert any(path.is_relative_to(own.of_study.catalog) for path in blamed(found))


def test_a_dataset_of_other_metadata(own: Visit, tmp_path: Path) -> None:
    (tmp_path / "tags").write_text("EchoTime\n")
    own.dicoms_json.unlink()
    deposit_visit_metadata(own.root, STUDY, "v1", tags=tmp_path / "tags")
    found = check(own)
    assert all(path == own.export or path.is_relative_to(own.of_study.catalog) for path in blamed(found))
    images = parse_images(own.dicoms_json.read_bytes(), "")
    logs = [finding.subject for finding in found.findings if finding.path == own.export]
    assert len(logs) == len(images)
    assert all(subject.endswith(".log.met") for subject in logs)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"store_url": "https://moved.example.org"}, f"names the store '{URL}', not 'https://moved.example.org'"),
        ({"store_id": "other"}, "was not made for the store identity 'other'"),
    ],
)
def test_a_dataset_of_another_store(own: Visit, options: dict[str, str], problem: str) -> None:
    shutil.rmtree(own.of_study.catalog)
    (finding,) = verify_visit(own.root, STUDY, "v1", **options).findings  # type: ignore[arg-type]
    assert (finding.path, finding.problem) == (own.export, problem)


# -- the catalog


def study_page(place: Visit) -> Path:
    return place.of_study.catalog / study_path(study_id(place.study))


def test_a_visit_that_was_taken_off_the_study_page(two: tuple[Visit, Visit]) -> None:
    page = study_page(two[0])
    record = json.loads(page.read_bytes())
    record["subdatasets"] = [entry for entry in record["subdatasets"] if entry["dataset_path"] != "v1"]
    page.write_text(json.dumps(record))
    for found in verify_store(two[0].root).visits:
        assert page in blamed(found)
    (finding,) = check(two[0]).findings
    assert finding.problem == "does not show visit v1"


def test_a_visit_without_pages(two: tuple[Visit, Visit]) -> None:
    result = catalogify_studyvisit_from_meta(two[0].root, STUDY, "v1")
    shutil.rmtree(result.catalog / "metadata" / result.dataset_id)
    found = check(two[0])
    assert {finding.problem for finding in found.findings} == {"is missing"}
    assert all(path.is_relative_to(result.catalog / "metadata" / result.dataset_id) for path in blamed(found))
    assert check(two[1]).findings == ()


def test_a_catalog_of_another_address(own: Visit) -> None:
    shutil.rmtree(own.of_study.catalog)
    catalogify_studyvisit_from_meta(own.root, STUDY, "v1", store_url="https://old.example.org")
    found = check(own)
    assert found.findings
    assert all(path.is_relative_to(own.of_study.catalog) for path in blamed(found))
    assert names(blamed(verify_visit(own.root, STUDY, "v1", store_url="https://old.example.org"))) == [own.export.name]


@pytest.mark.parametrize("kind", ["refs", "export"])
def test_the_catalog_is_not_blamed_for_a_damaged_dataset(own: Visit, kind: str) -> None:
    """Which address its pages should name stands in the dataset; the catalog is said to be unchecked."""
    files_of(own)[kind].write_bytes(b"x")
    found = check(own)
    assert blamed(found) == {files_of(own)[kind], own.of_study.catalog}
    assert any("was not checked" in finding.problem for finding in found.findings)
    assert blamed(verify_visit(own.root, STUDY, "v1", store_url=URL)) <= {own.refs, own.export}


def test_a_catalog_that_is_a_file(own: Visit) -> None:
    shutil.rmtree(own.of_study.catalog)
    own.of_study.catalog.write_text("x")
    assert check(own).absent == ("catalog",)


# -- the input


def rebuild(place: Visit, source: Path, **options: str) -> list[str]:
    before = snapshot(place.root)
    found = verify_visit(place.root, STUDY, "v1", rebuild=source, **options)  # type: ignore[arg-type]
    assert snapshot(place.root) == before
    assert blamed(found) <= {place.archive}
    return [finding.problem for finding in found.findings]


def test_an_input_that_changed(own: Visit) -> None:
    source = own.root.parent / "in"
    image = source / "01_localizer" / "0001.dcm"
    assert rebuild(own, source) == []
    with damaged(image, image.read_bytes()[:-1] + b"x"):
        (problem,) = rebuild(own, source)
        assert "the content of '01_localizer/0001.dcm' is not the same" in problem
    (source / "zz.txt").write_text("added")
    (problem,) = rebuild(own, source)
    assert "zz.txt" in problem or "the end mark" in problem
    (source / "zz.txt").unlink()
    assert rebuild(own, source) == []
    image.unlink()
    (problem,) = rebuild(own, source)
    assert "0002.dcm" in problem
    (problem,) = rebuild(own, source, time_zone="Europe/Berlin")


def test_an_input_in_another_zone(model: Path, tmp_path: Path) -> None:
    place = make_visit(model / "in", tmp_path / "store", time_zone="Europe/Berlin")
    assert rebuild(place, model / "in", time_zone="Europe/Berlin") == []
    assert rebuild(place, model / "in", time_zone="Europe/Paris") == []  # the same clock
    (problem,) = rebuild(place, model / "in")
    assert "the header of" in problem


def test_a_packed_input(own: Visit, tmp_path: Path) -> None:
    source = own.root.parent / "in"
    packed = tmp_path / "in.tar"
    with tarfile.open(packed, "w") as archive:
        archive.add(source, ".")
    assert rebuild(own, packed) == []
    with tarfile.open(packed, "a") as archive:
        archive.addfile(tarfile.TarInfo("zz"), io.BytesIO())
    assert len(rebuild(own, packed)) == 1


def test_an_archive_that_is_lost_or_damaged_has_no_second_finding(own: Visit) -> None:
    source = own.root.parent / "in"
    own.archive.unlink()
    found = verify_visit(own.root, STUDY, "v1", rebuild=source)
    assert len([finding for finding in found.findings if finding.path == own.archive]) == 1


def test_both_the_archive_and_its_description_by_the_input(own: Visit) -> None:
    """A consistent forgery: only the input shows it."""
    source = own.root.parent / "in"
    for path in [*files_of(own).values()]:
        path.unlink()
    shutil.rmtree(own.of_study.catalog)
    forged = own.root.parent / "forged"
    shutil.copytree(source, forged)
    (forged / "notes.txt").write_text("m\n")
    make_visit(forged, own.root)
    assert check(own).findings == ()
    (problem,) = rebuild(own, source)
    assert "notes.txt" in problem
    make_derived(own.root)
