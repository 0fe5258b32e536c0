"""The files of ``docs/examples`` are understood by the programs that they are for."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from icf_utils.cli.parser import build_parser
from tests.cli.program import ROOT

EXAMPLES = ROOT / "docs" / "examples"
UNITS = [*sorted(path.name for path in EXAMPLES.glob("icf-*.service")), "icf-verify.timer"]
WITH_COMMANDS = sorted(path.name for path in EXAMPLES.glob("icf-*") if "/icf-utils " in path.read_text())


def commands(text: str) -> list[str]:
    return re.findall(r"/usr/local/bin/icf-utils ([^\n]+)", text)


@pytest.mark.parametrize(
    "name", sorted(path.name for path in EXAMPLES.glob("icf-*") if "icf-utils " in path.read_text())
)
def test_command_lines_are_understood(name: str) -> None:
    for line in commands((EXAMPLES / name).read_text(encoding="utf-8")):
        build_parser().parse_args(line.split())


@pytest.mark.parametrize("name", UNITS)
def test_units_of_systemd(name: str, tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if not verify:
        pytest.skip("systemd is not installed")
    text = (EXAMPLES / name).read_text(encoding="utf-8").replace("/usr/local/bin/icf-utils", "/bin/true")
    (tmp_path / name).write_text(text.replace("User=icf", "User=root"))
    if name.endswith(".timer"):
        (tmp_path / "icf-verify.service").write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n")
    done = subprocess.run([verify, "verify", str(tmp_path / name)], capture_output=True, text=True, check=False)
    own = [line for line in done.stderr.splitlines() if name in line]
    assert own == []


def test_the_crontab() -> None:
    text = (EXAMPLES / "icf-verify.cron").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if not line.startswith("#")]
    assert re.fullmatch(r"(?:[\d*,/-]+ ){5} *\w+ +/usr/local/bin/icf-utils .+", line)


def test_the_logrotate_file(tmp_path: Path) -> None:
    program = shutil.which("logrotate") or "/usr/sbin/logrotate"
    if not Path(program).exists():
        pytest.skip("logrotate is not installed")
    done = subprocess.run(
        [program, "--debug", "--state", str(tmp_path / "state"), str(EXAMPLES / "icf-receiver.logrotate")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "error:" not in done.stderr


def test_timer_and_service_belong_together() -> None:
    timer = configparser.ConfigParser(strict=False)
    timer.read(EXAMPLES / "icf-verify.timer")
    assert timer["Timer"]["OnCalendar"] == "*-*-* 02:00"
    assert (EXAMPLES / "icf-verify.service").exists()


def test_the_manual_page(tmp_path: Path) -> None:
    if not (shutil.which("man") and shutil.which("groff")):
        pytest.skip("man and groff are not installed")
    page = ROOT / "docs" / "man" / "icf-utils.1"
    done = subprocess.run(["man", "--warnings", "-l", str(page)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "icf-utils make_studyvisit_archive" in done.stdout


@pytest.mark.parametrize(("shell", "name"), [("bash", "icf-utils"), ("zsh", "_icf-utils"), ("fish", "icf-utils.fish")])
def test_completion_scripts(shell: str, name: str) -> None:
    script = ROOT / "docs" / "completion" / name
    assert "icf-utils" in script.read_text(encoding="utf-8")
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(script)], check=True, timeout=30)
