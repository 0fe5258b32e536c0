"""Files behave like objects on web servers."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from icf_utils.errors import InvalidSetting
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.files import path_of
from icf_utils.fetch.open import open_source


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a %20ü#.tar"
    path.write_bytes(b"0123456789")
    return path


def test_reading(file: Path) -> None:
    source = open_source(file.as_uri())
    assert (source.size(), source.exists()) == (10, True)
    assert b"".join(source.read()) == b"0123456789"
    assert b"".join(source.read(3, 4)) == b"3456"
    assert b"".join(source.read(10)) == b""


def test_a_missing_file(file: Path) -> None:
    source = open_source(file.with_name("b").as_uri())
    assert not source.exists()
    with pytest.raises(FetchFailure) as caught:
        list(source.read())
    assert caught.value.kind == "missing"


def test_a_file_without_permission(open_tmp_path: Path, as_nobody: Callable[[], AbstractContextManager[None]]) -> None:
    path = open_tmp_path / "a.tar"
    path.write_bytes(b"x")
    path.chmod(0)
    with as_nobody(), pytest.raises(FetchFailure) as caught:
        open_source(path.as_uri()).exists()
    assert caught.value.kind == "forbidden"


def test_sizes(file: Path) -> None:
    with pytest.raises(FetchFailure) as caught:
        list(open_source(file.as_uri()).read(5, 10))
    assert caught.value.kind == "size"
    with pytest.raises(FetchFailure) as caught:
        open_source(file.as_uri(), expected=9).exists()
    assert caught.value.kind == "size"


def test_a_change_is_noticed(file: Path) -> None:
    source = open_source(file.as_uri())
    assert b"".join(source.read(0, 3)) == b"012"
    os.utime(file, (1, 1))
    with pytest.raises(FetchFailure) as caught:
        list(source.read(3, 3))
    assert caught.value.kind == "changed"


@pytest.mark.parametrize("url", ["file://host/a", "file:a", "ftp://host/a", "https://", "/a/path"])
def test_other_addresses(url: str) -> None:
    with pytest.raises(InvalidSetting):
        open_source(url)


def test_localhost_is_this_machine() -> None:
    assert path_of("file://localhost/a%20b") == Path("/a b")
