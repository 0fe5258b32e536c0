"""``icf-utils retrieve``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from icf_utils.cli.console import Console
from icf_utils.cli.options import (
    add_directory,
    add_dry_run,
    add_login,
    add_selection,
    add_targets,
    add_tls,
    connections,
    number,
    targets_of,
    tls_of,
)
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count, format_size

if TYPE_CHECKING:
    from icf_utils.credentials import Login, Secret
    from icf_utils.results import Notice
    from icf_utils.retrieve.api import ImageSource, Retriever, RetrieveResult
    from icf_utils.retrieve.model import Failure
    from icf_utils.retrieve.plan import SeriesLine, Stats
    from icf_utils.retrieve.selection_file import SelectedLine

NAME = "retrieve"
HELP = "download visits, series, single images or outputs from a store or a COD bucket"
DETAILS = """\
Transfers only the bytes of the selected images, checks each image, and gives it
its final name when it is complete and correct. Images that exist and are
correct are not transferred again: repeat the command after an interruption, and
it continues. If a series fails, the others continue, each failure is printed,
and the exit code is 1.

If the server requires a password, you are asked for it at the terminal, unless it
is in --password-file, ICF_STORE_PASSWORD, ~/.netrc, DataLad's credentials or the
keyring. A token is taken from --token-file, --ask-token or ICF_TOKEN. Neither is
ever taken from the command line."""
EXAMPLE = "icf-utils retrieve --store https://data.example.org --study study-a --tag ProtocolName~mprage -d images"

PASSWORD_VARIABLE, TOKEN_VARIABLE = "ICF_STORE_PASSWORD", "ICF_TOKEN"

_TLS = ("ca", "cert", "key")

#: How many images a line names before it counts the rest; ``--json`` names all.
_NAMED_AT_MOST = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument(
        "-o", "--store-dir", "--store", metavar="STORE", help="the store: https://, file:/// or the path of its root"
    )
    place.add_argument(
        "--bucket",
        metavar="URL",
        help="the COD bucket: https://HOST/BUCKET/PREFIX, gs://, s3://, file:///, or the name of a Google bucket",
    )
    add_directory(parser)
    _add_what(parser)
    _add_access(parser)
    _add_how(parser)


def _add_what(parser: argparse.ArgumentParser) -> None:
    add_targets(parser, "everything; of a web store, name a study")
    parser.add_argument(
        "--study", metavar="STUDY", action="append", default=[], help="select all visits of a study; the same as STUDY"
    )
    parser.add_argument(
        "--visit",
        metavar="PATTERN",
        action="append",
        default=[],
        help="of the studies, select the visits that match a pattern such as 'sub-0*'; may be given several times",
    )
    parser.add_argument(
        "--since",
        metavar="VERSION",
        type=number,
        default=0,
        help="select the visits whose version is VERSION or later (2: those that were ever replaced)",
    )
    parser.add_argument(
        "--from",
        dest="selection_file",
        metavar="FILE",
        type=Path,
        help="select what a file lists: the catalog's selection file, or CSV, TSV or JSON lines with study, visit and "
        "perhaps series or path",
    )
    add_selection(parser, "NUMBER-OR-UID")
    parser.add_argument(
        "--image",
        metavar="NAME",
        action="append",
        default=[],
        help="select an image by its name in the archive or its SOPInstanceUID; may be given several times",
    )
    parser.add_argument(
        "--processing",
        metavar="NAME",
        action="append",
        default=[],
        help="get the output of this processing and its provenance instead of images; may be given several times",
    )


def _add_access(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix", metavar="PREFIX", help="prefix of the object names in the bucket, before studies/")
    parser.add_argument("--endpoint", metavar="URL", help="server of the bucket, if it is not the provider's own")
    parser.add_argument(
        "--billed-project",
        metavar="PROJECT",
        default="",
        help="Google project that pays for requests, for a bucket whose requester pays",
    )
    parser.add_argument(
        "--requester-pays", action="store_true", help="accept to pay for requests to a bucket at s3:// that demands it"
    )
    parser.add_argument(
        "--public", action="store_true", help="read a public bucket at gs:// or s3:// without credentials"
    )
    add_login(parser, "the store", "a bearer token")
    parser.add_argument("--ask-token", action="store_true", help="ask for a bearer token at the terminal")
    add_tls(parser)


def _add_how(parser: argparse.ArgumentParser) -> None:
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--stats", action="store_true", help="count what exists and what is saved; transfer nothing")
    add_dry_run(mode, "list the series that would be retrieved; transfer nothing")
    parser.add_argument("--zip", action="store_true", help="write one zip for each study")
    parser.add_argument(
        "--layout",
        metavar="TEMPLATE",
        default="",
        help="template for the paths of images: {study} {visit} {series} {sop} {name} {path} and DICOM keywords",
    )
    parser.add_argument(
        "--connections", metavar="N", type=connections, default=4, help="requests at a time (default: 4)"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.retrieve.api import Retriever
    from icf_utils.retrieve.selection import Selection, parse_tag

    origin = _origin(args)
    selection = Selection(
        series=tuple(args.series),
        tags=tuple(map(parse_tag, args.tag)),
        images=tuple(args.image),
        modalities=tuple(args.modality),
        listed=_listed(args),
    )
    with Retriever(
        origin,
        args.directory,
        selection=selection,
        layout=args.layout,
        zipped=args.zip,
        connections=args.connections,
        tls=tls_of(args),
        progress=console,
    ) as retriever:
        if args.stats:
            return _show_stats(args, retriever)
        if args.dry_run:
            return _show_plan(args, retriever)
        return _retrieve(args, console, retriever)


def _listed(args: argparse.Namespace) -> tuple[SelectedLine, ...]:
    from icf_utils.errors import storage_errors
    from icf_utils.retrieve.selection_file import parse_selection_file

    if args.selection_file is None:
        return ()
    with storage_errors(args.selection_file, "read"):
        raw = args.selection_file.read_bytes()
    return parse_selection_file(raw, str(args.selection_file))


def _origin(args: argparse.Namespace) -> ImageSource:
    from icf_utils.fetch.authentication import Authenticator
    from icf_utils.retrieve.api import BucketSource, StoreSource
    from icf_utils.retrieve.buckets import has_token, parse_bucket
    from icf_utils.retrieve.store_source import ADVICE, store_url

    targets = targets_of(args)
    if args.store_dir is not None:
        _refuse(args, "--store-dir", "prefix", "endpoint", "billed_project", "requester_pays", "public")
        url = store_url(args.store_dir)
        studies = (*args.study, *(target for target in targets if "/" not in target))
        visits = tuple((study, visit) for study, slash, visit in (one.partition("/") for one in targets) if slash)
        if args.visit and not studies and (visits or url.startswith("http") or args.selection_file):
            raise InvalidSetting("--visit", "it selects from the visits of a study: name one with --study")
        _check_processings(args)
        auth, authenticator, processings = store_auth(args, url), Authenticator(ADVICE), tuple(args.processing)
        return StoreSource(url, visits, studies, auth, authenticator, tuple(args.visit), args.since, processings)
    _refuse(args, "--bucket", "id", "user", "password_file", "study", "visit", "since", "selection_file", "processing")
    if has_token(args.bucket):
        raise InvalidSetting(
            "--bucket",
            "other users of this machine can see a token in the address, and the shell keeps it in its history: "
            f"remove it, and give it with {TOKEN_VARIABLE}, --token-file or --ask-token",
        )
    if args.bucket.startswith(("file:", "s3:")):
        _refuse(args, "a bucket at file:// or s3://", "token_file", "ask_token")
    if args.bucket.startswith(("file:", "s3:", "gs:")):
        _refuse(args, "a bucket at file://, s3:// or gs://", *_TLS)
    if args.public:
        _refuse(args, "--public", "token_file", "ask_token", "billed_project", "requester_pays")
    token = None if args.public else _token(args, "the bucket")
    place = parse_bucket(args.bucket, args.prefix, args.endpoint, token)
    _check_payment(args, place.scheme)
    paid = replace(
        place,
        billed_project=args.billed_project,
        requester_pays=args.requester_pays,
        is_public=args.public,
    )
    return BucketSource(paid, tuple(targets))


def _check_payment(args: argparse.Namespace, scheme: str) -> None:
    """Refuse options of payment and access that a kind of bucket does not have."""
    if scheme == "file":
        _refuse(args, "a bucket at file://", "billed_project", "requester_pays", "public")
    elif scheme == "s3":
        _refuse(args, "a bucket at s3://, which has no projects: use --requester-pays", "billed_project")
    else:
        _refuse(args, "a bucket of Google: name the project with --billed-project", "requester_pays")
    if scheme in ("http", "https"):
        _refuse(args, "an http or https address, which is read without credentials unless a token is given", "public")
    if args.billed_project and not re.fullmatch(r"[a-z0-9.:-]{1,64}", args.billed_project):
        raise InvalidSetting("--billed-project", f"'{printable(args.billed_project)}' is not the ID of a project")


def _check_processings(args: argparse.Namespace) -> None:
    from icf_utils.store.layout import is_processing_name

    if args.processing:
        _refuse(args, "--processing", "series", "tag", "modality", "image", "zip")
    for name in args.processing:
        if not is_processing_name(name):
            raise InvalidSetting("--processing", f"'{printable(name)}' cannot be the name of a processing")


def _refuse(args: argparse.Namespace, place: str, *names: str) -> None:
    for name in names:
        if getattr(args, name):
            option = "from" if name == "selection_file" else name.replace("_", "-")
            raise InvalidSetting(f"--{option}", f"cannot be combined with {place}")


def _token(args: argparse.Namespace, place: str) -> Secret | None:
    """The token; an option takes precedence over the environment."""
    from icf_utils.credentials import ask_secret, find_secret

    if args.ask_token:
        _refuse(args, "--ask-token", "token_file")
        return ask_secret(f"Token for {place}")
    return find_secret(TOKEN_VARIABLE, args.token_file)


def store_auth(args: argparse.Namespace, url: str) -> Login | Secret | None:
    """For a web store: what the options say, else a token from the environment, else what netrc says."""
    from icf_utils.credentials import find_login

    if not url.startswith("http"):
        _refuse(args, "a store on this machine", "user", "password_file", "token_file", "ask_token", *_TLS)
        return None
    if not args.user:
        if args.password_file:
            raise InvalidSetting("--password-file", "give the user's name with --user")
        return _token(args, "the store") or find_login(url, "", "")
    _refuse(args, "--user", "token_file", "ask_token")
    login = find_login(url, args.user, PASSWORD_VARIABLE, args.password_file)
    if login is None:
        raise InvalidSetting(
            "--user",
            f"no password for '{printable(args.user)}': give it with {PASSWORD_VARIABLE}, --password-file or ~/.netrc "
            "(without a terminal, icf-utils cannot ask for it)",
        )
    return login


def _show_stats(args: argparse.Namespace, retriever: Retriever) -> int:
    stats, plan = retriever.stats(), retriever.plan()
    result = {"stats": stats, "failures": plan.failures, "notices": plan.notices}
    return finish(args, _answering(args), result, plan, _figures(stats))


def _figures(stats: Stats) -> Iterator[str]:
    yield f"totalSeriesCount: {stats.totalSeriesCount}"
    yield f"totalSavedSeriesCount: {stats.totalSavedSeriesCount}"
    yield f"totalSizeBytes: {stats.totalSizeBytes}"
    yield f"totalSavedSizeBytes: {stats.totalSavedSizeBytes}"
    yield f"series: {len(stats.series)}"
    yield f"items: {len(stats.items)}"


def _show_plan(args: argparse.Namespace, retriever: Retriever) -> int:
    from icf_utils.retrieve.plan import series_lines

    plan = retriever.plan()
    lines = series_lines(plan.items, retriever.saved())
    result = {"series": lines, "failures": plan.failures, "notices": plan.notices}
    return finish(args, _answering(args), result, plan, (_series_text(line, _thing(args)) for line in lines))


def _answering(args: argparse.Namespace) -> Console:
    """Prints what was asked for even with ``--quiet``, which suppresses progress only."""
    return Console(quiet=False, as_json=args.json)


def _thing(args: argparse.Namespace) -> str:
    """What is retrieved, in one word."""
    return "file" if args.processing else "image"


def _series_text(line: SeriesLine, thing: str) -> str:
    names = "/".join(printable(name) for name in (line.study, line.visit, line.series) if name)
    number = f" (SeriesNumber {printable(str(line.number))})" if line.number != "" else ""
    there = "" if not line.saved else ", all saved" if line.saved == line.images else f", {line.saved} saved"
    return f"{names}{number}: {format_count(line.images, thing)}, {format_size(line.size)}{there}"


def _retrieve(args: argparse.Namespace, console: Console, retriever: Retriever) -> int:
    job = retriever.job()
    try:
        result = job.start().result()
    except BaseException:  # usually an interrupt: unfinished files are removed before the process ends
        job.cancel()
        job.wait()
        raise
    return finish(args, console, result, result, [_summary(result, _thing(args))])


def _summary(result: RetrieveResult, thing: str) -> str:
    known = f"; {format_count(result.unchanged, thing)} already saved" if result.unchanged else ""
    failed = f"; {format_count(len(result.failures), 'failure')}, see above" if result.failures else ""
    came = f"{format_count(result.saved, thing)} retrieved ({format_size(result.size)})"
    return f"{came} into '{printable(result.directory)}'{known}{failed}"


class _Seen(Protocol):
    """What is shown besides a result."""

    @property
    def failures(self) -> tuple[Failure, ...]: ...

    @property
    def notices(self) -> tuple[Notice, ...]: ...


def finish(args: argparse.Namespace, console: Console, result: object, seen: _Seen, lines: Iterable[str]) -> int:
    """Show failures and the result; returns the exit code."""
    console.notices(seen.notices)
    console.result(args.command, result, chain(_failures(seen.failures), lines), ok=not seen.failures)
    return 1 if seen.failures else 0


def _failures(failures: Iterable[Failure]) -> Iterator[str]:
    """One line for each failure. Images of one TAR that failed for the same reason share a line that names a few."""
    groups: dict[tuple[str, str], list[str]] = {}
    for failure in failures:
        groups.setdefault((failure.url, failure.problem), []).append(failure.image)
    for (url, problem), images in groups.items():
        named = ", ".join(f"'{printable(image)}'" for image in images[:_NAMED_AT_MOST] if image)
        rest = f" and {len(images) - _NAMED_AT_MOST} more" if len(images) > _NAMED_AT_MOST else ""
        yield f"failed: '{printable(url)}'{', ' if named else ''}{named}{rest}: {problem}"
