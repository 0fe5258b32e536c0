"""A store's settings: defaults, everything that can be said, and no mistake that is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from icf_utils.errors import InvalidSetting, StorageFailure
from icf_utils.settings import SETTINGS_NAME, Settings, load_settings, parse_settings

EVERYTHING = """\
[store]
url = "https://example.org/store"
id = "my-store"
archives = "https://other.example.org"
group_shared = true
[dataset]
annex_url = true
[archive]
leave_out = ["*.tmp"]
[metadata]
tags = ["EchoTime", "(0018,0080)"]
technical_tags = ["EchoTime"]
allow_identifying = true
[catalog]
name = "Sch\u00e4del"
description = "d"
logo = "l.svg"
link_color = "#123456"
link_hover_color = "#654321"
about = "a"
documentation = "u"
github = "g"
mastodon = "m"
x = "x"
hide_dates = true
file_names = "none"
[run]
jobs = 4
table = "t"
pattern = "p"
until = "dataset"
timezone = "Europe/Berlin"
settle = "10m"
process = ["p"]
"""


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no address by default; one of the environment is that of stores without one of their own."""
    monkeypatch.delenv("ICF_STORE_URL")
    for place in (tmp_path, tmp_path / "missing"):
        assert load_settings(place) == Settings()
    (tmp_path / SETTINGS_NAME).write_bytes(b"")
    assert load_settings(tmp_path) == Settings()
    assert load_settings(tmp_path / SETTINGS_NAME) == Settings()
    assert Settings().store.url == ""
    monkeypatch.setenv("ICF_STORE_URL", "https://store.example.org")
    assert load_settings(tmp_path).store.url == "https://store.example.org"
    (tmp_path / SETTINGS_NAME).write_bytes(b"[store]\nurl = 'https://own.example.org'\n")
    assert load_settings(tmp_path).store.url == "https://own.example.org"
    assert not Settings().metadata.allow_identifying


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    (tmp_path / SETTINGS_NAME).write_text(EVERYTHING, encoding="utf-8")
    found = load_settings(tmp_path)
    assert (found.store.url, found.store.id) == ("https://example.org/store", "my-store")
    assert (found.metadata.tags, found.metadata.allow_identifying) == (("EchoTime", "(0018,0080)"), True)
    assert found.catalog.name == "Sch\u00e4del"
    assert (found.run.jobs, found.run.timezone) == (4, "Europe/Berlin")
    said = {line.split(" = ")[0] for line in EVERYTHING.splitlines() if "=" in line}
    known = {key for section in vars(found).values() if not isinstance(section, tuple) for key in vars(section)}
    assert said == known, "a setting is missing in this test"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "[stroe]\nurl = 'x'",
            "stroe: unknown key; did you mean 'store'? (known: store, archive, metadata, dataset",
        ),
        ("url = 'x'", "url: unknown key (known: store"),
        (
            "[store]\nurll = 'x'",
            "[store] urll: unknown key; did you mean 'url'? (known: url, id, archives, group_shared)",
        ),
        ('[catalog]\n"b\u00e4d\\n" = 1', "[catalog] b\u00e4d\\n: unknown key (known"),
        ("[store]\nurl = 1", "[store] url: expected text in quotes, found the number 1"),
        ("[store]\nurl = ['x']", "[store] url: expected text in quotes, found a list"),
        ("[store]\nurl = 2024-01-31", "[store] url: expected text in quotes, found a date or time"),
        ("[metadata]\ntags = 'EchoTime'", "[metadata] tags: expected a list of texts, found the text 'EchoTime'"),
        ("[metadata]\ntags = ['EchoTime', 1]", "[metadata] tags: expected a list of texts, found the number 1 in it"),
        ("[metadata]\nallow_identifying = 1", "allow_identifying: expected true or false, found the number 1"),
        ("[metadata]\nallow_identifying = 'true'", "allow_identifying: expected true or false, found the text 'true'"),
        ("[run]\njobs = true", "[run] jobs: expected a whole number, found true"),
        ("[run]\njobs = 1.5", "[run] jobs: expected a whole number, found the number 1.5"),
        ("[run]\njobs = -1", "[run] jobs: must be at least 0, found -1"),
        ("[run]\nuntil = 'datset'", "or 'catalog', found 'datset'; did you mean 'dataset'?"),
        ("[catalog]\nfile_names = 'hidden'", "file_names: expected 'plain', 'all' or 'none', found 'hidden'"),
        ("store = 'x'", "'store' must be a table: write [store]"),
        ("[[store]]\nurl = 'x'", "'store' must be a table"),
        ("[store]\nurl = 'x'\nurl = 'y'", "this is not a TOML file"),
        ("[store", "this is not a TOML file"),
    ],
)
def test_mistakes(text: str, named: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        parse_settings(text.encode(), "/store/icf.toml")
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith("/store/icf.toml: ")
    assert named in str(caught.value)


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(InvalidSetting) as caught:
        parse_settings(b"[run]\njobs = '4'\ntabel = 'x'\n[store]\nurl = 1", "icf.toml")
    assert str(caught.value).splitlines() == [
        "icf.toml: 3 mistakes:",
        "  [store] url: expected text in quotes, found the number 1",
        "  [run] tabel: unknown key; did you mean 'table'? "
        "(known: jobs, table, pattern, until, timezone, settle, process)",
        "  [run] jobs: expected a whole number, found the text '4'",
    ]


def test_other_encodings() -> None:
    with pytest.raises(InvalidSetting, match="not a TOML file"):
        parse_settings("[catalog]\nname = 'Sch\u00e4del'".encode("latin-1"), "icf.toml")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / SETTINGS_NAME).mkdir()
    with pytest.raises(StorageFailure, match=SETTINGS_NAME):
        load_settings(tmp_path)
