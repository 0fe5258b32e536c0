"""One zip for each study: exactly the selected images, and no other file is lost."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from icf_utils.fetch.ranges import Span
from icf_utils.retrieve.files import lock_directory
from icf_utils.retrieve.model import Digest, Image, PlannedFile
from icf_utils.retrieve.selection import Selection
from icf_utils.retrieve.zips import ZipDestination
from tests.data.make_cod import CodSeries
from tests.fetch.server import Fault
from tests.retrieve.bucket_server import BucketServer
from tests.retrieve.conftest import expected, files, made, retriever


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        return {name: file.read(name) for name in file.namelist()}


def in_zip(*series: CodSeries) -> dict[str, bytes]:
    return {name.partition("/")[2]: data for name, data in expected(*series).items()}


def test_one_zip_for_each_study(bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path) -> None:
    other = made("4.5.6")
    other = CodSeries("4.5", "4.5.6", other.images)
    bucket.fill(other.objects())
    with retriever(bucket, tmp_path, zipped=True) as own:
        done = own.job().result()
        assert sorted(done.files) == ["1.2.3.zip", "4.5.zip"]
        assert set(files(tmp_path)) == {"1.2.3.zip", "4.5.zip"}
        assert entries(tmp_path / "1.2.3.zip") == in_zip(*two)
        assert entries(tmp_path / "4.5.zip") == in_zip(other)
        before = files(tmp_path)
        sent = bucket.sent
        again = own.job().result()
        assert (again.saved, again.unchanged, files(tmp_path), bucket.sent) == (0, 9, before, sent)
        assert own.stats().items == ()


def test_a_zip_is_extended_and_repaired(bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path) -> None:
    retriever(bucket, tmp_path, zipped=True, selection=Selection(series=("1.2.3.2",))).job().result()
    assert entries(tmp_path / "1.2.3.zip") == in_zip(two[1])
    assert retriever(bucket, tmp_path, zipped=True).job().result().unchanged == 3
    assert entries(tmp_path / "1.2.3.zip") == in_zip(*two)
    whole = (tmp_path / "1.2.3.zip").read_bytes()
    content = next(iter(two[0].images.values()))
    (tmp_path / "1.2.3.zip").write_bytes(whole.replace(content, bytes(len(content))))
    assert retriever(bucket, tmp_path, zipped=True).job().result().saved == 1
    assert (tmp_path / "1.2.3.zip").read_bytes() == whole


def test_an_incomplete_study_makes_no_zip(
    bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path
) -> None:
    """Its images are kept for the next run."""
    bucket.faults.append(Fault(r"1\.2\.3\.1\.tar", status=404))
    done = retriever(bucket, tmp_path, zipped=True).job().result()
    assert (done.files, done.saved) == ((), 3)
    assert not list(tmp_path.glob("*.zip"))
    bucket.faults.clear()
    done = retriever(bucket, tmp_path, zipped=True).job().result()
    assert (done.files, done.saved, done.unchanged) == (("1.2.3.zip",), 3, 3)
    assert entries(tmp_path / "1.2.3.zip") == in_zip(*two)
    assert not (tmp_path / ".icf-retrieve").exists()


def pack(path: Path, when: tuple[int, int, int, int, int, int] = (2024, 1, 1, 0, 0, 0), **content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            file.writestr(zipfile.ZipInfo(name, when), data)


def _text(path: Path) -> None:
    path.write_text("my diary")


def _zip(path: Path) -> None:
    pack(path, mine=b"1")


def _reproducible_zip(path: Path) -> None:
    pack(path, (1980, 1, 1, 0, 0, 0), mine=b"1")


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("1")


@pytest.mark.parametrize("make", [_text, _zip, _reproducible_zip, _folder])
def test_other_files_are_kept(bucket: BucketServer, tmp_path: Path, make: Callable[[Path], None]) -> None:
    """They are reported before anything is transferred, and other studies are retrieved."""
    other = CodSeries("4.5", "4.5.6", made("4.5.6").images)
    bucket.fill(other.objects())
    make(tmp_path / "1.2.3.zip")
    before = files(tmp_path)
    with retriever(bucket, tmp_path, zipped=True) as own:
        done = own.job().result()
    assert (done.saved, done.files, len(done.failures)) == (3, ("4.5.zip",), 6)
    assert all("was left unchanged: move it away" in failure.problem for failure in done.failures)
    zips = files(tmp_path)
    assert entries(tmp_path / "4.5.zip") == in_zip(other)
    del zips["4.5.zip"]
    assert zips == before
    assert not bucket.of(r"1\.2\.3\..\.tar")


def test_a_zip_with_other_files_is_kept(bucket: BucketServer, tmp_path: Path) -> None:
    retriever(bucket, tmp_path, zipped=True).job().result()
    with zipfile.ZipFile(tmp_path / "1.2.3.zip", "a") as file:
        file.writestr("mine", b"1")
    before = files(tmp_path)
    done = retriever(bucket, tmp_path, zipped=True).job().result()
    assert (done.saved, done.unchanged, len(done.failures)) == (0, 0, 6)
    assert files(tmp_path) == before


def test_a_zip_does_not_lose_images(bucket: BucketServer, tmp_path: Path) -> None:
    retriever(bucket, tmp_path, zipped=True).job().result()
    before = files(tmp_path)
    done = retriever(bucket, tmp_path, zipped=True, selection=Selection(series=("1.2.3.2",))).job().result()
    assert {failure.problem.partition(" contains ")[2] for failure in done.failures} == {
        "files that are not selected now, and was left unchanged: "
        "select them as well, move it away, or choose another folder"
    }
    assert (done.saved, done.unchanged, files(tmp_path)) == (0, 0, before)


def test_the_same_images_give_the_same_zip(
    bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path
) -> None:
    """Also from a zip with the names of another layout, whose images are not transferred again."""
    layout = "{SeriesNumber}/{name}"
    retriever(bucket, tmp_path / "a", zipped=True, layout=layout).job().result()
    retriever(bucket, tmp_path / "b", zipped=True, selection=Selection(series=("2",))).job().result()
    retriever(bucket, tmp_path / "b", zipped=True).job().result()
    assert entries(tmp_path / "b" / "1.2.3.zip") == in_zip(*two)
    sent = len(bucket.of(r"\.tar$"))
    done = retriever(bucket, tmp_path / "b", zipped=True, layout=layout).job().result()
    assert (done.failures, done.saved, done.unchanged) == ((), 0, 6)
    assert len(bucket.of(r"\.tar$")) == sent
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_equal_images(bucket: BucketServer, tmp_path: Path) -> None:
    same = CodSeries("4.5", "4.5.6", {"4.5.6.1": b"same", "4.5.6.2": b"same", "4.5.6.3": b"other"})
    bucket.fill(same.objects())
    for layout in ("", "x/{name}", ""):
        done = retriever(bucket, tmp_path, "4.5", zipped=True, layout=layout).job().result()
        assert done.failures == ()
    assert entries(tmp_path / "4.5.zip") == in_zip(same)


def test_a_study_with_the_name_of_a_file_in_the_work_folder(tmp_path: Path) -> None:
    digest = Digest("md5", hashlib.md5(b"x", usedforsecurity=False).hexdigest())
    image = Image("lock", "v1", "1.2", "1.2.3", "lock_v1/1.dcm", "k", Span(0, 1), digest)
    planned = PlannedFile(image, PurePosixPath(image.path), "lock")
    with lock_directory(tmp_path) as work:
        destination = ZipDestination(tmp_path, work, [planned])
        assert not destination.has_correct(planned)
        with destination.begin(planned) as incoming:
            incoming.write(b"x")
            assert incoming.save()
        destination.pack("lock", [planned])
        destination.close()
    assert entries(tmp_path / "lock.zip") == {image.path: b"x"}
    assert not (tmp_path / ".icf-retrieve").exists()
