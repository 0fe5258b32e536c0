"""Addresses, identities and dates that users give: accepted or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from icf_utils.dataset.origin import (
    LATEST_TIME,
    clone_url,
    limit_time,
    make_origin,
    parse_commit_date,
)
from icf_utils.errors import InvalidSetting
from icf_utils.store.address import check_store_id, check_store_url
from icf_utils.store.layout import Visit

PLACE = Visit(Path("store"), "study", "v1")


@pytest.mark.parametrize(
    "url",
    [
        "https://data.example.org",
        "http://127.0.0.1:8080/a/b",
        "http://[::1]:8080",
        "file:///srv/the%20store",
        "ssh://user@host.example/srv/store",
    ],
)
def test_urls_that_clones_can_use(url: str) -> None:
    assert check_store_url(url) == url
    assert check_store_url(url + "//") == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "data.example.org/store",
        "/srv/store",
        "../store",
        "ftp://example.org",
        "https:/example.org",
        "https://",
        "https:///store",
        "https://example.org:port/",
        "https://example.org:99999/",
        "https://[::1/",
        "https://example.org/?a=b",
        "https://example.org/#a",
        "https://example.org/a b",
        "https://example.org/a'b",
        "https://example.org/{x}",
        "https://exämple.org/",
        "https://example.org/\n",
        "file://store",
        "file://host/store",
        "file:///",
        "HTTPS://example.org",
        "https://example.org/%",
        "https://example.org/%zz",
        "https://example.org/a/../b",
        "https://example.org/.",
        "ssh://-oProxyCommand=x/y",
    ],
)
def test_malformed_urls(url: str) -> None:
    with pytest.raises(InvalidSetting):
        check_store_url(url)


@pytest.mark.parametrize(
    "url", ["https://me:secret@example.org", "https://secret@example.org", "ssh://me:secret@host/x"]
)
def test_credentials_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidSetting, match="user name or password") as caught:
        check_store_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https:/me:secret@h",
        "me:secret@h",
        "https//me:secret@h/x",
        "https://h/?t=secret",
        "https://h/x#secret",
        "t=secret",
    ],
)
def test_credentials_in_a_mistyped_url_are_not_repeated(url: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        check_store_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", [" ", "\t", "a\nb"])
def test_invisible_store_ids(name: str) -> None:
    with pytest.raises(InvalidSetting):
        check_store_id(name)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01", 0),
        ("2021-03-04", 1614816000),
        ("2021-03-04T05:06:07", 1614834367),
        ("2021-03-04 05:06:07.9", 1614834367),
        ("2021-03-04T05:06:07.123456Z", 1614834367),
        ("2021-03-04T05:06Z", 1614834360),
        ("2021-03-04T07:06:07+02:00", 1614834367),
        ("2021-03-04T07:06:07.5+02:00", 1614834367),
        ("2514-05-30T01:53:03", LATEST_TIME),
    ],
)
def test_commit_dates(text: str, seconds: int) -> None:
    assert parse_commit_date(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "today",
        "1969-12-31",
        "2514-05-30T01:53:04",
        "2021-02-30",
        "20210304",
        "2021-W01-1",
        "1614834367",
        "2021-03-04T",
        "２021-03-04",
    ],
)
def test_malformed_dates(text: str) -> None:
    with pytest.raises(InvalidSetting, match="commit date"):
        parse_commit_date(text)


def test_times_outside_of_git_s_range() -> None:
    assert [limit_time(-5.5), limit_time(5.9), limit_time(253402300799.0)] == [0, 5, LATEST_TIME]


def test_identity_is_the_url_unless_named() -> None:
    here, there = "https://here.example", "https://there.example/"
    assert make_origin(here, "", PLACE, 0).uuids != make_origin(there, "", PLACE, 0).uuids
    assert make_origin(here, "icf", PLACE, 0).uuids == make_origin(there, "icf", PLACE, 0).uuids
    assert make_origin(here, "https://there.example", PLACE, 0).uuids == make_origin(there, "", PLACE, 0).uuids


def test_identity_is_one_line() -> None:
    with pytest.raises(InvalidSetting, match="one line"):
        make_origin("https://here.example", "a\nb", PLACE, 0)


def test_clone_url_is_decoded_once() -> None:
    assert clone_url("file:///a%20b", PLACE).endswith("&url=file:///a%2520b/study/v1_{{annex_key}}")
