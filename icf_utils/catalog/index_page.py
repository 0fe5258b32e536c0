"""The page of all studies of a store, ``STORE/index.html``, with its style sheet, script, logo and sitemap.

Reads the studies' catalogs; writes these files, and the pages of studies that do not link to the page yet.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.catalog import writer
from icf_utils.catalog.content import study_files
from icf_utils.catalog.html_pages import INDEX_LINK
from icf_utils.catalog.html_pages import INDEX_PAGE as FIRST_PAGE
from icf_utils.catalog.index_html import LOGO_STEM, SITEMAP_NAME, IndexLook, StudyLine, index_bytes, other_files
from icf_utils.catalog.index_link import INDEX_PAGE, is_index_file
from icf_utils.catalog.page import read_study_page
from icf_utils.catalog.study import catalog_name, logo_target, study_id
from icf_utils.catalog.study_description import study_catalog
from icf_utils.errors import ExistingFileDiffers, IcfError, InvalidSetting, printable, storage_errors
from icf_utils.progress import SILENT
from icf_utils.results import Notice
from icf_utils.settings import CatalogSettings, Settings, load_settings
from icf_utils.store.files import remove_temporaries, replace_file, sync_folder
from icf_utils.store.layout import Study, list_studies
from icf_utils.store.locks import catalog_lock

_REMEDY = "move it away to get the page of all studies here"

#: How often the page is made again while others change it.
_MOST_LOOKS = 5


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
    page = root / INDEX_PAGE
    if not lines and not notices and not page.exists():
        raise InvalidSetting(str(root), "it contains no study; name another store with -o/--store-dir")
    logo = _read_logo(root, chosen.catalog)
    look = IndexLook(chosen.catalog.name, chosen.catalog.description, next(iter(logo), ""))
    made = {**other_files(lines, chosen.store.url), **logo}
    before = _read(page)
    _refuse_foreign(page, before)
    changed = _write(root, {**made, INDEX_PAGE: index_bytes(lines, look)}, own=before is not None)
    _remove_stale(root, made)
    for line in lines:
        _link_back(Study(root, line.study), chosen)
    return IndexResult(page, len(lines), changed, tuple(notices))


def update_index(root: Path, settings: Settings) -> None:
    """Make the page of all studies again if the store has one that icf-utils made.

    Two processes can do so at once, and the one that read the catalogs first may write last. A process that changed the
    page therefore makes it again, until nothing changes.
    """
    if (root / INDEX_PAGE).exists():
        with suppress(ExistingFileDiffers):
            for _ in range(_MOST_LOOKS):
                if not build_index(root, settings=settings).changed:
                    break


def renew_index(root: Path, settings: Settings) -> tuple[Notice, ...]:
    """Do so after a command has changed visits: a failure, which does not concern these visits, is a notice."""
    try:
        update_index(root, settings)
    except IcfError as error:
        message = f"the page of all studies was not renewed: {error}; then run 'icf-utils catalog build --index'"
        return (Notice("index-not-renewed", INDEX_PAGE, message),)
    return ()


def _line(study: Study, settings: Settings) -> StudyLine:
    own = study_catalog(study, settings.catalog)
    entries = read_study_page(study).visible_entries(own)
    years = sorted({entry.date[:4] for entry in entries if entry.date})
    return StudyLine(
        study=study.study,
        name=catalog_name(study.study, replace(own, name=own.study.name)),  # the store's name is the page's
        visits=len(entries),
        images=sum(entry.images for entry in entries),
        size=sum(entry.size for entry in entries),
        modalities=tuple(sorted({modality for entry in entries for modality in entry.modalities})),
        description=own.study.description,
        keywords=own.study.keywords,
        years="–".join(dict.fromkeys((years[0], years[-1]))) if years else "",
    )


def _read_logo(root: Path, settings: CatalogSettings) -> dict[str, bytes]:
    """The store's logo by the name that it gets next to the page."""
    target = logo_target(settings)
    if not target:
        return {}
    data = writer.read_logo(root, settings.logo)
    if data is None:
        raise InvalidSetting("[catalog] logo", f"the store's folder has no file '{printable(settings.logo)}'")
    return {f"{LOGO_STEM}{Path(target).suffix}": data}


def _read(path: Path) -> bytes | None:
    with storage_errors(path, "read"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except IsADirectoryError as error:
            raise ExistingFileDiffers(path, "it is a folder", _REMEDY) from error


def _refuse_foreign(path: Path, data: bytes | None) -> None:
    if data is not None and not is_index_file(data):
        raise ExistingFileDiffers(path, "it was not made by icf-utils", _REMEDY)


def _write(root: Path, files: Mapping[str, bytes], own: bool) -> bool:
    """Write the files that differ, each as a whole, in their order; the page comes last. A logo has no mark: it is
    replaced only where the page is the program's ``own``.
    """
    old = {name: _read(root / name) for name in files}
    for name, data in old.items():
        if data != files[name] and not (own and name.startswith(LOGO_STEM)):
            _refuse_foreign(root / name, data)
    changed = [name for name, data in files.items() if old[name] != data]
    for name in changed:
        replace_file(root / name, files[name], root=root)
    if changed:
        sync_folder(root)
    remove_temporaries(root)
    return bool(changed)


def _remove_stale(root: Path, made: Mapping[str, bytes]) -> None:
    """Remove a sitemap and logos of an earlier page."""
    old = [path for path in root.glob(f"{LOGO_STEM}.*") if path.name not in made]
    sitemap = root / SITEMAP_NAME
    data = _read(sitemap)
    if SITEMAP_NAME not in made and data is not None and is_index_file(data):
        old.append(sitemap)
    for path in old:
        with storage_errors(path, "remove"):
            path.unlink(missing_ok=True)


def _link_back(study: Study, settings: Settings) -> None:
    """Write the pages of a study again, if its first page does not link to the page of all studies yet."""
    page = writer.read_file(study, FIRST_PAGE)
    if page is None or INDEX_LINK.encode("ascii") in page:
        return
    with catalog_lock(study, SILENT):
        look = study_catalog(study, settings.catalog)
        files = study_files(study.study, study_id(study.study), read_study_page(study), look)
        writer.write_files(study, files, writer.Tally())
