"""``icf-utils schema``: the JSON Schemas of results, files and settings."""

from __future__ import annotations

import argparse
import json

from icf_utils.cli.console import Console
from icf_utils.errors import InvalidSetting, printable

NAME = "schema"
HELP = "print the JSON Schema of a command's result, of a file of a store, or of settings"
DETAILS = """\
Without NAME: lists the names. The schemas are those of JSON Schema 2020-12.
Programs that read the JSON accept properties that they do not know, as later
versions may add some."""
EXAMPLE = "icf-utils schema verify"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        nargs="*",
        metavar="NAME",
        help="the words of a command (as in 'sessions get'), or the name of a file or of settings",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.cli.json_results import find_schema, schema_names

    name, names = " ".join(args.name), schema_names()
    if not name:
        console.result(args.command, {"names": names}, names)
        return 0
    if name not in names:
        raise InvalidSetting("NAME", f"no schema is called '{printable(name)}'; 'icf-utils schema' lists the names")
    schema = find_schema(name)
    console.result(args.command, {"schema": schema}, json.dumps(schema, indent=2).splitlines())
    return 0
