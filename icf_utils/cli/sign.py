"""``icf-utils sign``."""

from __future__ import annotations

import argparse
from pathlib import Path

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_store, add_targets, targets_of
from icf_utils.errors import Busy, InvalidSetting, StorageFailure, printable
from icf_utils.formatting import format_count

NAME = "sign"
HELP = "verify visits and sign them with an SSH key"
DETAILS = """\
Verifies each visit that has no signature yet, and signs VISIT_SHA256SUMS, which
lists the SHA-256 of each of its files, with ssh-keygen -Y sign. A visit that has
a problem is not signed. 'icf-utils verify --signers FILE' then finds a visit
that somebody else has made or changed. KEY is a private key, or a public key
whose private key an ssh-agent has. An interrupted command can be repeated: visits
that are already signed are skipped."""
EXAMPLE = "icf-utils sign -o /data/store --key ~/.ssh/steward.pub study-a"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_targets(parser, "all visits")
    add_store(parser)
    parser.add_argument("--key", metavar="KEY", type=Path, required=True, help="file of the SSH key to sign with")
    parser.add_argument("--date", metavar="YYYY-MM-DD", default="", help="date of the signature (default: today)")
    parser.add_argument(
        "--again", action="store_true", help="replace existing signatures, for example after a change of key"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.curation.replace import check_date
    from icf_utils.pipeline.visit_table import collect_visits, select_visits
    from icf_utils.settings import load_settings
    from icf_utils.store.existing import refuse_no_store
    from icf_utils.verify.checks import finding_from_error
    from icf_utils.verify.sign import SignResult, sign_visit

    root = Path(args.store_dir)
    refuse_no_store(root)
    check_date(args.date)
    if not args.key.exists():
        raise InvalidSetting("--key", f"'{printable(args.key)}' does not exist")
    settings = load_settings(root)
    visits = select_visits(collect_visits(root), targets_of(args))
    done: list[SignResult] = []
    with console.task("sign", len(visits), "visit") as bar:
        for one in visits:
            try:
                result = sign_visit(
                    root, one.study, one.visit, args.key, date=args.date, again=args.again, settings=settings
                )
            except (StorageFailure, Busy) as error:  # one failure must not stop the others
                result = SignResult(one.study, one.visit, "refused", (finding_from_error(root, error),))
            done.append(result)
            bar.advance(1)
    lines = []
    for result in done:
        if result.state == "refused":
            lines.append(f"{result.study}/{result.visit}: not signed")
            lines += [f"  '{printable(one.path)}': {one.problem}" for one in result.problems]
    counts = {state: sum(result.state == state for result in done) for state in ("signed", "unchanged", "refused")}
    refused = f", {counts['refused']} refused" if counts["refused"] else ""
    lines.append(
        f"{format_count(len(done), 'visit')}: {counts['signed']} signed, {counts['unchanged']} signed before{refused}"
    )
    console.result(args.command, {"visits": done}, lines, ok=not counts["refused"])
    return 1 if counts["refused"] else 0
