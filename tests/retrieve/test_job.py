"""Jobs: their events, cancelling and continuing, and how saved images are recognized."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from icf_utils.errors import Busy, InvalidSetting, StorageFailure
from icf_utils.retrieve.api import CodRetrieve, Retriever
from icf_utils.retrieve.files import lock_directory
from tests.data.make_cod import CodSeries
from tests.fetch.server import Fault, serving
from tests.retrieve.bucket_server import BucketServer
from tests.retrieve.conftest import STUDY, expected, files, made, retriever

ROOT = Path(__file__).resolve().parents[2]
EVENTS = ("progress", "download", "extract", "save", "complete", "error")


def listen(own: Retriever) -> tuple[Any, dict[str, list[dict[str, Any]]]]:
    job = own.job()
    events: dict[str, list[dict[str, Any]]] = {event: [] for event in EVENTS}
    for event in EVENTS:
        job.on(event, events[event].append)  # type: ignore[arg-type]
    return job, events


def log(root: Path) -> list[str]:
    names: list[str] = json.loads((root / "log.json").read_text())["logs"]
    return sorted(names)


def keys(*series: CodSeries) -> list[str]:
    return sorted(f"{one.study}/{one.series}/{sop}" for one in series for sop in one.images)


def test_the_six_events(bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path) -> None:
    bucket.faults.append(Fault(r"1\.2\.3\.1\.tar", status=403))
    job, events = listen(retriever(bucket, tmp_path, STUDY))
    again: list[dict[str, Any]] = []
    job.on("save", again.append)
    job.result()
    url = f"{bucket.place}/dicomweb/{two[1].name}.tar"
    size = sum(map(len, two[1].images.values()))
    assert sum(event["bytesDownloaded"] for event in events["progress"]) == size
    assert {event["bytesTotal"] for event in events["progress"]} == {size}
    assert {tuple(event) for event in events["progress"]} == {("url", "bytesDownloaded", "bytesTotal")}
    assert events["download"] == [{"url": url, "size": size, "file": f"{two[1].series}.tar"}]
    (extract,) = events["extract"]
    assert (extract["url"], extract["size"]) == (url, size)
    assert sorted(extract["files"]) == sorted(f"instances/{sop}.dcm" for sop in two[1].images)
    assert sorted(event["file"] for event in events["save"]) == sorted(expected(two[1]))
    assert again == events["save"]
    assert sorted(events["complete"][0]["files"]) == sorted(expected(two[1]))
    assert len(events["error"]) == 3
    assert all(set(event) == {"url", "size", "error"} and "403" in event["error"] for event in events["error"])


@pytest.mark.parametrize(
    "fault",
    [
        Fault(r"\.tar", times=1, flip=True),
        Fault(r"\.tar", times=3, cut=900),
        Fault(r"\.tar", whole=True),
        Fault(r"\.tar", times=1, whole=True),
    ],
    ids=str,
)
def test_progress_ends_at_the_total(
    bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path, fault: Fault
) -> None:
    """Bytes between images, or transferred twice, are not counted."""
    (tmp_path / STUDY / two[0].series / "instances").mkdir(parents=True)
    middle = f"{STUDY}/{two[0].series}/instances/{two[0].series}.2.dcm"
    (tmp_path / middle).write_bytes(expected(two[0])[middle])
    bucket.faults.append(fault)
    job, events = listen(retriever(bucket, tmp_path, STUDY, connections=1))
    assert job.result().unchanged == 1
    sums: dict[str, int] = {}
    for event in events["progress"]:
        sums[event["url"]] = sums.get(event["url"], 0) + event["bytesDownloaded"]
        assert sums[event["url"]] <= event["bytesTotal"]
    assert sorted(sums.values()) == sorted({event["bytesTotal"] for event in events["progress"]})
    assert sum(sums.values()) == sum(map(len, expected(*two).values())) - len(expected(two[0])[middle])


def test_a_callback_that_fails_ends_the_job(bucket: BucketServer, tmp_path: Path) -> None:
    def fail(_: object) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        retriever(bucket, tmp_path, STUDY).job().on("progress", fail).result()
    assert not (tmp_path / ".icf-retrieve").exists()


def test_cancelled_and_continued(bucket: BucketServer, tmp_path: Path) -> None:
    """Complete images are kept and not transferred again."""
    many = [made(f"1.2.3.5{number}", 4) for number in range(30)]
    for series in many:
        bucket.fill(series.objects(), "other")
    from icf_utils.retrieve.api import BucketSource, parse_bucket

    origin = BucketSource(parse_bucket(bucket.place, "other"))
    with Retriever(origin, tmp_path, connections=1) as own:
        job = own.job()
        job.on("save", lambda _: job.cancel())
        first = job.start().result()
        assert first.cancelled
        assert 0 < first.saved < 120
        assert len(files(tmp_path)) == first.saved
        assert len(log(tmp_path)) == first.saved
        second = own.job().result()
    assert (second.saved, second.unchanged) == (120 - first.saved, first.saved)
    assert files(tmp_path) == expected(*many)


def test_saved_means_correct(bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path) -> None:
    own = retriever(bucket, tmp_path, STUDY)
    own.job().result()
    assert log(tmp_path) == keys(*two)
    names = sorted(expected(*two))
    (tmp_path / names[0]).unlink()
    (tmp_path / names[1]).write_bytes(bytes(len(expected(*two)[names[1]])))
    (tmp_path / names[2]).write_bytes(b"short")
    stats = own.stats()
    assert (stats.totalSeriesCount, stats.totalSavedSeriesCount, len(stats.items)) == (2, 1, 3)
    assert stats == own.stats()
    done = own.job().result()
    assert (done.saved, done.unchanged) == (3, 3)
    assert sorted(notice.subject for notice in done.notices) == names[1:3]
    assert {notice.code for notice in done.notices} == {"replaced"}
    assert files(tmp_path) == expected(*two)


def test_the_log_of_cod_retrieve_is_kept_and_corrected(
    bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path
) -> None:
    other = "8.8/9.9/7.7"
    (tmp_path / "log.json").write_text(json.dumps({"logs": [other, *keys(*two)]}))
    bucket.faults.append(Fault(r"1\.2\.3\.1\.tar", status=404))
    own = CodRetrieve(bucket.place, tmp_path)
    assert own.get_stats([STUDY]).totalSavedSeriesCount == 0
    own.download([STUDY]).result()
    assert sorted(own.logs()) == sorted([other, *keys(two[1])])


def test_another_kind_of_log_is_kept(bucket: BucketServer, tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text("my diary")
    with pytest.raises(InvalidSetting, match="move the file away"):
        retriever(bucket, tmp_path, STUDY).job().result()
    assert (tmp_path / "log.json").read_text() == "my diary"
    assert bucket.requests == []  # it was looked at first
    assert [path.name for path in tmp_path.iterdir()] == ["log.json"]


def test_two_processes_in_one_directory(bucket: BucketServer, tmp_path: Path) -> None:
    with lock_directory(tmp_path), pytest.raises(Busy, match=r"is writing to .*; wait for it") as caught:
        retriever(bucket, tmp_path, STUDY).job().result()
    assert "remove" not in str(caught.value)  # its lock cannot be left behind
    assert tmp_path.exists()


def test_unfinished_files_of_a_killed_process_are_removed(
    bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path
) -> None:
    script = (
        "import os, sys\n"
        "from tests.retrieve.conftest import retriever\n"
        "from tests.retrieve.bucket_server import BucketServer\n"
        "state = BucketServer(); state.url = sys.argv[1]\n"
        "from pathlib import Path\n"
        "job = retriever(state, Path(sys.argv[2]), connections=1).job()\n"
        "job.on('progress', lambda _: os._exit(9)).result()\n"
    )
    command = [sys.executable, "-c", script, bucket.url, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=60).returncode == 9
    assert retriever(bucket, tmp_path, STUDY).job().result().failures == ()
    assert files(tmp_path) == expected(*two)


def test_a_directory_that_cannot_be_written(
    bucket: BucketServer, open_tmp_path: Path, as_nobody: Callable[[], AbstractContextManager[None]]
) -> None:
    folder = open_tmp_path / "closed"
    folder.mkdir(mode=0o555)
    retriever(bucket, open_tmp_path / "warm").job().result()
    shutil.rmtree(open_tmp_path / "warm")
    with as_nobody(), pytest.raises(StorageFailure, match="Permission denied"):
        retriever(bucket, folder, STUDY).job().result()


_PEAK = """
import sys, tracemalloc
from pathlib import Path
from tests.retrieve.bucket_server import BucketServer
from tests.retrieve.conftest import retriever
state = BucketServer()
state.url = sys.argv[1]
own = retriever(state, Path(sys.argv[2]), connections=2, zipped=True)
own.plan()
tracemalloc.start()
assert own.job().result().saved == 2
assert own.stats().items == ()
print(tracemalloc.get_traced_memory()[1])
"""


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    state = BucketServer()
    content = os.urandom(1 << 20) * 24
    state.fill(CodSeries("7.7", "7.7.7", {"7.7.7.1": content, "7.7.7.2": content[::-1]}).objects())
    with serving(state):
        command = [sys.executable, "-c", _PEAK, state.url, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    assert int(done.stdout) < 8 << 20
