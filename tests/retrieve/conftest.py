from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from icf_utils.fetch.http import RetryPolicy
from icf_utils.retrieve.api import BucketSource, Retriever, parse_bucket
from tests.data.make_cod import CodSeries
from tests.dataset.servers import PASSWORD, Server, nginx
from tests.fetch.server import serving
from tests.retrieve.bucket_server import BucketServer

#: Enough attempts for the faults of these tests, without waiting for them.
QUICK = RetryPolicy(attempts=3, first_pause=0.01, longest_pause=0.02, longest_wait=2, connect=5, read=5)

STUDY = "1.2.3"


def made(series: str, count: int = 3, **options: object) -> CodSeries:
    """A series of a few images of some kilobytes."""
    source = random.Random(series)
    images = {f"{series}.{number}": source.randbytes(1000 * number + 7) for number in range(1, count + 1)}
    return CodSeries(STUDY, series, images, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The module's store on a web server that requires a password."""
    if not shutil.which("nginx"):
        pytest.skip("nginx is not installed")
    with nginx(store, tmp_path_factory.mktemp("nginx")) as made:
        yield made


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password, where commands look for it."""
    monkeypatch.setenv("ICF_STORE_PASSWORD", PASSWORD)


@pytest.fixture
def two() -> tuple[CodSeries, CodSeries]:
    return made("1.2.3.1", number=1, description="T1w"), made("1.2.3.2", number=2, description="FLAIR", version="1.0")


@pytest.fixture
def bucket(two: tuple[CodSeries, CodSeries]) -> Iterator[BucketServer]:
    """A served bucket with a study of two series."""
    state = BucketServer()
    for series in two:
        state.fill(series.objects())
    with serving(state):
        yield state


def retriever(bucket: BucketServer, directory: Path, *studies: str, **options: object) -> Retriever:
    origin = BucketSource(parse_bucket(bucket.place), studies)
    return Retriever(origin, directory, retry=QUICK, **options)  # type: ignore[arg-type]


def files(root: Path) -> dict[str, bytes]:
    """The files below a directory, without the log."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "log.json"
    }


def expected(*series: CodSeries) -> dict[str, bytes]:
    return {
        f"{one.study}/{one.series}/instances/{sop}.dcm": content
        for one in series
        for sop, content in one.images.items()
    }


@pytest.fixture(autouse=True)
def _no_stored_logins(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked, and the logins of the user who runs the tests are not used."""
    monkeypatch.setenv("GIT_TERMINAL_PROMPT", "0")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    monkeypatch.setenv("NETRC", str(tmp_path_factory.getbasetemp() / "no-netrc"))
