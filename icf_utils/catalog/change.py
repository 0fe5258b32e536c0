"""What a changed or removed visit means for its study's catalog and list of visits. Reads the catalog; writes nothing.

The result lists the files to write and to remove, for the transaction that changes the visit's own files.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from icf_utils.catalog import writer
from icf_utils.catalog.content import VisitContent, load_application, shared_files, study_files
from icf_utils.catalog.html_pages import LISTS
from icf_utils.catalog.page import read_study_page
from icf_utils.catalog.records import VisitEntry, visit_entry
from icf_utils.catalog.study import StudyPage, study_id
from icf_utils.catalog.study_description import study_catalog
from icf_utils.catalog.visit_data import visit_path
from icf_utils.catalog.visit_list import encode_changed_list, visit_line
from icf_utils.dataset.study_stage import study_dataset_files
from icf_utils.metadata.visit_list import VisitLine
from icf_utils.outputs.listing import OUTPUTS_PATH, changed_list, read_list
from icf_utils.settings import CatalogSettings, Settings
from icf_utils.store.layout import Study, Visit


@dataclass(frozen=True)
class CatalogChange:
    """Files of a study to write (by their path below the study's folder, in the order of writing) and to remove."""

    files: Mapping[str, bytes]
    stale: tuple[str, ...]


def plan_catalog_change(
    study: Study,
    store: Settings,
    *,
    remove: Collection[str] = (),
    changed: Visit | None = None,
    content: VisitContent | None = None,
    line: VisitLine | None = None,
    version: int = 1,
    without_outputs: Collection[str] = (),
    hides_dates: bool = False,
    application: Mapping[str, bytes] = MappingProxyType({}),
) -> CatalogChange:
    """Plan what follows for the catalog if the visits ``remove`` go, and one with ``content`` takes their place.

    ``changed`` is where the files of the latter are, for the study's dataset.
    ``line`` is the new visit's in the list of visits, if it has no ``content``: the catalog does not show such a
    visit. A study without a catalog gets one for a visit with content, which ``hides_dates`` then. Outputs go from the
    catalog's list with the visits ``remove``, and those of ``without_outputs``. ``application`` are files of the pages
    themselves, which are brought up to date. The list of visits comes last. The caller holds the catalog's lock. Raises
    :class:`~icf_utils.errors.DepositDamaged` if the study's page cannot be read, and
    :class:`~icf_utils.errors.ExistingFileDiffers` if the folder ``catalog`` was made by something else.
    """
    settings = study_catalog(study, store.catalog)
    files: dict[str, bytes] = {}
    stale: list[str] = []
    page = read_study_page(study)
    if page.entries or content:
        after = _with(page, remove, visit_entry(content.page) if content else None)
        made = {**content.files} if content else {}
        if page.entries:
            made = {**application, **made, **study_files(study.study, study_id(study.study), after, settings)}
        else:
            made = _new_catalog(study, replace(after, hides_dates=after.hides_dates or hides_dates), made, settings)
        files = {f"{study.catalog.name}/{name}": data for name, data in made.items()}
        stale += (path.relative_to(study.folder).as_posix() for path in writer.stale_lists(study, LISTS, made))
        for entry in page.entries:
            if entry.visit in remove:
                old = [
                    path.relative_to(study.catalog).as_posix()
                    for path in writer.stale_nodes(study, entry.dataset_id, made)
                ]
                stale += (
                    f"{study.catalog.name}/{name}" for name in (*old, visit_path(entry.visit)) if name not in made
                )
        outputs = changed_list(study, read_list(study), without={*remove, *without_outputs})
        files[f"{study.catalog.name}/{OUTPUTS_PATH}"] = outputs
    if content:
        line = visit_line(visit_entry(content.page), version)
    new = {changed.visit: changed} if changed else {}
    dataset = study_dataset_files(study, store.store.id, changed=new, removed=set(remove) - new.keys())
    if dataset is None:
        stale += (path.name for path in (study.refs, study.export) if path.exists())
    files |= dataset or {}
    if content and not page.entries and hides_dates:
        settings = replace(settings, hide_dates=True)
    data = encode_changed_list(study, settings, remove, line)
    if data is not None:
        files[study.visit_list.name] = data
    return CatalogChange(files, tuple(stale))


def _new_catalog(
    study: Study, page: StudyPage, pages: Mapping[str, bytes], settings: CatalogSettings
) -> dict[str, bytes]:
    """All files of a catalog with its first visit, whose ``pages`` these are, in the order of writing."""
    writer.refuse_foreign(study, study_id(study.study))
    application, own, last = shared_files(study.study, page, settings, load_application(study, settings))
    marker = writer.marker_bytes(study_id(study.study), page.hides_dates)
    return {writer.MARKER: marker, **application, **pages, **own, **last}


def plan_empty_study(study: Study) -> CatalogChange:
    """Plan what goes when the last visit of a study goes: its list of visits, its dataset, and its catalog.

    Files that others have put into the catalog's folder stay. The caller holds the catalog's lock.
    """
    own = (study.visit_list, study.refs, study.export)
    stale = [path.name for path in own if os.path.lexists(path)]
    if writer.read_marker(study, study_id(study.study)) is not None:
        stale += (path.relative_to(study.folder).as_posix() for path in writer.list_own_files(study))
    return CatalogChange({}, tuple(stale))


def _with(page: StudyPage, remove: Collection[str], entry: VisitEntry | None) -> StudyPage:
    kept = replace(page, entries=tuple(one for one in page.entries if one.visit not in remove))
    return kept.with_entry(entry) if entry else kept
