"""A store's settings: defaults, everything that can be said, and no mistake that is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from icf_utils.errors import InvalidSetting, StorageFailure
from icf_utils.settings import DEFAULT_STORE_URL, SETTINGS_NAME, Settings, load_settings, parse_settings

EVERYTHING = """\
[store]
url = "https://example.org/store"
id = "my-store"
group_shared = true
[dataset]
annex_url = true
[metadata]
tags = ["EchoTime", "(0018,0080)"]
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
file_names = "hidden"
[run]
jobs = 4
table = "t"
pattern = "p"
until = "dataset"
timezone = "Europe/Berlin"
"""


def test_defaults(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        assert load_settings(place) == Settings()
    (tmp_path / SETTINGS_NAME).write_bytes(b"")
    assert load_settings(tmp_path) == Settings()
    assert load_settings(tmp_path / SETTINGS_NAME) == Settings()
    assert Settings().store.url == DEFAULT_STORE_URL
    assert not Settings().metadata.allow_identifying


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    (tmp_path / SETTINGS_NAME).write_text(EVERYTHING, encoding="utf-8")
    found = load_settings(tmp_path)
    assert (found.store.url, found.store.id) == ("https://example.org/store", "my-store")
    assert (found.metadata.tags, found.metadata.allow_identifying) == (("EchoTime", "(0018,0080)"), True)
    assert found.catalog.name == "Sch\u00e4del"
    assert (found.run.jobs, found.run.timezone) == (4, "Europe/Berlin")
    said = {line.split(" = ")[0] for line in EVERYTHING.splitlines() if "=" in line}
    known = {key for section in vars(found).values() for key in vars(section)}
    assert said == known, "a setting is missing in this test"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[stroe]\nurl = 'x'", "unknown table: stroe (known: store, metadata, dataset, catalog, run)"),
        ("url = 'x'", "unknown table: url"),
        ("[store]\nurll = 'x'\nfoo = 1", "unknown key in [store]: foo, urll (known: url, id, group_shared)"),
        ('[catalog]\n"b\u00e4d\\n" = 1', "unknown key in [catalog]: b\u00e4d\\n (known"),
        ("[store]\nurl = 1", "[store] url must be text, found int"),
        ("[store]\nurl = ['x']", "[store] url must be text, found list"),
        ("[metadata]\ntags = 'EchoTime'", "[metadata] tags must be a list of texts, found str"),
        ("[metadata]\ntags = ['EchoTime', 1]", "[metadata] tags must be a list of texts, found list"),
        ("[metadata]\nallow_identifying = 1", "[metadata] allow_identifying must be true or false, found int"),
        ("[metadata]\nallow_identifying = 'true'", "[metadata] allow_identifying must be true or false, found str"),
        ("[run]\njobs = true", "[run] jobs must be a whole number, found bool"),
        ("[run]\njobs = 1.5", "[run] jobs must be a whole number, found float"),
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


def test_other_encodings() -> None:
    with pytest.raises(InvalidSetting, match="not a TOML file"):
        parse_settings("[catalog]\nname = 'Sch\u00e4del'".encode("latin-1"), "icf.toml")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / SETTINGS_NAME).mkdir()
    with pytest.raises(StorageFailure, match=SETTINGS_NAME):
        load_settings(tmp_path)
