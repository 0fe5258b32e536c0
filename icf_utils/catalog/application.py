"""The web application of a catalog: this package's scripts and style sheet, and what the records come with.

The records of a catalog are those of datalad-catalog, whose schemas are copied with them, so that its own commands and
pages can use the folder's metadata. Its web application is not used: it compiles templates in the browser, which a
``Content-Security-Policy`` without ``unsafe-eval`` forbids, makes one request per visit, and loads Vue from a public
server. The application here has no dependency and no build step; its scripts are plain files in ``web/``.

Reads both packages; writes nothing. datalad-catalog is found without importing it: the import takes longer than
everything else here, and loads DataLad.
"""

from __future__ import annotations

import importlib.util
from importlib.resources import files as package_files
from pathlib import Path

from icf_utils.errors import storage_errors
from icf_utils.installation import missing_package

#: Folders of a catalog that contain only the application. Catalogs of earlier versions have ``templates``.
FOLDERS = ("artwork", "assets", "schema", "templates")

#: The scripts in the order in which they are loaded.
SCRIPTS = (
    *("icf_base.js", "icf_table.js", "icf_query.js", "icf_index.js", "icf_export.js", "icf_plots.js"),
    *("icf_matrix.js", "icf_study.js", "icf_visit.js", "icf_start.js"),
)
#: Runs before the page is complete, and before the others.
EARLY_SCRIPT = "icf_early.js"
STYLE = "icf.css"
#: The logo of a catalog without one in its settings.
LOGO = "artwork/catalog_logo.svg"
_ICONS = ("assets/favicon/favicon.ico", "assets/favicon/favicon-32x32.png")


def find_datalad_catalog() -> Path:
    """Find the template of a catalog in datalad-catalog.

    Raises :class:`~icf_utils.errors.MissingRequirement`.
    """
    spec = importlib.util.find_spec("datalad_catalog")
    places = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(places[0]) / "catalog" if places else None
    if folder is None or not (folder / "schema").is_dir():
        raise missing_package("datalad-catalog")
    return folder


def load_application_files(link_color: str, link_hover_color: str) -> dict[str, bytes]:
    """Load the files of the application by their path below the catalog's folder; the colours are those of links.

    Raises :class:`~icf_utils.errors.MissingRequirement` without datalad-catalog.
    """
    folder = find_datalad_catalog()
    with storage_errors(folder, "read"):
        schemas = sorted((folder / "schema").glob("jsonschema_*.json"))
        paths = [path for path in (*schemas, *(folder / name for name in (*_ICONS, LOGO))) if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    web = package_files("icf_utils.catalog").joinpath("web")
    files |= {f"assets/{name}": web.joinpath(name).read_bytes() for name in (EARLY_SCRIPT, *SCRIPTS)}
    colors = f":root {{ --link-color: {link_color}; --link-hover-color: {link_hover_color}; }}\n"
    files[f"assets/{STYLE}"] = colors.encode("ascii") + web.joinpath(STYLE).read_bytes()
    return dict(sorted(files.items()))
