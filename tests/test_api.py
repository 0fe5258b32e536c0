"""The package as a library: what it offers, of which types, from which arguments."""

from __future__ import annotations

import dataclasses
import inspect
import os
import pkgutil
import re
import typing
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import icf_utils
from icf_utils import (
    ArchiveResult,
    CatalogResult,
    DatasetResult,
    Finding,
    IcfError,
    MetadataResult,
    Notice,
    VerifyResult,
    VisitCheck,
    Written,
    catalogify_studyvisit_from_meta,
    deposit_visit_dataset,
    deposit_visit_metadata,
    make_studyvisit_archive,
    verify_store,
    verify_visit,
)
from icf_utils.errors import DepositMissing
from tests.pages import DOCS
from tests.verify.stores import STUDY, URL, write_input

STAGES: tuple[Callable[..., object], ...] = (
    make_studyvisit_archive,
    deposit_visit_metadata,
    deposit_visit_dataset,
    catalogify_studyvisit_from_meta,
    verify_visit,
    verify_store,
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_input(tmp_path / "in")


def test_everything_that_is_offered_is_there() -> None:
    for name in icf_utils.__all__:
        assert getattr(icf_utils, name) is not None
    assert dir(icf_utils) == sorted(icf_utils.__all__)
    everything: dict[str, object] = {}
    exec("from icf_utils import *", everything)
    assert set(icf_utils.__all__) - {"__version__"} <= set(everything)


def test_the_offered_are_documented() -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    described = set(re.findall(r"auto(?:function|class):: [\w.]+\.(\w+)", page))
    errors = re.search(r"automodule:: icf_utils\.errors\n +:members: (.*)", page)
    assert errors
    assert set(icf_utils.__all__) - {"__version__"} <= described | set(errors[1].split(", "))


def test_what_is_not_offered() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = icf_utils.nonsense
    assert not hasattr(icf_utils, "make_archive")


def test_the_offered_are_those_of_their_modules() -> None:
    """The one list for people, the one for type checkers and the one for the loader agree."""
    assert set(icf_utils._HOME) == set(icf_utils.__all__) - {"__version__"}
    for name, home in icf_utils._HOME.items():
        assert getattr(import_module(f"icf_utils.{home}"), name) is getattr(icf_utils, name)


class Somewhere:
    """A path of a kind of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


@pytest.mark.parametrize("kind", [str, Path, Somewhere])
def test_paths_of_any_kind(source: Path, tmp_path: Path, kind: Callable[[Path], str | os.PathLike[str]]) -> None:
    store = kind(tmp_path / "store")
    (tmp_path / "tags").write_text("EchoTime\n")
    archive = make_studyvisit_archive(kind(source), store, STUDY, "v1")
    metadata = deposit_visit_metadata(store, STUDY, "v1", tags=kind(tmp_path / "tags"))
    dataset = deposit_visit_dataset(store, STUDY, "v1", store_url=URL)
    catalog = catalogify_studyvisit_from_meta(store, STUDY, "v1")
    check = verify_visit(store, STUDY, "v1", rebuild=kind(source))
    every = verify_store(store)
    results = (archive, metadata, dataset, catalog, check, every)
    expected = (ArchiveResult, MetadataResult, DatasetResult, CatalogResult, VisitCheck, VerifyResult)
    for result, wanted in zip(results, expected, strict=True):
        assert type(result) is wanted
        assert_typed(result)
    assert archive.archive.path == tmp_path / "store" / STUDY / "v1_dicom.tar"
    assert (archive.dicom_files, archive.other_files, metadata.images, dataset.images, catalog.images) == (
        5,
        1,
        5,
        5,
        5,
    )
    assert (catalog.series, check.images, check.findings, every.visits) == (2, 5, (), (check,))


def assert_typed(result: object) -> None:
    """Every field of a result holds what it is declared to hold, and cannot be changed."""
    assert dataclasses.is_dataclass(result)
    for name, hint in typing.get_type_hints(type(result)).items():
        value = getattr(result, name)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is tuple:
            assert isinstance(value, tuple)
            for item in value:
                assert isinstance(item, arguments[0])
                if dataclasses.is_dataclass(item):
                    assert_typed(item)
        elif origin is typing.Literal:
            assert value in arguments
        else:
            assert isinstance(value, hint), (name, hint)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result, dataclasses.fields(result)[0].name, None)


def test_results_of_findings_and_notices(source: Path, tmp_path: Path) -> None:
    (source / "late.dcm").write_bytes((source / "01_localizer" / "0001.dcm").read_bytes()[:300])
    archive = make_studyvisit_archive(source, tmp_path, STUDY, "v1")
    assert all(isinstance(notice, Notice) for notice in archive.notices)
    assert archive.notices
    assert isinstance(archive.archive, Written)
    (tmp_path / STUDY / "v1_dicom.tar.md5sum").write_text("")
    (tmp_path / STUDY / "v1_SHA256SUMS").unlink()
    finding, unproved = verify_store(tmp_path).findings
    assert "nothing is left that could prove it" in unproved.problem
    assert isinstance(finding, Finding)
    assert_typed(finding)


def test_every_error_is_an_icf_error(tmp_path: Path) -> None:
    for stage in STAGES[1:5]:
        with pytest.raises(IcfError) as caught:
            stage(tmp_path, STUDY, "v1")
        assert type(caught.value) is DepositMissing
    with pytest.raises(IcfError):
        make_studyvisit_archive(tmp_path / "nowhere", tmp_path, STUDY, "v1")


def test_stages_are_typed() -> None:
    for stage in STAGES:
        hints = typing.get_type_hints(stage)
        assert hints["return"].__name__ in icf_utils.__all__
        assert set(inspect.signature(stage).parameters) == set(hints) - {"return"}
        assert "progress" in hints


def modules() -> list[ModuleType]:
    found = pkgutil.walk_packages(icf_utils.__path__, "icf_utils.")
    return [import_module(item.name) for item in found if not item.name.startswith("icf_utils.cli")]


def test_the_library_never_prints(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_studyvisit_archive(source, tmp_path / "store", STUDY, "v1")
    deposit_visit_metadata(tmp_path / "store", STUDY, "v1")
    deposit_visit_dataset(tmp_path / "store", STUDY, "v1")
    catalogify_studyvisit_from_meta(tmp_path / "store", STUDY, "v1")
    verify_store(tmp_path / "store")
    assert capfd.readouterr() == ("", "")


def test_importing_a_module_has_no_effect(capfd: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ), os.getcwd()
    assert len(modules()) > 30
    assert (dict(os.environ), os.getcwd()) == before
    assert capfd.readouterr() == ("", "")
