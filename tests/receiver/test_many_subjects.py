"""The page *Process a large number of subjects*, word by word: receiver, sending, waiting, results, curl and jq."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.make_dicom import write_visit
from tests.pages import Shell, Step, blocks, free_port, reader_environment, steps

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed")
pytest.importorskip("flask", reason="flask is not installed")

PAGE = "many-subjects.md"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[tuple[Shell, str]]:
    """A shell beside a folder of three visits, and the receiver's port of this test."""
    for program in ("curl", "jq", "/usr/bin/storescu"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    for number in (1, 2, 3):
        series = {1: ("scout", 2), 2: ("rest", 3)}
        write_visit(tmp_path / "export" / f"sub-{number:02}", series, StudyInstanceUID=f"1.2.3.{number}")
    port = str(free_port())
    (settings,) = blocks(PAGE, "toml")
    (tmp_path / "receiver.toml").write_text(settings.replace("11112", port))
    (tmp_path / "home").mkdir()
    own = Shell(tmp_path, reader_environment(tmp_path / "home"))
    try:
        yield own, port
    finally:
        own.close()


def test_the_commands_of_the_page_work(shell: tuple[Shell, str]) -> None:
    own, port = shell
    found = list(steps(PAGE))
    assert len(found) > 15
    for step in found:
        own.run(Step(step.page, step.command.replace("11112", port), step.expected))


def test_the_page_does_not_sleep() -> None:
    assert not re.search(r"\bsleep\b", " ".join(step.command for step in steps(PAGE)))
