"""``icf-utils xnat prearchive``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_id, add_store, add_strip, seconds
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count, format_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icf_utils.results import Notice
    from icf_utils.sources.source import Source
    from icf_utils.xnat.database import XnatDatabase
    from icf_utils.xnat.inbox import InboxSession
    from icf_utils.xnat.prearchive import PrearchivePlan, PrearchiveSession
    from icf_utils.xnat.staging import FileRights

HELP = "put a visit straight into XNAT's prearchive, on XNAT's own disk"
DETAILS = """\
Copies the images of one study to PREARCHIVE/[PROJECT/]TIME/SESSION, one folder
for each series, inserts the session's row into XNAT's table, and has XNAT build
it. What fails is undone, unless XNAT is at work on it, which is said. The input
is never moved or changed. With --inbox instead of --prearchive, XNAT imports a
folder of its inbox by itself, which needs no access to its database and is the
safer way.

Passwords: XNAT's as for 'xnat upload' (XNAT_PASS, a file, ~/.netrc, a
question), the database's from PGPASSWORD, --db-password-file or ~/.pgpass."""
EXAMPLE = (
    "icf-utils xnat prearchive --url https://xnat.example.org --prearchive /data/xnat/prearchive "
    "--project PILOT -o /data/store --id study-a visit-01"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="INPUT", nargs="?", help="a folder, zip or tar of one study")
    add_store(parser)
    add_id(parser, required=False)
    add_strip(parser)
    parser.add_argument("--prearchive", metavar="PATH", help="XNAT's prearchive, as this computer sees it")
    parser.add_argument("--inbox", metavar="PATH", help="use XNAT's inbox instead, as this computer sees it")
    parser.add_argument("--server-path", metavar="PATH", default="", help="the same folder as XNAT sees it, if other")
    parser.add_argument("--project", metavar="ID", help="XNAT's project (default: none, the session is not assigned)")
    parser.add_argument("--subject", metavar="LABEL", help="label of the subject (default: XNAT takes PatientName)")
    parser.add_argument("--session", metavar="LABEL", help="label of the session (default with --id: the visit's)")
    _add_connections(parser)
    parser.add_argument(
        "--owner", metavar="USER[:GROUP]", help="whom the copies belong to, such as XNAT's user (as root)"
    )
    parser.add_argument("--umask", metavar="MODE", type=_mode, help="rights to take away from the copies, such as 007")
    parser.add_argument("--prevent-anon", action="store_true", help="XNAT is not to anonymise the session")
    parser.add_argument("--prevent-auto-commit", action="store_true", help="XNAT is not to archive it by itself")
    parser.add_argument("--again", action="store_true", help="even if the project's prearchive has this study already")
    parser.add_argument(
        "--wait", metavar="SECONDS", type=seconds, default=600.0, help="wait so long for XNAT (default: 600)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print folder, SQL and requests; do nothing")


def _add_connections(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", metavar="URL", help="address of the XNAT (not for --dry-run)")
    parser.add_argument("--user", metavar="NAME", default="", help="its user (default: XNAT_USER, or netrc's)")
    parser.add_argument("--password-file", metavar="FILE", help="file with the user's password, for its owner only")
    parser.add_argument("--token-file", metavar="FILE", help="file with a token instead, alias:secret")
    parser.add_argument("--ca", metavar="FILE", help="certificates to believe (PEM; default: the system's)")
    parser.add_argument("--db-host", metavar="HOST", default="", help="XNAT's PostgreSQL (default: PGHOST)")
    parser.add_argument("--db-port", metavar="PORT", type=int, help="its port (default: PGPORT)")
    parser.add_argument("--db-name", metavar="NAME", default="", help="its database (default: PGDATABASE)")
    parser.add_argument("--db-user", metavar="NAME", default="", help="its user (default: PGUSER)")
    parser.add_argument("--db-password-file", metavar="FILE", help="file with that user's password, for its owner only")


def _mode(text: str) -> int:
    if not text or len(text) > 4 or set(text) - set("01234567"):
        raise argparse.ArgumentTypeError(f"'{text}' is no octal mode such as 007")
    return int(text, 8)


def run(args: argparse.Namespace, console: Console) -> int:
    import tempfile

    from icf_utils.sources.open import open_source

    _check(args)
    place, expected = _input(args)
    with open_source(place, Path(tempfile.gettempdir()), args.strip_components) as source:
        if args.inbox:
            return _through_inbox(args, console, source, place)
        session = _session(args)
        if args.dry_run:
            return _show_plan(args, console, source, session)
        return _put(args, console, source, session, expected)


def _check(args: argparse.Namespace) -> None:
    if bool(args.input) == bool(args.id):
        raise InvalidSetting("command line", "name either INPUT or a visit (--id)")
    if bool(args.prearchive) == bool(args.inbox):
        raise InvalidSetting("command line", "name either --prearchive or --inbox")
    if not args.dry_run and not args.url:
        raise InvalidSetting("--url", "the address of the XNAT is needed")
    if not args.session and not args.id:
        raise InvalidSetting("--session", "a label is needed, unless the input is a visit of the store (--id)")
    if args.inbox and not (args.project and args.subject):
        raise InvalidSetting("--inbox", "this needs --project and --subject")
    if args.inbox and (args.prevent_anon or args.prevent_auto_commit or args.again):
        raise InvalidSetting("--inbox", "--prevent-anon, --prevent-auto-commit and --again are for --prearchive")


def _input(args: argparse.Namespace) -> tuple[Path, Mapping[str, str]]:
    """Where the images are, and their MD5s by name where they are known."""
    from icf_utils.errors import DepositMissing
    from icf_utils.metadata.records import read_visit_metadata
    from icf_utils.store.layout import Visit

    if not args.id:
        return Path(args.input), {}
    visit = Visit(Path(args.store_dir), *args.id)
    if not visit.archive.exists():
        raise DepositMissing(visit.archive, "check store and identifiers")
    if not visit.dicoms_json.exists():
        return visit.archive, {}
    return visit.archive, {image.path: image.md5 for image in read_visit_metadata(visit).images}


def _label(args: argparse.Namespace) -> str:
    from icf_utils.xnat.labels import to_label

    return str(args.session) if args.session else to_label(args.id[1])


def _session(args: argparse.Namespace) -> PrearchiveSession:
    from icf_utils.xnat.prearchive import PrearchiveSession

    return PrearchiveSession(
        root=Path(args.prearchive),
        label=_label(args),
        project=args.project,
        subject=args.subject,
        server_root=args.server_path,
        rights=_rights(args),
        prevent_anon=args.prevent_anon,
        prevent_auto_commit=args.prevent_auto_commit,
        again=args.again,
        wait=args.wait,
    )


def _rights(args: argparse.Namespace) -> FileRights:
    from icf_utils.xnat.staging import FileRights

    if not args.owner:
        return FileRights(umask=args.umask)
    import grp
    import pwd

    user, _, group = args.owner.partition(":")
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
        number = (int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid) if group else entry.pw_gid
    except KeyError as error:
        raise InvalidSetting("--owner", f"there is no such user or group: '{printable(args.owner)}'") from error
    return FileRights(entry.pw_uid, number, args.umask)


def _show_plan(args: argparse.Namespace, console: Console, source: Source, session: PrearchiveSession) -> int:
    from icf_utils.xnat.prearchive import plan_prearchive

    planned = plan_prearchive(source, session, console)
    console.notices(planned.notices, word="left out or odd")
    console.result(args.command, planned, _plan_lines(planned))
    return 0


def _plan_lines(planned: PrearchivePlan) -> list[str]:
    lines = [f"folder: {printable(planned.folder)} (with the time of the moment)"]
    lines += [f"  {printable(name)} -> {printable(place)}" for name, place in planned.places.items()]
    lines += ["SQL:", *(f"  {statement};" for statement in planned.statements), "with:"]
    lines += [
        f"  {name} = {'NULL' if value is None else printable(str(value))}" for name, value in planned.values.items()
    ]
    return [*lines, "requests:", *(f"  {request}" for request in planned.requests)]


def _put(
    args: argparse.Namespace, console: Console, source: Source, session: PrearchiveSession, expected: Mapping[str, str]
) -> int:
    from icf_utils.xnat.login import find_xnat_login
    from icf_utils.xnat.prearchive import put_into_prearchive
    from icf_utils.xnat.rest import XnatClient

    database = _database(args)
    in_clear = _warned(args, console)
    login = find_xnat_login(args.url, args.user, _path(args.password_file), _path(args.token_file))
    with XnatClient(args.url, login, _path(args.ca)) as xnat:
        done = put_into_prearchive(source, session, database, xnat, expected=expected, progress=console)
    console.notices(done.notices, word="left out or odd")
    size = format_size(sum(file.size for file in done.files))
    ready = done.status == "READY"
    done = replace(done, notices=(*in_clear, *done.notices))
    lines = [f"{printable(done.folder)}: {done.status} ({format_count(len(done.files), 'file')}, {size})"]
    if not ready and args.wait:
        lines += ["XNAT's log:", *(f"  {printable(line)}" for line in done.log.splitlines())] if done.log else []
        lines.append("look at the session in XNAT's prearchive")
    console.result(args.command, done, lines, ok=ready or not args.wait)
    return 0 if ready or not args.wait else 1


def _warned(args: argparse.Namespace, console: Console) -> tuple[Notice, ...]:
    """A warning, before the password goes, where it would go in clear."""
    from icf_utils.xnat.model import check_url, cleartext_notices

    check_url(args.url)
    notices = cleartext_notices(args.url)
    console.notices(notices)
    return notices


def _database(args: argparse.Namespace) -> XnatDatabase:
    from icf_utils.credentials import find_secret
    from icf_utils.xnat.database import XnatDatabase

    password = find_secret("PGPASSWORD", _path(args.db_password_file))
    return XnatDatabase(args.db_host, args.db_port, args.db_name, args.db_user, password)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _inbox_session(args: argparse.Namespace) -> InboxSession:
    from icf_utils.xnat.inbox import InboxSession

    return InboxSession(
        root=Path(args.inbox),
        label=_label(args),
        project=args.project,
        subject=args.subject,
        server_root=args.server_path,
        rights=_rights(args),
        wait=args.wait,
    )


def _through_inbox(args: argparse.Namespace, console: Console, source: Source, place: Path) -> int:
    from icf_utils.xnat.inbox import import_through_inbox, plan_inbox
    from icf_utils.xnat.login import find_xnat_login
    from icf_utils.xnat.rest import XnatClient

    session = _inbox_session(args)
    if args.dry_run:
        planned = plan_inbox(source, place, session, console)
        query = "&".join(f"{name}={value}" for name, value in planned.query.items())
        lines = [f"copy to: {printable(planned.copy)}" if planned.copy else "read where it is; nothing is copied"]
        console.result(args.command, planned, [*lines, f"request: POST /data/services/import?{printable(query)}"])
        return 0
    in_clear = _warned(args, console)
    login = find_xnat_login(args.url, args.user, _path(args.password_file), _path(args.token_file))
    with XnatClient(args.url, login, _path(args.ca)) as xnat:
        done = import_through_inbox(source, place, session, xnat, progress=console)
    console.notices(done.notices, word="left out or odd")
    done = replace(done, notices=(*in_clear, *done.notices))
    ready = done.status == "READY"
    state = done.status or "asked for, but not shown yet"
    lines = [f"{printable(done.project)}/{printable(done.session)}: {state} ({format_count(done.files, 'file')})"]
    console.result(args.command, done, lines, ok=ready or not args.wait)
    return 0 if ready or not args.wait else 1
