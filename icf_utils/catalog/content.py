"""The content of a catalog: the bytes of its files by their path below the catalog's folder.

An addition, a rebuild and a check take the content from the same functions, so that a check reports exactly what an
addition would change, and a rebuild gives the same catalog as additions. Reads a visit's metadata, dataset and
archive, the configured logo and the installed datalad-catalog; writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from icf_utils.catalog.application import load_application_files
from icf_utils.catalog.commands import VisitAddress, clone_command
from icf_utils.catalog.feed import FEED_PATH, feed_bytes
from icf_utils.catalog.html_pages import page_files
from icf_utils.catalog.page import visit_page
from icf_utils.catalog.previews import make_previews, preview_name, read_previews
from icf_utils.catalog.records import (
    PictureKey,
    Record,
    VisitPage,
    file_record,
    previews_folder,
    record_bytes,
    schema_problems,
    visit_records,
)
from icf_utils.catalog.study import (
    SUPER_PATH,
    StudyPage,
    catalog_name,
    config_record,
    index_visit,
    link_colors,
    logo_target,
    study_config,
    study_config_path,
    study_id,
    study_node,
    study_path,
    super_record,
)
from icf_utils.catalog.study_index import (
    INDEX_PATH,
    PROTOCOLS_PATH,
    VISITS_PATH,
    IndexedVisit,
    encode_index,
    encode_protocols,
    encode_visits,
    sorted_stores,
)
from icf_utils.catalog.visit_data import VISIT_PLACE, visit_data, visit_path
from icf_utils.catalog.writer import OWN_NAMES, read_logo
from icf_utils.dataset.store_address import find_store_address
from icf_utils.errors import DepositDamaged, InvalidSetting, printable
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.progress import Progress
from icf_utils.results import Notice
from icf_utils.settings import CatalogSettings, Settings
from icf_utils.store.layout import Study, Visit


@dataclass(frozen=True)
class ContentOptions:
    """How the content of visits is made.

    ``store_url`` and ``store_id`` are a user's, ``None`` if not given. ``previews`` makes new pictures of the series,
    keeps those in the catalog, or leaves pictures out. ``previews_of`` are kinds of images that are shown although
    they may have text in their pixels (:data:`icf_utils.catalog.burned_in.KINDS`). Pictures to keep are in the
    catalog of ``pictures_in``, by default that of the visit.
    """

    settings: Settings
    store_url: str | None = None
    store_id: str | None = None
    previews: Literal["make", "keep", "none"] = "keep"
    previews_of: tuple[str, ...] = ()
    pictures_in: Study | None = None


@dataclass(frozen=True)
class VisitContent:
    """A visit's part of the catalog: its page, its files in the order of writing, and notices about its previews."""

    page: VisitPage
    files: dict[str, bytes]
    notices: tuple[Notice, ...]


def visit_content(
    place: Visit, options: ContentOptions, progress: Progress, former_id: str | None = None
) -> VisitContent:
    """Make a visit's part of the catalog from its metadata and dataset.

    Previews to keep are looked up under ``former_id``, the dataset id that the catalog has of the visit, by default the
    current one. Raises :class:`~icf_utils.errors.DepositMissing` without metadata,
    :class:`~icf_utils.errors.DepositDamaged`, and what :func:`~icf_utils.catalog.previews.make_previews` raises.
    """
    settings = options.settings
    store = find_store_address(place, settings, options.store_url, options.store_id)
    page = visit_page(place, read_visit_metadata(place), store, settings.catalog)
    previews: Mapping[PictureKey, bytes] = {}
    notices: tuple[Notice, ...] = ()
    if options.previews == "make":
        previews, notices = make_previews(place, page, progress, options.previews_of)
    elif options.previews == "keep":
        previews = read_previews(
            options.pictures_in or place.of_study, replace(page, dataset_id=former_id or page.dataset_id)
        )
    page = replace(page, previews={key: preview_name(key, png) for key, png in previews.items()})
    pictures = {f"{previews_folder(page)}/{page.previews[key]}": png for key, png in sorted(previews.items())}
    return VisitContent(page, {**pictures, **visit_files(page)}, notices)


def visit_files(page: VisitPage) -> dict[str, bytes]:
    """The files of a visit, without previews.

    Raises :class:`~icf_utils.errors.DepositDamaged` if a record breaks the catalog's schema.
    """
    records = visit_records(page)
    for name, record in records.items():
        for sample in _records_with_schema(record):
            _refuse_invalid(name, sample)
    files = {name: record_bytes(record) for name, record in records.items()}
    return {**files, visit_path(page.visit): record_bytes(visit_data(page))}


def _records_with_schema(record: Record) -> list[Record]:
    """The records in a node that have a schema; of a folder's files, which all have the same form, the first."""
    if record.get("type") == "dataset":
        return [record]
    return [file_record(record, child) for child in record.get("children", [])[:1]]


def _refuse_invalid(name: str, record: Mapping[str, object]) -> None:
    for problem in schema_problems(record):
        raise DepositDamaged(name, "a record that the catalog's schema accepts", problem, "please report this")


def load_application(study: Study, settings: CatalogSettings) -> dict[str, bytes]:
    """The files of the web application with a study's settings.

    Raises :class:`~icf_utils.errors.MissingRequirement` without datalad-catalog and
    :class:`~icf_utils.errors.InvalidSetting`.
    """
    logo = read_logo(study.root, settings.logo) if logo_target(settings) else None
    if settings.logo and logo is None:
        raise InvalidSetting("[catalog] logo", f"the store's folder has no file '{printable(settings.logo)}'")
    files = dict(load_application_files(*link_colors(settings)))
    if logo is not None:
        files[logo_target(settings)] = logo
    files["config.json"] = record_bytes(config_record(study.study, settings))
    return files


def shared_files(
    study: str, page: StudyPage, settings: CatalogSettings, application: Mapping[str, bytes]
) -> tuple[dict[str, bytes], ...]:
    """The files that a study's visits share, in groups in the order of writing: what is referred to comes first."""
    catalog_id = study_id(study)
    return dict(application), study_files(study, catalog_id, page, settings), super_files(catalog_id)


def study_files(study: str, dataset_id: str, page: StudyPage, settings: CatalogSettings) -> dict[str, bytes]:
    """The files of the study's page for all its visits; its record comes last."""
    node = study_node(study, dataset_id, page, settings)
    # entries all have the same form and were checked when they were added, so one is checked for all
    _refuse_invalid(study_path(dataset_id), {**node, "subdatasets": node["subdatasets"][:1]})
    visits = [index_visit(entry) for entry in page.visible_entries(settings)]
    return {
        study_config_path(dataset_id): record_bytes(study_config()),
        PROTOCOLS_PATH: encode_protocols(visits),
        VISITS_PATH: encode_visits(visits),
        INDEX_PATH: encode_index(_about(study, dataset_id, visits), visits),
        FEED_PATH: feed_bytes(catalog_name(study, settings), dataset_id, visits),
        **page_files(study, dataset_id, visits, settings),
        study_path(dataset_id): record_bytes(node),
    }


def _about(study: str, dataset_id: str, visits: Iterable[IndexedVisit]) -> Record:
    """What the index says of the study: its name, its record, and how a visit is cloned from each store."""
    clones = [clone_command(VisitAddress(store, study, VISIT_PLACE)) for store, _ in sorted_stores(visits)]
    return {"study": study, "record": study_path(dataset_id), "clone": clones}


def own_names(application: Mapping[str, bytes]) -> set[str]:
    """The names of icf-utils' files and folders in a catalog's folder; ``application`` are its files by path."""
    return {*OWN_NAMES, *(name.split("/")[0] for name in application)}


def super_files(dataset_id: str) -> dict[str, bytes]:
    """The file that completes a catalog."""
    return {SUPER_PATH: record_bytes(super_record(dataset_id))}
