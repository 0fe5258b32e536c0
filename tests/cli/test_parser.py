"""The command line as one language: options count wherever they are written, and misspelt words are recognised."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from icf_utils.cli.command import Command, Group
from icf_utils.cli.parser import _COMMANDS, Parser, UsageError, build_parser
from tests.cli.program import Inside, icf
from tests.verify.stores import STUDY, make_visit


def parsed(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(words)


def refused(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        parsed(*words)
    return str(caught.value)


def parsers(parser: Parser) -> list[Parser]:
    """A parser and all below it."""
    return [parser, *(found for below in parser.subcommands.values() for found in parsers(below))]


def test_every_module_has_the_shape_of_a_command() -> None:
    for module in _COMMANDS:
        assert isinstance(module, (Command, Group))
        for member in module.COMMANDS if isinstance(module, Group) else ():
            assert isinstance(member, (Command, Group))
            assert member.NAME.startswith(f"{module.NAME} ")


@pytest.mark.parametrize(
    "words",
    [
        ("sessions", "get", "--settings", "F", "--study", "X"),
        ("sessions", "--settings", "F", "get", "--study", "X"),
        ("sessions", "--settings", "F", "--study", "X", "get"),
        ("sessions", "--study=X", "get", "--settings=F"),
    ],
)
def test_options_count_before_and_after_a_subcommand(words: tuple[str, ...]) -> None:
    args = parsed(*words)
    assert (args.command, args.settings, args.study, args.ids) == ("sessions get", "F", "X", [])


@pytest.mark.parametrize(
    "words",
    [
        ("-o", "S", "catalog", "build", "s1", "--store-url", "U"),
        ("-oS", "--store-url", "U", "catalog", "build", "s1"),
        ("catalog", "--store-dir=S", "-q", "--store-url", "U", "build", "s1"),
        ("--quiet", "catalog", "build", "s1", "-o", "S", "--store-url", "U"),
        ("--store-d", "S", "catalog", "--store-url=U", "build", "s1"),
    ],
)
def test_options_of_a_subcommand_may_come_before_its_group(words: tuple[str, ...]) -> None:
    args = parsed(*words)
    assert (args.command, str(args.store_dir), args.store_url, args.study) == ("catalog build", "S", "U", "s1")


def test_the_value_of_an_option_is_not_taken_for_a_subcommand() -> None:
    args = parsed("-o", "run", "status", "run")
    assert (args.command, str(args.store_dir), args.targets) == ("status", "run", ["run"])
    args = parsed("--id", "run", "status", "-o", "S", "deposit_visit_metadata")
    assert (args.command, args.id) == ("deposit_visit_metadata", ["run", "status"])


def test_output_options_count_at_every_level() -> None:
    for words in (("--json", "xnat", "upload"), ("xnat", "--json", "upload"), ("xnat", "upload", "--json")):
        assert parsed(*words, "in", "--url", "u", "--project", "P").json
    assert parsed("-q", "status").quiet


def test_a_required_option_may_come_before_the_subcommand() -> None:
    assert parsed("sessions", "--settings", "F", "serve").settings == "F"
    assert refused("sessions", "serve") == "the following arguments are required: --settings"


def test_the_later_value_counts() -> None:
    assert parsed("sessions", "--study", "X", "get", "--study", "Y").study == "Y"


def test_what_a_subcommand_cannot_use_is_refused() -> None:
    said = refused("sessions", "--wait", "get", "s000001")
    assert said == "--wait belongs to 'icf-utils sessions' and cannot be combined with 'icf-utils sessions get'"
    assert "--version belongs to 'icf-utils'" in refused("--version", "run")


def test_options_that_exclude_each_other_do_so_across_levels() -> None:
    assert (
        refused("sessions", "--url", "U", "get", "s1", "--settings", "F") == "--url cannot be combined with --settings"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("a", "b/c", "-o", "S", "-j", "2"),
        ("-o", "S", "a", "-j", "2", "b/c"),
        ("a", "-o", "S", "-j2", "b/c"),
        ("-o", "S", "-j", "2", "--", "a", "b/c"),
    ],
)
def test_operands_may_stand_between_options(words: tuple[str, ...]) -> None:
    args = parsed("run", *words)
    assert (args.targets, args.store_dir, args.jobs) == (["a", "b/c"], "S", 2)


def test_equal_words_keep_their_places() -> None:
    args = parsed("run", "a", "-o", "a", "b", "--table", "b", "a")
    assert (args.targets, args.store_dir, args.table) == (["a", "b", "a"], "a", "b")


@pytest.mark.parametrize(
    "words",
    [
        ("in", "HOST", "104", "--aec", "A"),
        ("in", "--aec", "A", "HOST", "104"),
        ("in", "HOST", "--aec", "A", "104"),
    ],
)
def test_the_optional_operand_comes_first(words: tuple[str, ...]) -> None:
    args = parsed("send", *words)
    assert (args.source, args.host, args.port) == ("in", "HOST", 104)
    stored = parsed("send", *words[1:], "--id", "s", "v")
    assert (stored.source, stored.host, stored.port, stored.id) == (None, "HOST", 104, ["s", "v"])


def test_names_that_look_like_options() -> None:
    assert parsed("study-uid", "--same", "--", "-x", "--json").paths == ["-x", "--json"]
    assert parsed("send", "--aec", "A", "--", "-in", "HOST", "104").source == "-in"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("verfy",), "unknown command 'verfy'; did you mean 'verify'?"),
        (("upload",), "unknown command 'upload'; did you mean 'xnat upload'?"),
        (("xnat", "uplod"), "unknown command 'uplod'; did you mean 'upload'?"),
        (("qwertz",), "unknown command 'qwertz'; icf-utils --help lists the commands"),
        (("run", "--tabel", "f"), "unknown option '--tabel'; did you mean '--table'?"),
        (("make_studyvisit_archive", "--di", "a", "b", "in"), "unknown option '--di'; did you mean '--id'?"),
        (("sessions", "--stdy", "X", "get"), "unknown option '--stdy'; did you mean '--study'?"),
        (("run", "-x"), "unknown option '-x'"),
        (("-o", "S", "statsu"), "unknown option '-o'"),
        (("sessions", "gte"), "unknown command 'gte'; did you mean 'get'?"),
        (("run", "--until", "archve"), "argument --until: unknown value 'archve'; did you mean 'archive'?"),
        (("receive", "a.toml", "b.toml"), "unexpected argument 'b.toml'"),
        (("run", "-j", "many"), "argument -j/--jobs: expected a number from 0 to 99999, found 'many'"),
    ],
)
def test_what_is_not_known(words: tuple[str, ...], message: str) -> None:
    assert refused(*words) == message


def test_everything_that_is_missing_is_named() -> None:
    assert refused("make_studyvisit_archive") == "the following arguments are required: --id, INPUT"


@pytest.mark.parametrize("group", ["", "xnat", "catalog"])
def test_a_group_alone_shows_its_help(group: str) -> None:
    ran = icf(*group.split())
    assert ran == icf(*group.split(), "--help")
    assert (ran.code, ran.err) == (0, "")
    assert "\ncommands:\n" in ran.out


def test_one_name_for_each_thing() -> None:
    """Of the same kind, the same option: -o a store, -d a folder to write to, -n a dry run, -j parallel work."""
    meanings: dict[str, set[str]] = {}
    for parser in parsers(build_parser()):
        for action in parser._actions:
            for option in action.option_strings:
                meanings.setdefault(option, set()).add(action.dest)
    assert meanings.pop("--from") == {"other", "selection_file", "from_store"}  # where something comes from
    assert {option: dests for option, dests in meanings.items() if len(dests) > 1} == {}
    for short, long in (("-o", "--store-dir"), ("-d", "--directory"), ("-n", "--dry-run"), ("-j", "--jobs")):
        with_short = [parser for parser in parsers(build_parser()) if short in parser._option_string_actions]
        with_long = [parser for parser in parsers(build_parser()) if long in parser._option_string_actions]
        assert [parser.prog for parser in with_short] == [parser.prog for parser in with_long] != []


def test_visits_are_selected_in_the_same_way(source: Path, root: Path, inside: Inside) -> None:
    make_visit(source, root)
    for command in ("verify", "status"):
        everything = inside(command, "-o", root)
        assert everything.code == 0
        for words in (("--id", STUDY, "v1"), (f"{STUDY}/v1",), (f"{STUDY}/",), (STUDY, "--id", STUDY, "v1")):
            assert inside(command, "-o", root, *words).out == everything.out
        ran = inside(command, "-o", root, f"{STUDY}/v9")
        assert (ran.code, f"{STUDY}/v9" in ran.err) == (2 if command == "status" else 5, True)
    assert inside("verify", "-o", root, STUDY, "nothing").code == 2
