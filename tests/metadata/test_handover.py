"""The metadata of a new archive is what reading it gives, and it is read whenever it may have changed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from pydicom.encaps import encapsulate

from icf_utils import deposit_visit_metadata, make_studyvisit_archive
from icf_utils.errors import DepositDamaged, IcfError, InputRefused
from icf_utils.metadata import handover
from icf_utils.metadata.stage import make_describer
from icf_utils.pipeline.stages import STAGES
from icf_utils.settings import MetadataSettings, Settings
from icf_utils.store.layout import Visit
from tests.cli.program import Inside
from tests.data.make_dicom import JPEG_BASELINE, UNDEFINED_LENGTH, dicom_bytes, element, uid
from tests.data.make_hard_inputs import make_hard_inputs
from tests.verify.stores import STUDY, write_input

TRIALS = int(os.environ.get("ICF_TRIALS", "0"))
HEADERS = (
    *("baseline", "charsets_wrong", "date_missing_all", "deep_nesting", "dicomdir", "enhanced", "json_values"),
    *("no_file_meta", "no_preamble", "odd_elements", "transfer_syntaxes", "truncated"),
)

opened: list[str] = []
sys.addaudithook(lambda event, details: opened.append(str(details[0])) if event == "open" else None)


@pytest.fixture
def inside(capsys: pytest.CaptureFixture[str]) -> Inside:
    """The program, run in this process."""
    return Inside(capsys)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A visit with an image that is longer than the first read, and files whose times are known at the end."""
    folder = write_input(tmp_path_factory.mktemp("handover") / "in", StudyInstanceUID=uid(1))
    items = encapsulate([bytes(range(256)) * 5000, b"ab" * 300000]) + b"\xfe\xff\xdd\xe0" + bytes(4)
    pixels = {0x7FE00010: element(0x7FE00010, "OB", items, length=UNDEFINED_LENGTH)}
    for name, cut in (("jpeg.dcm", 0), ("cut.dcm", 20)):
        data = dicom_bytes(transfer_syntax=JPEG_BASELINE, raw=pixels, StudyInstanceUID=uid(1), SOPInstanceUID=uid(name))
        (folder / name).write_bytes(data[: len(data) - cut])
    (folder / "no-time.dcm").write_bytes(dicom_bytes(StudyTime=None, StudyInstanceUID=uid(1), SOPInstanceUID=uid(9)))
    return folder


def archived(source: Path, root: Path, **options: object) -> Visit:
    place = Visit(root, STUDY, "v1")
    with closing(make_describer(place, None, Settings())) as describer:
        make_studyvisit_archive(source, root, STUDY, "v1", observer=describer, **options)  # type: ignore[arg-type]
    return place


def metadata_of(place: Visit, **options: object) -> tuple[object, ...]:
    """All that the stage gives."""
    done = deposit_visit_metadata(place.root, place.study, place.visit, **options)  # type: ignore[arg-type]
    files = tuple(path.read_bytes() for path in (place.dicoms_json, place.tarball_json, place.sums))
    return (*files, done.images, done.skipped, done.notices)


def is_read(place: Visit, **options: object) -> bool:
    """Whether the stage reads the archive."""
    opened.clear()
    metadata_of(place, **options)
    return str(place.archive) in opened


def test_the_archive_is_not_read_again(source: Path, tmp_path: Path) -> None:
    place = archived(source, tmp_path / "store")
    assert place.handover.exists()
    assert not is_read(place)
    assert not place.workdir.exists()
    plain = Visit(tmp_path / "plain", STUDY, "v1")
    make_studyvisit_archive(source, plain.root, STUDY, "v1")
    found = metadata_of(plain)
    assert metadata_of(place) == found
    assert "cut-dicom" in {notice.code for notice in found[-1]}  # type: ignore[attr-defined]


def test_hard_inputs(tmp_path: Path) -> None:
    """Whatever can be archived; without ``ICF_TRIALS``, what is hard about headers."""
    compared = 0
    for name in make_hard_inputs(tmp_path / "in", () if TRIALS else HEADERS):
        source = tmp_path / "in" / name
        try:
            place = archived(source, tmp_path / name)
        except (InputRefused, IcfError):
            assert not (tmp_path / name / STUDY / ".icf").exists()
            continue
        plain = Visit(tmp_path / f"{name}-plain", STUDY, "v1")
        make_studyvisit_archive(source, plain.root, STUDY, "v1")
        assert place.archive.read_bytes() == plain.archive.read_bytes(), name
        assert metadata_of(place) == metadata_of(plain), name
        compared += 1
    assert compared == len(HEADERS) or (TRIALS and compared > 40)


def same_size_and_time(place: Visit) -> None:
    status, raw = place.archive.stat(), bytearray(place.archive.read_bytes())
    raw[-12000] ^= 1
    with place.archive.open("r+b") as file:
        file.write(raw)
    os.utime(place.archive, ns=(status.st_atime_ns, status.st_mtime_ns))


def another_file(place: Visit) -> None:
    shutil.copy2(place.archive, place.archive.with_name("copy"))
    os.replace(place.archive.with_name("copy"), place.archive)


def torn(place: Visit) -> None:
    os.truncate(place.handover, place.handover.stat().st_size - 1)


def changed(place: Visit) -> None:
    place.handover.write_bytes(place.handover.read_bytes().replace(b"localizer", b"LOCALIZER"))


def empty(place: Visit) -> None:
    place.handover.write_bytes(b"")


def of_another_version(place: Visit) -> None:
    first, rest = place.handover.read_bytes().split(b"\n", 1)
    place.handover.write_bytes(json.dumps({**json.loads(first), "version": 2}).encode() + b"\n" + rest)


def older_than_the_archive(place: Visit) -> None:
    """As if the archive had been changed in the same tick of the clock."""
    os.chmod(place.archive, 0o600)
    first, rest = place.handover.read_bytes().split(b"\n", 1)
    status = handover._status_of(place.archive)
    place.handover.write_bytes(json.dumps({**json.loads(first), "archive": status}).encode() + b"\n" + rest)
    os.chmod(place.archive, 0o644)


CHANGES = (another_file, torn, changed, empty, of_another_version, older_than_the_archive)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change.__name__))
def test_it_is_read_where_the_record_cannot_be_believed(
    change: Callable[[Visit], None], source: Path, tmp_path: Path
) -> None:
    place = archived(source, tmp_path / "store")
    change(place)
    assert is_read(place)
    assert b"LOCALIZER" not in place.dicoms_json.read_bytes()
    assert not place.workdir.exists()


def test_a_changed_archive_is_damaged(source: Path, tmp_path: Path) -> None:
    place = archived(source, tmp_path / "store")
    same_size_and_time(place)
    with pytest.raises(DepositDamaged, match="of its checksum file"):
        deposit_visit_metadata(place.root, STUDY, "v1")
    assert not place.dicoms_json.exists()


def test_other_tags(source: Path, tmp_path: Path) -> None:
    place = archived(source, tmp_path / "store")
    assert is_read(place, settings=Settings(metadata=MetadataSettings(tags=("InstanceNumber",))))
    assert b'"InstanceNumber":' in place.dicoms_json.read_bytes()


def test_the_record_is_as_closed_as_the_archive(source: Path, tmp_path: Path) -> None:
    (tmp_path / "store" / STUDY).mkdir(parents=True)
    before = os.umask(0o077)
    try:
        place = archived(source, tmp_path / "store")
    finally:
        os.umask(before)
    assert place.handover.stat().st_mode & 0o777 == place.archive.stat().st_mode & 0o777 == 0o600


def test_commands_and_runs(source: Path, tmp_path: Path, inside: Inside) -> None:
    """One command after the other, and a run, leave the same; a visit that is removed leaves nothing."""
    store, other = tmp_path / "store", tmp_path / "other"
    for root in (store, other):
        assert inside("init", root, "--url", "https://data.example.org/store").code == 0
    archive = Visit(store, STUDY, "v1").archive
    assert inside("make_studyvisit_archive", "-o", store, "--id", STUDY, "v1", source).code == 0
    opened.clear()
    assert inside("deposit_visit_metadata", "-o", store, "--id", STUDY, "v1").code == 0
    assert str(archive) not in opened
    (tmp_path / "t.csv").write_text(f"study,visit,input\n{STUDY},v1,{source}\n")
    opened.clear()
    assert inside("run", "-o", other, "--table", tmp_path / "t.csv", "--until", "metadata", "-j", "1").code == 0
    assert str(Visit(other, STUDY, "v1").archive) not in opened
    for name in ("v1_metadata_dicoms.json", "v1_metadata_tarball.json", "v1_SHA256SUMS"):
        assert (store / STUDY / name).read_bytes() == (other / STUDY / name).read_bytes()
    assert inside("make_studyvisit_archive", "-o", store, "--id", STUDY, "v2", source).code == 0
    assert inside("visit", "remove", "-o", store, "--id", STUDY, "v2", "--yes").code == 0
    assert not Visit(store, STUDY, "v2").workdir.exists()


def test_the_version_is_that_of_the_stage() -> None:
    assert STAGES["metadata"].version == handover.VERSION
