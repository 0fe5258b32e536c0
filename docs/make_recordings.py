"""Record the tutorial's commands as moving pictures: ``python docs/make_recordings.py [FOLDER]``.

Runs the commands of ``tutorial.md`` in a terminal of their own, in a temporary folder, and writes what the terminal
showed as one SVG for each part, by default into ``docs/images``. Browsers play them; who has asked for less motion,
and every other viewer, sees the end.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import pexpect
import pyte

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.pages import free_port, reader_environment, steps, wait_for_port, write_example

DOCS = Path(__file__).parent
COLUMNS, ROWS = 120, 24
#: Pixels of a character's cell, and around the text.
WIDTH, HEIGHT, MARGIN = 7.6, 18, 14
#: Seconds: between two pictures at least, for one at most while a command runs, after a command, at the end.
STEP, LONGEST, READING, END = 0.1, 0.6, 1.6, 5.0
#: Shown instead of the name of the temporary folder.
HOME = "/home/reader"


@dataclass
class Recording:
    """The states of a terminal, as ``(seconds, rows)``; rows have no trailing blanks."""

    screen: pyte.Screen = field(default_factory=lambda: pyte.Screen(COLUMNS, ROWS))
    frames: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    now: float = 0.0

    def show(self, text: str, seconds: float) -> None:
        """Print a text, and wait ``seconds``."""
        pyte.Stream(self.screen).feed(text)
        rows = tuple(row.rstrip() for row in self.screen.display)
        if not self.frames or self.frames[-1][1] != rows:
            self.frames.append((self.now, rows))
        self.now += seconds

    def command(self, command: str, folder: Path, environment: Mapping[str, str], hide: Mapping[str, str]) -> None:
        """Type a command, run it in ``folder``, and show its output; ``hide`` replaces texts in the output."""
        self.show(f"\x1b[1m$ {hidden(command, hide)}\x1b[0m".replace("\n", "\r\n> ") + "\r\n", 0.7)
        child = pexpect.spawn(
            "sh", ["-c", command], cwd=str(folder), env=dict(environment), dimensions=(ROWS, COLUMNS), encoding="utf-8"
        )
        last = time.monotonic()
        while True:
            try:
                text = child.read_nonblocking(65536, timeout=STEP)
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                break
            passed, last = time.monotonic() - last, time.monotonic()
            self.now += min(passed, LONGEST)
            self.show(hidden(text, hide), STEP)
        child.close()
        if child.exitstatus:
            raise SystemExit(f"$ {command}\nended with {child.exitstatus}")
        self.now += READING


def hidden(text: str, hide: Mapping[str, str]) -> str:
    for old, new in hide.items():
        text = text.replace(old, new)
    return text


def intervals(frames: Sequence[tuple[float, tuple[str, ...]]], end: float) -> Iterator[tuple[int, str, float, float]]:
    """Every text of every row with the seconds at which it appears and disappears: ``(row, text, from, to)``."""
    for row in range(ROWS):
        text, since = "", 0.0
        for at, rows in [*frames, (end, ("",) * ROWS)]:
            if rows[row] != text:
                if text:
                    yield row, text, since, at
                text, since = rows[row], at


def svg(recording: Recording, title: str) -> str:
    """A recording as an animated picture. It shows its last state to people who have switched off animations."""
    end = recording.now + END
    used = max(number + 1 for _, rows in recording.frames for number, row in enumerate(rows) if row)
    width, height = COLUMNS * WIDTH + 2 * MARGIN, used * HEIGHT + 2 * MARGIN
    styles, texts = [], []
    for number, (row, text, since, until) in enumerate(intervals(recording.frames, end)):
        first, last = (f"{100 * moment / end:.2f}%" for moment in (since, until))
        frames = f"0%{{opacity:0}}{first}{{opacity:1}}" if since else "0%{opacity:1}"
        frames += f"{last}{{opacity:0}}100%{{opacity:0}}" if until < end else "100%{opacity:1}"
        stays = "" if until == end else ' opacity="0"'
        styles.append(f"@keyframes k{number}{{{frames}}}#t{number}{{animation:k{number} {end:.1f}s step-end infinite}}")
        kind = ' class="typed"' if text.startswith("$ ") else ""
        place = f'x="{MARGIN}" y="{MARGIN + row * HEIGHT + 13}"'
        texts.append(f'<text id="t{number}" {place}{kind}{stays} xml:space="preserve">{escape(text)}</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
            f"<title>{escape(title)}</title>",
            "<style>text{font:12.6px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:#d7dce2}",
            ".typed{fill:#9ae6b4;font-weight:bold}",
            "@media (prefers-reduced-motion: no-preference){",
            *styles,
            "}</style>",
            f'<rect width="{width:.0f}" height="{height:.0f}" rx="10" fill="#16191d"/>',
            *texts,
            "</svg>\n",
        ]
    )


#: The parts: the name and title of a picture, and the beginnings of the tutorial's commands that it shows.
PARTS = {
    "recording-steps": (
        "Four steps from a folder to a store",
        ("icf-utils make", "icf-utils deposit", "icf-utils catalogify"),
    ),
    "recording-clone": (
        "A clone, one image, and a search by tag",
        ("datalad clone", "cd visit-01", "datalad get", "git annex"),
    ),
}


def main(target: Path) -> None:
    """Run the commands of the tutorial, and record those of each part."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "reader")
        folder.mkdir()
        environment = {**reader_environment(folder), "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
        write_example(folder)
        port = str(free_port())
        hide = {str(folder): HOME, port: "8000"}
        recordings = {part: Recording() for part in PARTS}
        servers = []
        here = folder
        try:
            for step in steps("tutorial.md"):
                command = step.command.replace("8000", port)
                part = next((part for part, (_, starts) in PARTS.items() if command.startswith(starts)), None)
                if command.endswith(" &"):
                    arguments = ["-c", f"exec {command[:-2]}"]
                    servers.append(pexpect.spawn("sh", arguments, cwd=str(here), env=environment))
                    wait_for_port(int(port))
                    continue
                if part:
                    recordings[part].command(command, here, environment, hide)
                elif not command.startswith(("cd ", "python example")):
                    pexpect.run("sh -c " + _quoted(command), cwd=str(here), env=environment, timeout=120)
                if command.startswith("cd "):
                    here = Path(os.path.normpath(here / command[3:]))
        finally:
            for server in servers:
                server.close(force=True)
        target.mkdir(exist_ok=True)
        for part, recording in recordings.items():
            (target / f"{part}.svg").write_text(svg(recording, PARTS[part][0]), encoding="utf-8")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "images")
