"""Buckets that the format's own package has written a moment ago.

It has many dependencies and lives in an environment of its own: ``COD_PYTHON`` names the Python that has it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from icf_utils.retrieve.api import BucketSource, Retriever, parse_bucket
from tests.data.make_dicom import write_visit
from tests.fetch.server import serving
from tests.retrieve.bucket_server import BUCKET, BucketServer
from tests.retrieve.conftest import QUICK, files

COD_PYTHON = shutil.which(os.environ.get("COD_PYTHON", "")) or ""

_WRITE = """
import os, sys
from pathlib import Path
import pydicom
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from cloud_optimized_dicom.cod_object import CODObject
from cloud_optimized_dicom.instance import Instance

root, place, hashed = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "hashed"
client = storage.Client(project="p", credentials=AnonymousCredentials())
shorten = (lambda uid: "9.9." + str(sum(map(ord, uid))) + uid[-6:].replace(".", "")) if hashed else None
series = {}
for path in sorted(root.rglob("*.dcm")):
    header = pydicom.dcmread(path, stop_before_pixels=True)
    series.setdefault((header.StudyInstanceUID, header.SeriesInstanceUID), []).append(path)
for uids, paths in series.items():
    names = [shorten(uid) for uid in uids] if hashed else uids
    for mode, part in (("w", paths[:1]), ("a", paths[1:])):
        with CODObject(place, client, *names, mode=mode, hashed_uids=hashed) as made:
            done = made.append([Instance(str(path), uid_hash_func=shorten) for path in part], compress=False)
            assert not done.errors
"""


@pytest.fixture(params=["plain", "hashed"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[BucketServer, list[bytes]]]:
    """A bucket, and the images that were put into it."""
    if not COD_PYTHON:
        pytest.skip("COD_PYTHON names no Python that has cloud-optimized-dicom")
    images = write_visit(tmp_path / "in", {1: ("T1w", 3), 2: ("FLAIR", 2)})
    state = BucketServer()
    with serving(state):
        command = [COD_PYTHON, "-c", _WRITE, str(tmp_path / "in"), f"gs://{BUCKET}/dicomweb", str(request.param)]
        environment = {**os.environ, "STORAGE_EMULATOR_HOST": state.url}
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        state.requests.clear()
        yield state, sorted(path.read_bytes() for path in images)


def test_what_was_written_is_retrieved(fresh: tuple[BucketServer, list[bytes]], tmp_path: Path) -> None:
    server, images = fresh
    out = tmp_path / "out"
    with Retriever(BucketSource(parse_bucket(server.place)), out, retry=QUICK) as own:
        done = own.job().result()
        assert (done.failures, done.notices) == ((), ())
        assert own.stats().items == ()
    assert sorted(files(out).values()) == images
    for name in files(out):
        assert pydicom.dcmread(out / name).SOPInstanceUID
