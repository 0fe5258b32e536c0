"""What the sender relies on in pynetdicom beyond its documented interface is there, and is used by the library."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

pynetdicom = pytest.importorskip("pynetdicom")

from pynetdicom import AE, _config, association  # noqa: E402

from icf_utils.sender import association as association_of_sender  # noqa: E402
from icf_utils.sender import send  # noqa: E402

#: Private members of the library's objects that the sender reads, and how the library uses them.
USED = {"_is_paused": r"self\._is_paused = True"}


@pytest.mark.parametrize("name", USED)
def test_what_is_used_is_in_the_library_and_used_by_it(name: str) -> None:
    assert hasattr(association.Association(AE(), "acceptor"), name)
    assert re.search(USED[name], inspect.getsource(association))


@pytest.mark.parametrize("module", [association_of_sender, send])
def test_every_private_member_that_is_used_is_in_this_table(module: ModuleType) -> None:
    """A private attribute that the module neither defines nor assigns is the library's."""
    nodes = list(ast.walk(ast.parse(inspect.getsource(module))))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    own |= {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    private = {node.attr for node in nodes if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr)}
    assert private - own <= set(USED)


def test_the_options_are_in_the_library() -> None:
    assert hasattr(_config, "STORE_SEND_CHUNKED_DATASET")


def test_the_version_of_the_library_has_an_upper_bound() -> None:
    text = Path(__file__).resolve().parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8")
    bounds = set(re.findall(r'"pynetdicom([<>=][^"]*)"', text))
    assert bounds == {">=3.0,<4"}
