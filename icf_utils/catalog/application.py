"""The web application of a catalog: files of datalad-catalog and of this package. Reads both packages; writes nothing.

What is copied from datalad-catalog is what its own ``catalog-create`` copies, without the parts that no page uses. The
package is found without importing it: the import takes longer than everything else here, and loads DataLad.

Its first page, router, settings and records are used unchanged. The view of a record is this package's own
(:data:`VIEW_PATCHES`, files in ``web/``): datalad-catalog's has no table of series, makes one request per visit,
loads Vue from a public server, and cannot be used by keyboard. The patches look for exact text of datalad-catalog
1.1. If a later version has other text, all of its own pages are kept, and a notice says so.
"""

from __future__ import annotations

import html
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path

from icf_utils.errors import MissingRequirement, storage_errors
from icf_utils.installation import install_hint, missing_package
from icf_utils.results import Notice

#: Folders of a catalog that contain only the application.
FOLDERS = ("artwork", "assets", "schema", "templates")

#: Parts of pages that are not copied; some of them load from other hosts.
_UNUSED = ("assets/display_schema.js", "assets/meta_entry.js", "templates/main-template.html")


@dataclass(frozen=True)
class ApplicationFiles:
    """The application's files by their path below the catalog's folder, and notices about patches that did not
    apply.
    """

    files: dict[str, bytes]
    notices: tuple[Notice, ...]


def find_datalad_catalog() -> Path:
    """Find the template of a catalog in datalad-catalog.

    Raises :class:`~icf_utils.errors.MissingRequirement`.
    """
    spec = importlib.util.find_spec("datalad_catalog")
    places = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(places[0]) / "catalog" if places else None
    if folder is None or not (folder / INDEX).is_file():
        raise missing_package("datalad-catalog")
    return folder


def load_application_files(title: str) -> ApplicationFiles:
    """Load all files of the application, patched; ``title`` is shown in the browser's title bar.

    Raises :class:`~icf_utils.errors.MissingRequirement`, also for a version that cannot be made to work offline.
    """
    files = _read(find_datalad_catalog())
    pages = {INDEX: files[INDEX].decode("utf-8")}
    # a version that needs no patch is fine: the result is checked below
    pages, _ = apply_patches([LOCAL_VUE_PATCH], pages)
    pages, untitled = apply_patches([title_patch(title)], pages)
    changed, missing = apply_patches(VIEW_PATCHES, pages)
    if not missing:
        pages, files = changed, _with_view(files)
    if needs_network(pages[INDEX]) or "assets/vue.2.6.14.min.js" not in files:
        remedy = install_hint(package="datalad-catalog")
        raise MissingRequirement("a version of datalad-catalog whose pages can work offline", remedy)
    files.update((name, text.encode("utf-8")) for name, text in pages.items())
    notices = tuple(_notice(patch) for patch in (*untitled, *missing))
    return ApplicationFiles(dict(sorted(files.items())), notices)


def _notice(patch: Patch) -> Notice:
    return Notice("catalog-template", patch.file, f"{patch.what} could not be done")


def _with_view(files: dict[str, bytes]) -> dict[str, bytes]:
    """Replace datalad-catalog's view by this package's own."""
    kept = {name: data for name, data in files.items() if not REPLACED_FILES.fullmatch(name)}
    web = package_files("icf_utils.catalog").joinpath("web")
    return {**kept, **{f"assets/{name}": web.joinpath(name).read_bytes() for name in (*SCRIPTS, STYLE)}}


def _read(folder: Path) -> dict[str, bytes]:
    with storage_errors(folder, "read"):
        paths = [path for name in FOLDERS for path in (folder / name).rglob("*") if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in [*paths, folder / INDEX]}
    return {name: data for name, data in files.items() if _wanted(name)}


def _wanted(name: str) -> bool:
    return name not in _UNUSED and "__pycache__" not in name


INDEX = "index.html"

_REMOTE = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)\s*=\s*["']?(?:https?:)?//""", re.IGNORECASE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)

#: This package's scripts, in the order in which they are loaded.
SCRIPTS = ("icf_base.js", "icf_search.js", "icf_study.js", "icf_visit.js", "icf_view.js")
STYLE = "icf.css"


@dataclass(frozen=True)
class Patch:
    """Replace everything in ``file`` from ``start`` to ``end`` (or only ``start`` if ``end`` is empty) by ``instead``.

    ``what`` completes the sentence "... could not be done".
    """

    file: str
    what: str
    start: str
    instead: str
    end: str = ""


LOCAL_VUE_PATCH = Patch(
    INDEX,
    "loading Vue from the catalog itself",
    '<script src="https://unpkg.com/vue@2.6.14/dist/vue.js"></script>',
    '<script src="assets/vue.2.6.14.min.js"></script>',
)

#: The patches that replace datalad-catalog's view; all of them apply, or none.
VIEW_PATCHES = (
    Patch(
        INDEX,
        "using the style sheet of icf-utils",
        '<link type="text/css" rel="stylesheet" href="assets/bootstrap.5.1.3.min.css"/>',
        f'<link type="text/css" rel="stylesheet" href="assets/{STYLE}"/>',
        end='<link type="text/css" rel="stylesheet" href="assets/bootstrap-vue.2.21.2.min.css"/>',
    ),
    Patch(
        INDEX,
        "leaving out a library that no page needs",
        '<script src="assets/bootstrap-vue.2.21.2.min.js"></script>',
        "",
    ),
    Patch(
        INDEX,
        "leaving out another library that no page needs",
        '<script src="assets/marked.4.0.17.min.js"></script>',
        "",
    ),
    Patch(INDEX, "letting a page be as wide as its screen", ", shrink-to-fit=no", ""),
    Patch(
        INDEX,
        "framing the pages",
        '<b-container id="datacat" >',
        '<div id="datacat"><router-view></router-view></div>\n'
        '    <p id="icf-local" class="icf-local">A browser cannot show this catalog from a file; to see it, run '
        "<code>icf-utils catalog serve STORE/STUDY</code> and open the address that it prints.</p>\n"
        "    <noscript>The pages of this catalog are made by scripts. The metadata are in the folder 'metadata'."
        "</noscript>\n    ",
        end="<!-- Run the Vue app scripts - DO NOT CHANGE ORDER -->",
    ),
    Patch(
        INDEX,
        "showing series, files and commands",
        '<script src="assets/app_component_item.js"></script>',
        "\n    ".join(f'<script src="assets/{name}"></script>' for name in SCRIPTS),
        end='<script src="assets/app_component_notfound.js"></script>',
    ),
)

#: Files of datalad-catalog that this package's view does not need.
REPLACED_FILES = re.compile(
    r"assets/(bootstrap|marked|app_component_|display_schema|meta_entry).*|templates/.*|"
    r"artwork/(404|datalad_|ginfavicon).*|assets/jsonschema_.*"
)


def title_patch(title: str) -> Patch:
    """The patch that puts the catalog's name into the browser's title bar."""
    escaped = html.escape(title)
    return Patch(INDEX, "setting the title", "<title>DataLad Catalog</title>", f"<title>{escaped}</title>")


def apply_patches(patches: Iterable[Patch], files: dict[str, str]) -> tuple[dict[str, str], list[Patch]]:
    """Apply patches to ``files`` (text by name); also returns the patches whose text was not found."""
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
    """Whether a page of HTML, apart from comments, loads anything from another host."""
    return _REMOTE.search(_COMMENT.sub("", page)) is not None
