"""The program: parses the command line, runs the subcommand, and turns what it raises into messages and exit codes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import NoReturn

from icf_utils.cli.complete import complete_line
from icf_utils.cli.console import Console, flush_streams, prepare_streams
from icf_utils.cli.parser import UsageError, build_parser
from icf_utils.cli.version import show_version
from icf_utils.errors import IcfError, InvalidSetting, StorageFailure
from icf_utils.interrupts import noted_leftovers, on_signal, quiet_interrupts, remove_unfinished

#: Exit codes in addition to those of the errors (see ``icf_utils/errors.py``).
EXIT_BUG, EXIT_INTERRUPTED, EXIT_TERMINATED = 70, 130, 143


class _Terminated(SystemExit):
    """TERM or HUP was received."""


#: What ends a command from outside: its name in messages and the exit code.
_ENDS: Mapping[type[BaseException], tuple[str, int]] = {
    KeyboardInterrupt: ("Interrupted", EXIT_INTERRUPTED),
    _Terminated: ("Terminated", EXIT_TERMINATED),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (documented in ``docs/errors.md``)."""
    prepare_streams()
    if arguments is None:  # not called by another program
        quiet_interrupts()
    given = sys.argv[1:] if arguments is None else arguments
    if "_ARGCOMPLETE" in os.environ:
        complete_line(given[0] if arguments is not None and given else "")
    try:
        parser = build_parser()
        args = parser.parse_args(given)
        args.command_line = tuple(given)
        console = Console(quiet=args.quiet or args.json, as_json=args.json)
        if renamed := getattr(args, "renamed", None):
            console.warning(f"{renamed[0]} is deprecated, use {renamed[1]}")
        if args.version:
            return show_version(args, console)
        if args.verbose:
            raise UsageError(parser, "-v/--verbose needs --version")
        return _run(args, console)
    except StorageFailure as error:  # help could not be written
        Console(quiet=False, as_json=False).error("", error)
        return error.exit_code
    except UsageError as error:
        console = Console(quiet=False, as_json="--json" in given)
        console.message(error.usage.rstrip("\n"))
        console.error(error.command, InvalidSetting("command line", str(error)))
        return InvalidSetting.exit_code
    finally:
        flush_streams()


def _run(args: argparse.Namespace, console: Console) -> int:
    _listen()
    try:
        code: int = args.run(args, console)
        return code
    except IcfError as error:
        left = noted_leftovers(error)
        console.failure(args.command, type(error).__name__, f"{error}; {left}" if left else str(error), error.exit_code)
        return error.exit_code
    except OSError as error:  # no stage has turned it into an error of its own
        console.error(args.command, StorageFailure(_file_of(error), "use", error))
        return StorageFailure.exit_code
    except (KeyboardInterrupt, _Terminated) as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # cleaning up is quick, and must not be interrupted
        remove_unfinished()
        kind, code = _ENDS[type(stop)]
        left = noted_leftovers(stop) or "nothing half-written was left behind"
        console.failure(args.command, kind, f"{kind.lower()}; {left}", code)
        return code
    except Exception as error:  # noqa: BLE001 - the last resort
        return _bug(args.command, error, console)
    finally:
        if "icf_utils.store.files" in sys.modules:
            from icf_utils.store.files import take_unsynced

            console.notices(take_unsynced())


def _file_of(error: OSError) -> str:
    name = error.filename
    return os.fsdecode(name) if name and isinstance(name, (str, bytes)) else "a file"


def _listen() -> None:
    """Clean up on TERM, and on HUP when the terminal is closed (unless started by ``nohup``)."""
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _terminate)


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    on_signal(number)
    raise KeyboardInterrupt


def _terminate(number: int, _frame: FrameType | None) -> None:
    """Unwind, so that unfinished files are removed; later signals are ignored."""
    on_signal(number)
    signal.signal(number, signal.SIG_IGN)
    raise _Terminated(EXIT_TERMINATED)


def _bug(command: str, error: Exception, console: Console) -> int:
    """Report a bug by its place and type; the text of the exception may contain header values."""
    if os.environ.get("ICF_DEBUG"):
        raise error
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    where = f"{os.path.basename(place.tb_frame.f_code.co_filename)}:{place.tb_lineno}" if place else "?"
    message = (
        f"internal error ({type(error).__name__} at {where}); please report it. "
        "ICF_DEBUG=1 shows the details, which may contain header values"
    )
    console.failure(command, "InternalError", message, EXIT_BUG)
    return EXIT_BUG


if __name__ == "__main__":
    sys.exit(main())
