"""Parse an Apptainer definition file into its header and its sections, as plain values. Reads one file; builds nothing.

The grammar is that of Apptainer's "Definition Files": first lines of the form ``Key: value``, then sections, each of
which begins with a line whose first word is ``%name``. What Apptainer would refuse is refused here, with the line's
number.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_KEYS = """
bootstrap from includecmd mirrorurl updateurl osversion include library registry namespace stage product user regcode
productpgp registerurl modules otherurl fingerprints confurl setopt
"""
_SECTIONS = """
help setup files labels environment pre post runscript test startscript arguments
appinstall applabels appfiles appenv apptest apphelp apprun appstart
"""
HEADER_KEYS, SECTIONS = frozenset(_KEYS.split()), frozenset(_SECTIONS.split())


class RecipeError(ValueError):
    """The file is not a definition file; names the line."""

    def __init__(self, line: int, problem: str) -> None:
        self.line, self.problem = line, problem
        super().__init__(f"line {line}: {problem}")


@dataclass(frozen=True)
class Section:
    """A section: the arguments after ``%name`` on its line, and the lines below, unchanged."""

    name: str
    line: int
    arguments: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Copy:
    """A line of ``%files``: what is copied, and to which path in the image."""

    source: str
    target: str


@dataclass(frozen=True)
class Recipe:
    """A definition file with one stage. Keys of the header are in lower case."""

    header: dict[str, str]
    sections: tuple[Section, ...] = field(default=())

    def script(self, name: str) -> str:
        """The text of a section that is a script. Several sections of a name are concatenated; an absent one is
        empty.
        """
        return "".join(section.text for section in self.sections if section.name == name)

    def shell(self, name: str) -> tuple[str, ...]:
        """The command that runs the section: ``/bin/sh``, or what follows ``-c`` on the section's line."""
        for section in self.sections:
            if section.name == name and section.arguments[:1] == ("-c",):
                return section.arguments[1:]
        return ("/bin/sh",)

    def labels(self) -> dict[str, str]:
        pairs = (line.strip().partition(" ") for _, line in self._lines("labels"))
        return {key: value.strip() for key, _, value in pairs}

    def files(self) -> tuple[Copy, ...]:
        """The copies of ``%files`` in order; a line without a second path copies to the same path."""
        return tuple(_copy(number, line) for number, line in self._lines("files"))

    def _lines(self, name: str) -> Iterator[tuple[int, str]]:
        """The lines of sections that are lists, without empty lines and comments."""
        for section in self.sections:
            if section.name == name:
                for number, line in enumerate(section.text.splitlines(), section.line + 1):
                    if line.strip() and not line.strip().startswith("#"):
                        yield number, line


def _copy(number: int, line: str) -> Copy:
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise RecipeError(number, f"the paths cannot be parsed: {error}") from error
    if len(words) > 2:
        raise RecipeError(number, f"expected a source and a target, found {len(words)} words")
    return Copy(words[0], words[-1])


def read_recipe(path: Path) -> Recipe:
    """Read the recipe in a file, which must be UTF-8."""
    return parse_recipe(path.read_text(encoding="utf-8"))


def parse_recipe(text: str) -> Recipe:
    """Parse a recipe. Raises :class:`RecipeError` for what Apptainer would refuse, and for a second stage."""
    lines = text.splitlines()
    starts = [at for at, line in enumerate(lines) if line.strip().startswith("%")]
    header = _header(lines[: starts[0]] if starts else lines)
    ends = [*starts[1:], len(lines)]
    return Recipe(header, tuple(_section(lines, *span) for span in zip(starts, ends, strict=True)))


def _header(lines: list[str]) -> dict[str, str]:
    header: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        key, colon, value = content.partition(":")
        key = key.strip().lower()
        if not colon or key.rstrip("0123456789") not in HEADER_KEYS:
            raise RecipeError(number, f"not a header line: {content}")
        if key in header:
            raise RecipeError(number, f"'{key}' appears twice: this begins another stage or is a mistake")
        header[key] = value.strip()
    if "bootstrap" not in header:
        raise RecipeError(1, "the header has no 'Bootstrap:' line")
    return header


def _section(lines: list[str], start: int, end: int) -> Section:
    words = lines[start].split()
    name = words[0][1:]
    if name not in SECTIONS:
        raise RecipeError(start + 1, f"unknown section '%{name}'")
    for at in range(start + 1, end):
        if lines[at].strip().lower().startswith("bootstrap:"):
            raise RecipeError(at + 1, "a second stage; only one is supported")
    return Section(name, start + 1, tuple(words[1:]), "".join(f"{line}\n" for line in lines[start + 1 : end]))
