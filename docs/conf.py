"""How Sphinx builds these pages: ``sphinx-build -W -b html docs docs/_build/html``, without a network."""

from html import escape
from textwrap import shorten
from typing import Any

from docutils.nodes import document, paragraph, section
from sphinx.application import Sphinx

from icf_utils import __version__

project = "icf-utils"
author = "the icf-utils developers"
copyright = "the icf-utils developers"  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = False

html_theme = "furo"
html_static_path = ["static"]
html_favicon = "static/favicon.svg"
html_baseurl = ""
html_title = f"icf-utils {release}"
html_show_sphinx = False
html_copy_source = False

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "separated"

# the copy button copies commands, without prompts and output
copybutton_prompt_text = r"\$ |> "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
copybutton_remove_prompts = True


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("html-page-context", _shorten_sidebar, priority=400)  # before the theme, which asks for all levels
    app.connect("html-page-context", _describe)


def _shorten_sidebar(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _doctree: object) -> None:
    """The sidebar lists pages, but not the decision records, which have a list of their own."""
    toctree = context["toctree"]
    context["toctree"] = lambda **options: toctree(**{**options, "maxdepth": 1})


def _describe(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], doctree: document | None) -> None:
    """A page without a description of its own is described by its first paragraph, for search engines."""
    texts = doctree.findall(paragraph) if doctree else ()
    first = next((text for text in texts if isinstance(text.parent, section)), None)
    if first and 'name="description"' not in context.get("metatags", ""):
        text = shorten(first.astext(), 160, placeholder=" ...")
        context["metatags"] = f'{context.get("metatags", "")}<meta name="description" content="{escape(text)}">\n'
