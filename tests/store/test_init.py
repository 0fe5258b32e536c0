"""A store is made on purpose, and has the address that its owner gave it; there is no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from icf_utils import init_store, make_studyvisit_archive
from icf_utils.errors import InvalidSetting
from icf_utils.settings import load_settings
from tests.cli.program import Inside
from tests.data.make_dicom import write_visit

URL = "https://store.example.org"


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inside:
    """The program without an address and a permission in the environment, which most tests have."""
    monkeypatch.delenv("ICF_STORE_URL")
    monkeypatch.delenv("ICF_NEW_STORE")
    return Inside(capsys)


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    write_visit(tmp_path / "in", {1: ("scout", 2)})
    (tmp_path / "t.csv").write_text("study,visit,input\ns,v,in\n")
    return tmp_path / "in"


# -- the settings file -------------------------------------------------------------------------------------------------


def test_a_new_store(tmp_path: Path, program: Inside) -> None:
    ran = program("init", tmp_path / "a" / "store", "--url", f"{URL}/", "--id", "my-store")
    assert ran.code == 0
    assert ran.out.startswith(f"{tmp_path / 'a' / 'store' / 'icf.toml'}: written (address {URL}, identity my-store)")
    assert (tmp_path / "a" / "store" / "icf.toml").read_text() == f'[store]\nurl = "{URL}"\nid = "my-store"\n'


def test_twice_is_once(tmp_path: Path) -> None:
    first, second = init_store(tmp_path, URL), init_store(tmp_path, URL)
    assert (first.state, second.state) == ("written", "unchanged")
    assert init_store(tmp_path, URL, "later").state == "completed"
    assert load_settings(tmp_path).store.id == "later"


@pytest.mark.parametrize(("url", "name"), [("https://other.example.org", ""), (URL, "other")])
def test_another_address_or_identity_is_refused(tmp_path: Path, url: str, name: str) -> None:
    init_store(tmp_path, URL, "mine")
    before = (tmp_path / "icf.toml").read_bytes()
    with pytest.raises(InvalidSetting, match=r"the store has the (url|id)"):
        init_store(tmp_path, url, name)
    assert (tmp_path / "icf.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# mine\n[run]\njobs = 2\n", f'[store]\nurl = "{URL}"\n\n# mine\n[run]\njobs = 2\n'),
        ("[store]  # here\ngroup_shared = true\n", f'[store]  # here\nurl = "{URL}"\ngroup_shared = true\n'),
        ('[store]\nid = "x"', f'[store]\nurl = "{URL}"\nid = "x"'),
    ],
)
def test_settings_are_completed_and_otherwise_kept(tmp_path: Path, old: str, new: str) -> None:
    (tmp_path / "icf.toml").write_text(old)
    assert init_store(tmp_path, URL).state == "completed"
    assert (tmp_path / "icf.toml").read_text() == new


def test_settings_that_cannot_be_completed(tmp_path: Path) -> None:
    (tmp_path / "icf.toml").write_text('store.id = "x"\n')
    with pytest.raises(InvalidSetting, match=r"add these lines to its table \[store\] by hand: url = "):
        init_store(tmp_path, URL)
    assert (tmp_path / "icf.toml").read_text() == 'store.id = "x"\n'


@pytest.mark.parametrize("url", ["", "store", "https://me:secret@example.org"])
def test_addresses_are_checked_before_anything_is_made(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidSetting):
        init_store(tmp_path / "store", url)
    assert not (tmp_path / "store").exists()


# -- no address --------------------------------------------------------------------------------------------------------


def test_without_an_address_nothing_that_contains_one_is_made(tmp_path: Path, visit: Path, program: Inside) -> None:
    store = tmp_path / "store"
    of_visit = ("-o", store, "--id", "s", "v")
    assert program("make_studyvisit_archive", *of_visit, "--new", visit).code == 0
    assert program("deposit_visit_metadata", *of_visit).code == 0
    for command in ("deposit_visit_dataset", "catalogify_studyvisit_from_meta"):
        ran = program(command, *of_visit)
        assert (ran.code, "the store has no address" in ran.err, "icf-utils init" in ran.err) == (2, True, True)
    ran = program("run", "-o", store)
    assert (ran.code, "the store has no address" in ran.err) == (2, True)
    assert program("run", "-o", store, "--until", "metadata").code == 0
    assert program("verify", "-o", store).code == 0
    assert program("init", store, "--url", URL).code == 0
    assert program("run", "-o", store).code == 0
    assert program("verify", "-o", store).code == 0


def test_the_address_of_the_environment(
    tmp_path: Path, visit: Path, program: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICF_STORE_URL", URL)
    run = ("run", "-o", tmp_path / "store", "--table", tmp_path / "t.csv", "--until", "dataset", "--new")
    assert program(*run).code == 0
    monkeypatch.delenv("ICF_STORE_URL")
    assert program("verify", "-o", tmp_path / "store", "--store-url", URL).code == 0


# -- no second store by accident ---------------------------------------------------------------------------------------


def test_no_store_is_made_by_accident(tmp_path: Path, visit: Path, program: Inside) -> None:
    table = tmp_path / "t.csv"
    commands = (
        ("make_studyvisit_archive", "-o", "stroe", "--id", "s", "v", visit),
        ("run", "-o", "stroe", "--table", table, "--store-url", URL),
        ("ingest", tmp_path / "in", "-o", "stroe", "--study", "s", "--store-url", URL, "--levels", "*", "--visit", "v"),
    )
    for command in commands:
        ran = program(*[tmp_path / "stroe" if item == "stroe" else item for item in command])
        assert (ran.code, "is not a store: the folder does not exist" in ran.err) == (2, True), ran
        assert "--new" in ran.err
    assert not (tmp_path / "stroe").exists()


def test_a_new_store_is_announced(tmp_path: Path, visit: Path, program: Inside) -> None:
    make = ("make_studyvisit_archive", "-o", tmp_path / "store", "--id", "s", "v", "--new", visit)
    assert f"making a new store in '{tmp_path / 'store'}'" in program(*make).err
    assert "making a new store" not in program(*make).err


def test_a_store_of_the_original_tools(tmp_path: Path, visit: Path, program: Inside) -> None:
    """It has deposits, and no settings."""
    make_studyvisit_archive(visit, tmp_path / "store", "s", "v")
    assert program("make_studyvisit_archive", "-o", tmp_path / "store", "--id", "s", "v2", visit).code == 0


@pytest.mark.parametrize("command", ["verify", "status"])
def test_reading_something_that_is_not_a_store(tmp_path: Path, program: Inside, command: str) -> None:
    (tmp_path / "other").mkdir()
    for folder, why in (("other", "it has no icf.toml and no visits"), ("missing", "the folder does not exist")):
        ran = program(command, "-o", tmp_path / folder)
        assert (ran.code, f"is not a store: {why}" in ran.err) == (2, True)
    init_store(tmp_path / "other", URL)
    assert program("status", "-o", tmp_path / "other").code == 0
