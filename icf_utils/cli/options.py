"""Options that several subcommands share."""

from __future__ import annotations

import argparse
import sys


class _Deprecated(argparse.Action):
    """An option's former name: works, and says what it is called now."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        print(f"warning: {option} is deprecated, use -o/--store-dir", file=sys.stderr)  # noqa: T201
        setattr(namespace, self.dest, values)


def add_store(parser: argparse.ArgumentParser) -> None:
    """``-o/--store-dir``, and its former name."""
    parser.add_argument(
        "-o", "--store-dir", metavar="PATH", default=".", help="root of the store (default: the current directory)"
    )
    parser.add_argument("--output-dir", dest="store_dir", metavar="PATH", action=_Deprecated, help=argparse.SUPPRESS)


def add_id(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """``--id STUDY-ID VISIT-ID``."""
    parser.add_argument(
        "--id",
        nargs=2,
        metavar=("STUDY-ID", "VISIT-ID"),
        required=required,
        help="identifiers of study and visit; they name the files: letters, digits, '.', '_' and '-'",
    )


def add_store_url(parser: argparse.ArgumentParser) -> None:
    """``--store-url`` and ``--store-id``."""
    parser.add_argument(
        "--store-url",
        metavar="URL",
        help="where the store is served; file:///path works too (default: 'url' in [store] of the store's icf.toml, "
        "else https://data.inm-icf.de)",
    )
    parser.add_argument(
        "--store-id",
        metavar="NAME",
        help="identity of the store in its datasets, for stores that move (default: 'id' in icf.toml, else the URL)",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """``--quiet`` and ``--json``."""
    parser.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors only")
    parser.add_argument("--json", action="store_true", help="print one JSON object with the result on standard output")


def add_strip(parser: argparse.ArgumentParser) -> None:
    """``--strip-components N``."""
    parser.add_argument(
        "--strip-components",
        metavar="N",
        type=_count,
        default=0,
        help="remove the first N folders of every name in a zip or tar",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 3:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of folders")
    return int(text)


def small_number(text: str) -> int:
    """An argument's type: 0 to 99999. Raises ``argparse.ArgumentTypeError``."""
    if not text.isdecimal() or len(text) > 5:
        raise argparse.ArgumentTypeError(f"'{text}' is no number")
    return int(text)


def seconds(text: str) -> float:
    """An argument's type: seconds, with or without a fraction. Raises ``argparse.ArgumentTypeError``."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds")
    return value


def positive_seconds(text: str) -> float:
    """The same, and more than none."""
    value = seconds(text)
    if not value:
        raise argparse.ArgumentTypeError("must be more than 0 seconds")
    return value
