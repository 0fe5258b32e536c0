"""AE titles: the sender and the receiver's settings accept the same titles, and padding is never significant."""

from __future__ import annotations

from pathlib import Path

import pytest

from icf_utils.dicom.ae_titles import is_ae_title, parse_ae_title, strip_ae_title
from icf_utils.errors import InvalidSetting
from icf_utils.receiver.settings import Rule, parse_receiver_settings
from icf_utils.sender.peer import Peer

GOOD = [
    ("A", "A"),
    (" A", "A"),
    ("A ", "A"),
    ("A*", "A*"),
    ("MR STUDY a", "MR STUDY a"),
    ("ABCDEFGHIJKLMNOP", "ABCDEFGHIJKLMNOP"),
    ("  ABCDEFGHIJKLMNOP  ", "ABCDEFGHIJKLMNOP"),
    ("a~!\"'", "a~!\"'"),
]
BAD = ["", " ", "    ", "ABCDEFGHIJKLMNOPQ", "BACK\\SLASH", "NEW\nLINE", "TAB\t", "UMLÄUT", "\u00a0", "A\0B", "\0"]


def receiver_title(title: str) -> str:
    """The title as the receiver's settings read it."""
    text = f'store = "s"\nspool = "i"\n[[rule]]\ncalled_ae = {title!r}\nstudy = "study"\n'
    if "'" in title or not title.isprintable():
        escaped = "".join(f"\\u{ord(char):04x}" for char in title)
        text = text.replace(repr(title), f'"{escaped}"')
    (rule,) = parse_receiver_settings(text.encode(), Path("/etc/icf/receiver.toml")).rules
    return rule.called_ae


@pytest.mark.parametrize(("text", "title"), GOOD)
def test_sender_and_receiver_accept_the_same_titles(text: str, title: str) -> None:
    assert parse_ae_title("--aec", text) == title
    assert Peer("localhost", 104, text, text).called_title == title
    assert Peer("localhost", 104, text, text).calling_title == title
    assert receiver_title(text) == title


@pytest.mark.parametrize("text", BAD)
def test_sender_and_receiver_refuse_the_same_texts(text: str) -> None:
    assert not is_ae_title(text)
    with pytest.raises(InvalidSetting, match="not an AE title"):
        Peer("localhost", 104, text)
    with pytest.raises(InvalidSetting, match="not an AE title"):
        Peer("localhost", 104, "A", text)
    with pytest.raises(InvalidSetting, match="not an AE title"):
        receiver_title(text)


@pytest.mark.parametrize("padded", ["STUDYA", "STUDYA          ", "  STUDYA", "STUDYA\0\0\0", "STUDYA \0"])
def test_padding_is_not_significant(padded: str) -> None:
    assert strip_ae_title(padded) == "STUDYA"


def test_a_rule_is_used_whatever_the_padding_in_its_settings() -> None:
    text = 'store = "s"\nspool = "i"\n[[rule]]\ncalled_ae = " A "\ncalling_ae = ["B "]\nstudy = "study"\n'
    (rule,) = parse_receiver_settings(text.encode(), Path("/etc/icf/receiver.toml")).rules
    assert (rule.name, rule.called_ae, rule.calling_ae) == ("A", "A", ("B",))
    assert isinstance(rule, Rule)
    assert rule.mismatch("B", "10.0.0.1") == ""
