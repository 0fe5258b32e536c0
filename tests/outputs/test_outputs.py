"""The two files of an output: their bytes, and what a change of any byte is found to be."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError

from icf_utils.errors import DepositDamaged
from icf_utils.outputs.deposit import check_output, member_root, new_output, publish_output, read_provenance
from icf_utils.outputs.packing import list_output, write_output
from icf_utils.outputs.provenance import (
    OutputFiles,
    ProgramRecord,
    Provenance,
    Recipe,
    encode_provenance,
    encode_record,
    parse_provenance,
)
from icf_utils.schemas import file_schema
from icf_utils.store.layout import Visit, list_outputs

MD5 = "0123456789abcdef" * 2
RECIPE = Recipe(
    study="study",
    visit="v_1",
    processing="test",
    version="1",
    archive_md5=MD5,
    archive_size=10,
    input_from="",
    input_md5="",
    layout="series",
    program=ProgramRecord("command", ("é", "{input}"), {"x": "0" * 64}),
    arguments=("one",),
    environment={"B": "1", "A": "2"},
    settings={"b": {"z": 1, "a": [1.5, None, True]}},
)


@pytest.fixture
def place(tmp_path: Path) -> Visit:
    return Visit(tmp_path / "store", "study", "v_1")


def deposit(place: Visit, folder: Path, recipe: Recipe = RECIPE) -> Provenance:
    listing = list_output(folder)
    record = encode_record(recipe, "success")
    with new_output(place, "test") as part:
        files = write_output(folder, listing, member_root(place, "test"), record, part)
    provenance = Provenance(recipe, "success", files)
    publish_output(place, provenance)
    return provenance


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "x").write_bytes(b"1" * 1000)
    (folder / "b.txt").write_bytes(b"")
    return folder


def test_provenance_is_read_as_it_was_written(place: Visit) -> None:
    provenance = Provenance(RECIPE, "partial", OutputFiles(MD5, 1, 2, 3))
    assert parse_provenance(encode_provenance(provenance), place, "test") == provenance


def test_every_output_is_found_by_its_name(place: Visit, output: Path) -> None:
    deposit(place, output)
    assert list_outputs(place.of_study) == [("v_1", "test")]
    assert check_output(place, "test", MD5) == []


def test_a_new_version_replaces_both_files(place: Visit, output: Path) -> None:
    deposit(place, output)
    (output / "new").write_bytes(b"2")
    now = deposit(place, output, replace(RECIPE, version="2"))
    assert read_provenance(place, "test") == now
    assert check_output(place, "test", MD5) == []
    assert sorted(path.name for path in place.of_study.folder.iterdir()) == [
        *(".icf", "v_1_test_output.tar", "v_1_test_provenance.json")
    ]


@pytest.mark.parametrize("seed", range(40))
def test_a_changed_byte_is_found(place: Visit, output: Path, seed: int) -> None:
    deposit(place, output)
    chance = random.Random(seed)
    path = place.output("test") if seed % 2 else place.provenance("test")
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    assert check_output(place, "test", MD5)


@pytest.mark.parametrize("key", ["version", "arguments", "settings", "environment", "state", "archive"])
def test_a_forged_provenance_is_found(place: Visit, output: Path, key: str) -> None:
    """One that is consistent with the output's size and MD5."""
    deposit(place, output)
    path = place.provenance("test")
    value = json.loads(path.read_bytes())
    value[key] = {
        "version": "9",
        "arguments": [],
        "settings": {},
        "environment": {},
        "state": "partial",
        "archive": {"md5": "f" * 32, "size": 10},
    }[key]
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")
    assert read_provenance(place, "test")  # its form is right
    assert any(problem.path == path for problem in check_output(place, "test", MD5))


@pytest.mark.parametrize("lost", ["output", "provenance"])
def test_a_lost_file_is_found(place: Visit, output: Path, lost: str) -> None:
    deposit(place, output)
    getattr(place, lost)("test").unlink()
    assert "does not exist" in check_output(place, "test", MD5)[0].problem


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"{", b"\xff", b'{"format": 2}', b"null", b"[" * 100_000])
def test_what_is_no_provenance(place: Visit, raw: bytes) -> None:
    with pytest.raises(DepositDamaged):
        parse_provenance(raw, place, "test")


def test_the_record_holds_to_its_schema() -> None:
    check = Draft202012Validator(file_schema("provenance")).validate
    check(json.loads(encode_record(RECIPE, "success")))
    found = json.loads(encode_provenance(Provenance(RECIPE, "partial", OutputFiles(MD5, 1, 2, 3))))
    check(found)
    wrong = {"state": "failed", "archive": {}, "program": {**found["program"], "kind": "x"}, "output": {"md5": MD5}}
    for key, value in wrong.items():
        with pytest.raises(ValidationError):
            check({**found, key: value})


def test_another_visits_provenance(place: Visit) -> None:
    raw = encode_provenance(Provenance(RECIPE, "success", OutputFiles(MD5, 1, 2, 3)))
    with pytest.raises(DepositDamaged, match="another one"):
        parse_provenance(raw, Visit(place.root, "study", "v2"), "test")
