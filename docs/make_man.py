"""Write the manual page ``man/icf-utils.1`` and the completion scripts: ``python docs/make_man.py [--check]``.

Both come from the program: the page from the help texts of all commands, the scripts from ``icf-utils completion``. The
wheel installs them where man and shells look. With ``--check`` nothing is written; the exit code is 1 if a file is not
what the program gives.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from argcomplete.shell_integration import shellcode

from icf_utils import __version__
from icf_utils.cli.parser import build_parser

DOCS = Path(__file__).parent
PAGE = DOCS / "man" / "icf-utils.1"
PROGRAMS = [
    *("icf-utils", "make_studyvisit_archive", "deposit_visit_metadata", "deposit_visit_dataset"),
    "catalogify_studyvisit_from_meta",
]
COMPLETIONS = {"bash": "icf-utils", "zsh": "_icf-utils", "fish": "icf-utils.fish"}

_HEAD = r""".\" Made by docs/make_man.py from the program's help texts.
.TH ICF\-UTILS 1 "" "icf\-utils {version}" "User Commands"
.SH NAME
icf\-utils \- reproducible archives, metadata, datasets and catalogs from DICOM visits
"""

_TAIL = r""".SH EXIT STATUS
0: done. 1: problems were found, and are printed. 2: a wrong command line, setting or identifier. 3: an input was
refused. 4: an existing file differs. 5: a file of the store is missing or damaged. 6: the operating system refused.
7: a program or package is missing. 8: another process holds a lock. 9: SLURM refused. 10: another system failed.
.SH SEE ALSO
.BR git\-annex (1),
.BR datalad (1),
.BR storescu (1)
"""


def manual_page() -> str:
    """The page in troff."""
    os.environ.update(COLUMNS="76", NO_COLOR="1")
    sections = [_HEAD.format(version=__version__.replace("-", r"\-"))]
    for name, text in _help_texts(build_parser()):
        title = "SYNOPSIS AND COMMANDS" if " " not in name else name.upper()
        sections.append(f".SH {_escaped(title)}\n.nf\n{_escaped(text.rstrip())}\n.fi\n")
    return "".join(sections) + _TAIL


def _help_texts(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """The help of a parser and of all its subcommands, however deep."""
    yield parser.prog, parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _help_texts(subparser)


def _escaped(text: str) -> str:
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"(?m)^([.'])", r"\\&\1", text)


def made_files() -> dict[Path, str]:
    """All files with their texts."""
    scripts = {DOCS / "completion" / name: shellcode(PROGRAMS, shell=shell) for shell, name in COMPLETIONS.items()}
    return {PAGE: manual_page(), **{path: text.strip("\n") + "\n" for path, text in scripts.items()}}


def main(arguments: list[str]) -> int:
    """Write the files, or compare them; versions of Python and argcomplete differ in white space and details."""
    if arguments == ["--check"]:
        known = re.sub(r"\s|\\", "", PAGE.read_text(encoding="utf-8")) if PAGE.exists() else ""
        return int(known != re.sub(r"\s|\\", "", manual_page()) or not all(path.exists() for path in made_files()))
    for path, text in made_files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
