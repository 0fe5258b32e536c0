"""What is well-formed and wrong: records, datasets, pages of the catalog, and archives of another input."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from icf_utils import catalogify_studyvisit_from_meta, deposit_visit_metadata, verify_store, verify_visit
from icf_utils.archive.checksum import format_checksum
from icf_utils.catalog.study import study_id, study_path
from icf_utils.metadata.records import ImageRecord, encode_images, encode_tarball, parse_images, parse_tarball
from icf_utils.store.layout import Visit
from tests.verify.stores import (
    STUDY,
    URL,
    blamed,
    check,
    damaged,
    files_of,
    make_derived,
    make_visit,
    names,
    snapshot,
    write_input,
)


def change_images(place: Visit, change: Callable[[ImageRecord], ImageRecord]) -> str:
    """Change the record of the second image, in proper form; returns its path."""
    images = list(parse_images(place.dicoms_json.read_bytes(), ""))
    path = images[1].path
    images[1] = change(images[1])
    place.dicoms_json.write_bytes(encode_images(images))
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
        ((*images, made_up), made_up.path, "is not an image in the archive"),
        ((*images, images[0]), "", "more than one record"),
        (images[::-1], "", "in the archive's order"),
    ):
        own.dicoms_json.write_bytes(encode_images(changed))
        found = {(finding.path, finding.subject, finding.problem) for finding in check(own).findings}
        assert any(item[:2] == (own.dicoms_json, subject) and problem in item[2] for item in found), found


def test_the_same_content_in_other_bytes(own: Visit) -> None:
    for path in (own.dicoms_json, own.tarball_json):
        value = json.loads(path.read_bytes())
        with damaged(path, json.dumps(value, indent=1).encode()):
            (finding,) = check(own).findings
            assert (finding.path, finding.problem[:21]) == (path, "has the right content")


@pytest.mark.parametrize(
    "change",
    [{"md5": "0" * 32}, {"size": 1}, {"dspath": "icf/v2_dicom.tar"}, {"storepath": "\x1b[31mstudy-a/v1_dicom.tar"}],
)
def test_a_tarball_record_that_is_wrong(own: Visit, change: dict[str, object]) -> None:
    record = parse_tarball(own.tarball_json.read_bytes(), "")
    own.tarball_json.write_bytes(encode_tarball(replace(record, **change)))  # type: ignore[arg-type]
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


def test_a_checksum_of_another_archive_is_distinguished_from_a_changed_archive(own: Visit) -> None:
    own.checksum.write_bytes(format_checksum("0" * 32, own.archive.name))
    assert blamed(check(own)) == {own.checksum}
    own.tarball_json.unlink()  # nobody takes the archive's side any more
    assert own.archive in blamed(check(own))


def test_an_archive_that_was_made_again_from_other_files(own: Visit, model: Path, tmp_path: Path) -> None:
    """Archive, checksum and metadata agree; dataset and catalog are of before."""
    for kind in ("archive", "checksum", "dicoms", "tarball"):
        files_of(own)[kind].unlink()
    own.sums.unlink()
    write_input(tmp_path / "other", StudyTime="111213")
    other = make_visit(tmp_path / "other", tmp_path / "store")
    for kind in ("archive", "checksum", "dicoms", "tarball"):
        shutil.copy(files_of(other)[kind], files_of(own)[kind])
    found = check(own)
    assert own.export in blamed(found)
    assert not blamed(found) & {own.archive, own.checksum, own.dicoms_json, own.tarball_json}
    assert any(path.is_relative_to(own.of_study.catalog) for path in blamed(found))


def test_a_dataset_of_other_metadata(own: Visit, tmp_path: Path) -> None:
    (tmp_path / "tags").write_text("InstanceNumber\n")
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


def test_a_visit_that_was_removed_from_the_study_page(two: tuple[Visit, Visit]) -> None:
    page = study_page(two[0])
    record = json.loads(page.read_bytes())
    record["subdatasets"] = [entry for entry in record["subdatasets"] if entry["dataset_path"] != "v1"]
    page.write_text(json.dumps(record))
    for found in verify_store(two[0].root).visits:
        assert page in blamed(found) or not found.visit
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
    """The dataset says which address the pages should name; without it, the pages' dataset id proves the address."""
    files_of(own)[kind].write_bytes(b"x")
    assert blamed(check(own)) == {files_of(own)[kind]}
    assert blamed(verify_visit(own.root, STUDY, "v1", store_url=URL)) <= {own.refs, own.export}


def test_a_catalog_whose_store_is_unknown_is_reported_as_unchecked(tmp_path: Path) -> None:
    own = make_visit(write_input(tmp_path / "in"), tmp_path / "store", store_id="known to nobody else")
    own.export.write_bytes(b"x")
    found = check(own)
    assert blamed(found) == {own.export, own.of_study.catalog}
    assert any("was not checked" in finding.problem for finding in found.findings)


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
        assert "1 file changed ('01_localizer/0001.dcm')" in problem
    (source / "zz.txt").write_text("added")
    (problem,) = rebuild(own, source)
    assert "1 file added ('zz.txt')" in problem
    (source / "zz.txt").unlink()
    assert rebuild(own, source) == []
    image.unlink()
    (problem,) = rebuild(own, source)
    assert "1 file missing ('01_localizer/0001.dcm')" in problem
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


def test_each_line_of_the_sums_is_compared(own: Visit) -> None:
    lines = own.sums.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines):
        wrong = line.translate(str.maketrans("0123456789", "1234567890"))
        wrong = wrong[:64] + line[64:]
        own.sums.write_text("".join([*lines[:number], wrong, *lines[number + 1 :]]))
        found = {finding.path.name for finding in verify_visit(own.root, own.study, own.visit).findings}
        assert line.split()[1] in found, line
