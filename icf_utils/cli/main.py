"""The command line: finds the subcommand, runs it, and turns what it raises into messages and exit codes."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from icf_utils import __version__
from icf_utils.cli import (
    catalogify_studyvisit_from_meta,
    deposit_visit_dataset,
    deposit_visit_metadata,
    make_studyvisit_archive,
    verify,
)
from icf_utils.cli.console import Console
from icf_utils.cli.options import add_output
from icf_utils.errors import IcfError, StorageFailure

_COMMANDS = (
    make_studyvisit_archive,
    deposit_visit_metadata,
    deposit_visit_dataset,
    catalogify_studyvisit_from_meta,
    verify,
)

#: Exit codes beside those of the errors (see ``icf_utils/errors.py``).
EXIT_BUG, EXIT_INTERRUPTED, EXIT_TERMINATED = 70, 130, 143

_DESCRIPTION = """\
Turn each visit of an imaging study into a reproducible archive, JSON metadata, a DataLad dataset and a page in a
browsable catalog. The four steps, in their order, each for one visit:

  icf-utils make_studyvisit_archive          -o STORE --id STUDY VISIT INPUT
  icf-utils deposit_visit_metadata           -o STORE --id STUDY VISIT
  icf-utils deposit_visit_dataset            -o STORE --id STUDY VISIT --store-url URL
  icf-utils catalogify_studyvisit_from_meta  -o STORE --id STUDY VISIT
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of everything; the documentation's help texts are made from it."""
    parser = argparse.ArgumentParser(
        prog="icf-utils", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"icf-utils {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in _COMMANDS:
        name = module.__name__.rpartition(".")[2]
        sub = commands.add_parser(
            name,
            help=module.HELP,
            description=f"{module.HELP[0].upper()}{module.HELP[1:]}.\n\n{module.DETAILS}",
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        add_output(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (documented in ``docs/errors.md``)."""
    _speak_utf8()
    args = build_parser().parse_args(arguments)
    console = Console(quiet=args.quiet or args.json, as_json=args.json)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code: int = args.run(args, console)
        return code
    except IcfError as error:
        console.error(args.command, error)
        return error.exit_code
    except OSError as error:  # one that no stage could name better
        console.error(args.command, StorageFailure(error.filename or "a file", "use", error))
        return StorageFailure.exit_code
    except KeyboardInterrupt:
        console.message("interrupted; nothing half-written was left behind")
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort
        return _bug(args.command, error)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    """Unwind, so that unfinished files are removed."""
    raise SystemExit(EXIT_TERMINATED)


def _bug(command: str, error: Exception) -> int:
    """A fault of ours: its place and kind, not its text, which may hold header values."""
    if os.environ.get("ICF_DEBUG"):
        raise error
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    where = f"{os.path.basename(place.tb_frame.f_code.co_filename)}:{place.tb_lineno}" if place else "?"
    print(  # noqa: T201
        f"icf-utils {command}: internal error ({type(error).__name__} at {where}); please report it. "
        "ICF_DEBUG=1 shows the details, which may hold header values",
        file=sys.stderr,
    )
    return EXIT_BUG


def _speak_utf8() -> None:
    """Messages are UTF-8 whatever the locale; what cannot be encoded is escaped, never an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
