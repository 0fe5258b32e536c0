"""``icf-utils clone``."""

from __future__ import annotations

import argparse
import shlex

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_login, add_tls, tls_of
from icf_utils.errors import printable

NAME = "clone"
HELP = "clone the dataset of a study or visit with DataLad or git-annex"
DETAILS = """\
Clones a study, with a subdataset for each visit, or a visit, with the programs
that are installed: DataLad with datalad-next, or, for visits that were deposited
for it, git-annex alone. The clone of a visit transfers single images by byte
ranges ('configure-clone'). Prints each command that it runs, and how to get
images.

If the server requires a password, you are asked once."""
EXAMPLE = "icf-utils clone https://data.example.org/study-a/visit-01"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="URL", help="the store's address, followed by /STUDY or /STUDY/VISIT")
    parser.add_argument("folder", nargs="?", metavar="PATH", help="folder to make (default: VISIT, or STUDY)")
    add_login(parser, "the store", "a bearer token")
    add_tls(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.cli.retrieve import store_auth
    from icf_utils.dataset.cloning import clone_dataset, short_address_settings

    args.ask_token = False
    result = clone_dataset(
        args.address,
        args.folder,
        auth=store_auth(args, args.address),
        tls=tls_of(args),
        say=lambda command: console.message(f"$ {printable(command)}"),
    )
    folder = printable(result.folder)
    if result.visit:
        lines = [f"  icf-utils get {folder}    (all images; or 'datalad get', 'git annex get' in it)"]
        lines += [f"  icf-utils get {folder} --series 2    (a series)"]
    else:
        lines = [f"  icf-utils get {folder}/VISIT    (a visit's images; or: datalad get -r)"]
        lines += [f"  icf-utils get -r --tag ProtocolName~mprage {folder}    (of all visits, by a tag)"]
        lines += [f"  datalad get -d {folder} -n -r {folder}    (the visits, without images)"]
    settings = short_address_settings(result.store, has_datalad=result.tool == "DataLad")
    short = [f"  git config --global --add {name} {shlex.quote(value)}" for name, value in settings]
    example = "datalad clone icf:STUDY/VISIT" if result.tool == "DataLad" else "git clone icf:STUDY/VISIT.annex"
    console.result(
        args.command,
        result,
        [
            f"cloned into '{folder}' with {result.tool}. To get images:",
            *lines,
            f"For short addresses, as in '{example}':",
            *short,
        ],
    )
    return 0
