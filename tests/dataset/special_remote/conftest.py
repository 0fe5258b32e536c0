"""Clones of a visit's dataset that get images by byte ranges, from a real web server with a password."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from icf_utils.dataset.special_remote.configure import configure_clone
from icf_utils.dataset.stage import deposit_visit_dataset
from icf_utils.store.layout import Visit
from tests.dataset.commands import attempt, run
from tests.dataset.conftest import CLONE_TOOLS, require
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

_ROOT = Path(__file__).parents[3]

_PROGRAM = """#!{python}
import sys
from icf_utils.dataset.special_remote.program import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Cloned:
    """A clone, its visit, and the server of its store, if there is one."""

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


def clone(place: Visit, url: str, folder: Path, environment: Mapping[str, str]) -> None:
    """A clone as DataLad makes it, by what its deposit is: a zip with a bare repository. (DataLad takes longer.)"""
    deposit_visit_dataset(place.root, "study", "v1", store_url=url)
    bare = folder.with_name("bare")
    with zipfile.ZipFile(place.export) as packed:
        packed.extractall(bare)
    run("git", "clone", "-q", str(bare), str(folder), cwd=folder.parent, env=environment)
    run("git", "annex", "init", "-q", cwd=folder, env=environment)
    run("git", "config", "annex.security.allowed-ip-addresses", "127.0.0.1", cwd=folder, env=environment)
    configure_clone(folder, local_stores=(place.root,) if url.startswith("file:") else ())


@contextmanager
def _served(folder: Path, members: Sequence[Member], more: str, environment: Mapping[str, str]) -> Iterator[Cloned]:
    place = make_visit(folder / "store", members)
    scratch = folder / "nginx"
    scratch.mkdir()
    with nginx(folder / "store", scratch, more) as server:
        clone(place, server.url, folder / "clone", environment)
        cloned = Cloned(place, folder / "clone", server, server.credential())
        cloned.requests()
        yield cloned


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the program, as an installation would make it."""
    folder = tmp_path_factory.mktemp("bin")
    path = folder / "git-annex-remote-icf"
    path.write_text(_PROGRAM.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def template(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloned]:
    """The usual visit on a server, and a clone to be copied."""
    home = tmp_path_factory.mktemp("home")
    (home / "config").write_text("[user]\n\tname = A Test\n\temail = test@example.org\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.pathsep.join([str(program), str(Path(sys.executable).parent), os.environ["PATH"]]))
        patch.setenv("PYTHONPATH", os.fspath(_ROOT))
        patch.setenv("GIT_CONFIG_GLOBAL", str(home / "config"))
        require("nginx", *CLONE_TOOLS)
        with ExitStack() as stack:
            folder = tmp_path_factory.mktemp("template")
            yield stack.enter_context(_served(folder, MEMBERS, "", dict(os.environ)))


@pytest.fixture(autouse=True)
def _program(program: Path, _own_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join([os.fspath(program), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.fspath(_ROOT))


@pytest.fixture
def usual(template: Cloned, tmp_path: Path) -> Iterator[Cloned]:
    """A clone of the usual visit from a server; the archive is restored after the test."""
    folder, archive = tmp_path / "clone", template.place.archive
    shutil.copytree(template.folder, folder, symlinks=True)
    raw = archive.read_bytes()
    template.requests()
    yield Cloned(template.place, folder, template.server, template.extra)
    archive.write_bytes(raw)


@pytest.fixture
def serve(clone_tools: None, tmp_path: Path) -> Iterator[Serve]:
    """Serve another visit, or with other directives for nginx, and clone it."""
    require("nginx")
    with ExitStack() as stack:

        def start(members: Sequence[Member] = MEMBERS, more: str = "") -> Cloned:
            return stack.enter_context(_served(tmp_path, members, more, dict(os.environ)))

        yield start


@pytest.fixture
def local(clone_tools: None, tmp_path: Path) -> Cloned:
    """A clone of a store on the same machine."""
    place = make_visit(tmp_path / "the store", MEMBERS)
    clone(place, f"file://{tmp_path}/the%20store", tmp_path / "clone", dict(os.environ))
    return Cloned(place, tmp_path / "clone")
