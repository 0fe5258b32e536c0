"""The quick part of the tests: all but those that ``tests/slow.txt`` names, for the loop of a developer.

``pytest --quick`` leaves these out. ``pytest --find-slow`` adds to the file what took longer than half a second, setup
included, or a second for all parameters together, and removes tests that no longer exist. A line is a module and a
function.
A new test belongs to the quick part until it is named; a run of all tests lists those that took far too long for that.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

SLOW = Path(__file__).parent / "slow.txt"
#: Seconds of one test, and of a function with all its parameters.
LIMIT, TOGETHER = 0.5, 1.0
#: Seconds of a quick test after which a run names it, also on a machine that has other work to do.
FAR_TOO_LONG = 5.0


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("icf-utils")
    group.addoption("--quick", action="store_true", help=f"leave out the tests that {SLOW.name} names")
    group.addoption("--find-slow", action="store_true", help=f"add tests of more than {LIMIT} s to {SLOW.name}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Durations(config.getoption("--find-slow")), "icf-utils-durations")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        slow = read_slow()
        config.hook.pytest_deselected(items=[item for item in items if function_of(item.nodeid) in slow])
        items[:] = [item for item in items if function_of(item.nodeid) not in slow]


def read_slow() -> set[str]:
    return set(SLOW.read_text(encoding="utf-8").split()) if SLOW.exists() else set()


def function_of(nodeid: str) -> str:
    """``tests/a/test_b.py::test_c`` of ``tests/a/test_b.py::test_c[parameters]``."""
    return nodeid.partition("[")[0].replace(" ", "_")


class _Durations:
    """The time that each test took, in seconds, counted in the process that the workers report to."""

    def __init__(self, is_written: bool) -> None:
        self.seconds: dict[str, float] = {}
        self._is_written = is_written

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        slow = read_slow()
        named = {function_of(nodeid) for nodeid, seconds in self.seconds.items() if seconds > FAR_TOO_LONG}
        for name in sorted(named - slow) if not self._is_written else ():
            terminalreporter.write_line(f"to be named in tests/{SLOW.name}: {name}")

    def pytest_sessionfinish(self) -> None:
        if self._is_written:
            self._write()

    def _write(self) -> None:
        together: dict[str, float] = {}
        for nodeid, seconds in self.seconds.items():
            function = function_of(nodeid)
            together[function] = together.get(function, 0.0) + seconds
        known = {name for name in read_slow() if _exists(name, together)}
        slow = {function_of(nodeid) for nodeid, seconds in self.seconds.items() if seconds > LIMIT}
        found = known | slow | {name for name, seconds in together.items() if seconds > TOGETHER}
        SLOW.write_text("".join(f"{name}\n" for name in sorted(found)), encoding="utf-8")


def _exists(name: str, ran: Iterable[str]) -> bool:
    """Whether a test is still there: it ran, or its module has that function."""
    if name in ran:
        return True
    module, _, function = name.partition("::")
    path = SLOW.parents[1] / module
    return path.is_file() and f"def {function.rpartition('::')[2]}(" in path.read_text(encoding="utf-8")
