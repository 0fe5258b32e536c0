"""What all tests share: a clean surrounding, and the open data beside the project where it is there."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import settings

from tests.catalog.browsing import Visitor, start_browser
from tests.data.make_hard_inputs import make_hard_inputs

pytest_plugins = ["tests.quick"]

#: The open data and tools that may lie beside the project; nothing depends on them.
SHARED = Path(__file__).resolve().parents[2] / "shared"
VISITS = SHARED / "data" / "visits"

#: Names of the open visits, for parametrised tests; empty where they are not there.
VISIT_NAMES = sorted(path.name for path in VISITS.glob("*-*") if path.is_dir()) if VISITS.is_dir() else []


# In the background of a script, interrupts are ignored, below nohup hang-ups; and so they would be by every program
# that a test starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# How long an example takes is no property of the program, least of all on a machine that is busy.
settings.register_profile("icf", deadline=None)
settings.load_profile("icf")


@pytest.fixture(scope="session", autouse=True)
def _clean_surrounding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting of the user's reaches a test, and no test depends on the current directory."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("GIT_", "DATALAD_", "XDG_", "ICF_")):
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("ICF_RUN_SETTLE", "0")  # inputs of tests have just been made
        patch.setenv("ICF_STORE_URL", "https://data.inm-icf.de")  # the address of stores that have none of their own
        patch.setenv("ICF_NEW_STORE", "1")  # most tests begin without a store
        patch.chdir(home)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of open data and tools."""
    if not SHARED.is_dir():
        pytest.skip("the folder 'shared' does not lie beside the project")
    return SHARED


@pytest.fixture(scope="session")
def visits(shared: Path) -> Path:
    """The folder of real visits, one folder each."""
    if not VISIT_NAMES:
        pytest.skip("there are no open visits in 'shared'")
    return VISITS


@pytest.fixture(params=VISIT_NAMES or [""])
def open_visit(request: pytest.FixtureRequest) -> Path:
    """Each of the real visits in turn."""
    if not request.param:
        pytest.skip("there are no open visits in 'shared'")
    return VISITS / str(request.param)


@dataclass(frozen=True)
class HardInputs:
    """The folder of the hard inputs (:mod:`tests.data.make_hard_inputs`), and what could not be made of each here."""

    folder: Path
    missing: dict[str, list[str]]


@pytest.fixture(scope="session")
def hard_inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HardInputs]:
    """All hard inputs; tests leave them unchanged."""
    folder = tmp_path_factory.mktemp("hard") / "cases"
    yield HardInputs(folder, make_hard_inputs(folder))
    for name in ("b.dcm", "closed"):  # else pytest could not remove them
        os.chmod(folder / "unreadable" / name, 0o755)


_NOBODY = 65534


@contextmanager
def _as_nobody() -> Iterator[None]:
    """For a while, a user whom file modes stop; whoever is not root is one already."""
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.fixture
def as_nobody() -> Callable[[], AbstractContextManager[None]]:
    """A block in which file modes count. Import first what it needs: Python may lie where only root reads."""
    return _as_nobody


@pytest.fixture
def open_tmp_path() -> Iterator[Path]:
    """A temporary folder that every user may enter and write to."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all tests: starting it takes longer than a test."""
    browser = start_browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture
def visitor(driver: Any) -> Iterator[Visitor]:
    """A visitor whose browser must not have logged an error nor left the loopback interface in the end."""
    driver.get("about:blank")
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    found = Visitor(driver)
    yield found
    found.settle()
    assert [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert {urlsplit(url).hostname for url in found.requests()} == {"127.0.0.1"}


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that the test starts are not measured by coverage, which imports modules of its own."""
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):
        monkeypatch.delenv(name, raising=False)
