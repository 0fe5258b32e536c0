"""Keeps the dataset of a study current: a subdataset for each visit that has one. Reads the store; writes two files.

The refs are written last. Callers hold the catalog's lock, as the dataset belongs to all visits of a study.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from icf_utils.dataset.annex_branch import key_log_path
from icf_utils.dataset.annex_url import has_annex_deposit
from icf_utils.dataset.export import ANNEX, MAIN, open_export, refs_bytes
from icf_utils.dataset.git_objects import parse_tree
from icf_utils.dataset.git_pack import PackReader
from icf_utils.dataset.origin import clone_url
from icf_utils.dataset.study_dataset import StudyDataset, Submodule, build_study_dataset, parse_study_dataset
from icf_utils.errors import DepositDamaged, DepositMissing, storage_errors
from icf_utils.metadata.visit_list import parse_visit_list
from icf_utils.store.files import replace_bytes, sync_folder
from icf_utils.store.layout import Study, Visit, find_deposit, read_deposit, store_identity, study_uuid

_REMEDY = "run 'icf-utils verify --repair' for this study"


@dataclass(frozen=True)
class VisitHead:
    """The last commit of a visit's dataset, with its time (seconds since 1970) and the store's address."""

    commit: str
    time: int
    dataset_id: str
    store_url: str


def read_study_dataset(study: Study) -> StudyDataset | None:
    """Read the last commit of a study's dataset; ``None`` without one.

    Raises :class:`~icf_utils.errors.DepositDamaged`.
    """
    try:
        refs = read_deposit(study.refs, _REMEDY)
    except DepositMissing:
        return None
    export = read_deposit(study.export, _REMEDY)
    try:
        return parse_study_dataset(refs, export)
    except (ValueError, LookupError) as error:
        expected = "the dataset of a study as icf-utils writes it"
        raise DepositDamaged(study.export, expected, str(error), _REMEDY) from error


def read_visit_head(place: Visit) -> VisitHead | None:
    """Read the last commit of a visit's dataset, without the rest of it; ``None`` without a dataset.

    Raises :class:`~icf_utils.errors.DepositDamaged` and :class:`~icf_utils.errors.DepositMissing`.
    """
    try:
        refs = read_deposit(place.refs, _REMEDY)
    except DepositMissing:
        return None
    export = read_deposit(place.export, _REMEDY)
    try:
        pack, heads = open_export(export)
        if f"{heads[MAIN]} {MAIN}\n".encode("ascii") not in refs:
            raise ValueError("refs that contradict the export")
        head, main = _commit(pack, heads[MAIN])
        _, annex = _commit(pack, heads[ANNEX])
        config = _file(pack, main, b".datalad/config")
        key = _file(pack, main, place.dspath.encode("ascii")).rpartition(b"/")[2]
        record = _file(pack, annex, key_log_path(key, b".log.web"))
        address = re.search(rb"(?m)^\d+s 1 :([!-~]+)" + re.escape(f"/{place.storepath}\n".encode("ascii")), record)
        time = re.search(rb"\ncommitter [^\n]+> (\d+) \+0000\n", head)
        if not address or not time:
            raise ValueError("a record that icf-utils does not write")
        dataset_id = config.rpartition(b"= ")[2].strip().decode("ascii")
        return VisitHead(heads[MAIN], int(time[1]), dataset_id, address[1].decode("ascii"))
    except (ValueError, LookupError) as error:
        raise DepositDamaged(place.export, "a dataset as icf-utils writes it", str(error), _REMEDY) from error


def read_visit_commit(place: Visit) -> str:
    """The last commit of a visit's dataset on ``main`` as its refs say it; empty without a dataset."""
    match = re.search(rb"(?m)^([0-9a-f]{40}) refs/heads/main$", find_deposit(place.refs) or b"")
    return match[1].decode("ascii") if match else ""


def _commit(pack: PackReader, commit: str) -> tuple[bytes, bytes]:
    """The text of a commit, and the id of its tree."""
    text = pack.get(bytes.fromhex(commit), "commit")
    return text, bytes.fromhex(text[5:45].decode("ascii"))


def _file(pack: PackReader, tree: bytes, path: bytes) -> bytes:
    *folders, name = path.split(b"/")
    for folder in folders:
        tree = next(entry.oid for entry in parse_tree(pack.get(tree, "tree")) if entry.name == folder)
    found = [entry.oid for entry in parse_tree(pack.get(tree, "tree")) if entry.name == name]
    if not found:
        raise ValueError(f"no file '{path.decode('ascii', 'backslashreplace')}'")
    return pack.get(found[0], "blob")


def study_dataset_files(
    study: Study,
    store_id: str,
    *,
    changed: Mapping[str, Visit] | None = None,
    removed: Collection[str] = (),
) -> dict[str, bytes] | None:
    """The files of a study's dataset by name, in the order of writing, after a change; empty if it does not change.

    ``changed`` are the visits that have changed, with the places where their files are now; ``None`` means all visits
    of the study. ``removed`` are those that have gone. Without a readable dataset, the visits that the study's list has
    are read as well. ``None`` is returned if no visit has a dataset: the study has none either. Visits whose datasets
    cannot be read keep their commits.
    """
    return _changed_files(study, _former(study), store_id, changed, removed)


def _changed_files(
    study: Study,
    former: StudyDataset | None,
    store_id: str,
    changed: Mapping[str, Visit] | None,
    removed: Collection[str],
) -> dict[str, bytes] | None:
    visits: dict[str, Submodule] = {}
    if former and changed is not None:
        visits = {name: one for name, one in former.visits.items() if name not in removed}
        places = dict(changed)
    else:
        names = study.visits() if changed is None else _listed(study)
        places = {name: Visit(study.root, study.study, name) for name in names if name not in removed}
        places.update(changed or {})
    time, url = former.time if former else 0, ""
    for name, place in places.items():
        try:
            head = read_visit_head(place)
        except (DepositDamaged, DepositMissing):  # reported where the visit itself is checked
            if former and name in former.visits:
                visits[name] = former.visits[name]
            continue
        if head is None:
            visits.pop(name, None)
            continue
        visits[name] = _submodule(Visit(study.root, study.study, name), place, head)
        time, url = max(time, head.time), url or head.store_url
    if not visits:
        return None
    dataset_id = former.dataset_id if former else str(study_uuid(store_identity(url, store_id), study.study, "dataset"))
    built = build_study_dataset(dataset_id, visits, time, former)
    if built:
        return {study.export.name: built.export, study.refs.name: built.refs}
    assert former
    refs = refs_bytes({MAIN: former.commit})
    return {} if find_deposit(study.refs) == refs else {study.refs.name: refs}


def _listed(study: Study) -> list[str]:
    """The visits that are published."""
    try:
        return [line.visit for line in parse_visit_list(find_deposit(study.visit_list) or b"", "")]
    except DepositDamaged:
        return []


def _former(study: Study) -> StudyDataset | None:
    """The dataset in the store; the refs may be older, if the last change was interrupted between the two files."""
    try:
        return parse_study_dataset(None, read_deposit(study.export, _REMEDY))
    except (DepositMissing, ValueError, LookupError):
        return None


def _submodule(visit: Visit, place: Visit, head: VisitHead) -> Submodule:
    datalad_url = clone_url(head.store_url, visit)
    is_on_web = head.store_url.lower().startswith("http")
    url = f"annex::{head.store_url}/{visit.study}/{visit.annex_url.name}"
    return Submodule(
        head.commit, head.dataset_id, url if is_on_web and has_annex_deposit(place) else datalad_url, datalad_url
    )


def write_study_dataset(study: Study, store_id: str, visits: Collection[str] | None = None) -> bool:
    """Bring the dataset of a study up to date with ``visits``, or with all; durable on return.

    Returns whether anything was written. ``store_id`` is that of the settings. Raises
    :class:`~icf_utils.errors.StorageFailure`.
    """
    former = _former(study)
    removed = former.visits.keys() - study.visits() if former else set()
    changed = None if visits is None else {name: Visit(study.root, study.study, name) for name in visits}
    files = _changed_files(study, former, store_id, changed, removed)
    if files is None:
        for path in (study.refs, study.export):
            with storage_errors(path, "remove"):
                path.unlink(missing_ok=True)
        return False
    for name, data in files.items():
        replace_bytes(study, study.folder / name, data)
        sync_folder(study.folder)
    return bool(files)
