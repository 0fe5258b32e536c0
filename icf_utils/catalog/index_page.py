"""The page of all studies of a store, ``STORE/index.html``. Reads the studies' catalogs; writes this one file.

The page is plain HTML with its style sheet inside: it needs no script, and can also be opened as a file.
"""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from icf_utils.catalog import writer
from icf_utils.catalog.page import read_study_page
from icf_utils.catalog.study import catalog_name, study_id
from icf_utils.catalog.study_description import study_catalog
from icf_utils.errors import ExistingFileDiffers, InvalidSetting, storage_errors
from icf_utils.formatting import format_size
from icf_utils.results import Notice
from icf_utils.settings import Settings, load_settings
from icf_utils.store.files import replace_file, sync_folder
from icf_utils.store.layout import Study, list_studies

#: The page's name below the store.
INDEX_PAGE = "index.html"
#: Marks a page as made by this program, which may therefore replace it.
_MARK = "<!-- the studies of a store, by icf-utils -->"

_STYLE = """\
:root{color-scheme:light dark;--page:#f4f6f8;--card:#fff;--text:#1b2430;--muted:#525d6b;--line:#d6dce4;--link:#0b5fa5}
@media(prefers-color-scheme:dark){:root{--page:#10151b;--card:#1a212a;--text:#e7ebf0;--muted:#a9b4c1;--line:#333e4b;\
--link:#9dc3e6}}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,\
"DejaVu Sans",sans-serif}
main{max-width:64rem;margin:0 auto;padding:1.5rem 1rem}h1{font-size:1.75rem;line-height:1.25}
.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.5rem 1.25rem;overflow-x:auto}
table{border-collapse:collapse;width:100%}th{color:var(--muted);text-align:left}
th,td{padding:.5rem .75rem .5rem 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
td:first-child{overflow-wrap:anywhere}
a{color:var(--link)}p{color:var(--muted)}:focus-visible{outline:3px solid var(--link);outline-offset:2px}
/* a row becomes a block */
@media(max-width:42rem){main{padding:1rem .75rem}h1{font-size:1.4rem;margin:.5rem 0}.card{padding:.25rem .9rem}
table,tbody,td{display:block}thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
tr{display:grid;grid-template-columns:1fr 1fr;gap:.1rem 1rem;padding:.75rem 0;border-bottom:1px solid var(--line)}
tr:last-child{border-bottom:0}td{border:0;padding:0;overflow-wrap:anywhere}.n{text-align:left}td:empty{display:none}
td:first-child{grid-column:1/-1}td a{font-weight:600}td:not(:first-child)::before{content:attr(data-label) " ";\
color:var(--muted);font-size:.875rem}}
"""
#: Has explicit roles, because browsers drop them when a style sheet lays rows out as blocks.
_TABLE = """\
<table role="table"><thead role="rowgroup"><tr role="row">{heads}</tr></thead><tbody role="rowgroup">
{rows}
</tbody></table>"""
#: The columns of the table.
_HEADS = ("Study", "Years", "Modalities", "Visits", "Images", "Size")
_NUMBERS = ("Visits", "Images", "Size")


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


_REMEDY = "move it away to get the page of all studies here"


@dataclass(frozen=True)
class IndexResult:
    """The page, how many studies it shows, and notices about studies without a catalog."""

    page: Path
    studies: int
    changed: bool
    notices: tuple[Notice, ...]


def build_index(store_dir: str | os.PathLike[str], *, settings: Settings | None = None) -> IndexResult:
    """Make the page of all studies from their catalogs.

    Raises :class:`~icf_utils.errors.InvalidSetting` for a folder without studies,
    :class:`~icf_utils.errors.ExistingFileDiffers` if an ``index.html`` exists that icf-utils did not make,
    :class:`~icf_utils.errors.DepositDamaged` for a damaged catalog, :class:`~icf_utils.errors.StorageFailure`.
    """
    root = Path(store_dir)
    chosen = load_settings(root) if settings is None else settings
    lines, notices = [], []
    for study in list_studies(root):
        if writer.read_marker(study, study_id(study.study)) is not None:
            lines.append(_line(study, chosen))
        else:
            why = "has no catalog yet and is not on the page of all studies"
            notices.append(Notice("not-in-index", study.study, why))
    if not lines and not notices and not (root / INDEX_PAGE).exists():
        raise InvalidSetting(str(root), "it contains no study; name another store with -o/--store-dir")
    changed = _replace(root / INDEX_PAGE, index_bytes(lines), root)
    return IndexResult(root / INDEX_PAGE, len(lines), changed, tuple(notices))


def update_index(root: Path, settings: Settings) -> None:
    """Make the page of all studies again if the store has one that icf-utils made."""
    if (root / INDEX_PAGE).exists():
        with suppress(ExistingFileDiffers):
            build_index(root, settings=settings)


def _line(study: Study, settings: Settings) -> StudyLine:
    own = study_catalog(study, settings.catalog)
    entries = read_study_page(study).visible_entries(own)
    years = sorted({entry.date[:4] for entry in entries if entry.date})
    return StudyLine(
        study=study.study,
        name=catalog_name(study.study, own),
        visits=len(entries),
        images=sum(entry.images for entry in entries),
        size=sum(entry.size for entry in entries),
        modalities=tuple(sorted({modality for entry in entries for modality in entry.modalities})),
        years="–".join(dict.fromkeys((years[0], years[-1]))) if years else "",
    )


def index_bytes(lines: Sequence[StudyLine]) -> bytes:
    """The page for these studies. All texts are escaped."""
    rows = "\n".join(_row(line) for line in lines)
    heads = "".join(f'<th role="columnheader" scope="col"{_right(name)}>{name}</th>' for name in _HEADS)
    table = _TABLE.format(heads=heads, rows=rows) if lines else "<p>None yet.</p>"
    text = f"""<!DOCTYPE html>
<html lang="en">
{_MARK}
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Studies</title>
<style>
{_STYLE}</style></head>
<body><main><h1>Studies</h1>
<div class="card" tabindex="0" role="region" aria-label="Studies">{table}</div>
</main></body>
</html>
"""
    return text.encode("utf-8")


def _row(line: StudyLine) -> str:
    link = f'<a href="{html.escape(line.study)}/catalog/">{html.escape(line.study)}</a>'
    title = "" if line.name == f"Study {line.study}" else f"<br>{html.escape(line.name)}"
    texts = (line.years, html.escape(", ".join(line.modalities)))
    numbers = (f"{line.visits:,}", f"{line.images:,}", format_size(line.size))
    cells = zip(_HEADS, (link + title, *texts, *numbers), strict=True)
    return f'<tr role="row">{"".join(_cell(name, content) for name, content in cells)}</tr>'


def _cell(name: str, content: str) -> str:
    """A cell; on narrow screens, the column's name is shown next to the content."""
    return f'<td role="cell" data-label="{name}"{_right(name)}>{content}</td>'


def _right(name: str) -> str:
    return ' class="n"' if name in _NUMBERS else ""


def _replace(path: Path, data: bytes, root: Path) -> bool:
    """Write the page unless it is the same; whole, by a name of its own first."""
    with storage_errors(path, "read"):
        try:
            old = path.read_bytes()
        except FileNotFoundError:
            old = None
        except IsADirectoryError as error:
            raise ExistingFileDiffers(path, "it is a folder", _REMEDY) from error
    if old == data:
        return False
    if old is not None and _MARK.encode("ascii") not in old:
        raise ExistingFileDiffers(path, "it was not made by icf-utils", _REMEDY)
    replace_file(path, data, root=root)
    sync_folder(root)
    return True
