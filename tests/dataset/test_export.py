"""Streams, packs and zip files without compression, read by the programs that users have."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from icf_utils.dataset import git_pack
from icf_utils.dataset.export import ANNEX, MAIN, ExportMember, export_bytes, read_export, refs_bytes, write_zip
from icf_utils.dataset.git_objects import FILE, LINK, BranchFile, GitObject, GitObjects, parse_tree
from tests.dataset.commands import branch_files, run
from tests.dataset.conftest import require


def test_zip_is_read_by_others(tmp_path: Path) -> None:
    members = [
        ExportMember("folder/", b""),
        ExportMember("folder/empty", b""),
        ExportMember("large", bytes(200_000)),
        ExportMember("x", b"x"),
    ]
    path = tmp_path / "test.zip"
    path.write_bytes(write_zip(members))
    with zipfile.ZipFile(path) as packed:
        assert packed.testzip() is None
        assert [(item.filename, packed.read(item)) for item in packed.infolist()] == [tuple(item) for item in members]
        assert {item.compress_type for item in packed.infolist()} == {zipfile.ZIP_DEFLATED}
        assert {item.date_time for item in packed.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert [item.external_attr >> 16 for item in packed.infolist()] == [0o40755, 0o100644, 0o100644, 0o100644]
        assert {item.create_system for item in packed.infolist()} == {3}
    require("unzip")
    assert b"No errors detected" in run("unzip", "-t", str(path), cwd=tmp_path)


FILES = {
    b"a.b": BranchFile(FILE, b"beside the folder a"),
    b"a/deep/er": BranchFile(LINK, b"../../target"),
    b"a-b": BranchFile(FILE, b""),
    b"a0": BranchFile(FILE, b"same"),
    b"b": BranchFile(FILE, b"same"),
    b"large": BranchFile(FILE, bytes(200_000)),
    b"/".join([b"d"] * 1200): BranchFile(FILE, b"deeper than Python calls"),
}


def test_git_reads_the_same_objects(tmp_path: Path) -> None:
    require("git")
    objects = GitObjects()
    commit = objects.add_commit(FILES, 86400, "A test")
    packed = git_pack.write_pack(objects.objects)
    run("git", "init", "-q", "--bare", ".", cwd=tmp_path)
    output = run("git", "index-pack", "--strict", "--stdin", cwd=tmp_path, stdin=packed.data)
    assert output == f"pack\t{packed.name}\n".encode()
    stem = tmp_path / "objects" / "pack" / f"pack-{packed.name}"
    assert stem.with_suffix(".idx").read_bytes() == packed.idx
    run("git", "update-ref", "refs/heads/main", commit.hex(), cwd=tmp_path)
    assert branch_files(tmp_path, "main") == {path: tuple(item) for path, item in FILES.items()}
    assert run("git", "log", "-1", "--format=%an %ae %at %cn %ce %ct %B", commit.hex(), cwd=tmp_path).split() == (
        b"icf-utils icf-utils@icf-utils.invalid 86400 icf-utils icf-utils@icf-utils.invalid 86400 A test".split()
    )


def test_pack_and_export_are_read_back() -> None:
    objects = GitObjects()
    refs = {MAIN: objects.add_commit(FILES, 0, "x").hex(), ANNEX: objects.add_commit({}, 0, "y").hex()}
    assert git_pack.read_pack(git_pack.write_pack(objects.objects).data) == objects.objects
    assert read_export(export_bytes(objects.objects, refs)) == (objects.objects, refs)
    assert refs_bytes(refs).decode().splitlines()[-1] == "@refs/heads/main HEAD"


def test_a_pack_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_pack, "MOST_BYTES", 1000)
    with pytest.raises(OverflowError):
        git_pack.write_pack({item.oid: item for item in [GitObject("blob", bytes(1000))]})


def test_a_malformed_tree() -> None:
    with pytest.raises(ValueError, match="not found"):
        list(parse_tree(b"nonsense"))


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, icf_utils.dataset.stage as s; print(any(m in sys.modules for m in ('git', 'datalad', 'pydicom')))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert output.stdout == "False\n"


def test_zipped_repository_needs_nothing_else(tmp_path: Path) -> None:
    require("git")
    objects = GitObjects()
    refs = {MAIN: objects.add_commit(FILES, 0, "x").hex(), ANNEX: objects.add_commit({}, 0, "y").hex()}
    with zipfile.ZipFile(io.BytesIO(export_bytes(objects.objects, refs))) as packed:
        packed.extractall(tmp_path)
    run("git", "fsck", "--strict", "--full", cwd=tmp_path)
    assert run("git", "symbolic-ref", "HEAD", cwd=tmp_path) == b"refs/heads/main\n"
