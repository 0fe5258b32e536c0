"""The files of the page of all studies: HTML, style sheet, script, sitemap. Pure but for the package's own script.

The page needs no script but for its search, and works with the header ``Content-Security-Policy: default-src 'self'``.
All texts are escaped.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from icf_utils.catalog.html_pages import list_paths
from icf_utils.catalog.index_link import INDEX_MARK
from icf_utils.formatting import format_count, format_size

#: Files next to the page. The logo gets the suffix of the configured one.
STYLE_NAME, SCRIPT_NAME, ICON_NAME = "index.css", "index.js", "index-icon.svg"
SITEMAP_NAME, LOGO_STEM = "sitemap.xml", "index-logo"

_STYLE = """\
:root{color-scheme:light dark;--page:#f4f6f8;--card:#fff;--text:#1b2430;--muted:#525d6b;--line:#d6dce4;--edge:#7b8796;\
--link:#0b5fa5}
@media(prefers-color-scheme:dark){:root{--page:#10151b;--card:#1a212a;--text:#e7ebf0;--muted:#a9b4c1;--line:#333e4b;\
--edge:#7f8c9b;--link:#9dc3e6}.logo{background:#e7ebf0;border-radius:.4rem;padding:.3rem .6rem}}
*{box-sizing:border-box}[hidden]{display:none!important}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,\
"DejaVu Sans",sans-serif}
main{max-width:72rem;margin:0 auto;padding:1.5rem 1rem}h1{font-size:1.75rem;line-height:1.25;margin:.75rem 0 .25rem}
.logo{height:3rem;display:block}
.lead{margin:0 0 .5rem;max-width:48rem}.facts{display:flex;flex-wrap:wrap;gap:.25rem 1.5rem;margin:.5rem 0 1rem}
.facts div{display:flex;flex-direction:row-reverse;gap:.35rem}.facts dt{color:var(--muted)}
.facts dd{margin:0;font-weight:600}
form{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:center;margin:0 0 1rem}
form label{display:flex;gap:.5rem;align-items:center;flex:0 1 28rem}
input{font:inherit;color:inherit;background:var(--card);border:1px solid var(--edge);border-radius:.4rem;\
padding:.4rem .7rem;flex:1;min-width:0}
.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.5rem 1.25rem;overflow-x:auto}
table{border-collapse:collapse;width:100%}th{color:var(--muted);text-align:left}
th,td{padding:.5rem .75rem .5rem 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
td:first-child{overflow-wrap:anywhere}td a{font-weight:600}
td p{margin:.15rem 0 0;max-width:40rem}
a{color:var(--link)}p,.count{color:var(--muted)}:focus-visible{outline:3px solid var(--link);outline-offset:2px}
/* a row becomes a block */
@media(max-width:42rem){main{padding:1rem .75rem}h1{font-size:1.4rem;margin:.5rem 0}.card{padding:.25rem .9rem}
table,tbody,td{display:block}thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
tr{display:grid;grid-template-columns:1fr 1fr;gap:.1rem 1rem;padding:.75rem 0;border-bottom:1px solid var(--line)}
tr:last-child{border-bottom:0}td{border:0;padding:0;overflow-wrap:anywhere}.n{text-align:left}td:empty{display:none}
td:first-child{grid-column:1/-1}td:not(:first-child)::before{content:attr(data-label) " ";\
color:var(--muted);font-size:.875rem}}
@media print{form{display:none}}
"""
#: Stacked slices. A page without an icon makes browsers ask for one that does not exist.
_ICON = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="6" fill="#0b5fa5"/>
<path d="M6 11l10-5 10 5-10 5zM6 16l10 5 10-5M6 21l10 5 10-5" fill="none" stroke="#fff" stroke-width="2"/></svg>
"""
#: Has explicit roles, because browsers drop them when a style sheet lays rows out as blocks.
_TABLE = """\
<table role="table"><thead role="rowgroup"><tr role="row">{heads}</tr></thead><tbody role="rowgroup">
{rows}
</tbody></table>"""
#: The columns of the table.
_HEADS = ("Study", "Years", "Modalities", "Visits", "Images", "Size")
_NUMBERS = ("Visits", "Images", "Size")
#: Characters of a study's description that the table shows.
_SHOWN = 300


@dataclass(frozen=True)
class StudyLine:
    """What the page shows of a study; ``years`` is empty if the study's catalog shows no dates."""

    study: str
    name: str
    visits: int
    images: int
    size: int
    modalities: tuple[str, ...]
    years: str
    description: str = ""
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True)
class IndexLook:
    """How the page presents the store; ``logo`` is the name of a file next to the page, or empty."""

    name: str = ""
    description: str = ""
    logo: str = ""


def index_bytes(lines: Sequence[StudyLine], look: IndexLook | None = None) -> bytes:
    """The page for these studies."""
    look = look or IndexLook()
    name = look.name or "Studies"
    description = look.description or f"{format_count(len(lines), 'study')} with images and metadata."
    heads = "".join(f'<th role="columnheader" scope="col"{_right(head)}>{head}</th>' for head in _HEADS)
    table = _TABLE.format(heads=heads, rows="\n".join(map(_row, lines))) if lines else "<p>None yet.</p>"
    logo = f'<img class="logo" src="{_text(look.logo)}" alt="" height="48">\n' if look.logo else ""
    lead = f'<p class="lead">{_text(look.description)}</p>\n' if look.description else ""
    search = (
        '<form role="search" hidden><label>Search <input type="search" name="q" '
        'placeholder="name, description, keyword, modality" autocomplete="off"></label>'
        '<span class="count" role="status"></span></form>\n'
    )
    text = f"""<!DOCTYPE html>
<html lang="en">
<!-- {INDEX_MARK} -->
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(name)}</title>
<meta name="description" content="{_text(description)}">
<meta property="og:type" content="website"><meta property="og:title" content="{_text(name)}">
<meta property="og:description" content="{_text(description)}">
<link rel="icon" href="{ICON_NAME}">
<link rel="stylesheet" href="{STYLE_NAME}">
<script defer src="{SCRIPT_NAME}"></script>
{_json_ld(lines, name, description)}</head>
<body><main>{logo}<h1>{_text(name)}</h1>
{lead}{_facts(lines)}{search if lines else ""}\
<div class="card" tabindex="0" role="region" aria-label="Studies">{table}</div>
</main></body>
</html>
"""
    return text.encode("utf-8", "backslashreplace")


def other_files(lines: Sequence[StudyLine], store_url: str) -> dict[str, bytes]:
    """The files next to the page by name: style sheet, script and, for a store on the web, the sitemap."""
    script = files("icf_utils.catalog").joinpath("web").joinpath("icf_studies.js").read_text(encoding="utf-8")
    texts = {STYLE_NAME: f"/* {INDEX_MARK} */\n{_STYLE}", SCRIPT_NAME: f"// {INDEX_MARK}\n{script}"}
    texts[ICON_NAME] = f"<!-- {INDEX_MARK} -->\n{_ICON}"
    if store_url.startswith(("https://", "http://")):
        texts[SITEMAP_NAME] = _sitemap(lines, store_url.rstrip("/"))
    return {name: text.encode("utf-8") for name, text in texts.items()}


def _sitemap(lines: Sequence[StudyLine], url: str) -> str:
    """The pages of the studies by the protocol of sitemaps.org, for search engines."""
    pages = [f"{url}/"]
    for line in lines:
        catalog = f"{url}/{quote(line.study)}/catalog"
        pages += [f"{catalog}/", *(f"{catalog}/{path}" for path in list_paths(line.visits))]
    urls = "".join(f"<url><loc>{_text(page)}</loc></url>\n" for page in pages)
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- {INDEX_MARK} -->\n'
    return f'{head}<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n'


def _json_ld(lines: Sequence[StudyLine], name: str, description: str) -> str:
    """The store as a ``DataCatalog`` of schema.org."""
    datasets = [
        {
            "@type": "Dataset",
            "name": line.name,
            "description": line.description,
            "url": f"{line.study}/catalog/",
            "keywords": list(line.keywords),
        }
        for line in lines
    ]
    found: dict[str, Any] = {
        "@context": "https://schema.org/",
        "@type": "DataCatalog",
        "name": name,
        "description": description,
        "dataset": [{key: value for key, value in one.items() if value} for one in datasets],
    }
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/ld+json">{text}</script>\n'


def _facts(lines: Sequence[StudyLine]) -> str:
    sums = {
        "studies": f"{len(lines):,}",
        "visits": f"{sum(line.visits for line in lines):,}",
        "images": f"{sum(line.images for line in lines):,}",
        "of archives": format_size(sum(line.size for line in lines)),
    }
    items = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in sums.items())
    return f'<dl class="facts">{items}</dl>\n' if len(lines) > 1 else ""


def _row(line: StudyLine) -> str:
    name = line.study if line.name == f"Study {line.study}" else line.name
    link = f'<a href="{_text(line.study)}/catalog/">{_text(name)}</a>'
    short = line.description if len(line.description) <= _SHOWN else f"{line.description[:_SHOWN].rstrip()} …"
    texts = (line.study if name != line.study else "", short, ", ".join(line.keywords))
    about = "".join(f"<p>{_text(text)}</p>" for text in texts if text)
    numbers = (f"{line.visits:,}", f"{line.images:,}", format_size(line.size))
    cells = zip(_HEADS, (link + about, line.years, _text(", ".join(line.modalities)), *numbers), strict=True)
    return f'<tr role="row">{"".join(_cell(head, content) for head, content in cells)}</tr>'


def _cell(name: str, content: str) -> str:
    """A cell; on narrow screens, the column's name is shown next to the content."""
    return f'<td role="cell" data-label="{name}"{_right(name)}>{content}</td>'


def _right(name: str) -> str:
    return ' class="n"' if name in _NUMBERS else ""


def _text(text: str) -> str:
    return html.escape(text, quote=True)
