"""Failures are reported, do not stop the rest, and leave no incorrect file."""

from __future__ import annotations

import errno
import re
import resource
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from icf_utils.errors import StorageFailure, storage_errors
from icf_utils.fetch.errors import FetchFailure
from icf_utils.retrieve.api import RetrieveResult
from icf_utils.retrieve.selection import Selection
from tests.data.make_cod import CodSeries
from tests.fetch.server import Fault
from tests.retrieve.bucket_server import BucketServer
from tests.retrieve.conftest import STUDY, expected, files, made, retriever

BAD, GOOD = "1.2.3.1", "1.2.3.2"
BAD_TAR, BAD_JSON = r"1\.2\.3\.1\.tar", r"1\.2\.3\.1/metadata"


def result(bucket: BucketServer, directory: Path, **options: object) -> RetrieveResult:
    with retriever(bucket, directory, STUDY, **options) as own:
        return own.job().result()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(BAD_TAR, status=403), "403"),
        (Fault(BAD_TAR, status=404), "404"),
        (Fault(BAD_TAR, status=401), "401"),
        (Fault(BAD_TAR, status=503), "503; gave up after 3 attempts"),
        (Fault(BAD_TAR, cut=0), "cut off after 0 bytes; gave up after 3 attempts"),
        (Fault(BAD_TAR, status=200, headers={"Content-Type": "text/html"}, body=b"<html>"), "sent a web page"),
        (Fault(BAD_TAR, status=200, headers={"Content-Type": "text/plain"}, body=b"oops"), "another file, or damaged"),
        (Fault(BAD_TAR, status=200, endless=True, body=b"oops"), "cut off after"),
        (Fault(BAD_TAR, etag='"1"', headers={"x-goog-generation": "1"}, flip=True), "expected crc32c"),
        (Fault(BAD_JSON, status=403), "metadata.json could not be fetched"),
        (Fault(BAD_JSON, status=404), "metadata.json could not be fetched"),
        (Fault(BAD_JSON, status=200, headers={"Content-Type": "text/html"}, body=b"<html>"), "sent a web page"),
        (Fault(BAD_JSON, status=200, body=b"{}"), "no metadata.json|expected instances"),
        (Fault(BAD_JSON, status=200, body=b"\x1f\x8bxx"), "damaged gzip"),
        (Fault(BAD_JSON, status=200, body=b"not json"), "not JSON"),
    ],
)
def test_a_failed_series_is_reported_and_the_other_retrieved(
    fault: Fault, words: str, bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path
) -> None:
    if fault.flip:  # an image is wrong wherever it is asked for
        bucket.objects[f"dicomweb/{two[0].name}.tar"] = two[0].tar.replace(two[0].images[f"{BAD}.1"], b"\1" * 1007)
    else:
        bucket.faults.append(fault)
    done = result(bucket, tmp_path)
    assert {failure.url.rpartition("/")[2] for failure in done.failures} == {f"{BAD}.tar"}
    assert all(re.search(words, failure.problem) for failure in done.failures), done.failures
    good = expected(two[1])
    if fault.flip:
        good |= {name: data for name, data in expected(two[0]).items() if not name.endswith("1.1.dcm")}
    assert files(tmp_path) == good
    bucket.faults.clear()
    bucket.fill(two[0].objects())
    assert result(bucket, tmp_path).failures == ()
    assert files(tmp_path) == expected(*two)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(BAD_TAR, times=2, cut=100),
        Fault(BAD_TAR, times=2, status=503),
        Fault(BAD_TAR, times=2, status=429, headers={"Retry-After": "0"}),
        Fault(BAD_TAR, whole=True),
        Fault(BAD_TAR, endless=True),
        Fault(BAD_TAR, whole=True, endless=True),
        Fault(BAD_TAR, times=1, flip=True),
        Fault("", times=2, status=502),
    ],
    ids=str,
)
def test_transient_faults(fault: Fault, bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path) -> None:
    bucket.faults.append(fault)
    assert result(bucket, tmp_path).failures == ()
    assert files(tmp_path) == expected(*two)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_bucket_that_cannot_be_listed(status: int, bucket: BucketServer, tmp_path: Path) -> None:
    bucket.faults.append(Fault(r"/o\?", status=status))
    events: list[dict[str, object]] = []
    with retriever(bucket, tmp_path) as own, pytest.raises(FetchFailure, match=str(status)):
        own.job().on("error", events.append).on("complete", events.append).result()
    assert [set(event) for event in events] == [{"url", "size", "error"}]


def test_wrong_credentials_are_tried_once(bucket: BucketServer, tmp_path: Path) -> None:
    """A server may lock users out after repeated attempts."""
    for number in range(20):
        bucket.fill(made(f"1.2.3.9{number}", 1).objects())
    bucket.faults.append(Fault("metadata", status=401))
    with retriever(bucket, tmp_path, connections=1) as own, pytest.raises(FetchFailure, match="401"):
        own.job().result()
    assert len(bucket.of("metadata")) <= 2


def test_an_unknown_study(bucket: BucketServer, tmp_path: Path) -> None:
    with retriever(bucket, tmp_path, STUDY, "9.9") as own:
        done = own.job().result()
    assert [failure.problem for failure in done.failures] == ["no such study; check its name and the prefix"]
    assert done.saved == 6


def test_missing_metadata_and_missing_tar(
    bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path
) -> None:
    del bucket.objects[f"dicomweb/{two[0].name}/metadata.json"]
    del bucket.objects[f"dicomweb/{two[1].name}.tar"]
    assert [failure.problem.partition(":")[0] for failure in result(bucket, tmp_path).failures] == [
        "it has no metadata.json, which lists its images",
        "it has a metadata.json, but the TAR does not exist",
    ]


def test_a_series_without_images(bucket: BucketServer, tmp_path: Path) -> None:
    bucket.fill({f"studies/{STUDY}/series/1.9/metadata.json": b'{"cod": {"instances": {}}}'})
    done = result(bucket, tmp_path)
    assert [(notice.code, notice.subject) for notice in done.notices] == [("empty-series", f"{STUDY}/1.9")]
    assert (done.saved, done.failures) == (6, ())


def test_locks_and_errors_of_the_writer_are_notices(
    bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path
) -> None:
    bucket.fill({f"{two[0].name}/.gradient.lock": b"", f"{two[1].name}/error.log": b"no space"})
    done = result(bucket, tmp_path)
    assert [(notice.code, notice.subject) for notice in done.notices] == [
        ("being-written", f"{STUDY}/{BAD}"),
        ("writer-failed", f"{STUDY}/{GOOD}"),
    ]
    assert (done.saved, done.failures) == (6, ())


def _change(**fields: object) -> Callable[[dict[str, object]], None]:
    return lambda record: record.update(fields)


_PLACE = f"gs://b/studies/{STUDY}/series/{BAD}.tar://"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_change(uri=_PLACE + "instances/../../../evil"), "unsafe"),
        (_change(uri=_PLACE + "/etc/passwd"), "unsafe"),
        (_change(uri=_PLACE + "instances/a\0b"), "unsafe"),
        (_change(uri=_PLACE + "instances/a\n\x1b[2Jb"), "unsafe"),
        (_change(uri=_PLACE), "unsafe"),
        (_change(uri=f"gs://b/studies/{STUDY}/series/other.tar://instances/x.dcm"), "found another"),
        (_change(uri=7), "'uri'"),
        (_change(crc32c=None), "CRC32C"),
        (_change(crc32c="////"), "CRC32C"),
        (_change(size=-1), "expected integers"),
        (_change(size="7"), "expected integers"),
        (_change(headers={}), "expected integers"),
        (_change(size=10**9), "at least"),
    ],
)
def test_invalid_instances(
    change: Callable[[dict[str, object]], None],
    words: str,
    bucket: BucketServer,
    two: tuple[CodSeries, CodSeries],
    tmp_path: Path,
) -> None:
    """They are reported, the others are retrieved, and nothing is written elsewhere."""
    change(two[0].records[f"{BAD}.2"])
    bucket.fill(two[0].objects())
    done = result(bucket, tmp_path / "inner")
    assert all(words in failure.problem for failure in done.failures), done.failures
    assert done.failures
    good = expected(*two)
    del good[f"{STUDY}/{BAD}/instances/{BAD}.2.dcm"]
    assert set(files(tmp_path)) <= {f"inner/{name}" for name in good}
    assert {name for name in good if GOOD in name} <= set(files(tmp_path / "inner"))
    assert not any(char in str(done.failures) for char in "\0\x1b\n")


def test_a_tar_that_is_replaced(bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path) -> None:
    """It is pinned to the generation that was listed."""
    own = retriever(bucket, tmp_path, STUDY)
    own.plan()
    bucket.objects[f"dicomweb/{two[0].name}.tar"] = b"\0" * len(two[0].tar)
    done = own.job().result()
    assert len(done.failures) == 3
    assert files(tmp_path) == expected(two[1])


def test_a_selection_without_images(bucket: BucketServer, tmp_path: Path) -> None:
    selection = Selection(series=("7", BAD), tags=(("SeriesDescription", "none"),))
    done = result(bucket, tmp_path, selection=selection)
    assert [failure.problem for failure in done.failures] == [
        "no image matches --series 7; --dry-run without it lists the series",
        "no image matches --tag SeriesDescription=none; --dry-run without it lists the series",
    ]


def test_a_selection_without_images_leaves_no_folder(bucket: BucketServer, tmp_path: Path) -> None:
    assert result(bucket, tmp_path / "new", selection=Selection(series=("7",))).failures
    bucket.faults.append(Fault(r"\.tar", status=404))
    assert result(bucket, tmp_path / "new").failures
    assert not list(tmp_path.iterdir())


BLOCKED = f"{STUDY}/{BAD}/instances/{BAD}.2.dcm"


def test_a_file_of_a_clone_stays(bucket: BucketServer, tmp_path: Path) -> None:
    """git-annex's links are not replaced by files, which git would see as changed."""
    link = tmp_path / BLOCKED
    link.parent.mkdir(parents=True)
    link.symlink_to("../../../.git/annex/objects/Jx/4f/MD5E-s1--0.dcm/MD5E-s1--0.dcm")
    done = result(bucket, tmp_path)
    (failure,) = done.failures
    assert failure.problem == f"'{link}' is a file of a git-annex clone: use 'icf-utils get' there, or another folder"
    assert link.is_symlink()
    assert done.saved == 5


def test_a_folder_under_the_name_of_an_image(
    bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path
) -> None:
    """Only this image fails, and is not transferred."""
    (tmp_path / BLOCKED / "mine").mkdir(parents=True)
    done = result(bucket, tmp_path)
    (failure,) = done.failures
    assert failure.image == f"instances/{BAD}.2.dcm"
    assert failure.problem == f"'{tmp_path}/{BLOCKED}' is a folder, and a file belongs there: move it away"
    assert files(tmp_path) == {name: data for name, data in expected(*two).items() if name != BLOCKED}
    assert (tmp_path / BLOCKED / "mine").is_dir()
    assert done.saved == 5


def test_a_file_where_a_folder_belongs(bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path) -> None:
    (tmp_path / STUDY).mkdir()
    (tmp_path / STUDY / BAD).write_text("mine")
    done = result(bucket, tmp_path)
    assert len(done.failures) == 3
    assert {failure.problem for failure in done.failures} == {
        f"'{tmp_path}/{STUDY}/{BAD}' is not a folder, and a folder belongs there: move it away"
    }
    assert files(tmp_path) == {**expected(two[1]), f"{STUDY}/{BAD}": b"mine"}
    assert not bucket.of(BAD_TAR)


def test_an_obstacle_that_appears_during_the_transfer(
    bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path
) -> None:
    with retriever(bucket, tmp_path, STUDY, connections=1) as own:
        job = own.job()
        job.on("progress", lambda _: (tmp_path / BLOCKED).mkdir(parents=True, exist_ok=True))
        done = job.result()
    assert [failure.problem for failure in done.failures] == [
        f"'{tmp_path}/{BLOCKED}' is a folder, and a file belongs there: move it away"
    ]
    assert files(tmp_path) == {name: data for name, data in expected(*two).items() if name != BLOCKED}


def test_a_folder_that_cannot_be_written(
    bucket: BucketServer,
    two: tuple[CodSeries, CodSeries],
    open_tmp_path: Path,
    as_nobody: Callable[[], AbstractContextManager[None]],
) -> None:
    retriever(bucket, open_tmp_path / "warm").job().result()  # loads what nobody may not
    root = open_tmp_path / "out"
    (root / STUDY).mkdir(parents=True)
    root.chmod(0o777)
    (root / STUDY).chmod(0o777)
    (root / STUDY / BAD).mkdir(mode=0o555)
    with as_nobody():
        done = result(bucket, root)
        assert files(root) == expected(two[1])
    assert {failure.image for failure in done.failures} == {f"instances/{sop}.dcm" for sop in two[0].images}
    (problem,) = {failure.problem for failure in done.failures}
    folder = f"{root}/{STUDY}/{BAD}/instances"
    remedy = "change its permissions, or choose another folder"
    assert problem == f"cannot write into '{folder}' (Permission denied): {remedy}"


def test_a_full_disk_ends_the_command(bucket: BucketServer, tmp_path: Path) -> None:
    """Here: a limit to the size of files, which the system reports for each one that is written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(StorageFailure, match="File too large"):
            result(bucket, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_read_only_disk(tmp_path: Path) -> None:
    words = r"Read-only file system\. Make it writable, or choose another folder"
    with pytest.raises(StorageFailure, match=words) as caught, storage_errors(tmp_path, "create"):
        raise OSError(errno.EROFS, "read-only")
    assert "store" not in str(caught.value)


def test_connections_are_bounded(bucket: BucketServer, tmp_path: Path) -> None:
    for number in range(40):
        bucket.fill(made(f"1.2.3.9{number}", 2).objects())
    assert result(bucket, tmp_path, connections=3).failures == ()
    assert bucket.busiest <= 3
    assert bucket.connections <= 6
