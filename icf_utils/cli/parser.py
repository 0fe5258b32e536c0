"""How a command line is read: the table of subcommands, and argparse with this program's conventions.

- Options count wherever they are written: before or after a subcommand, between its operands or after them. What a
  subcommand cannot use is refused, never dropped.
- A word that is not known is answered with the one that was probably meant.
- A group, or the program, without a subcommand shows its help.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from icf_utils.cli import (
    catalog,
    catalogify_studyvisit_from_meta,
    clone,
    completion,
    configure_clone,
    deposit_visit_dataset,
    deposit_visit_metadata,
    doctor,
    export,
    get,
    ingest,
    init,
    make_studyvisit_archive,
    process,
    receive,
    retrieve,
    run,
    schema,
    send,
    sessions,
    sign,
    status,
    study_uid,
    verify,
    visit,
    xnat,
)
from icf_utils.cli.command import Command, Group
from icf_utils.cli.console import Console, print_help
from icf_utils.cli.options import add_output
from icf_utils.errors import printable

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

PROGRAM = "icf-utils"

_COMMANDS: Sequence[Command | Group] = (
    init,
    make_studyvisit_archive,
    deposit_visit_metadata,
    deposit_visit_dataset,
    catalogify_studyvisit_from_meta,
    catalog,
    run,
    process,
    status,
    verify,
    sign,
    visit,
    retrieve,
    export,
    clone,
    get,
    configure_clone,
    study_uid,
    send,
    receive,
    ingest,
    sessions,
    xnat,
    doctor,
    completion,
    schema,
)

_DESCRIPTION = """\
Turn each visit of an imaging study into a reproducible archive, JSON metadata,
a DataLad dataset and a page in a browsable catalog. One command for each of
these stages, in their order, for one visit:

  icf-utils init STORE --url URL
  icf-utils make_studyvisit_archive          -o STORE --id STUDY VISIT INPUT
  icf-utils deposit_visit_metadata           -o STORE --id STUDY VISIT
  icf-utils deposit_visit_dataset            -o STORE --id STUDY VISIT
  icf-utils catalogify_studyvisit_from_meta  -o STORE --id STUDY VISIT

All stages for many visits, only where needed:

  icf-utils run -o STORE --table VISITS.csv
"""


class UsageError(Exception):
    """A command line that cannot be understood; ``usage`` is the synopsis of the command that was meant."""

    def __init__(self, parser: argparse.ArgumentParser, message: str) -> None:
        self.usage, self.command = parser.format_usage(), parser.prog.partition(" ")[2]
        super().__init__(printable(message))


def build_parser(kind: type[Parser] | None = None) -> Parser:
    """The parser of the whole command line, and of all subcommands; the documentation's help texts are made from it."""
    kind = kind or Parser
    parser = kind(prog=PROGRAM, description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="with --version: also list Python, programs, packages and extras",
    )
    _finish(parser, None, _COMMANDS)
    return parser


def _finish(parser: Parser, module: Command | Group | None, members: Iterable[Command | Group]) -> None:
    """Add what every parser has: its own options, the output's, and the subcommands below it."""
    if isinstance(module, Command):
        module.add_arguments(parser)
        parser.set_defaults(run=module.run, command=module.NAME)
    else:
        parser.set_defaults(run=partial(_show_help, parser), command=module.NAME if module else "")
    add_output(parser)
    if not members:
        return
    parser.register("action", "parsers", parser.subcommands_action)
    below = parser.add_subparsers(title="commands", metavar="COMMAND", required=False, dest=argparse.SUPPRESS)
    for member in members:
        sub = below.add_parser(
            member.NAME.rpartition(" ")[2],
            help=member.HELP,
            description=f"{member.HELP[0].upper()}{member.HELP[1:]}.\n\n{member.DETAILS}",
            epilog=f"example:\n  {member.EXAMPLE}" if isinstance(member, Command) else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _finish(sub, member, member.COMMANDS if isinstance(member, Group) else ())


def _show_help(parser: Parser, _args: argparse.Namespace, _console: Console) -> int:
    parser.print_help()
    return 0


class Parser(argparse.ArgumentParser):
    """argparse's parser with the conventions of this module. Raises :class:`UsageError` where argparse would exit."""

    _takes_operands = True
    _relaxed: Sequence[argparse.Action | argparse._MutuallyExclusiveGroup] = ()

    def error(self, message: str) -> NoReturn:
        raise UsageError(self, message)

    @property
    def subcommands(self) -> Mapping[str, Parser]:
        """The parsers right below this one, by name."""
        return next((action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)), {})

    @property
    def subcommands_action(self) -> type[argparse.Action]:
        """How a subcommand's name and the words after it are taken."""
        return _Subcommands

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        words = self._move_options(list(sys.argv[1:] if args is None else args))
        self._refuse_unknown_options(words)
        if not self.subcommands:
            words = self._operands_last(words)
        found, left = super().parse_known_args(words, namespace)
        if left:
            self.error(f"unexpected argument '{left[0]}'")
        return found, left

    def _move_options(self, words: Sequence[str]) -> list[str]:
        """The same words, with options that this parser does not have after the subcommand that has them."""
        for position, word in enumerate(words):
            if word == "--":
                break
            if word in self.subcommands:
                split = self._split_options(words[:position], self.subcommands[word])
                if split is not None:
                    return [*split[0], word, *split[1], *words[position + 1 :]]
        return list(words)

    def _split_options(self, words: Sequence[str], below: Parser) -> tuple[list[str], list[str]] | None:
        """The options of this parser and those of ``below``, with their values; ``None`` if there is anything else."""
        own: list[str] = []
        moved: list[str] = []
        rest = list(words)
        while rest:
            mine = self._find_option(rest[0])
            option = mine or next(below.find_options(rest[0]), None)
            count = 1 + _count_values(option, rest[0]) if option else 0
            if not 0 < count <= len(rest):
                return None
            (own if mine else moved).extend(rest[:count])
            del rest[:count]
        return own, moved

    def _find_option(self, word: str) -> argparse.Action | None:
        """The option that a word names; a long one may be shortened, a short one followed by its value."""
        name = word.partition("=")[0] if word.startswith("--") else word[:2]
        known = self._option_string_actions
        if name in known or not name.startswith("--"):
            return known.get(name)
        return next((action for option, action in known.items() if option.startswith(name)), None)

    def find_options(self, word: str) -> Iterator[argparse.Action]:
        """The options of this name that this parser has and the subcommands below it."""
        own = self._find_option(word)
        if own:
            yield own
        for below in self.subcommands.values():
            yield from below.find_options(word)

    def _refuse_unknown_options(self, words: Sequence[str]) -> None:
        """Before all else: a misspelt option must not be reported as a required one that is missing."""
        for word in words:
            name = word.partition("=")[0]
            if word == "--" or word in self.subcommands:
                return
            if name.startswith("--") and " " not in name and not self._knows_option(name):
                self._refuse_option(name)
            if self.subcommands and word[:1] == "-" and word[:2] != "--" and not self._find_option(word):
                self._refuse_option(word[:2])

    def _knows_option(self, beginning: str) -> bool:
        return any(option.startswith(beginning) for option in self._option_string_actions)

    def _refuse_option(self, name: str) -> NoReturn:
        visible = [option for option, action in self._option_string_actions.items() if action.help != argparse.SUPPRESS]
        self.error(f"unknown option '{name}'{_did_you_mean(name, visible)}")

    def _operands_last(self, words: Sequence[str]) -> list[str]:
        """The same words with the operands at the end, so that argparse assigns all of them at once.

        It assigns operands as it reads them, and would refuse ``run study-a -j 2 study-b``.
        """
        at = words.index("--") if "--" in words else len(words)
        marked = [_Word(word) for word in words[:at]]
        with self._only_options():
            _, operands = super().parse_known_args(marked, argparse.Namespace())
        for word in operands:
            if word.startswith("-") and word != "-" and " " not in word:
                self._refuse_option(word)
        ids = {id(word) for word in operands}
        operands += words[at + 1 :]
        options = [str(word) for word in marked if id(word) not in ids]
        has_dash = any(word.startswith("-") for word in operands)
        return [*options, *(["--"] if has_dash else []), *map(str, operands)]

    @contextmanager
    def _only_options(self) -> Iterator[None]:
        """As if nothing but options had been declared, and none were required."""
        rules: list[argparse.Action | argparse._MutuallyExclusiveGroup] = [
            *(action for action in self._actions if action.required),
            *(group for group in self._mutually_exclusive_groups if group.required),
        ]
        for rule in rules:
            rule.required = False
        self._takes_operands, self._relaxed = False, rules
        try:
            yield
        finally:
            self._takes_operands, self._relaxed = True, ()
            for rule in rules:
                rule.required = True

    @contextmanager
    def _as_declared(self) -> Iterator[None]:
        """For help and usage that are asked for during :meth:`_only_options`."""
        for rule in self._relaxed:
            rule.required = True
        yield
        for rule in self._relaxed:
            rule.required = False

    def format_usage(self) -> str:
        with self._as_declared():
            return super().format_usage()

    def format_help(self) -> str:
        """As argparse's, but with the options that are required in a section before the others."""
        with self._as_declared():
            formatter = self._get_formatter()
            formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
            formatter.add_text(self.description)
            for group in self._action_groups:
                required = [action for action in group._group_actions if action.option_strings and action.required]
                others = [action for action in group._group_actions if action not in required]
                for title, actions in (("required options", required), (group.title, others)):
                    formatter.start_section(title)
                    formatter.add_text(group.description if actions is others else None)
                    formatter.add_arguments(actions)
                    formatter.end_section()
            formatter.add_text(self.epilog)
            return formatter.format_help()

    def _get_positional_actions(self) -> list[argparse.Action]:
        return super()._get_positional_actions() if self._takes_operands else []

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is None or value in action.choices:
            return
        known = list(map(str, action.choices))
        if isinstance(action, _Subcommands):
            hint = _did_you_mean(str(value), [*known, *_paths(self)])
            self.error(f"unknown command '{value}'{hint or f'; {self.prog} --help lists the commands'}")
        hint = _did_you_mean(str(value), known)
        raise argparse.ArgumentError(action, f"unknown value '{value}'{hint or f' (expected {_listed(known)})'}")

    def take_over(self, given: Mapping[str, object], words: Sequence[str], above: Parser) -> argparse.Namespace:
        """Parse the words after this subcommand's name. ``given`` are the values of options before the name."""
        mine = {action.dest: action for action in reversed(self._actions)}
        for dest in given:
            if dest not in mine:
                option = above.option_of(dest)
                self.error(f"{option} belongs to '{above.prog}' and cannot be combined with '{self.prog}'")
            mine[dest].required = False
        found, _ = self.parse_known_args(words, argparse.Namespace(**given))
        for group in self._mutually_exclusive_groups:
            used = {action.dest for action in group._group_actions if _differs(found, action)}
            if len(used) > 1:
                first, second = sorted(map(self.option_of, used))[:2]
                self.error(f"{second} cannot be combined with {first}")
        return found

    def option_of(self, dest: str) -> str:
        """The longest name of the option whose value is kept as ``dest``."""
        return next(max(action.option_strings, key=len) for action in self._actions if action.dest == dest)

    def given(self, namespace: argparse.Namespace) -> dict[str, object]:
        """The values in a namespace that do not come from defaults of this parser."""
        options = [action for action in self._actions if action.option_strings]
        return {action.dest: getattr(namespace, action.dest) for action in options if _differs(namespace, action)}

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Help and usage; argparse's own ignores that the output is full."""
        print_help(message, file)


if TYPE_CHECKING:
    _SubParsersAction = argparse._SubParsersAction[Parser]
else:
    _SubParsersAction = argparse._SubParsersAction


class _Subcommands(_SubParsersAction):
    """The subcommand's name and the words after it. Options before the name count as if they stood after it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        assert isinstance(parser, Parser)
        assert isinstance(values, list)
        name, *words = values
        found = self.choices[name].take_over(parser.given(namespace), words, parser)
        vars(namespace).update(vars(found))


class _Word(str):
    """A word of the command line; equal words differ by their identity."""

    __slots__ = ()


def _count_values(option: argparse.Action, word: str) -> int:
    """How many of the words after ``word`` are values of the option that it names."""
    is_joined = "=" in word if word.startswith("--") else len(word) > 2
    if option.nargs == 0 or is_joined:
        return 0
    return option.nargs if isinstance(option.nargs, int) else 1


def _differs(namespace: argparse.Namespace, action: argparse.Action) -> bool:
    """Whether an option was given a value other than its default. Aliases, which have no default, do not count."""
    return action.default != argparse.SUPPRESS and bool(getattr(namespace, action.dest) != action.default)


def _paths(parser: Parser) -> Iterator[str]:
    """All commands below a parser, as they are typed after its own name."""
    for name, below in parser.subcommands.items():
        yield name
        yield from (f"{name} {path}" for path in _paths(below))


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` if a known word is similar, else nothing. A command is found by its last word."""
    from difflib import get_close_matches

    paths = {path.rpartition(" ")[2]: path for path in reversed(list(known))}
    close = get_close_matches(word, paths, n=1, cutoff=0.65)
    return f"; did you mean '{paths[close[0]]}'?" if close else ""


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
