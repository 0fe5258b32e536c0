"""A question before something is replaced or removed: asked on a terminal; elsewhere, ``--yes`` is the answer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from icf_utils.cli.console import Console, is_on_terminal
from icf_utils.errors import InvalidSetting


def add_yes(parser: argparse.ArgumentParser) -> None:
    """``--yes``."""
    parser.add_argument("--yes", action="store_true", help="do not ask; needed where nobody can answer")


class Confirmation:
    """Shows what would be done and asks whether to do it.

    Raises :class:`~icf_utils.errors.InvalidSetting` at once where nobody can answer and the answer was not given.
    """

    def __init__(self, console: Console, yes: bool, dry_run: bool = False) -> None:
        self._console, self._yes, self._dry_run = console, yes, dry_run
        #: Lines that belong to the result, as they were not shown before a question.
        self.not_shown: Sequence[str] = ()
        can_answer = sys.stdin is not None and sys.stdin.isatty() and is_on_terminal()
        if not (yes or dry_run or can_answer):
            problem = "is required without a terminal; --dry-run shows what would change"
            raise InvalidSetting("--yes", problem)

    def ask(self, lines: Sequence[str], what: str) -> bool:
        """Whether to do it: ``what`` is a verb phrase."""
        if self._yes or self._dry_run:
            self.not_shown = lines
            return self._yes and not self._dry_run
        for line in lines:
            self._console.message(line)
        return self._console.ask(f"{what[0].upper()}{what[1:]}?")
