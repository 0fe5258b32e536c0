"""The contract with programs: every result, file and setting has a schema, and holds to it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError

from icf_utils import deposit_visit_metadata, make_studyvisit_archive
from icf_utils.cli.json_results import find_schema, output_schema, result_types, schema_names
from icf_utils.cli.parser import build_parser
from icf_utils.json_schema import schema_of
from icf_utils.schemas import file_schema
from tests.cli.program import icf
from tests.conftest import HardInputs
from tests.pages import blocks

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Commands that run until they are stopped, and print no result.
ENDLESS = {"catalog serve", "sessions serve"}

#: Groups of commands, which print their help.
GROUPS = {"catalog", "sessions quarantine", "visit", "xnat"}


def commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    name = parser.get_default("command")
    if name and name not in GROUPS:
        yield str(name)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from commands(below)


def test_every_command_has_a_schema() -> None:
    assert set(commands(build_parser())) - ENDLESS | {"version"} == set(result_types())


@pytest.mark.parametrize("name", schema_names())
def test_schemas_are_schemas(name: str) -> None:
    schema = find_schema(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_a_result_is_checked() -> None:
    printed = {"command": "sessions log", "ok": True, "result": {"id": "1", "log": ""}}
    check = Draft202012Validator(output_schema("sessions log", closed=True)).validate
    check(printed)
    check({"command": "sessions log", "ok": False, "exit_code": 6, "error": {"type": "x", "message": "y"}})
    for result in ({"id": "1"}, {"id": "1", "log": "", "more": 1}, {"id": 1, "log": ""}):
        with pytest.raises(ValidationError):
            check({**printed, "result": result})


def test_the_names(tmp_path: Path) -> None:
    assert icf("schema").out.splitlines() == schema_names()
    assert icf("schema", "--json").json["result"] == {"names": schema_names()}
    assert icf("schema", "sessions", "get").out == json.dumps(find_schema("sessions get"), indent=2) + "\n"
    assert icf("schema", "verify", "--json").json["result"]["schema"] == find_schema("verify")
    ran = icf("schema", "nothing")
    assert (ran.code, ran.out) == (2, "")


@pytest.mark.parametrize("name", ["baseline", "names", "json_values", "charsets_wrong", "wrong_vr_number"])
def test_files_hold_to_their_schemas(name: str, hard_inputs: HardInputs, tmp_path: Path) -> None:
    make_studyvisit_archive(hard_inputs.folder / name, tmp_path, "s", "v")
    deposit_visit_metadata(tmp_path, "s", "v")
    for kind in ("metadata_tarball", "metadata_dicoms"):
        found = json.loads((tmp_path / "s" / f"v_{kind}.json").read_bytes())
        Draft202012Validator(file_schema(kind)).validate(found)


def test_settings() -> None:
    check = Draft202012Validator(find_schema("icf.toml")).validate
    check(tomllib.loads('[store]\nurl = "https://data.example.org"\n[metadata]\ntags = ["EchoTime"]\n'))
    with pytest.raises(ValidationError, match="urll"):
        check({"store": {"urll": "x"}})


def test_settings_of_the_receiver() -> None:
    check = Draft202012Validator(find_schema("receiver.toml")).validate
    check(tomllib.loads(blocks("receive.md", "toml")[0]))
    rule = {"called_ae": "A", "study": "s"}
    check({"store": "a", "spool": "b", "rule": [rule]})
    for wrong in ({"rule": [{**rule, "studdy": "x"}]}, {"listen": {"port": 70000}}, {"rule": [{"study": "s"}]}):
        with pytest.raises(ValidationError):
            check({"store": "a", "spool": "b", "rule": [rule], **wrong})


def test_what_has_no_json_form() -> None:
    with pytest.raises(TypeError, match="JSON"):
        schema_of(Iterator[str])
