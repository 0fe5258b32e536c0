"""Options and operands that several subcommands share: one name and one meaning for each thing.

A store is ``-o/--store-dir``; one visit is ``--id STUDY VISIT``; several are ``STUDY`` or ``STUDY/VISIT`` operands; a
folder for what is downloaded is ``-d/--directory``; a dry run is ``-n/--dry-run``; parallel work is ``-j/--jobs``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.durations import parse_duration
from icf_utils.errors import printable

if TYPE_CHECKING:
    from icf_utils.fetch.tls import TlsFiles


class _Renamed(argparse.Action):
    """The former name of an option. It works; ``main`` prints a warning with the present name."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        namespace.renamed = (option_string, "-o/--store-dir")
        setattr(namespace, self.dest, values)


def add_store(parser: argparse.ArgumentParser, default: str | None = ".") -> None:
    """``-o/--store-dir``: the store on this machine. Its former name ``--output-dir`` still works."""
    what = "root of the store" + (" (default: the current directory)" if default == "." else "")
    parser.add_argument("-o", "--store-dir", metavar="STORE", default=default, help=what)
    parser.add_argument("--store", dest="store_dir", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--output-dir", dest="store_dir", default=argparse.SUPPRESS, action=_Renamed, help=argparse.SUPPRESS
    )


def add_id(parser: argparse.ArgumentParser, required: bool = True, what: str = "study and visit") -> None:
    """``--id STUDY VISIT``: one visit."""
    parser.add_argument(
        "--id",
        nargs=2,
        metavar=("STUDY", "VISIT"),
        required=required,
        help=f"{what}; identifiers consist of letters, digits, '.', '_' and '-'",
    )


def add_targets(parser: argparse.ArgumentParser, default: str) -> None:
    """``STUDY[/VISIT]`` operands and ``--id``: any number of visits."""
    parser.add_argument(
        "targets", nargs="*", metavar="STUDY[/VISIT]", help=f"studies or visits to select (default: {default})"
    )
    parser.add_argument(
        "--id",
        nargs=2,
        action="append",
        default=[],
        metavar=("STUDY", "VISIT"),
        help="select one visit; the same as STUDY/VISIT",
    )


def targets_of(args: argparse.Namespace) -> list[str]:
    """The selected studies and visits, as ``STUDY`` or ``STUDY/VISIT``; empty where all are meant."""
    return [*(target.rstrip("/") for target in args.targets), *("/".join(pair) for pair in args.id)]


def add_source(parser: argparse.ArgumentParser) -> None:
    """``[SOURCE]``, or a deposited visit by ``-o`` and ``--id``: what to read. See :func:`path_of_source`."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        help="a folder, zip, tar or DICOM file; or name a deposited visit with -o and --id",
    )
    add_store(parser)
    add_id(parser, required=False, what="take the archive of this visit")


def path_of_source(args: argparse.Namespace) -> Path:
    """SOURCE, or the archive of the visit that ``-o`` and ``--id`` name.

    Raises :class:`~icf_utils.errors.InvalidSetting` unless it is one of them, and
    :class:`~icf_utils.errors.DepositMissing` for a visit without an archive.
    """
    from icf_utils.errors import DepositMissing, InvalidSetting
    from icf_utils.store.layout import Visit

    if bool(args.source) == bool(args.id):
        raise InvalidSetting("command line", "name either SOURCE or a deposited visit (-o and --id)")
    if args.source:
        return Path(args.source)
    visit = Visit(Path(args.store_dir), *args.id)
    if not visit.archive.exists():
        raise DepositMissing(visit.archive, "check -o and --id")
    return visit.archive


def add_directory(parser: argparse.ArgumentParser) -> None:
    """``-d/--directory``: where downloads go."""
    parser.add_argument(
        "-d", "--directory", metavar="DIR", default=".", help="folder to write to (default: the current directory)"
    )


def add_new(parser: argparse.ArgumentParser) -> None:
    """``--new``."""
    parser.add_argument("--new", action="store_true", help="make a new store if the folder is not one (see 'init')")


def check_store(args: argparse.Namespace, console: Console, store: Path) -> None:
    """Refuse to make a store that nobody asked for; say it where one is made.

    Raises :class:`~icf_utils.errors.InvalidSetting`.
    """
    from icf_utils.store.existing import refuse_unintended_store

    if refuse_unintended_store(store, args.new) and args.new and not getattr(args, "dry_run", False):
        console.message(f"making a new store in '{printable(store)}'")


def add_store_url(parser: argparse.ArgumentParser) -> None:
    """``--store-url`` and ``--store-id``."""
    parser.add_argument(
        "--store-url",
        metavar="URL",
        help="address of the store for its readers; file:///path is allowed (default: 'url' in [store] of the store's "
        "icf.toml, else ICF_STORE_URL)",
    )
    parser.add_argument(
        "--store-id",
        metavar="NAME",
        help="identity of the store, from which the UUIDs of datasets are computed; keeps them the same if the address "
        "changes (default: 'id' in [store], else the address)",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """``--quiet`` and ``--json``."""
    parser.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors only")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on standard output")


def add_jobs(parser: argparse.ArgumentParser, what: str, default: int | None = None) -> None:
    """``-j/--jobs``: how many at a time; None where the store's settings or the processors decide."""
    text = "one for each processor" if default is None else str(default)
    parser.add_argument(
        "-j", "--jobs", metavar="N", type=number, default=default, help=f"{what} at a time (default: {text})"
    )


def add_dry_run(parser: argparse._ActionsContainer, what: str) -> None:
    """``-n/--dry-run``, to a parser or to a group of options."""
    parser.add_argument("-n", "--dry-run", action="store_true", help=what)


def add_selection(parser: argparse.ArgumentParser, series: str) -> None:
    """Add ``--modality``, ``--series`` and ``--tag``; ``series`` is what names a series."""
    parser.add_argument(
        "--modality",
        metavar="MODALITY",
        action="append",
        default=[],
        help="select the images of a modality, such as MR; may be given several times",
    )
    parser.add_argument(
        "--series",
        metavar=series,
        action="append",
        default=[],
        help="select a series; may be given several times",
    )
    parser.add_argument(
        "--tag",
        metavar="KEYWORD=VALUE",
        action="append",
        default=[],
        help="select images with this value; KEYWORD~TEXT: whose value contains TEXT in upper or lower case; "
        "'KEYWORD<NUMBER' (or <=, >, >=): by order; if given several times, all must match",
    )


def connections(text: str) -> int:
    """The type of an option with a number of connections."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:4]) <= 64):
        raise argparse.ArgumentTypeError(f"expected a number from 1 to 64, found '{text}'")
    return int(text)


def add_strip(parser: argparse.ArgumentParser) -> None:
    """``--strip-components``."""
    parser.add_argument(
        "--strip-components",
        metavar="N",
        type=number,
        default=0,
        help="remove the first N folders from every name in a zip or tar",
    )


def add_levels(parser: argparse._ActionsContainer) -> None:
    """``--levels``, to a parser or to a group of options: the meaning of folders in a tree."""
    parser.add_argument(
        "--levels",
        metavar="LEVELS",
        default="subject/session/scan",
        help="meaning of the folder levels (default: %(default)s); '*' is a level without a meaning",
    )


def add_exclude(parser: argparse.ArgumentParser) -> None:
    """``--exclude``: scans to leave out."""
    parser.add_argument(
        "--exclude",
        metavar="FILE",
        type=Path,
        help='leave out scans whose folder name contains a word of FILE: {"Exclude": ["localizer", ...]}',
    )


def add_login(parser: argparse.ArgumentParser, server: str, token: str, user: str = "") -> None:
    """``--user``, ``--password-file`` and ``--token-file``. Secrets are never taken from the command line."""
    parser.add_argument("--user", metavar="NAME", default="", help=f"user name for {server}{user}")
    parser.add_argument("--password-file", metavar="FILE", type=Path, help="file with the user's password")
    parser.add_argument("--token-file", metavar="FILE", type=Path, help=f"file with {token}, instead of a user")


def add_ca(parser: argparse.ArgumentParser, condition: str = "") -> None:
    """``--ca``: the certificates that are trusted instead of the default ones (:mod:`icf_utils.fetch.tls`)."""
    parser.add_argument(
        "--ca", metavar="FILE", type=Path, help=f"{condition}trusted CA certificates (PEM; default: the system's)"
    )


def add_tls(parser: argparse.ArgumentParser, condition: str = "") -> None:
    """``--ca``, ``--cert`` and ``--key``."""
    add_ca(parser, condition)
    parser.add_argument("--cert", metavar="FILE", type=Path, help=f"{condition}client certificate (PEM)")
    parser.add_argument(
        "--key",
        metavar="FILE",
        type=Path,
        help=f"{condition}private key of the certificate, if not in the same file",
    )


def tls_of(args: argparse.Namespace) -> TlsFiles | None:
    """The files that the options of :func:`add_tls` name, ``None`` for none."""
    from icf_utils.fetch.tls import TlsFiles

    files = (args.ca, args.cert, args.key)
    return TlsFiles(*files) if any(files) else None


def add_allow(parser: argparse.ArgumentParser, checks: Sequence[str], action: str) -> None:
    """``--allow``."""
    parser.add_argument(
        "--allow",
        metavar="CHECK",
        action="append",
        default=[],
        choices=checks,
        help=f"{action} that this check refuses; can be repeated. Checks: {', '.join(checks)}",
    )


def refused_of(args: argparse.Namespace, checks: Sequence[str]) -> tuple[str, ...]:
    """The checks for which a visit is refused."""
    return tuple(check for check in checks if check not in args.allow)


def number(text: str) -> int:
    """An argument's type: 0 to 99999. Raises ``argparse.ArgumentTypeError``."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 99999, found '{text}'")
    return int(text)


def port(text: str) -> int:
    """An argument's type: a TCP port, 0 to 65535. Raises ``argparse.ArgumentTypeError``."""
    if not (text.isascii() and text.isdecimal() and int(text[:6]) <= 65535):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, found '{text}'")
    return int(text)


def seconds(text: str) -> float:
    """An argument's type: seconds, with or without a fraction. Raises ``argparse.ArgumentTypeError``."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"expected a number of seconds, found '{text}'")
    return value


def duration(text: str) -> int:
    """An argument's type: a duration such as ``5m``, in seconds. Raises ``argparse.ArgumentTypeError``."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive_seconds(text: str) -> float:
    """The same, but more than 0."""
    value = seconds(text)
    if not value:
        raise argparse.ArgumentTypeError("expected more than 0 seconds")
    return value
