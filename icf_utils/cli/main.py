"""The command line: finds the subcommand, runs it, and turns what it raises into messages and exit codes."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, NoReturn, TextIO

from icf_utils import __version__
from icf_utils.cli import (
    catalog,
    catalogify_studyvisit_from_meta,
    configure_clone,
    deposit_visit_dataset,
    deposit_visit_metadata,
    ingest,
    make_studyvisit_archive,
    receive,
    retrieve,
    run,
    send,
    sessions,
    status,
    study_uid,
    verify,
    xnat,
)
from icf_utils.cli.console import Console, abandon
from icf_utils.cli.options import add_output
from icf_utils.errors import IcfError, InvalidSetting, StorageFailure, printable
from icf_utils.interrupts import noted_leftovers, on_signal, quiet_interrupts, remove_unfinished

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

_COMMANDS = (
    make_studyvisit_archive,
    deposit_visit_metadata,
    deposit_visit_dataset,
    catalogify_studyvisit_from_meta,
    catalog,
    run,
    status,
    verify,
    retrieve,
    configure_clone,
    study_uid,
    send,
    receive,
    ingest,
    sessions,
    xnat,
)

#: Exit codes beside those of the errors (see ``icf_utils/errors.py``).
EXIT_BUG, EXIT_INTERRUPTED, EXIT_TERMINATED = 70, 130, 143

_DESCRIPTION = """\
Turn each visit of an imaging study into a reproducible archive, JSON metadata,
a DataLad dataset and a page in a browsable catalog. The four steps, in their
order, each for one visit:

  icf-utils make_studyvisit_archive          -o STORE --id STUDY VISIT INPUT
  icf-utils deposit_visit_metadata           -o STORE --id STUDY VISIT
  icf-utils deposit_visit_dataset            -o STORE --id STUDY VISIT --store-url URL
  icf-utils catalogify_studyvisit_from_meta  -o STORE --id STUDY VISIT

All steps for many visits, and only what is needed:

  icf-utils run -o STORE --table VISITS.csv
"""


class _UsageError(Exception):
    """A command line that makes no sense; ``usage`` says what would."""

    def __init__(self, parser: argparse.ArgumentParser, message: str) -> None:
        self.usage, self.command = parser.format_usage(), parser.prog.partition(" ")[2]
        super().__init__(printable(message))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(self, message)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """A subcommand refuses surplus words itself, so that its own usage is shown."""
        found, left = super().parse_known_args(args, namespace)
        if left and " " in self.prog:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return found, left

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Help and version; argparse's own takes no notice of an output that is full."""
        stream: TextIO = sys.stdout if file in (None, sys.stdout) else sys.stderr
        try:
            print(message, end="", file=stream, flush=True)
        except BrokenPipeError:
            abandon(stream)
        except OSError as error:
            abandon(stream)
            raise StorageFailure("standard output", "write to", error) from error


class _Terminated(SystemExit):
    """The signal TERM or HUP has come."""


#: What ends a command from outside: how it is called, and its exit code.
_ENDS: Mapping[type[BaseException], tuple[str, int]] = {
    KeyboardInterrupt: ("Interrupted", EXIT_INTERRUPTED),
    _Terminated: ("Terminated", EXIT_TERMINATED),
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of everything; the documentation's help texts are made from it."""
    parser = _Parser(prog="icf-utils", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"icf-utils {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in _COMMANDS:
        _add_command(commands, module)
    return parser


def _add_command(commands: argparse._SubParsersAction[_Parser], module: ModuleType, group: str = "") -> None:
    """Add a subcommand, or a group of them: a module that has ``COMMANDS``, and perhaps is a command by itself.

    A command is called like its module, without the group's name before it; ``NAME`` says otherwise.
    """
    name = getattr(module, "NAME", module.__name__.rpartition(".")[2].removeprefix(f"{group}_"))
    members, is_command = getattr(module, "COMMANDS", ()), hasattr(module, "run")
    sub = commands.add_parser(
        name,
        help=module.HELP,
        description=f"{module.HELP[0].upper()}{module.HELP[1:]}.\n\n{module.DETAILS}",
        epilog=f"example:\n  {module.EXAMPLE}" if is_command else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if is_command:
        module.add_arguments(sub)
        add_output(sub)
        sub.set_defaults(run=module.run, command=f"{group} {name}".lstrip())
    if members:
        nested = sub.add_subparsers(dest="subcommand", metavar="COMMAND", required=not is_command)
        for member in members:
            _add_command(nested, member, name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (documented in ``docs/errors.md``)."""
    _prepare_streams()
    if arguments is None:  # the process is ours
        quiet_interrupts()
    given = sys.argv[1:] if arguments is None else arguments
    try:
        args = build_parser().parse_args(given)
        return _run(args, Console(quiet=args.quiet or args.json, as_json=args.json))
    except StorageFailure as error:  # help was asked for, and there is no room for it
        Console(quiet=False, as_json=False).error("", error)
        return error.exit_code
    except _UsageError as error:
        console = Console(quiet=False, as_json="--json" in given)
        console.message(error.usage.rstrip("\n"))
        console.error(error.command, InvalidSetting("command line", str(error)))
        return InvalidSetting.exit_code
    finally:
        _finish_streams()


def _run(args: argparse.Namespace, console: Console) -> int:
    _listen()
    try:
        code: int = args.run(args, console)
        return code
    except IcfError as error:
        left = noted_leftovers(error)
        console.failure(args.command, type(error).__name__, f"{error}; {left}" if left else str(error), error.exit_code)
        return error.exit_code
    except OSError as error:  # one that no stage could name better
        console.error(args.command, StorageFailure(_file_of(error), "use", error))
        return StorageFailure.exit_code
    except (KeyboardInterrupt, _Terminated) as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what follows is short
        remove_unfinished()
        kind, code = _ENDS[type(stop)]
        left = noted_leftovers(stop) or "nothing half-written was left behind"
        console.failure(args.command, kind, f"{kind.lower()}; {left}", code)
        return code
    except Exception as error:  # noqa: BLE001 - the last resort
        return _bug(args.command, error, console)


def _file_of(error: OSError) -> str:
    name = error.filename
    return os.fsdecode(name) if name and isinstance(name, (str, bytes)) else "a file"


def _listen() -> None:
    """End in an orderly way when asked to, and when the terminal goes (unless ``nohup`` says otherwise)."""
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _terminate)


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    on_signal(number)
    raise KeyboardInterrupt


def _terminate(number: int, _frame: FrameType | None) -> None:
    """Unwind, so that unfinished files are removed; once is enough."""
    on_signal(number)
    signal.signal(number, signal.SIG_IGN)
    raise _Terminated(EXIT_TERMINATED)


def _bug(command: str, error: Exception, console: Console) -> int:
    """A fault of ours: its place and kind, not its text, which may hold header values."""
    if os.environ.get("ICF_DEBUG"):
        raise error
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    where = f"{os.path.basename(place.tb_frame.f_code.co_filename)}:{place.tb_lineno}" if place else "?"
    message = (
        f"internal error ({type(error).__name__} at {where}); please report it. "
        "ICF_DEBUG=1 shows the details, which may hold header values"
    )
    console.failure(command, "InternalError", message, EXIT_BUG)
    return EXIT_BUG


def _prepare_streams() -> None:
    """Messages are UTF-8 whatever the locale; what cannot be encoded is escaped, never an error.

    Streams that the caller has closed lead nowhere.
    """
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _nowhere() -> TextIO:
    """A stream that stays open as long as the process."""
    return open(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False)


def _finish_streams() -> None:
    """What still waits, nobody may be there to read."""
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        abandon(stream)


if __name__ == "__main__":
    sys.exit(main())
