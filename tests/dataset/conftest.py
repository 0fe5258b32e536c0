"""These tests and the machine's settings of git, DataLad and keyring must not affect each other."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

#: Programs that a clone needs, and where they come from.
CLONE_TOOLS = ("git", "git-annex", "datalad", "git-annex-remote-uncurl", "git-annex-remote-archivist")


@pytest.fixture(autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")
    config = home / "gitconfig"
    config.write_text(
        "[user]\n\tname = A Test\n\temail = test@example.org\n[annex]\n\tprivate = false\n", encoding="utf-8"
    )
    for name in [name for name in os.environ if name.startswith(("GIT_", "DATALAD_"))]:
        monkeypatch.delenv(name)
    settings = {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "xdg"),
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        "LC_ALL": "C.UTF-8",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def clone_tools(_own_settings: None) -> None:
    """Skip if a program that a clone needs is not installed."""
    require(*CLONE_TOOLS)


def require(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
