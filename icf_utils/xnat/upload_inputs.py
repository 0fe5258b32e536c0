"""What can be uploaded: trees of folders, zips and tars, visits of a store. Reads names only."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from icf_utils.dicom.constants import SPECIFIC_CHARACTER_SET
from icf_utils.dicom.header_text import header_text
from icf_utils.dicom.values import tag_for_keyword
from icf_utils.errors import DepositMissing, InvalidSetting, printable
from icf_utils.formatting import format_count
from icf_utils.metadata.study_uids import recorded_study_uids
from icf_utils.results import Notice
from icf_utils.sources.images import scan_files
from icf_utils.sources.open import open_source
from icf_utils.sources.study_samples import find_shared_studies, is_skipped_image, sample_study_uids
from icf_utils.sources.tree import LEVELS, Exclusions, Tree, TreeVisit, walk_tree
from icf_utils.store.layout import Study, Visit
from icf_utils.templates import Template
from icf_utils.xnat.labels import NameWithoutLabel, fill_label
from icf_utils.xnat.upload_body import (
    SessionUpload,
    UploadBody,
    open_file_body,
    open_folder_body,
    open_packed_images,
    open_visit_body,
)
from icf_utils.xnat.upload_journal import default_journal_folder

#: The labels of a store's visit, unless other templates are given.
VISIT_SUBJECT, VISIT_LABEL = "{visit}", "{study}_{visit}"

#: The label of an output's session, unless another template is given.
OUTPUT_LABEL = "{study}_{visit}_{processing}"

#: The labels of a session of a tree, unless other templates are given; they are those of dicomUpload.
TREE_SUBJECT, TREE_LABEL = "{subject}", "{subject}_{session}"


@dataclass(frozen=True)
class UploadList:
    """Sessions to upload, and what of the input is not uploaded. ``refused`` are sessions whose names make no label."""

    uploads: tuple[SessionUpload, ...]
    notices: tuple[Notice, ...] = ()
    refused: tuple[Notice, ...] = ()


def list_tree_uploads(
    root: Path,
    subject: str = "",
    label: str = "",
    levels: Sequence[str] = LEVELS,
    exclude: Exclusions | None = None,
    *,
    state: Path | None = None,
    refuse: Collection[str] = (),
) -> UploadList:
    """The sessions of a tree of folders. Sessions without scans to send, and names without a label, are reported.

    ``refuse`` are those of :data:`~icf_utils.settings.UPLOAD_CHECKS` for which a session is not uploaded.
    """
    tree = walk_tree(root, levels, exclude)
    notices = list(tree.skipped)
    notices += [
        Notice("unmatched-pattern", pattern, "matches no folder; check its spelling") for pattern in tree.unmatched
    ]
    found, refused = [], _refused_in_tree(root, tree, refuse)
    left = {item.subject for item in refused}
    for visit in tree.visits:
        name = str(visit.path.relative_to(root))
        if name in left:
            continue
        notices += [Notice("scan-excluded", f"{name}/{scan.name}", "is excluded") for scan in visit.excluded]
        if visit.scans and len(visit.excluded) == len(visit.scans):
            notices.append(Notice("all-scans-excluded", name, "has no scans: all are excluded"))
            continue
        try:
            names = _fill_labels(subject or TREE_SUBJECT, label or TREE_LABEL, visit.values)
        except NameWithoutLabel as error:
            refused.append(Notice("no-label", name, error.reason))
            continue
        found.append(SessionUpload(*names, name, state or default_journal_folder(), _body_opener(visit, refuse)))
    return UploadList(tuple(found), tuple(notices), tuple(refused))


def _refused_in_tree(root: Path, tree: Tree, refuse: Collection[str]) -> list[Notice]:
    """What shows that folders were taken for the wrong sessions: the images and sessions concerned."""
    refused = []
    if "skipped-image" in refuse:
        advice = "check --levels, or use --allow skipped-image"
        for item in tree.skipped:
            path = root / item.subject
            if is_skipped_image(root, item.subject):
                message = f"is or contains a DICOM image, and {item.message}; {advice}"
                refused.append(Notice("skipped-image", item.subject, message))
                near = [visit for visit in tree.visits if path.parent in visit.path.parents]
                message = f"is next to or below the skipped image '{printable(item.subject)}'; {advice}"
                refused += [Notice("skipped-image", str(visit.path.relative_to(root)), message) for visit in near]
    if "shared-study" in refuse:
        samples = {str(visit.path.relative_to(root)): sample_study_uids(visit.path) for visit in tree.visits}
        refused += _shared(find_shared_studies(samples), "check --levels")
    return refused


def _shared(found: Mapping[str, Sequence[str]], check: str) -> list[Notice]:
    return [
        Notice(
            "shared-study",
            name,
            f"has images of the same StudyInstanceUID as '{printable(others[0])}'"
            + (f" and {format_count(len(others) - 1, 'other')}" if len(others) > 1 else "")
            + f"; {check}, or use --allow shared-study",
        )
        for name, others in found.items()
    ]


def _body_opener(visit: TreeVisit, refuse: Collection[str]) -> Callable[[], AbstractContextManager[UploadBody]]:
    return lambda: open_folder_body(visit, refuse)


def make_file_upload(
    path: Path, subject: str, label: str, state: Path | None = None, refuse: Collection[str] = ()
) -> SessionUpload:
    """A zip or tar of one session. Its name does not contain subject and session: both labels must be given."""
    if not subject or not label:
        raise InvalidSetting("--subject and --session", "required for a zip or tar: they name its subject and session")
    values = {"name": path.name.partition(".")[0]}
    names = _fill_labels(subject, label, values)
    return SessionUpload(*names, path.name, state or default_journal_folder(), lambda: open_file_body(path, refuse))


def make_visit_upload(
    visit: Visit, subject: str = VISIT_SUBJECT, label: str = VISIT_LABEL, refuse: Collection[str] = ()
) -> SessionUpload:
    """A store's visit as a session to upload; its upload journal is in the study's work folder.

    The templates may have DICOM keywords as fields: their values are those of the archive's first image.
    """
    values = {"study": visit.study, "visit": visit.visit}
    fields = [name for text in (subject, label) for name in Template(text).fields]
    keywords = {name: tag for name in fields if (tag := tag_for_keyword(name)) is not None}
    if keywords:
        values |= _first_values(visit, keywords)
    try:
        labels = _fill_labels(subject, label, values)
    except NameWithoutLabel as error:  # without the value, which may be a patient's
        raise InvalidSetting(error.source, error.reason) from None
    return SessionUpload(
        *labels, f"{visit.study}/{visit.visit}", visit.workdir / "xnat", lambda: open_visit_body(visit, refuse)
    )


def make_output_upload(visit: Visit, processing: str, subject: str, label: str = "") -> SessionUpload:
    """The DICOM files of a processing's output as a session to upload; its other files are left out.

    The templates may have the fields ``{study}``, ``{visit}`` and ``{processing}``.
    """
    values = {"study": visit.study, "visit": visit.visit, "processing": processing}
    labels = _fill_labels(subject, label or OUTPUT_LABEL, values)
    path = visit.output(processing)
    return SessionUpload(
        *labels, f"{visit.study}/{path.name}", visit.workdir / "xnat", lambda: open_packed_images(path)
    )


def _first_values(visit: Visit, keywords: Mapping[str, int]) -> dict[str, str]:
    """The values of DICOM keywords in the first image of a visit's archive.

    Raises :class:`~icf_utils.errors.DepositMissing` without an archive.
    """
    if not visit.archive.is_file():
        raise DepositMissing(visit.archive, "run 'icf-utils make_studyvisit_archive' first")
    wanted = frozenset({*keywords.values(), SPECIFIC_CHARACTER_SET})
    with open_source(visit.archive, Path(tempfile.gettempdir())) as source:
        found = next((file.header for file in scan_files(source, wanted) if file.is_image), None)
    return {name: header_text(found, tag, person_names=True) if found else "" for name, tag in keywords.items()}


def list_store_uploads(
    root: Path, study: str, visit: str = "", subject: str = "", label: str = "", refuse: Collection[str] = ()
) -> tuple[SessionUpload, ...]:
    """One visit of a store, or all visits of a study that have an archive."""
    found = [Visit(root, study, visit)] if visit else [Visit(root, study, name) for name in Study(root, study).visits()]
    archived = [item for item in found if visit or item.archive.exists()]
    if not archived:
        raise DepositMissing(Study(root, study).folder, "no visit with an archive; check the store and the study")
    return tuple(make_visit_upload(item, subject or VISIT_SUBJECT, label or VISIT_LABEL, refuse) for item in archived)


def refuse_shared_visits(root: Path, uploads: Sequence[SessionUpload]) -> list[Notice]:
    """The visits of a store that share a StudyInstanceUID with another one of ``uploads``, by their metadata."""
    visits = [Visit(root, *session.where.split("/", 1)) for session in uploads]
    samples = {f"{visit.study}/{visit.visit}": recorded_study_uids(visit) for visit in visits}
    return _shared(find_shared_studies(samples), "check the visits")


def _fill_labels(subject: str, label: str, values: Mapping[str, str]) -> tuple[str, str]:
    return fill_label(subject, values, "--subject"), fill_label(label, values, "--session")
