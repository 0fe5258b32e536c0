"""Processings in a settings file: checked as a whole, every mistake named."""

from __future__ import annotations

from pathlib import Path

import pytest

from icf_utils.errors import InvalidSetting
from icf_utils.processing.settings import find_processings, make_processings, parse_memory
from icf_utils.settings import ProcessingSettings, parse_settings


def table(name: str = "a", **settings: object) -> ProcessingSettings:
    return ProcessingSettings(**{"name": name, "version": "1", "command": ("true",), **settings})  # type: ignore[arg-type]


def test_a_complete_table() -> None:
    text = b"""
[[processing]]
name = "segment"
description = "Hippocampus"
version = "2.1"
container = "images/segment.sif"
args = ["--fast", "{input}", "{output}"]
timeout = 7200
memory = "8G"
cores = 4
workers = 2
network = false
settings = { threshold = 0.5, names = ["a"] }
on = "slurm"
partition = "short"
keep_log = "always"
"""
    (found,) = make_processings(parse_settings(text, "icf.toml").processing, "icf.toml", Path("/store")).values()
    assert (found.container, found.memory, found.is_on_slurm) == (Path("/store/images/segment.sif"), 8 << 30, True)
    assert found.settings == {"threshold": 0.5, "names": ["a"]}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (table("a_b"), "expected letters, digits and '-'"),
        (table("-a"), "expected letters, digits and '-'"),
        (table(version=" "), "version: must not be empty"),
        (table(command=()), "needs either 'command' or 'container'"),
        (table(container="x.sif"), "needs either 'command' or 'container'"),
        (table(args=("x",)), "args: needs 'container'"),
        (table(memory="4 GB"), "such as '4G'"),
        (table(command=("x", "{inptu}")), "unknown field {inptu}; did you mean 'input'?"),
        (table(command=("x", "-{arguments}")), "must be a word of its own"),
        (table(environment={"A-B": "1"}), "cannot be the name of a variable"),
        (table(settings={"x": float("nan")}), "no JSON form"),
        (table(input_from="b"), "unknown name 'b'"),
        (table(input_from="a"), "it would wait for itself (a -> a)"),
    ],
)
def test_mistakes_are_named(wrong: ProcessingSettings, words: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        make_processings([wrong], "icf.toml", Path("/"))
    assert words in str(refused.value)


def test_all_mistakes_at_once() -> None:
    with pytest.raises(InvalidSetting, match="3 mistakes"):
        make_processings([table(memory="x"), table(version="")], "icf.toml", Path("/"))


def test_order_follows_the_chain() -> None:
    known = make_processings([table("c", input_from="b"), table("b", input_from="a"), table("a")], "t", Path("/"))
    assert [one.name for one in find_processings(["c", "a", "b", "c"], known, "t")] == ["a", "b", "c"]
    assert [one.name for one in find_processings(["c"], known, "t")] == ["c"]
    with pytest.raises(InvalidSetting, match="unknown name 'x'"):
        find_processings(["x"], known, "t")


@pytest.mark.parametrize(("text", "number"), [("", 0), ("1K", 1024), ("500M", 500 << 20), ("2T", 2 << 40)])
def test_memory(text: str, number: int) -> None:
    assert parse_memory(text) == number
