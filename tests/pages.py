"""Pages of the documentation as programs: their commands, run one after the other, print what the page shows."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

#: What DataLad needs to clone; without it the lines that use it are left out.
CLONE_TOOLS = ("git", "git-annex", "datalad", "git-annex-remote-uncurl", "git-annex-remote-archivist")

#: What a stage reports in a log and a terminal shows as a bar that vanishes: not in the documentation.
_PROGRESS = re.compile(r"(?m)^[^\n]*: [^\n]* in \d+\.\d s\n")


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a page that are marked as of ``language``."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", page(name))


@dataclass(frozen=True)
class Step:
    """A command of a page with the output that the page shows."""

    page: str
    command: str
    expected: str

    def matches(self, output: str) -> bool:
        """``...`` stands for anything."""
        pattern = ".*".join(re.escape(part) for part in self.expected.rstrip("\n").split("..."))
        return re.fullmatch(pattern, output.rstrip("\n"), re.DOTALL) is not None


def steps(name: str) -> Iterator[Step]:
    """The commands of a page's ``console`` blocks: ``$`` begins one, ``>`` continues it, the rest is output."""
    for block in blocks(name, "console"):
        for text in re.split(r"(?m)^\$ ", block)[1:]:
            lines = text.splitlines()
            more = 1
            while more < len(lines) and lines[more].startswith("> "):
                more += 1
            command = "\n".join([lines[0], *(line[2:] for line in lines[1:more])])
            yield Step(name, command, "".join(f"{line}\n" for line in lines[more:]))


class Shell:
    """Runs the commands of a page one after the other; the folder is remembered, a server runs beside."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.start, self._environment = folder, folder, environment
        self._servers: list[subprocess.Popen[bytes]] = []
        self._port = free_port()

    def run(self, step: Step) -> None:
        command = step.command.replace("8000", str(self._port))
        if command.endswith(" &"):
            self._serve(command.removesuffix(" &"))
            return
        memory = self.start / ".folder"
        script = f"{command}\ncode=$?\npwd > '{memory}'\nexit $code"
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        self.folder = Path(memory.read_text(encoding="utf-8").strip())
        output = _PROGRESS.sub("", done.stdout).replace(str(self._port), "8000")
        assert step.matches(output), f"{step.page}: $ {step.command}\nprints:\n{output}\nexpected:\n{step.expected}"

    def _serve(self, command: str) -> None:
        server = subprocess.Popen(
            ["sh", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._servers.append(server)
        wait_for_port(self._port)

    def close(self) -> None:
        for server in self._servers:
            server.terminate()
            server.wait()


def free_port() -> int:
    """A free port of five digits, which occurs nowhere else in a page."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    """Until something answers on a loopback port."""
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("nothing answers")


def reader_environment(home: Path) -> dict[str, str]:
    """A user with nothing but a name, whose programs are those of the tests' environment."""
    (home / ".gitconfig").write_text("[user]\n\tname = A Reader\n\temail = reader@example.org\n", encoding="utf-8")
    return {
        "HOME": str(home),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "DATALAD_LOG_LEVEL": "error",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
    }


def write_example(folder: Path) -> None:
    """Make the tutorial's visit, by the tutorial's program, in ``folder``."""
    (folder / "example.py").write_text(blocks("tutorial.md", "python")[0], encoding="utf-8")
    subprocess.run([sys.executable, "example.py"], cwd=folder, check=True, timeout=60)
