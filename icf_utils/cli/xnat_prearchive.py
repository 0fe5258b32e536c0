"""``icf-utils xnat prearchive``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import (
    add_ca,
    add_dry_run,
    add_login,
    add_source,
    add_strip,
    path_of_source,
    port,
    seconds,
)
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

NAME = "xnat prearchive"
HELP = "put a visit directly into XNAT's prearchive, on XNAT's own disk"
DETAILS = """\
Copies the images of one DICOM study to PREARCHIVE/[PROJECT/]TIME/SESSION, with a
folder for each series, inserts the session into XNAT's database, and asks XNAT
to rebuild it. If a step fails, the steps before it are undone, unless XNAT is
already processing the session, which is reported. The input is never changed.
With --inbox instead of --prearchive, XNAT imports a folder of its inbox itself.
Prefer this way: it needs no access to the database.

XNAT's password is taken as by 'xnat upload'; the database's from PGPASSWORD,
--db-password-file or ~/.pgpass."""
EXAMPLE = (
    "icf-utils xnat prearchive --url https://xnat.example.org --prearchive /data/xnat/prearchive "
    "--project PILOT -o /data/store --id study-a visit-01"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_strip(parser)
    parser.add_argument("--prearchive", metavar="DIR", help="XNAT's prearchive, by its path on this machine")
    parser.add_argument("--inbox", metavar="DIR", help="XNAT's inbox, by its path on this machine, instead")
    parser.add_argument(
        "--server-path", metavar="DIR", default="", help="path of that folder as XNAT sees it, if it is different"
    )
    parser.add_argument("--project", metavar="ID", help="project ID (default: none; the session stays unassigned)")
    parser.add_argument("--subject", metavar="LABEL", help="label of the subject (default: XNAT uses PatientName)")
    parser.add_argument("--session", metavar="LABEL", help="label of the session (default with --id: VISIT)")
    _add_connections(parser)
    parser.add_argument("--owner", metavar="USER[:GROUP]", help="owner of the copies, such as XNAT's user (needs root)")
    parser.add_argument(
        "--umask", metavar="MODE", type=_mode, help="permissions to remove from the copies, such as 007"
    )
    parser.add_argument("--prevent-anon", action="store_true", help="do not let XNAT anonymise the session")
    parser.add_argument("--prevent-auto-commit", action="store_true", help="do not let XNAT archive it automatically")
    parser.add_argument(
        "--again", action="store_true", help="import even if the project's prearchive contains this DICOM study"
    )
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=seconds,
        default=600.0,
        help="seconds for XNAT to build the session (default: 600)",
    )
    add_dry_run(parser, "print folder, SQL and requests; do nothing")


def _add_connections(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", metavar="URL", help="address of the XNAT (not needed with --dry-run)")
    add_login(parser, "XNAT", "a token (alias:secret)", " (default: XNAT_USER, or the user in ~/.netrc)")
    add_ca(parser)
    parser.add_argument("--db-host", metavar="HOST", default="", help="host of XNAT's PostgreSQL (default: PGHOST)")
    parser.add_argument("--db-port", metavar="PORT", type=port, help="port of the PostgreSQL (default: PGPORT)")
    parser.add_argument("--db-name", metavar="NAME", default="", help="name of the database (default: PGDATABASE)")
    parser.add_argument("--db-user", metavar="NAME", default="", help="user of the database (default: PGUSER)")
    parser.add_argument("--db-password-file", metavar="FILE", type=Path, help="file with the database user's password")


def _mode(text: str) -> int:
    if not text or len(text) > 4 or set(text) - set("01234567"):
        raise argparse.ArgumentTypeError(f"expected an octal mode such as 007, found '{text}'")
    return int(text, 8)


def run(args: argparse.Namespace, console: Console) -> int:
    import tempfile

    from icf_utils.sources.open import open_source

    _check(args)
    place, expected = _input(args)
    with open_source(place, Path(tempfile.gettempdir()), args.strip_components, single_file=True) as source:
        if args.inbox:
            return _through_inbox(args, console, source, place)
        session = _session(args)
        if args.dry_run:
            return _show_plan(args, console, source, session)
        return _import(args, console, source, session, expected)


def _check(args: argparse.Namespace) -> None:
    if bool(args.prearchive) == bool(args.inbox):
        raise InvalidSetting("command line", "give either --prearchive or --inbox")
    if not args.dry_run and not args.url:
        raise InvalidSetting("--url", "required without --dry-run")
    if not args.session and not args.id:
        raise InvalidSetting("--session", "required for an input that is not a deposited visit (-o and --id)")
    if args.inbox and not (args.project and args.subject):
        raise InvalidSetting("--inbox", "needs --project and --subject")
    if args.inbox and (args.prevent_anon or args.prevent_auto_commit or args.again):
        raise InvalidSetting("--inbox", "cannot be combined with --prevent-anon, --prevent-auto-commit or --again")


def _input(args: argparse.Namespace) -> tuple[Path, Mapping[str, str]]:
    """The path of the images, and their MD5s by name where they are known."""
    from icf_utils.metadata.records import read_visit_metadata
    from icf_utils.store.layout import Visit

    path = path_of_source(args)
    visit = Visit(Path(args.store_dir), *args.id) if args.id else None
    if visit is None or not visit.dicoms_json.exists():
        return path, {}
    return path, {image.path: image.md5 for image in read_visit_metadata(visit).images}


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
        rights=_file_rights(args),
        prevent_anon=args.prevent_anon,
        prevent_auto_commit=args.prevent_auto_commit,
        again=args.again,
        wait=args.wait,
    )


def _file_rights(args: argparse.Namespace) -> FileRights:
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
        raise InvalidSetting("--owner", f"no such user or group: '{printable(args.owner)}'") from error
    return FileRights(entry.pw_uid, number, args.umask)


def _show_plan(args: argparse.Namespace, console: Console, source: Source, session: PrearchiveSession) -> int:
    from icf_utils.xnat.prearchive import plan_prearchive

    planned = plan_prearchive(source, session, console)
    console.notices(planned.notices, word="note")
    console.result(args.command, planned, _plan_lines(planned))
    return 0


def _plan_lines(planned: PrearchivePlan) -> list[str]:
    lines = [f"folder: {printable(planned.folder)} (with the time of the import)"]
    lines += [f"  {printable(name)} -> {printable(place)}" for name, place in planned.places.items()]
    lines += ["SQL:", *(f"  {statement};" for statement in planned.statements), "with:"]
    lines += [
        f"  {name} = {'NULL' if value is None else printable(str(value))}" for name, value in planned.values.items()
    ]
    return [*lines, "requests:", *(f"  {request}" for request in planned.requests)]


def _import(
    args: argparse.Namespace, console: Console, source: Source, session: PrearchiveSession, expected: Mapping[str, str]
) -> int:
    from icf_utils.xnat.login import find_xnat_login
    from icf_utils.xnat.prearchive import put_into_prearchive
    from icf_utils.xnat.rest import XnatClient

    database = _database(args)
    in_clear = _warn_of_clear_text(args, console)
    login = find_xnat_login(args.url, args.user, args.password_file, args.token_file)
    with XnatClient(args.url, login, args.ca) as xnat:
        done = put_into_prearchive(source, session, database, xnat, expected=expected, progress=console)
    console.notices(done.notices, word="note")
    size = format_size(sum(file.size for file in done.files))
    ready = done.status in ("READY", "ARCHIVED")
    done = replace(done, notices=(*in_clear, *done.notices))
    place = "archived by XNAT" if done.status == "ARCHIVED" else printable(done.folder)
    lines = [f"{place}: {done.status} ({format_count(len(done.files), 'file')}, {size})"]
    if not ready and args.wait:
        lines += ["XNAT's log:", *(f"  {printable(line)}" for line in done.log.splitlines())] if done.log else []
        lines.append("check the session in XNAT's prearchive")
    console.result(args.command, done, lines, ok=ready or not args.wait)
    return 0 if ready or not args.wait else 1


def _warn_of_clear_text(args: argparse.Namespace, console: Console) -> tuple[Notice, ...]:
    """A warning, before the password is sent, if the connection is not encrypted."""
    from icf_utils.xnat.model import check_url, cleartext_notices

    check_url(args.url)
    notices = cleartext_notices(args.url)
    console.notices(notices)
    return notices


def _database(args: argparse.Namespace) -> XnatDatabase:
    from icf_utils.credentials import find_secret
    from icf_utils.xnat.database import XnatDatabase

    password = find_secret("PGPASSWORD", args.db_password_file)
    return XnatDatabase(args.db_host, args.db_port, args.db_name, args.db_user, password)


def _inbox_session(args: argparse.Namespace) -> InboxSession:
    from icf_utils.xnat.inbox import InboxSession

    return InboxSession(
        root=Path(args.inbox),
        label=_label(args),
        project=args.project,
        subject=args.subject,
        server_root=args.server_path,
        rights=_file_rights(args),
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
        lines = [
            f"copy to: {printable(planned.copy)}" if planned.copy else "the folder is in the inbox; nothing is copied"
        ]
        console.result(args.command, planned, [*lines, f"request: POST /data/services/import?{printable(query)}"])
        return 0
    in_clear = _warn_of_clear_text(args, console)
    login = find_xnat_login(args.url, args.user, args.password_file, args.token_file)
    with XnatClient(args.url, login, args.ca) as xnat:
        done = import_through_inbox(source, place, session, xnat, progress=console)
    console.notices(done.notices, word="note")
    done = replace(done, notices=(*in_clear, *done.notices))
    ready = done.status in ("READY", "ARCHIVED")
    state = done.status or "requested, but not shown yet"
    lines = [f"{printable(done.project)}/{printable(done.session)}: {state} ({format_count(done.files, 'file')})"]
    console.result(args.command, done, lines, ok=ready or not args.wait)
    return 0 if ready or not args.wait else 1
