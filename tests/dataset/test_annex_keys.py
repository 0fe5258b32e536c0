"""Keys and their folders, compared with git-annex."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icf_utils.dataset.annex_keys import (
    key_extension,
    key_md5,
    key_size,
    link_target,
    lower_folder,
    md5e_key,
    mixed_folder,
    parse_locator,
)
from tests.dataset.commands import run
from tests.dataset.conftest import require

MD5_OF_X = "9dd4e461268c8034f5c8564e155c67a6"

EXTENSIONS = {
    b"a.dcm": b".dcm",
    b"IM0001": b"",
    b"x.tar.gz": b".tar.gz",
    b"a.b.c": b".b.c",
    b"1.2.840.113.dcm": b".113.dcm",
    b"1.2.840.113619.2": b".2",
    b".dcm": b"",
    b"..dcm": b"",
    b".a.dcm": b".dcm",
    b"a..dcm": b".dcm",
    b"a.b..": b"",
    b"a.DCM": b".DCM",
    b"a.dcm ": b"",
    b"a.dcm.": b".dcm",
    b"a.abcde.ef": b".ef",
    b"a.abcde": b"",
    b"a.b.-": b".b",
    "a.é".encode(): ".é".encode(),
    "a.ééé".encode(): b"",
    b"a.d\xffm": b".d\xffm",
    b"a.d\rm": b"",
}


@pytest.mark.parametrize("name", EXTENSIONS)
def test_extension(name: bytes) -> None:
    assert key_extension(name) == EXTENSIONS[name]


_PARTS = st.sampled_from(
    [b".", b".", b"a", b"b1", b"dcm", b"DCM", b"tar", b"gz", b" ", b"_", b"-", b"#", b"\r", b"\xff", "é".encode()]
)
_NAMES = st.lists(_PARTS, min_size=1, max_size=8).map(b"".join).filter(lambda name: name not in (b".", b".."))


@given(names=st.sets(_NAMES, min_size=40, max_size=120))
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_git_annex_makes_the_same_keys(names: set[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    require("git-annex")
    repository = annex(tmp_path_factory.mktemp("annex"))
    folder = tmp_path_factory.mktemp("files")
    paths = [bytes(folder) + b"/" + name for name in sorted(names | set(EXTENSIONS))]
    for path in paths:
        Path(path.decode("utf-8", "surrogateescape")).write_bytes(b"x")
    asked = b"".join(path + b"\0" for path in paths)
    answer = run("git", "annex", "calckey", "--backend=MD5E", "--batch", "-z", cwd=repository, stdin=asked)
    assert answer.split(b"\n")[:-1] == [md5e_key(1, MD5_OF_X, path) for path in paths]


def test_git_annex_uses_the_same_folders(tmp_path: Path) -> None:
    require("git-annex")
    repository = annex(tmp_path)
    keys = [md5e_key(size, MD5_OF_X, name) for name in EXTENSIONS for size in (0, 1, 2**40) if b"\r" not in name]
    form = "${hashdirlower}\t${hashdirmixed}\t${file}\t${objectpath}\\n"
    asked = b"".join(key + b"\n" for key in keys)
    answer = run("git", "annex", "examinekey", "--batch", f"--format={form}", cwd=repository, stdin=asked)
    assert answer.split(b"\n")[:-1] == [
        b"%s/\t%s/\t\t.git/annex/objects/%s/%s/%s" % (lower_folder(key), mixed_folder(key), mixed_folder(key), key, key)
        for key in keys
    ]


def test_link_climbs_to_the_top() -> None:
    key = md5e_key(1, MD5_OF_X, b"a")
    assert link_target(b"a", key) == b".git/annex/objects/3V/f8/%s/%s" % (key, key)
    assert link_target(b"a/b/c", key) == b"../../.git/annex/objects/3V/f8/%s/%s" % (key, key)


def annex(folder: Path) -> Path:
    run("git", "init", "-q", ".", cwd=folder)
    run("git", "annex", "init", "-q", "test", cwd=folder)
    assert json.loads(run("git", "annex", "info", "--fast", "--json", cwd=folder))["success"]
    return folder


def test_locators() -> None:
    found = parse_locator("dl+archive:MD5E-s1--x.tar#path=a b%#c.dcm&size=5&atype=tar&offset=7")
    assert found is not None
    assert (found.archive_key, found.path, found.size, found.offset) == ("MD5E-s1--x.tar", "a b%#c.dcm", 5, 7)
    assert parse_locator("https://example.org/a.tar") is None
    assert (key_size("URL--x-s3"), key_md5("SHA256E-s1--aa")) == (None, "")
