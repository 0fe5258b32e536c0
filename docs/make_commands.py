"""Write ``commands.md`` from the program's own help texts: ``python docs/make_commands.py [--check]``.

With ``--check`` nothing is written; the exit code is 1 if the page is not what the program says.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from icf_utils.cli.parser import build_parser

PAGE = Path(__file__).with_name("commands.md")

_INTRODUCTION = """\
# Commands

The help texts of the program, as `icf-utils COMMAND --help` prints them. This page is made by
`docs/make_commands.py` and compared with the program by a test.

The four commands that make something are also installed under their own names: `make_studyvisit_archive ...` is the
same as `icf-utils make_studyvisit_archive ...`, and so on.

Results are printed on standard output; progress, warnings and errors on standard error. With `--json`, standard
output holds one JSON object: `{"command": ..., "ok": true, "result": {...}}`, or with `"ok": false`, an `exit_code`
and an `error` of a `type` and a `message`. `icf-utils schema COMMAND` prints its JSON Schema; exit codes are under
{doc}`errors`.
"""


def commands_page() -> str:
    """The page's text."""
    return _INTRODUCTION + "".join(f"\n## {name}\n\n```text\n{text}```\n" for name, text in _help_texts())


def _help_texts() -> Iterator[tuple[str, str]]:
    os.environ.update(COLUMNS="80", NO_COLOR="1")
    yield from _below(build_parser())


def _below(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """The help of a parser and of all its subcommands, however deep."""
    yield parser.prog, parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _below(subparser)


def same_help(one: str, other: str) -> bool:
    """Whether two pages say the same: versions of Python differ in white space and in joining an option's names."""
    return _essence(one) == _essence(other)


def _essence(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(-\w) ([A-Z-]+), (--[\w-]+) \2", r"\1, \3 \2", text)
    return text.replace(" ", "")


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    page = commands_page()
    if arguments == ["--check"]:
        if same_help(page, PAGE.read_text(encoding="utf-8")):
            return 0
        sys.stderr.write(f"{PAGE.name} is not what the program's help says; run: python docs/make_commands.py\n")
        return 1
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
