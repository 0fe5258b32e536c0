"""The two files of an output: their bytes, and what a change of any byte is found to be."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from icf_utils.errors import DepositDamaged, StorageFailure
from icf_utils.outputs.deposit import check_kept_output, check_output, member_root, new_output, publish_output
from icf_utils.outputs.listing import output_line, parse_outputs, read_list
from icf_utils.outputs.packing import list_output, write_output
from icf_utils.outputs.provenance import (
    OutputFiles,
    ProgramRecord,
    Provenance,
    Recipe,
    encode_provenance,
    encode_record,
    parse_provenance,
    read_provenance,
)
from icf_utils.progress import SILENT
from icf_utils.schemas import file_schema
from icf_utils.store.layout import Visit, is_output_file, list_kept_outputs, list_outputs
from icf_utils.store.locks import visit_lock

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


def deposit(place: Visit, folder: Path, recipe: Recipe = RECIPE, *, keeps_old: bool = False) -> Provenance:
    listing = list_output(folder)
    record = encode_record(recipe, "success")
    with new_output(place, "test") as part:
        files = write_output(folder, listing, member_root(place, "test"), record, part, place.output("test"))
    provenance = Provenance(recipe, "success", files)
    publish_output(place, provenance, keeps_old=keeps_old)
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
        *("v_1_test_output.tar", "v_1_test_provenance.json")
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


def test_an_earlier_output_is_kept_on_request(place: Visit, output: Path) -> None:
    first = deposit(place, output)
    for number in (1, 2):
        (output / "new").write_bytes(b"2" * number)
        deposit(place, output, replace(RECIPE, version=f"{number + 1}"), keeps_old=True)
    assert read_provenance(place, "test", 1) == first
    assert list_kept_outputs(place.of_study) == [("v_1", "test", 1), ("v_1", "test", 2)]
    assert list_outputs(place.of_study) == [("v_1", "test")]
    assert [check_kept_output(place, "test", number) for number in (1, 2)] == [[], []]
    damaged = place.output("test", 1)
    damaged.write_bytes(damaged.read_bytes().replace(b"111", b"112", 1))
    assert [problem.path for problem in check_kept_output(place, "test", 1)] == [damaged]
    assert all(is_output_file(path.name) for path in place.of_study.folder.glob("v_1_*"))


class _KilledError(Exception):
    """In place of a kill: after it is raised, nothing is written."""


@pytest.mark.parametrize("after", range(16))
def test_a_deposit_that_is_killed_leaves_one_whole_output(
    place: Visit, output: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th rename is the last thing that happens; the next process that takes a lock finishes what was decided."""
    before = deposit(place, output)
    place.catalog_file.parent.mkdir(parents=True)
    place.catalog_file.write_bytes(b"")
    (output / "new").write_bytes(b"2")
    left = [after]
    really = os.replace

    def limited(*names: Any, **options: Any) -> None:
        if not left[0]:
            raise _KilledError
        left[0] -= 1
        really(*names, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", limited)
        with suppress(_KilledError):
            deposit(place, output, replace(RECIPE, version="2"))
    with visit_lock(place, SILENT):
        pass
    now = read_provenance(place, "test")
    assert now is not None
    assert now == before if after == 0 else now.recipe.version == "2" if after == 15 else now is not None
    assert check_output(place, "test", MD5) == []
    raw = read_list(place.of_study)
    assert (raw is None) == (now == before)
    if raw:
        assert parse_outputs(raw, "") == [output_line(now)]
    assert not list(place.workdir.glob("+change*"))


def test_an_output_larger_than_the_disk_is_not_begun(place: Visit, output: Path) -> None:
    os.truncate(output / "b" / "x", 1 << 43)  # a hole
    with pytest.raises(StorageFailure, match=r"cannot write '.*v_1_test_output.tar': No space left"):
        deposit(place, output)
    assert not list(place.root.rglob("*.part"))


def test_a_disk_that_becomes_full(place: Visit, output: Path) -> None:
    (output / "y").write_bytes(b"2" * 50_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StorageFailure, match=r"cannot write '.*v_1_test_output.tar': File too large"):
            deposit(place, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not list(place.root.rglob("*.part"))
