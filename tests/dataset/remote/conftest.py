"""Clones of a visit's dataset that get images by byte ranges, from a real web server with a password."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from icf_utils.dataset.remote.configure import configure_clone
from icf_utils.dataset.stage import deposit_visit_dataset
from icf_utils.store import Visit
from tests.dataset.commands import attempt, run
from tests.dataset.conftest import require
from tests.dataset.servers import Server, nginx
from tests.dataset.visits import Member, make_visit

#: Three series of 40 images in one archive of 2.5 MB.
SERIES, IMAGES = 3, 40
_DICE = random.Random(7)
MEMBERS = tuple(
    Member(f"s{series}/{image:03}.dcm", _DICE.randbytes(20_000 + image), {"SeriesNumber": series})
    for series in range(SERIES)
    for image in range(IMAGES)
)
CONTENTS = {f"study_v1/{member.name}": member.content for member in MEMBERS}

_PROGRAM = """#!{python}
import sys
from icf_utils.dataset.remote.special import main
sys.exit(main())
"""


@pytest.fixture(autouse=True)
def _program(tmp_path_factory: pytest.TempPathFactory, _own_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program as an installation makes it, also where this one is older than it."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "git-annex-remote-icf"
    program.write_text(_PROGRAM.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([os.fspath(folder), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.fspath(Path(__file__).parents[3]))


@dataclass(frozen=True)
class Cloned:
    """A clone, the visit it is of, and the server it asks, if there is one."""

    place: Visit
    folder: Path
    server: Server | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.extra}

    def run(self, *command: str) -> bytes:
        return run(*command, cwd=self.folder, env=self.environment)

    def attempt(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        return attempt(*command, cwd=self.folder, env=self.environment)

    def requests(self) -> list[tuple[str, int, int]]:
        """What the server was asked for the archive: method, status and bytes sent, since the last look."""
        assert self.server
        found = [line for line in self.server.requests() if "_dicom.tar" in line]
        self.server.access_log.write_text("", encoding="utf-8")
        return [(line.split('"')[1].split()[0], int(line.split()[8]), int(line.split()[9])) for line in found]

    def holds(self, names: Sequence[str]) -> bool:
        """Whether exactly these images are here, with the right bytes."""
        here = {name for name in CONTENTS if (self.folder / name).exists()}
        return here == set(names) and all((self.folder / name).read_bytes() == CONTENTS[name] for name in names)

    def has_archive(self) -> bool:
        return (self.folder / "icf/v1_dicom.tar").exists()


Serve = Callable[..., Cloned]


@contextmanager
def _served(folder: Path, members: Sequence[Member], more: str) -> Iterator[Cloned]:
    require("nginx")
    place = make_visit(folder / "store", members)
    scratch = folder / "nginx"
    scratch.mkdir()
    with nginx(folder / "store", scratch, more) as server:
        cloned = Cloned(place, folder / "clone", server, server.credential())
        _clone(cloned, server.url)
        cloned.requests()
        yield cloned


def _clone(cloned: Cloned, url: str) -> None:
    deposit = deposit_visit_dataset(cloned.place.root, "study", "v1", store_url=url)
    run("datalad", "clone", deposit.clone_url, str(cloned.folder), cwd=cloned.folder.parent, env=cloned.environment)
    configure_clone(cloned.folder)


@pytest.fixture
def serve(clone_tools: None, tmp_path: Path) -> Iterator[Serve]:
    """Serve a visit and clone it; ``more`` are directives for nginx."""
    with ExitStack() as stack:

        def start(members: Sequence[Member] = MEMBERS, more: str = "") -> Cloned:
            context: AbstractContextManager[Cloned] = _served(tmp_path, members, more)
            return stack.enter_context(context)

        yield start


@pytest.fixture
def local(clone_tools: None, tmp_path: Path) -> Cloned:
    """A clone of a store on the same machine."""
    place = make_visit(tmp_path / "the store", MEMBERS)
    cloned = Cloned(place, tmp_path / "clone")
    _clone(cloned, f"file://{tmp_path}/the%20store")
    return cloned
