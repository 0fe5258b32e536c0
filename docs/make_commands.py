"""Write ``commands.md`` from the program's own help texts: ``python docs/make_commands.py [--check]``.

With ``--check`` nothing is written; the exit code is 1 if the page differs from the help texts.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import make_man

from icf_utils.cli.parser import build_parser

PAGE = Path(__file__).with_name("commands.md")

_INTRODUCTION = """\
# Commands

The help texts of the program, as `icf-utils COMMAND --help` prints them. `docs/make_commands.py` generates this page,
and a test compares it with the program.

| what | is written |
|---|---|
| a store | `-o STORE` or `--store-dir STORE`; the current directory if omitted, where a command needs one |
| one visit | `--id STUDY VISIT` |
| several visits | `STUDY` or `STUDY/VISIT`, any number of them |
| a folder to download to | `-d DIR` or `--directory DIR` |
| a dry run | `-n` or `--dry-run` |
| things at a time | `-j N` or `--jobs N` |

Options may be written before or after a subcommand and between operands. Long options may be abbreviated. The
commands of the four stages are also installed under their own names: `make_studyvisit_archive ...` is the same as
`icf-utils make_studyvisit_archive ...`. `icf-utils completion SHELL` prints a script for completion in bash, zsh or
fish.

Results are printed on standard output; progress, warnings and errors on standard error. With `--json`, standard
output is one JSON object: `{"command": ..., "ok": true, "result": {...}}`, or with `"ok": false`, an `exit_code` and
an `error` with a `type` and a `message`. `icf-utils schema COMMAND` prints the JSON Schema of
the result; {doc}`errors` lists the exit codes.
"""


def commands_page() -> str:
    """The page's text."""
    return _INTRODUCTION + "".join(f"\n## {name}\n\n```text\n{text}```\n" for name, text in _help_texts())


def _help_texts() -> Iterator[tuple[str, str]]:
    os.environ.update(COLUMNS="80", NO_COLOR="1")
    yield from _below(build_parser())


def _below(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """The help of a parser and of all its subcommands."""
    yield parser.prog, parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _below(subparser)


def same_help(one: str, other: str) -> bool:
    """Whether two pages have the same text; versions of Python differ in white space and in the form of options."""
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
        sys.stderr.write(f"{PAGE.name} differs from the program's help; run: python docs/make_commands.py\n")
        return 1
    PAGE.write_text(page, encoding="utf-8")
    make_man.main([])  # made from the same help texts
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
