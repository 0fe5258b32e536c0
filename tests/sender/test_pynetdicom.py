"""What is used of pynetdicom is its documented interface, within a range of versions."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

from icf_utils.sender import association


def test_no_private_member_is_used() -> None:
    """A private attribute that the module neither defines nor assigns is the library's."""
    nodes = list(ast.walk(ast.parse(inspect.getsource(association))))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    assert {node.attr for node in nodes if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr)} <= own


def test_the_version_of_the_library_has_an_upper_bound() -> None:
    text = Path(__file__).resolve().parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8")
    bounds = set(re.findall(r'"pynetdicom([<>=][^"]*)"', text))
    assert bounds == {">=3.0,<4"}
