"""The shape of a subcommand: one module with these names, entered in the table of ``parser.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from icf_utils.cli.console import Console


@runtime_checkable
class Command(Protocol):
    """A module that is a subcommand.

    ``NAME`` is what users type after ``icf-utils``, with the group's name before it (``"sessions get"``). ``HELP`` is a
    verb phrase without a full stop, for lists; ``DETAILS`` says what the command does, in lines of at most 79
    characters; ``EXAMPLE`` is a complete command line, which a test parses.
    """

    NAME: str
    HELP: str
    DETAILS: str
    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and operands. Nothing heavy may be imported for it."""

    def run(self, args: argparse.Namespace, console: Console) -> int:
        """Do it; returns the exit code 0 or 1. Raises :class:`~icf_utils.errors.IcfError` for the other codes."""


@runtime_checkable
class Group(Protocol):
    """A module that is a group of subcommands. It may be a :class:`Command` itself, as ``sessions`` is."""

    NAME: str
    HELP: str
    DETAILS: str

    @property
    def COMMANDS(self) -> Sequence[Command | Group]:  # noqa: N802 - the name of a constant
        """The subcommands, in the order of the help."""
