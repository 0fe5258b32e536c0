"""The web application: files of datalad-catalog and of this package. Reads both packages' folders; writes nothing.

datalad-catalog is found without importing it: the import takes longer than everything else here, and brings DataLad.
What is copied is what its own ``catalog-create`` copies, without the parts that no page uses.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path

from icf_utils.catalog.patches import (
    INDEX,
    LOCAL_VUE,
    REPLACED,
    SCRIPTS,
    STYLE,
    VIEW,
    Patch,
    apply,
    named,
    needs_network,
)
from icf_utils.errors import MissingRequirement, storage_errors
from icf_utils.results import Notice

#: Folders of a catalog that hold nothing but the application.
FOLDERS = ("artwork", "assets", "schema", "templates")

#: Parts of pages that are not copied; some of them load from other hosts.
_UNUSED = ("assets/display_schema.js", "assets/meta_entry.js", "templates/main-template.html")

_INSTALL = "install it with: pip install 'datalad-catalog>=1.1,<2'"


@dataclass(frozen=True)
class Assets:
    """The application's files by their path below the catalog's folder, and what could not be adjusted."""

    files: dict[str, bytes]
    notices: tuple[Notice, ...]


def package_folder() -> Path:
    """The template of a catalog inside datalad-catalog.

    Raises :class:`~icf_utils.errors.MissingRequirement`.
    """
    spec = importlib.util.find_spec("datalad_catalog")
    places = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(places[0]) / "catalog" if places else None
    if folder is None or not (folder / INDEX).is_file():
        raise MissingRequirement("the Python package datalad-catalog", _INSTALL)
    return folder


def load_assets(title: str) -> Assets:
    """All files of the application, adjusted; ``title`` is shown in the browser's title bar.

    Raises :class:`~icf_utils.errors.MissingRequirement`, also for a version that cannot be made to work offline.
    """
    files = _read(package_folder())
    pages = {INDEX: files[INDEX].decode("utf-8")}
    pages, _ = apply([LOCAL_VUE], pages)  # a version that needs no change is fine: what counts is the outcome
    pages, untitled = apply([named(title)], pages)
    changed, missing = apply(VIEW, pages)
    if not missing:
        pages, files = changed, _with_view(files)
    if needs_network(pages[INDEX]) or "assets/vue.2.6.14.min.js" not in files:
        raise MissingRequirement("a version of datalad-catalog whose pages can work offline", _INSTALL)
    files.update((name, text.encode("utf-8")) for name, text in pages.items())
    notices = tuple(_notice(patch) for patch in (*untitled, *missing))
    return Assets(dict(sorted(files.items())), notices)


def _notice(patch: Patch) -> Notice:
    return Notice("catalog-template", patch.file, f"{patch.what} could not be done")


def _with_view(files: dict[str, bytes]) -> dict[str, bytes]:
    """The own view in place of what it replaces."""
    kept = {name: data for name, data in files.items() if not REPLACED.fullmatch(name)}
    web = package_files("icf_utils.catalog").joinpath("web")
    return {**kept, **{f"assets/{name}": web.joinpath(name).read_bytes() for name in (*SCRIPTS, STYLE)}}


def _read(folder: Path) -> dict[str, bytes]:
    with storage_errors(folder, "read"):
        paths = [path for name in FOLDERS for path in (folder / name).rglob("*") if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in [*paths, folder / INDEX]}
    return {name: data for name, data in files.items() if _wanted(name)}


def _wanted(name: str) -> bool:
    return name not in _UNUSED and "__pycache__" not in name
