"""Messages name their subject on printable lines, whatever a name holds; every error has its exit code."""

from __future__ import annotations

import errno
import inspect
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icf_utils import errors
from icf_utils.errors import IcfError, InputRefused, StorageFailure, printable, storage_errors
from icf_utils.results import Notice, Written, to_json_value

any_text = st.text(st.characters() | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]))


@given(text=any_text)
def test_printable_is_one_printable_line(text: str) -> None:
    result = printable(text)
    assert result.isprintable()
    result.encode("utf-8")


@given(first=any_text, second=any_text)
def test_printable_keeps_names_apart(first: str, second: str) -> None:
    assert (printable(first) == printable(second)) == (first == second)


def test_printable_escapes() -> None:
    assert printable("a b\u00e4\u982d'\"") == "a b\u00e4\u982d'\""
    assert printable("\n\x1b[31m\u202e\u2028\udce4\\") == r"\n\x1b[31m\u202e\u2028\xe4\\"


NASTY = "Sch\udce4del\x1b[31m\n"

#: Each kind with its exit code, which scripts ask for, and what it is told.
KINDS: dict[type[IcfError], tuple[int, list[object]]] = {
    errors.Busy: (8, [NASTY, "process 1 on host", 3.5]),
    errors.DepositDamaged: (5, [NASTY, "this", "that", "do it again"]),
    errors.DepositDiffers: (4, [NASTY, "in one byte"]),
    errors.ExistingFileDiffers: (4, [NASTY, "it is a folder", "move it away"]),
    errors.DepositMissing: (5, [NASTY, "do the step before"]),
    errors.InputChanged: (4, [NASTY, "the archive", "a member differs"]),
    errors.InputRefused: (3, [NASTY, [(NASTY, "is odd")], "Change it."]),
    errors.InvalidIdentifier: (2, ["visit", NASTY]),
    errors.InvalidSetting: (2, [NASTY, "means nothing"]),
    errors.StorageFailure: (6, [NASTY, "read", OSError(errno.EIO, "whatever")]),
    errors.VisitRemoved: (4, ["study", "visit", NASTY]),
    errors.TableRefused: (2, [NASTY, ["line 3 is odd"]]),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_kinds_of_errors(kind: type[IcfError]) -> None:
    code, arguments = KINDS[kind]
    assert kind.exit_code == code
    message = str(kind(*arguments))
    assert r"Sch\xe4del\x1b[31m\n" in message
    assert all(line.isprintable() for line in message.split("\n"))


def test_every_error_has_a_code_of_its_own_room() -> None:
    """Not 0, not 1 (Python's own), nothing that a shell uses."""
    found = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, IcfError)]
    codes = {value: value.exit_code for value in found if value is not IcfError}
    assert all(2 <= code < 64 for code in codes.values())
    assert codes[errors.MissingRequirement] == 7


def test_refusals_are_limited_in_the_message_only() -> None:
    error = InputRefused("in", [(f"n{number}", "is odd") for number in range(25)])
    assert len(error.refusals) == 25
    assert str(error).count("is odd") == errors.NAMED_AT_MOST
    assert "... and 5 more" in str(error)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES])
def test_storage_errors(number: int) -> None:
    def fail() -> None:
        raise OSError(number, "whatever", "other name")

    with pytest.raises(StorageFailure) as caught, storage_errors("/the/file", "write"):
        fail()
    assert caught.value.errno == number
    assert str(caught.value).startswith(f"cannot write '/the/file': {os.strerror(number)}")
    assert isinstance(caught.value.__cause__, OSError)


def test_storage_errors_leaves_others_alone() -> None:
    with pytest.raises(ValueError, match="mine"), storage_errors("/the/file", "write"):
        raise ValueError("mine")
    with pytest.raises(StorageFailure, match="no number"), storage_errors("/the/file", "write"):
        raise OSError("no number")


def test_results_as_plain_values() -> None:
    from pathlib import Path

    value = (Written(Path("/a"), "written"), {"k": (Notice("c", "s\udce4", "m"), 1.5, None)})
    assert to_json_value(value) == [
        {"path": "/a", "state": "written"},
        {"k": [{"code": "c", "subject": "s\udce4", "message": "m"}, 1.5, None]},
    ]
