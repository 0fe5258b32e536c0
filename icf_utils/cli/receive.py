"""``icf-utils receive``."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_new, check_store
from icf_utils.cli.sessions_serve import add_pages, serve_in_background
from icf_utils.errors import InvalidSetting, printable

if TYPE_CHECKING:
    from icf_utils.receiver.settings import Rule

if TYPE_CHECKING:
    from icf_utils.receiver.settings import ReceiverSettings

NAME = "receive"
HELP = "receive images by DICOM C-STORE and archive each visit"
DETAILS = """\
Listens for DICOM associations. AE titles, addresses and header values determine
which rule takes an image, and the rule determines its study and visit. An image
is on the disk before success is returned for it. When no image of a visit
has arrived for a while, the visit goes through all stages of 'icf-utils run'.
Runs until it is interrupted; after a restart, unfinished work continues."""
EXAMPLE = "icf-utils receive /etc/icf/receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "settings",
        metavar="SETTINGS",
        help="settings file (TOML) with folders, [listen] and a [[rule]] for each AE title",
    )
    parser.add_argument("--check", action="store_true", help="check the settings and exit")
    parser.add_argument(
        "--explain", metavar="FILE", type=Path, help="say which rule takes a DICOM file, and why; then exit"
    )
    parser.add_argument("--called", metavar="AE", help="with --explain: called AE title (default: any)")
    parser.add_argument("--calling", metavar="AE", help="with --explain: calling AE title (default: any)")
    parser.add_argument("--address", metavar="IP", help="with --explain: address of the sender (default: any)")
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="form of the log's lines on standard error (default: text)",
    )
    parser.add_argument(
        "--http",
        metavar="HOST:PORT",
        nargs="?",
        const="",
        help="also serve the pages of 'sessions serve' (default address: 127.0.0.1:8042)",
    )
    add_new(parser)
    add_pages(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.receiver.events import read_keys
    from icf_utils.receiver.log import ReceiverLog
    from icf_utils.receiver.processings import check_processings
    from icf_utils.receiver.settings import check_machine, lack_of_space, load_receiver_settings

    settings = load_receiver_settings(Path(args.settings))
    if args.explain:
        return _explain(args, console, settings.rules)
    for option in ("called", "calling", "address"):
        if getattr(args, option):
            raise InvalidSetting(f"--{option}", "needs --explain")
    try:
        from icf_utils.receiver.server import Receiver
    except ModuleNotFoundError as error:
        from icf_utils.installation import missing_package

        raise missing_package(error.name or "pynetdicom", "intake") from error
    rules = [f"{rule.called_ae}: study {rule.study}, visits {rule.visit}" for rule in settings.rules]
    _check_address(settings)
    if args.check:
        check_machine(settings)
        check_processings(settings)
        read_keys(settings.events, settings.source)
        if problem := lack_of_space(settings):
            console.warning(problem)
        console.result(args.command, {"rules": [rule.name for rule in settings.rules]}, rules)
        return 0
    check_store(args, console, settings.store)
    log = ReceiverLog(console, args.log_format)
    with Receiver(settings, log) as receiver:
        log.message(f"listening on {settings.listen.host}:{receiver.port}; " + "; ".join(rules))
        with serve_in_background(args, log, settings):
            while not threading.Event().wait(3600.0):
                pass
    return 0


def _explain(args: argparse.Namespace, console: Console, rules: Sequence[Rule]) -> int:
    from icf_utils.receiver.explain import explain

    found = explain(rules, args.explain, args.called, args.calling, args.address)
    taker = next((item for item in found if item.takes_it), None)
    lines = [f"rule {printable(item.rule)}: {printable(item.reason)}" for item in found]
    lines.append(f"taken by rule {printable(taker.rule)}" if taker else "taken by no rule; the image would be refused")
    console.result(
        args.command,
        {"rules": [rule.name for rule in rules], "explanations": found, "taken_by": taker.rule if taker else None},
        lines,
        ok=taker is not None,
    )
    return 0 if taker else 1


def _check_address(settings: ReceiverSettings) -> None:
    """Refuse rules that make datasets or catalogs in a store without an address.

    Raises :class:`~icf_utils.errors.InvalidSetting`.
    """
    from icf_utils.settings import load_settings
    from icf_utils.store.address import check_store_url

    if any(rule.until in ("dataset", "catalog") for rule in settings.rules):
        check_store_url(load_settings(settings.store).store.url)
