"""Completion of a command line that is being typed, for the script of ``icf-utils completion``.

The script runs the program with the line in the environment, as argcomplete defines it. Reads the store that the line
names, for its studies and visits.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from icf_utils.cli.parser import Parser, build_parser
from icf_utils.errors import IcfError

_Completer = Callable[..., Iterable[str]]


class _PlainParser(Parser):
    """Reads words from left to right as argparse does, which argcomplete relies on."""

    parse_known_args = argparse.ArgumentParser.parse_known_args  # type: ignore[assignment]
    _check_value = argparse.ArgumentParser._check_value
    error = argparse.ArgumentParser.error

    @property
    def subcommands_action(self) -> type[argparse.Action]:
        return argparse._SubParsersAction


def complete_line(command: str = "") -> None:
    """Print the completions of the line, and end the process. ``command`` is the one that runs under its own name."""
    import argcomplete

    parser = build_parser(_PlainParser)
    if command:
        parser = parser.subcommands[command]
    _set_completers(parser)
    argcomplete.autocomplete(parser, always_complete_options=False)
    sys.exit(0)


def _set_completers(parser: Parser) -> None:
    from argcomplete.completers import DirectoriesCompleter, FilesCompleter

    folders, files, nothing = DirectoriesCompleter(), FilesCompleter(), _nothing
    by_metavar: dict[object, _Completer] = {
        "STORE": folders,
        "DIR": folders,
        "STUDY": _studies,
        "STUDY[/VISIT]": _targets,
        ("STUDY", "VISIT"): _identifiers,
    }
    by_metavar |= dict.fromkeys(("FILE", "PATH", "INPUT", "SOURCE", "ROOT", "SETTINGS", "IMAGE.sif"), files)
    for action in parser._actions:
        if action.choices is None and action.nargs != 0:
            action.completer = by_metavar.get(action.metavar, nothing)  # type: ignore[attr-defined]
    for below in parser.subcommands.values():
        _set_completers(below)


def _nothing(**_: object) -> Sequence[str]:
    """Values that nobody can guess, such as numbers; without this, names of files would be offered."""
    return ()


def _studies(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    return [study for study, _ in _stored_visits(parsed_args)]


def _targets(parsed_args: argparse.Namespace, prefix: str, **_: object) -> list[str]:
    """Studies; once one is typed with its slash, its visits."""
    known = _stored_visits(parsed_args)
    if "/" in prefix:
        return [f"{study}/{visit}" for study, visits in known for visit in visits]
    return [study for study, _ in known]


def _identifiers(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """For ``--id``: a study, then a visit of it."""
    typed = os.environ["COMP_LINE"].encode()[: int(os.environ["COMP_POINT"])].decode("utf-8", "ignore")
    words = typed.split() if typed.endswith(" ") else typed.split()[:-1]
    named = words[len(words) - words[::-1].index("--id") :] if "--id" in words else []
    if not named:
        return _studies(parsed_args)
    return [visit for study, visits in _stored_visits(parsed_args) if study == named[0] for visit in visits]


def _stored_visits(parsed_args: argparse.Namespace) -> list[tuple[str, list[str]]]:
    from icf_utils.store.layout import list_studies

    try:
        return [(study.study, study.visits()) for study in list_studies(Path(parsed_args.store_dir or "."))]
    except (IcfError, OSError):
        return []
