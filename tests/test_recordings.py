"""The moving pictures of the manual: what a terminal shows becomes an SVG that says the same to who wants no motion."""

from __future__ import annotations

import importlib.util
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest

from tests.pages import DOCS

_SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for needed in ("pexpect", "pyte"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    spec = importlib.util.spec_from_file_location("make_recordings", DOCS / "make_recordings.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def shown(picture: str) -> list[str]:
    """The texts that are seen when nothing moves."""
    texts = ElementTree.fromstring(picture).iter(f"{_SVG}text")
    return [text.text or "" for text in texts if text.get("opacity") != "0"]


def test_commands_become_a_picture(recorder: ModuleType, tmp_path: Path) -> None:
    recording = recorder.Recording()
    environment = {"PATH": "/usr/bin:/bin"}
    script = r"printf '  0%%\r'; sleep 0.3; printf '100%% <&>\n'; pwd"
    recording.command(script, tmp_path, environment, {str(tmp_path): "/home/reader"})
    picture = recorder.svg(recording, "A title")
    still = shown(picture)
    assert still == [f"$ {script}", "100% <&>", "/home/reader"]
    everything = [text.text for text in ElementTree.fromstring(picture).iter(f"{_SVG}text")]
    assert "  0%" in everything
    assert str(tmp_path) not in picture


def test_a_command_that_fails_ends_the_recording(recorder: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="ended with 3"):
        recorder.Recording().command("exit 3", tmp_path, {"PATH": "/usr/bin:/bin"}, {})
