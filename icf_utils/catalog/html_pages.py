"""The HTML of a catalog: its first page, and the lists of visits and series for readers without scripts. Pure.

The first page has the study's name and description, and what programs read: a description for search engines and,
without scripts, the visits. All texts are escaped. Nothing is inline that a ``Content-Security-Policy`` of
``default-src 'self'`` forbids: blocks of data are not scripts.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from icf_utils.catalog.application import EARLY_SCRIPT, LOGO, SCRIPTS, STYLE
from icf_utils.catalog.feed import FEED_PATH
from icf_utils.catalog.series import SeriesKind, kind_texts
from icf_utils.catalog.study import catalog_name, logo_target, social_links, study_description
from icf_utils.catalog.study_description import (
    BIBTEX,
    DATACITE,
    RIS,
    StudyCatalogSettings,
    citation_files,
    json_ld,
    study_settings,
)
from icf_utils.catalog.study_index import IndexedVisit
from icf_utils.formatting import format_count, format_size
from icf_utils.settings import Author, CatalogSettings, StudySettings

#: The first page of a catalog, and the folder of lists of visits.
INDEX_PAGE, LISTS = "index.html", "list"
#: Visits on one page of a list.
_PER_LIST = 250

#: The link to the page of all studies of the store.
INDEX_LINK = '<a class="icf-all-studies" href="../../index.html">All studies</a>'

_LINK_LABELS = {
    "about": "About",
    "documentation": "Documentation",
    "github": "GitHub",
    "mastodon": "Mastodon",
    "x": "X",
}
_LOCAL = (
    "A browser cannot show this catalog from a file; to see it, run <code>icf-utils catalog serve STORE/STUDY</code> "
    "and open the address that it prints."
)


def page_files(
    study: str, catalog_id: str, visits: Sequence[IndexedVisit], settings: CatalogSettings
) -> dict[str, bytes]:
    """The HTML files of a catalog by their path."""
    lists = [visits[at : at + _PER_LIST] for at in range(0, len(visits), _PER_LIST)]
    lines = _SeriesLines()
    files = {list_path(at): _list_page(study, at, len(lists), part, settings, lines) for at, part in enumerate(lists)}
    name, description = catalog_name(study, settings), study_description(study, settings)
    year = max((visit.date[:4] for visit in visits), default="")
    citations = citation_files(study, name, description, study_settings(settings), year)
    return {**files, **citations, INDEX_PAGE: _first_page(study, catalog_id, visits, settings, citations)}


def list_path(at: int) -> str:
    """The path of a list of visits; the first is 0."""
    return f"{LISTS}/{at + 1}.html"


def list_paths(visits: int) -> list[str]:
    """The paths of all lists of so many visits."""
    return [list_path(at) for at in range((visits + _PER_LIST - 1) // _PER_LIST)]


def _first_page(
    study: str,
    catalog_id: str,
    visits: Sequence[IndexedVisit],
    settings: CatalogSettings,
    citations: Mapping[str, bytes],
) -> bytes:
    name, description = catalog_name(study, settings), study_description(study, settings)
    site = _data_block("application/json", "icf-site", {"study": study, "catalog": catalog_id, "name": name})
    head = "\n".join(
        (
            f"<title>{_text(name)}</title>",
            f'<meta name="description" content="{_text(description)}">',
            f'<link rel="icon" href="{_ICON}">',
            f'<link rel="stylesheet" href="assets/{STYLE}">',
            f'<link rel="alternate" type="application/atom+xml" href="{FEED_PATH}" title="{_text(name)}">',
            f'<script src="assets/{EARLY_SCRIPT}"></script>',
            *(f'<script defer src="assets/{script}"></script>' for script in SCRIPTS),
            site,
            f'<meta property="og:type" content="website"><meta property="og:title" content="{_text(name)}">',
            f'<meta property="og:description" content="{_text(description)}">',
            _data_block("application/ld+json", "icf-dataset", json_ld(name, description, study_settings(settings))),
        )
    )
    body = f"""<a class="icf-skip" href="#icf-main">Skip to the content</a>
<div class="icf-frame">
{_header(settings)}
<nav id="icf-crumbs" class="icf-crumbs" aria-label="Breadcrumb" hidden></nav>
<main id="icf-main" tabindex="-1">
<div id="icf-description"><h1>{_text(name)}</h1>
<p class="icf-lead">{_text(description)}</p>
{_about(study_settings(settings), citations)}</div>
<noscript>{_without_scripts(visits)}</noscript>
<div id="icf-app"><p class="icf-loading" role="status" hidden>Loading …</p></div>
<p id="icf-local" hidden>{_LOCAL}</p>
</main>
<footer class="icf-footer"><span id="icf-record"></span><a href="{list_path(0)}">Plain list of visits</a>
<a href="{FEED_PATH}">Feed (Atom)</a>
<span>Made by icf-utils</span></footer>
</div>"""
    return _page(head, body)


_ICON = "assets/favicon/favicon-32x32.png"


def _about(study: StudySettings, citations: Mapping[str, bytes]) -> str:
    """What the study says of itself, and how to cite it; empty if it says nothing."""
    authors = ", ".join(_author(author) for author in study.authors)
    published = "<br>".join(_text(one.title) + _doi_link(one.doi, " ") for one in study.publications)
    rows = (
        ("Authors", authors),
        ("Keywords", _text(", ".join(study.keywords))),
        ("Licence", _link(study.license_url, study.license or study.license_url)),
        ("DOI", _doi_link(study.doi)),
        ("Funding", _text(", ".join(study.funding))),
        ("Publications", published),
        ("Contact", _text(study.contact)),
        ("Access", " ".join(filter(None, (_text(study.access), _link(study.access_url, study.access_url))))),
        ("Ethics", _text(study.ethics)),
    )
    shown = "".join(f"<div><dt>{name}</dt><dd>{content}</dd></div>" for name, content in rows if content)
    about = f'<details class="icf-study-about"><summary>About this study</summary><dl>{shown}</dl></details>'
    return (about if shown else "") + _cite(citations)


def _author(author: Author) -> str:
    address = f"https://orcid.org/{author.orcid}" if author.orcid else ""
    return _link(address, author.name) + (_text(f" ({author.affiliation})") if author.affiliation else "")


def _link(address: str, text: str) -> str:
    """A link if a browser can follow the address; the text otherwise."""
    if not address.startswith(("https://", "http://")):
        return _text(text)
    return f'<a href="{_text(address)}" rel="noopener">{_text(text)}</a>'


def _doi_link(doi: str, before: str = "") -> str:
    name = doi.removeprefix("https://doi.org/").removeprefix("doi:")
    return before + _link(f"https://doi.org/{name}", name) if name else ""


def _cite(citations: Mapping[str, bytes]) -> str:
    if not citations:
        return ""
    text = _text(citations[BIBTEX].decode("utf-8"))
    return (
        '<details class="icf-study-about"><summary>Cite</summary>'
        f'<pre tabindex="0" role="group" aria-label="BibTeX"><code>{text}</code></pre>'
        f'<p><a href="{BIBTEX}" download>BibTeX</a> <a href="{RIS}" download>RIS</a> '
        f'<a href="{DATACITE}" download>DataCite JSON</a></p></details>'
    )


def _page(head: str, body: str) -> bytes:
    text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{head}
</head>
<body>
{body}
</body>
</html>
"""
    return text.encode("utf-8", "backslashreplace")


def _data_block(kind: str, name: str, value: Mapping[str, Any]) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="{kind}" id="{name}">{text}</script>'


def _header(settings: CatalogSettings) -> str:
    logo = _text(logo_target(settings) or LOGO)
    links = "".join(
        f'<a href="{_text(address)}" rel="noopener">{_LINK_LABELS[key]}</a>'
        for key, address in social_links(settings).items()
    )
    about = f'<nav aria-label="About this catalog">{links}</nav>' if links else ""
    image = f'<img src="{logo}" alt="All visits" height="38">'
    index = INDEX_LINK if isinstance(settings, StudyCatalogSettings) and settings.in_index else ""
    return f'<header class="icf-header"><a href="#/" class="icf-logo">{image}</a>{index}{about}</header>'


def _without_scripts(visits: Sequence[IndexedVisit]) -> str:
    pages = enumerate(list_paths(len(visits)))
    lists = ", ".join(f'<a href="{path}">{_range(visits, at)}</a>' for at, path in pages)
    shown = "".join(f"<li>{_text(_summary(visit))}</li>" for visit in visits[:_PER_LIST])
    return f"<p>Lists of visits and series: {lists}.</p><ul>{shown}</ul>" if visits else "<p>No visit yet.</p>"


def _range(visits: Sequence[IndexedVisit], at: int) -> str:
    part = visits[at * _PER_LIST : (at + 1) * _PER_LIST]
    return _text(f"{part[0].visit} to {part[-1].visit}")


def _summary(visit: IndexedVisit) -> str:
    series, images = format_count(len(visit.series.kinds), "series"), format_count(sum(visit.series.images), "image")
    return ", ".join(filter(None, (visit.visit, visit.date, series, images, format_size(visit.size))))


def _list_page(
    study: str,
    at: int,
    count: int,
    visits: Iterable[IndexedVisit],
    settings: CatalogSettings,
    lines: _SeriesLines,
) -> bytes:
    title = f"{catalog_name(study, settings)}: visits and series" + (f", page {at + 1} of {count}" if count > 1 else "")
    head = f"""<title>{_text(title)}</title>
<link rel="icon" href="../{_ICON}">
<link rel="stylesheet" href="../assets/{STYLE}">"""
    steps = [("Previous page", at - 1)] * (at > 0) + [("Next page", at + 1)] * (at + 1 < count)
    links = "".join(f' <a href="{at_page + 1}.html">{label}</a>' for label, at_page in steps)
    body = f"""<div class="icf-frame"><main>
<h1>{_text(title)}</h1>
<p class="icf-list-links"><a href="../index.html">Search the visits</a>{links}</p>
{"".join(_visit_section(visit, lines) for visit in visits)}
</main></div>"""
    return _page(head, body)


def _visit_section(visit: IndexedVisit, lines: _SeriesLines) -> str:
    columns = visit.series
    rows = "".join(map(lines.line, columns.numbers, columns.kinds, columns.images))
    link = f'<a href="../index.html#/visit/{_text(visit.visit)}">{_text(visit.visit)}</a>'
    about = _text(_summary(visit).removeprefix(visit.visit).lstrip(", "))
    return f'<section class="icf-card"><h2>{link}</h2><p>{about}</p><ul>{rows}</ul></section>\n'


class _SeriesLines:
    """The lines of series. What all series of a kind have in common is made once: studies have thousands of each."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[SeriesKind, str]] = {}

    def line(self, number: int | str, kind: SeriesKind, images: int) -> str:
        known = self._texts.get(id(kind))
        if known is None:
            tags = ("SeriesDescription", "ProtocolName", "Modality")
            texts = dict.fromkeys(filter(None, ("/".join(kind_texts(kind, tag)) for tag in tags)))
            self._texts[id(kind)] = known = kind, "".join(f"{_text(text)}, " for text in texts)
        before = f"{number}, " if isinstance(number, int) else f"{_text(number)}, " if number else ""
        return f"<li>{before}{known[1]}{images} image{'' if images == 1 else 's'}</li>"


def _text(text: str) -> str:
    return html.escape(text, quote=True)
