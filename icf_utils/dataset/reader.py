"""Read a deposited dataset, strictly and without git. Reads the store; writes nothing.

Every byte counts: any difference from what icf-utils writes for the same objects is damage. Deposits that other tools
made are therefore refused as well, with a message that says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from icf_utils.dataset.annex_branch import dataset_config, key_log_path, repository_logs
from icf_utils.dataset.annex_keys import md5e_key
from icf_utils.dataset.export import ANNEX, MAIN, read_export, refs_bytes
from icf_utils.dataset.git_objects import FOLDER, BranchFile, GitObject, parse_tree
from icf_utils.dataset.lineage import EarlierCommits, Lineage
from icf_utils.dataset.origin import DatasetOrigin, DatasetUuids
from icf_utils.errors import DepositDamaged, DepositMissing
from icf_utils.metadata.history import VersionRecord, read_history
from icf_utils.store.layout import Visit, read_deposit

_REMEDY = (
    "move both files of the dataset ('..._XDLRA--refs', '..._XDLRA--repo-export') away "
    "and run 'icf-utils deposit_visit_dataset' again"
)
_MISSING = "move '..._XDLRA--refs' away and run 'icf-utils deposit_visit_dataset' again"


@dataclass(frozen=True)
class BranchContent:
    """A branch: id and text of its last commit, its files by path, and the commit before (empty for the first)."""

    commit: str
    text: bytes
    files: Mapping[bytes, BranchFile]
    parent: str = ""

    @property
    def message(self) -> str:
        """The message of the last commit."""
        return self.text.partition(b"\n\n")[2].decode("utf-8").removesuffix("\n")


@dataclass(frozen=True)
class DepositedDataset:
    """A visit's dataset.

    ``refs`` has the commits by branch; ``origin`` is what it was built from; ``objects`` are all objects by id.
    """

    refs: Mapping[str, str]
    main: BranchContent
    annex: BranchContent
    origin: DatasetOrigin
    objects: Mapping[bytes, GitObject] = field(default_factory=dict, repr=False)

    def as_earlier(self) -> EarlierCommits:
        """Return what the next commits follow: the present ones."""
        return EarlierCommits(self.main.commit, self.annex.commit, self.objects, self.annex.files)

    def lineage(self, kept: Mapping[bytes, str]) -> Lineage | None:
        """What the last commits follow; ``None`` if they are the first.

        ``kept`` has the keys of former archives that are still in the store, with the names of their files.
        """
        if not self.main.parent:
            return None
        main, annex = (bytes.fromhex(commit) for commit in (self.main.parent, self.annex.parent))
        needed = dict(_reachable(self.objects, (main, annex)))
        files = _branch(needed, self.annex.parent).files
        return Lineage(EarlierCommits(self.main.parent, self.annex.parent, needed, files), self.main.message, kept)

    def branches(self) -> Iterator[BranchContent]:
        """The branch ``main`` at each of its commits, the last one first."""
        branch = self.main
        yield branch
        while branch.parent:
            branch = _branch(self.objects, branch.parent)
            yield branch


def read_store_url(visit: Visit) -> str | None:
    """Return the store's address that the visit's dataset records; ``None`` without a dataset.

    Raises :class:`~icf_utils.errors.DepositDamaged`.
    """
    deposit = read_dataset(visit)
    return deposit.origin.store_url if deposit else None


def read_dataset(visit: Visit) -> DepositedDataset | None:
    """Read the visit's dataset; ``None`` without one (the refs, which are written last, do not exist).

    Raises :class:`~icf_utils.errors.DepositDamaged` for anything that icf-utils would not write, and
    :class:`~icf_utils.errors.DepositMissing` if only the refs exist.
    """
    try:
        refs = read_deposit(visit.refs, _MISSING)
    except DepositMissing:
        return None
    export = read_deposit(visit.export, _MISSING)
    return parse_dataset(refs, export, visit)


def kept_archives(visit: Visit) -> dict[bytes, str]:
    """The annex keys of the visit's former archives that were kept, with the names of their files.

    Raises :class:`~icf_utils.errors.DepositDamaged` if the visit's history cannot be read.
    """
    return kept_keys(visit, read_history(visit))


def kept_keys(visit: Visit, history: Iterable[VersionRecord]) -> dict[bytes, str]:
    """The annex keys of the archives that a history says were kept, with the names of their files."""
    place = visit.dspath.encode("ascii")
    return {md5e_key(one.size, one.md5, place): one.kept for one in history if one.kept}


def parse_dataset(refs: bytes, export: bytes, visit: Visit) -> DepositedDataset:
    """Parse the dataset in the bytes of its two files. Raises :class:`~icf_utils.errors.DepositDamaged`."""
    try:
        objects, heads = read_export(export)
        if set(heads) != {MAIN, ANNEX}:
            raise ValueError("other branches than main and git-annex")
        main, annex = _branch(objects, heads[MAIN]), _branch(objects, heads[ANNEX])
        origin = _origin(main, annex, visit)
        if main.parent and sum(1 for _ in _reachable(objects, map(bytes.fromhex, heads.values()))) < len(objects):
            raise ValueError("objects that no commit needs")
    except ValueError as error:
        raise _damaged(visit.export, "a dataset as icf-utils writes it", str(error)) from error
    if refs != refs_bytes(heads):
        raise _damaged(visit.refs, f"the branches of '{visit.export.name}'", "other branches")
    return DepositedDataset(heads, main, annex, origin, objects)


def _damaged(path: Path, expected: str, found: str) -> DepositDamaged:
    return DepositDamaged(path, expected, found, _REMEDY)


def _branch(objects: Mapping[bytes, GitObject], commit: str) -> BranchContent:
    text = _get(objects, bytes.fromhex(commit), "commit")
    head = re.match(rb"tree ([0-9a-f]{40})\n(?:parent ([0-9a-f]{40})\n)?", text)
    if not head:
        raise ValueError("a commit without a tree")
    files = _files(objects, bytes.fromhex(head[1].decode("ascii")))
    return BranchContent(commit, text, files, (head[2] or b"").decode("ascii"))


def _reachable(objects: Mapping[bytes, GitObject], commits: Iterable[bytes]) -> Iterator[tuple[bytes, GitObject]]:
    """The objects that commits need: theirs and those of all commits before. Raises ``ValueError``."""
    waiting, seen = list(commits), set()
    while waiting:
        oid = waiting.pop()
        if oid in seen:
            continue
        seen.add(oid)
        item = objects.get(oid)
        if item is None:
            raise ValueError(f"no object {oid.hex()}")
        yield oid, item
        if item.kind == "commit":
            waiting += map(bytes.fromhex, re.findall(r"(?m)^(?:tree|parent) ([0-9a-f]{40})$", _head_of(item.data)))
        elif item.kind == "tree":
            waiting += (entry.oid for entry in parse_tree(item.data))


def _head_of(commit: bytes) -> str:
    return commit.partition(b"\n\n")[0].decode("utf-8", "replace")


def _get(objects: Mapping[bytes, GitObject], oid: bytes, kind: str) -> bytes:
    item = objects.get(oid)
    if item is None or item.kind != kind:
        raise ValueError(f"no {kind} {oid.hex()}")
    return item.data


def _files(objects: Mapping[bytes, GitObject], tree: bytes) -> dict[bytes, BranchFile]:
    """Return all files below a tree; without recursion, as names may be nested deeper than Python's call stack."""
    files, waiting = {}, [(b"", tree)]
    while waiting:
        folder, oid = waiting.pop()
        for entry in parse_tree(_get(objects, oid, "tree")):
            if entry.mode == FOLDER:
                waiting.append((folder + entry.name + b"/", entry.oid))
            else:
                files[folder + entry.name] = BranchFile(entry.mode, _get(objects, entry.oid, "blob"))
    return files


def _origin(main: BranchContent, annex: BranchContent, visit: Visit) -> DatasetOrigin:
    """Return what the dataset was built from; the files that record it must be exactly those that result from it."""
    uuids = DatasetUuids(
        dataset=_uuid(rb"\tid = (.+)\n", _content(main, b".datalad/config")),
        repository=_uuid(rb"(?m)^(\S+) icf-utils ", _content(annex, b"uuid.log")),
        uncurl=_uuid(rb"(?m)^(\S+) uncurl ", _content(annex, b"uuid.log")),
        archivist=_uuid(rb"(?m)^(\S+) archivist ", _content(annex, b"uuid.log")),
    )
    time = int(_found(rb"\ncommitter [^\n]+> (\d+) \+0000\n", main.text))
    origin = DatasetOrigin(_store_url(main, annex, visit), uuids, time)
    made = {**repository_logs(origin), b".datalad/config": BranchFile(0o100644, dataset_config(uuids))}
    found = {**annex.files, **main.files}
    if any(found.get(path) != item for path, item in made.items()):
        raise ValueError("a dataset id, remotes or times that contradict each other")
    return origin


def _store_url(main: BranchContent, annex: BranchContent, visit: Visit) -> str:
    archive = _content(main, visit.dspath.encode("ascii")).rpartition(b"/")[2]
    record = _content(annex, key_log_path(archive, b".log.web"))
    place = f"/{visit.storepath}\n".encode("ascii")
    return _found(rb"(?m)^\d+s 1 :([!-~]+)" + re.escape(place), record).decode("ascii")


def _content(branch: BranchContent, path: bytes) -> bytes:
    if path not in branch.files:
        raise ValueError(f"no file '{path.decode('ascii', 'backslashreplace')}'")
    return branch.files[path].content


def _uuid(pattern: bytes, text: bytes) -> UUID:
    return UUID(_found(pattern, text).decode("ascii"))


def _found(pattern: bytes, text: bytes) -> bytes:
    match = re.search(pattern, text)
    if not match:
        raise ValueError("a record that icf-utils does not write")
    return match[1]
