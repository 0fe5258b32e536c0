"""What can be uploaded: trees of folders, zips and tars, visits of a store. Reads names only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import DepositMissing, InvalidSetting
from icf_utils.results import Notice
from icf_utils.sources.tree import LEVELS, Exclusions, TreeVisit, walk_tree
from icf_utils.store.layout import Study, Visit
from icf_utils.xnat.labels import NameWithoutLabel, fill_label
from icf_utils.xnat.upload_body import SessionUpload, UploadBody, open_file_body, open_folder_body, open_visit_body
from icf_utils.xnat.upload_journal import default_journal_folder

#: The labels of a store's visit, unless other templates are given.
VISIT_SUBJECT, VISIT_LABEL = "{visit}", "{study}_{visit}"

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
    state: Path | None = None,
) -> UploadList:
    """The sessions of a tree of folders. Sessions without scans to send, and names without a label, are reported."""
    tree = walk_tree(root, levels, exclude)
    notices = list(tree.skipped)
    notices += [
        Notice("unmatched-pattern", pattern, "matches no folder; check its spelling") for pattern in tree.unmatched
    ]
    found, refused = [], []
    for visit in tree.visits:
        name = str(visit.path.relative_to(root))
        notices += [Notice("scan-excluded", f"{name}/{scan.name}", "is excluded") for scan in visit.excluded]
        if visit.scans and len(visit.excluded) == len(visit.scans):
            notices.append(Notice("all-scans-excluded", name, "has no scans: all are excluded"))
            continue
        try:
            names = _fill_labels(subject or TREE_SUBJECT, label or TREE_LABEL, visit.values)
        except NameWithoutLabel as error:
            refused.append(Notice("no-label", name, error.reason))
            continue
        found.append(SessionUpload(*names, name, state or default_journal_folder(), _body_opener(visit)))
    return UploadList(tuple(found), tuple(notices), tuple(refused))


def _body_opener(visit: TreeVisit) -> Callable[[], AbstractContextManager[UploadBody]]:
    return lambda: open_folder_body(visit)


def make_file_upload(path: Path, subject: str, label: str, state: Path | None = None) -> SessionUpload:
    """A zip or tar of one session. Its name does not contain subject and session: both labels must be given."""
    if not subject or not label:
        raise InvalidSetting("--subject and --session", "required for a zip or tar: they name its subject and session")
    values = {"name": path.name.partition(".")[0]}
    names = _fill_labels(subject, label, values)
    return SessionUpload(*names, path.name, state or default_journal_folder(), lambda: open_file_body(path))


def make_visit_upload(visit: Visit, subject: str = VISIT_SUBJECT, label: str = VISIT_LABEL) -> SessionUpload:
    """A store's visit as a session to upload; its upload journal is in the study's work folder."""
    values = {"study": visit.study, "visit": visit.visit}
    labels = _fill_labels(subject, label, values)
    return SessionUpload(
        *labels, f"{visit.study}/{visit.visit}", visit.workdir / "xnat", lambda: open_visit_body(visit)
    )


def list_store_uploads(
    root: Path, study: str, visit: str = "", subject: str = "", label: str = ""
) -> tuple[SessionUpload, ...]:
    """One visit of a store, or all visits of a study that have an archive."""
    found = [Visit(root, study, visit)] if visit else [Visit(root, study, name) for name in Study(root, study).visits()]
    archived = [item for item in found if visit or item.archive.exists()]
    if not archived:
        raise DepositMissing(Study(root, study).folder, "no visit with an archive; check the store and the study")
    return tuple(make_visit_upload(item, subject or VISIT_SUBJECT, label or VISIT_LABEL) for item in archived)


def _fill_labels(subject: str, label: str, values: Mapping[str, str]) -> tuple[str, str]:
    return fill_label(subject, values, "--subject"), fill_label(label, values, "--session")
