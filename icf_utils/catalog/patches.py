"""What is changed in datalad-catalog's web application, as data, and how it is applied. Pure.

One change is necessary: the application loads Vue from a public server although it ships it. The others mend what
misleads in a study's catalog. They look for exact text of datalad-catalog 1.1; where a later version has other text,
the page stays as that version has it and the caller is told.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass

_DATASET = "templates/dataset-template.html"
_DATASET_JS = "assets/app_component_dataset.js"
_ITEM_JS = "assets/app_component_item.js"
INDEX = "index.html"

#: A table with a column per key, for a tab with the name of its first column under ``table``. The keys of such a tab's
#: content begin with that name, since the application writes their first letter in upper case elsewhere.
_TABLE = """<table v-if="new_tab.table" class="table table-striped">
                    <thead>
                      <tr>
                        <th>{{new_tab.table}}</th>
                        <th v-for="column in Object.keys(Object.values(new_tab.content)[0] || {})">{{column}}</th>
                      </tr>
                    </thead>
                    <tbody>
                      <tr v-for="row_key in Object.keys(new_tab.content)">
                        <td><strong>{{row_key.slice(new_tab.table.length + 1)}}</strong></td>
                        <td v-for="cell in new_tab.content[row_key]">{{cell}}</td>
                      </tr>
                    </tbody>
                  </table>
                  <table v-else class="table table-striped">"""

_REMOTE = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)\s*=\s*["']?(?:https?:)?//""", re.IGNORECASE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


@dataclass(frozen=True)
class Patch:
    """In ``file``, everything from ``start`` to ``end`` (only ``start`` if there is no end) becomes ``instead``.

    ``what`` completes the sentence "... could not be done".
    """

    file: str
    what: str
    start: str
    instead: str
    end: str = ""


LOCAL_VUE = Patch(
    INDEX,
    "loading Vue from the catalog itself",
    '<script src="https://unpkg.com/vue@2.6.14/dist/vue.js"></script>',
    '<script src="assets/vue.2.6.14.min.js"></script>',
)

#: Changes without which the pages still work.
COSMETIC = (
    Patch(
        _DATASET,
        "quoting the clone command",
        "datalad clone {{displayData.url}}",
        "{{selectedDataset.clone_command || ('datalad clone ' + displayData.url)}}",
    ),
    Patch(
        _DATASET,
        "leaving out the Binder button, which sends the address to a public service",
        '<span><b-button variant="outline-dark" size="sm" @click="openWithBinder(displayData.url)">',
        "",
        end="Explore with Binder</b-button></span>",
    ),
    Patch(
        _DATASET,
        "leaving out the dates, DOI and licence that a visit does not have",
        "<strong>Last updated:</strong>",
        "",
        end="<span v-else><em>unknown</em></span>\n        </b-card-text>",
    ),
    Patch(
        _DATASET,
        "showing a visit's counts in the list of visits",
        "<strong>Modified:</strong> {{getDateFromUTCseconds(ds.source_time)}}&nbsp;",
        "<strong>Series:</strong> {{ds.series}}&nbsp; <strong>Images:</strong> {{ds.images}}&nbsp;",
    ),
    Patch(
        _DATASET,
        "leaving out sorting by a date that no visit has",
        '<b-button pill variant="outline-dark" @click="sortByModified">',
        "",
        end="</b-button>",
    ),
    Patch(
        _DATASET,
        "leaving out a second count of the visits",
        '<span v-if="selectedDataset.subdatasets_available_count"><b-button disabled',
        "",
        end="</b-button>&nbsp;</span>",
    ),
    Patch(_DATASET, "calling the visits by their name", "</i> Subdatasets <span", "</i> Visits <span"),
    Patch(_DATASET, "naming the search field", "Filter by dataset or author name", "Filter by visit"),
    Patch(
        _DATASET,
        "hiding an empty file tree",
        '<b-tab @click="getFiles" key="content" ref="tabelement">',
        '<b-tab @click="getFiles" key="content" ref="tabelement" '
        ":title-item-class=\"(selectedDataset.children || []).length ? '' : 'd-none'\">",
    ),
    Patch(
        _DATASET,
        "hiding an empty list of visits",
        '<b-tab key="subdatasets" ref="tabelement">',
        '<b-tab key="subdatasets" ref="tabelement" '
        ":title-item-class=\"(selectedDataset.subdatasets || []).length ? '' : 'd-none'\">",
    ),
    Patch(
        _DATASET,
        "keeping the order of tabs from one page to the next",
        '<b-tabs card content-class="mt-3"',
        '<b-tabs :key="displayData.file_path" card content-class="mt-3"',
    ),
    Patch(
        _DATASET_JS,
        "opening a visit with its series",
        "available_tabs.push(sDs.additional_display[t].name)",
        "available_tabs.push(sDs.additional_display[t].name.toLowerCase())",
    ),
    Patch(
        _DATASET_JS,
        "opening the tab that an address names",
        "selectTab = tabs.indexOf(",
        "selectTab = available_tabs.indexOf(",
    ),
    Patch(_DATASET, "showing tables with columns", '<table class="table table-striped">', _TABLE),
    Patch(_ITEM_JS, "showing sizes in the units of the rest of the page", "const k = 1024;", "const k = 1000;"),
    Patch(_ITEM_JS, "naming those units", '["Bytes", "KB",', '["B", "kB",'),
)


def named(title: str) -> Patch:
    """The change that puts the catalog's name into the browser's title bar."""
    escaped = html.escape(title)
    return Patch(INDEX, "setting the title", "<title>DataLad Catalog</title>", f"<title>{escaped}</title>")


def apply(patches: Iterable[Patch], files: dict[str, str]) -> tuple[dict[str, str], list[Patch]]:
    """``files`` (text by name) after all changes, and the patches whose text was not found."""
    files, missing = dict(files), []
    for patch in patches:
        changed = _replaced(patch, files.get(patch.file, ""))
        if changed is None:
            missing.append(patch)
        else:
            files[patch.file] = changed
    return files, missing


def _replaced(patch: Patch, text: str) -> str | None:
    if not patch.end:
        return text.replace(patch.start, patch.instead) if patch.start in text else None
    begin = text.find(patch.start)
    end = text.find(patch.end, begin)
    if begin < 0 or end < 0:
        return None
    return text[:begin] + patch.instead + text[end + len(patch.end) :]


def needs_network(page: str) -> bool:
    """Whether a page of HTML, comments aside, loads anything from another host."""
    return _REMOTE.search(_COMMENT.sub("", page)) is not None
