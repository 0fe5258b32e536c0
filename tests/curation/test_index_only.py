"""A store that indexes the archives of another one: datasets, JSON and catalog here, archives there."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from icf_utils.dataset.reader import read_dataset
from icf_utils.store.init_store import init_store
from icf_utils.store.layout import Visit
from tests.cli.program import Inside
from tests.data.make_dicom import uid
from tests.fetch.server import FaultyServer, serving
from tests.verify.stores import STUDY, make_visit, write_input

OWN = "https://index.example.org"


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    state = FaultyServer()
    with serving(state):
        yield state


@pytest.fixture
def place(tmp_path: Path, server: FaultyServer, inside: Inside) -> Visit:
    """A visit that was indexed, whose archive was removed from the index."""
    root = tmp_path / "index"
    init_store(root, OWN)
    settings = root / "icf.toml"
    settings.write_text(settings.read_text() + f'archives = "{server.url}/store"\n')
    return index_visit(tmp_path, server, inside, "v1", 71)


def index_visit(folder: Path, server: FaultyServer, inside: Inside, name: str, number: int) -> Visit:
    """Index a visit in the store below ``folder``; its archive is on the server alone."""
    images = write_input(folder / f"in-{name}", StudyInstanceUID=uid(number))
    there = make_visit(images, folder / "there", visit=name)
    server.objects[f"/store/{there.storepath}"] = there.archive.read_bytes()
    place = Visit(folder / "index", STUDY, name)
    place.of_study.folder.mkdir(exist_ok=True)
    for path in (there.archive, there.checksum):
        shutil.copy(path, place.of_study.folder)
    ran = inside("run", "-o", place.root)
    assert ran.code == 0, ran
    place.archive.unlink()
    place.checksum.unlink()
    return place


def test_nothing_is_missing(place: Visit, inside: Inside) -> None:
    ran = inside("status", "-o", place.root)
    assert ran.out.splitlines()[1].split() == [STUDY, "archive", *"000001"]
    counts = json.loads(inside("status", "-o", place.root, "--json").out)["result"]["studies"][STUDY]
    assert (counts["archive"]["elsewhere"], counts["catalog"]["done"]) == (1, 1)
    inside("run", "-o", place.root)
    ran = inside("run", "-o", place.root)
    assert "1 visit: 0 made, 1 up to date" in ran.out
    ran = inside("visit", "refresh", "-o", place.root, "--dry-run")
    assert (ran.code, "0 would be changed" in ran.out) == (0, True), ran
    assert inside("visit", "history", "-o", place.root, "--id", STUDY, "v1").code == 0
    assert inside("catalog", "build", place.root / STUDY).code == 0
    ran = inside("verify", "-o", place.root)
    assert (ran.code, "everything is correct (5 images)" in ran.out) == (0, True), ran


def test_addresses_name_the_right_store(place: Visit, server: FaultyServer, inside: Inside) -> None:
    dataset = read_dataset(place)
    assert dataset is not None
    assert dataset.origin.store_url == f"{server.url}/store"
    page = json.loads((place.of_study.catalog / "data" / "visits" / "v1.json").read_bytes())
    assert page["archive"]["url"] == f"{server.url}/store/{place.storepath}"
    assert f"url={OWN}/{STUDY}/v1_" in page["clone"]["datalad"]
    assert f"--store {OWN} " in page["clone"]["icf-utils"]
    assert f"{server.url}/store/{place.storepath}" in " ".join(page["commands"].values())
    index = json.loads((place.of_study.catalog / "data" / "study.json").read_bytes())
    assert (index["stores"], index["archives"]) == ([OWN], [f"{server.url}/store"])
    ran = inside("deposit_visit_dataset", "-o", place.root, "--id", STUDY, "v1")
    assert (ran.code, f"url={OWN}/{STUDY}/v1_" in ran.out) == (0, True), ran


def test_images_come_from_there(place: Visit, server: FaultyServer, tmp_path: Path, inside: Inside) -> None:
    """From the store's folder, and from a web server that has it: its catalog says where the archive is."""
    ran = inside("retrieve", "--store", place.root, "--id", STUDY, "v1", "-d", tmp_path / "local")
    assert (ran.code, "5 images retrieved" in ran.out) == (0, True), ran
    for path in place.root.rglob("*"):
        if path.is_file():
            server.objects[f"/index/{path.relative_to(place.root).as_posix()}"] = path.read_bytes()
    ran = inside("retrieve", "--store", f"{server.url}/index", "--id", STUDY, "v1", "-d", tmp_path / "web")
    assert (ran.code, "5 images retrieved" in ran.out) == (0, True), ran


def test_the_password_of_the_archives_is_asked_for_once(
    place: Visit, server: FaultyServer, tmp_path: Path, inside: Inside
) -> None:
    """On the terminal, before several processes read them."""
    pexpect = pytest.importorskip("pexpect", reason="pexpect is not installed")
    index_visit(tmp_path, server, inside, "v2", 72)
    server.authorization = "Basic " + base64.b64encode(b"anna:s3cret").decode()
    ran = inside("verify", "-o", place.root)
    assert (ran.code, ran.out.count("requires authentication (401)")) == (1, 2), ran
    server.requests.clear()
    environment = {name: text for name, text in os.environ.items() if name != "GIT_TERMINAL_PROMPT"}
    words = ["-m", "icf_utils", "verify", "-o", str(place.root), "--fetch", "-j", "2"]
    child = pexpect.spawn(sys.executable, words, env=environment, timeout=60)
    child.expect(f"{server.url} requires authentication.*User: ")
    child.sendline("anna")
    child.expect("Password: ")
    child.sendline("s3cret")
    said = child.read().decode()
    child.close()
    assert (child.exitstatus, said.count("everything is correct")) == (0, 2), said
    assert "requires authentication" not in said
    assert sum("Authorization" not in request.headers for request in server.requests) == 1


def test_verify_finds_what_is_wrong_there(place: Visit, server: FaultyServer, inside: Inside) -> None:
    address = f"/store/{place.storepath}"
    whole = server.objects[address]
    server.objects[address] = whole[:-512]
    ran = inside("verify", "-o", place.root)
    assert (ran.code, "cannot be checked elsewhere" in ran.out) == (1, True), ran
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    server.objects[address] = bytes(damaged)
    assert inside("verify", "-o", place.root).code == 0
    ran = inside("verify", "-o", place.root, "--fetch")
    assert (ran.code, f"'{place.archive}'" in ran.out) == (1, True), ran
    server.objects[address] = whole
    assert inside("verify", "-o", place.root, "--fetch").code == 0
    del server.objects[address]
    ran = inside("verify", "-o", place.root)
    assert (ran.code, f"is neither here nor at {server.url}" in ran.out) == (1, True), ran


@pytest.mark.parametrize(
    "command",
    [
        ("visit", "replace", "--reason", "late", "--yes"),
        ("visit", "rename", "--to", STUDY, "v2", "--yes"),
        ("visit", "refresh", "--read-archives"),
        ("deposit_visit_metadata",),
    ],
)
def test_what_needs_the_archive_says_where_it_is(
    place: Visit, tmp_path: Path, inside: Inside, command: tuple[str, ...]
) -> None:
    source = (tmp_path / "in",) if "replace" in command else ()
    ran = inside(*command, "-o", place.root, "--id", STUDY, "v1", *source)
    assert (ran.code, "copy it and its .md5sum here first" in ran.err) == (5, True), ran


def test_the_archives_come_here(place: Visit, tmp_path: Path, inside: Inside) -> None:
    for path in (tmp_path / "there" / STUDY).glob("v1_dicom.tar*"):
        shutil.copy(path, place.of_study.folder)
    init = place.root / "icf.toml"
    init.write_text("".join(line for line in init.read_text().splitlines(True) if "archives" not in line))
    ran = inside("visit", "refresh", "-o", place.root)
    assert (ran.code, "another store address" in ran.out) == (0, True), ran
    assert inside("verify", "-o", place.root).code == 0
    assert "archives" not in json.loads((place.of_study.catalog / "data" / "study.json").read_bytes())


def test_clones_for_git_annex_alone_are_refused(place: Visit, inside: Inside) -> None:
    settings = place.root / "icf.toml"
    settings.write_text(settings.read_text() + "[dataset]\nannex_url = true\n")
    ran = inside("deposit_visit_dataset", "-o", place.root, "--id", STUDY, "v1")
    assert (ran.code, "cannot be combined with [store] archives" in ran.err) == (2, True), ran


def test_a_removal_names_the_archive_that_stays(place: Visit, server: FaultyServer, inside: Inside) -> None:
    ran = inside("visit", "remove", "-o", place.root, "--id", STUDY, "v1", "--yes")
    assert (ran.code, f"the archive at {server.url}/store/{place.storepath}" in ran.out) == (0, True), ran
