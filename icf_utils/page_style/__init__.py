"""The look that a receiver's pages and the report of a run share: colours for light and dark, tables, state labels."""

from __future__ import annotations

from importlib.resources import files

#: The name under which pages refer to :func:`shared_style`.
STYLE_NAME = "pages.css"


def shared_style() -> str:
    """The shared style sheet. Reads it from the package."""
    return (files(__name__) / STYLE_NAME).read_text(encoding="utf-8")
