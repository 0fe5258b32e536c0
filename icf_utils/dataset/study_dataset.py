"""A study as one dataset: a git repository with a subdataset (submodule) for each visit. Pure.

Its tree has ``.datalad/config``, ``.gitmodules`` and, for each visit, a link to the last commit of the visit's dataset.
The tree is determined by these commits alone. The history has a commit for each change, the parent being the one
before, and is the one thing that depends on the order in which visits came. It begins anew when a visit is removed or
renamed, so that nothing of the former one remains.

A deposit has the last tree complete, and each earlier version of it as a small difference to the next one: with ten
thousand changes it stays a few megabytes. Sources: git's documentation of ``gitmodules`` and ``gitformat-pack``;
``datalad-id`` and ``datalad-url`` are DataLad's ("datalad get", candidates for subdatasets).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from icf_utils.dataset.export import MAIN, export_pack, open_export, refs_bytes
from icf_utils.dataset.git_objects import FILE, FOLDER, GitObject, TreeEntry, encode_commit, encode_tree, parse_tree
from icf_utils.dataset.git_pack import PackReader, delta_entry, join_pack, pack_entry
from icf_utils.formatting import format_count

#: The mode of a link to a commit of another repository in a tree.
GITLINK = 0o160000

_ID = re.compile(rb'\[datalad "dataset"\]\n\tid = ([0-9a-f-]{36})\n')
_TEXT = r'"((?:[^"\\\n]|\\.)*)"'
_MODULE = re.compile(
    rf'\[submodule "([^"\n]+)"\]\n\tpath = \1\n\turl = {_TEXT}\n\tdatalad-id = (\S+)\n\tdatalad-url = {_TEXT}\n'
)


@dataclass(frozen=True)
class Submodule:
    """A visit in the dataset of its study.

    ``commit`` is that of its dataset on ``main``, ``url`` the address for git, ``datalad_url`` the one for DataLad.
    """

    commit: str
    dataset_id: str
    url: str
    datalad_url: str


@dataclass(frozen=True)
class StudyDataset:
    """The dataset of a study as it is deposited; ``time`` is that of the last commit (seconds since 1970)."""

    dataset_id: str
    commit: str
    time: int
    visits: Mapping[str, Submodule]
    pack: PackReader = field(repr=False, compare=False)
    tree: bytes = field(repr=False, compare=False)
    modules: bytes = field(repr=False, compare=False)


@dataclass(frozen=True)
class BuiltStudyDataset:
    """The bytes of ``XDLRA--refs`` and ``XDLRA--repo-export``."""

    refs: bytes
    export: bytes
    commit: str


def build_study_dataset(
    dataset_id: UUID | str, visits: Mapping[str, Submodule], time: int, former: StudyDataset | None = None
) -> BuiltStudyDataset | None:
    """The dataset with these visits, ``time`` (seconds since 1970) at the earliest; ``None`` if ``former`` has them.

    Its history continues that of ``former`` unless one of its visits is missing now. Raises ``OverflowError`` if the
    pack would be too large.
    """
    if former and former.visits == visits:
        return None
    if former and former.visits.keys() - visits.keys():
        former = None
    config = GitObject("blob", f'[datalad "dataset"]\n\tid = {dataset_id}\n'.encode("ascii"))
    folder = GitObject("tree", encode_tree([TreeEntry(b"config", FILE, config.oid)]))
    modules = GitObject("blob", _encode_modules(visits))
    links = [TreeEntry(name.encode("ascii"), GITLINK, bytes.fromhex(one.commit)) for name, one in visits.items()]
    own = [TreeEntry(b".datalad", FOLDER, folder.oid), TreeEntry(b".gitmodules", FILE, modules.oid)]
    tree = GitObject("tree", encode_tree([*own, *links]))
    parent = bytes.fromhex(former.commit) if former else b""
    when = max(time, former.time) if former else time
    message = _message(former.visits, visits) if former else "Dataset of a study"
    commit = GitObject("commit", encode_commit(tree.oid, when, message, parent))
    entries = {item.oid: pack_entry(item) for item in (commit, tree, modules, folder, config)}
    if former:
        head = len(encode_tree(own))  # the first entries, in which the id of .gitmodules differs
        for old, new, first in ((former.tree, tree, head), (former.modules, modules, 0)):
            entries.setdefault(GitObject(new.kind, old).oid, delta_entry(old, new, first))
        for oid, entry in former.pack.entries():
            entries.setdefault(oid, entry)
    refs = {MAIN: commit.oid.hex()}
    pack = join_pack(list(entries.items()))
    return BuiltStudyDataset(refs_bytes(refs), export_pack(pack, refs), commit.oid.hex())


def parse_study_dataset(refs: bytes | None, export: bytes) -> StudyDataset:
    """Parse the last commit of a deposit; its refs are compared if they are given.

    Raises ``ValueError`` for what icf-utils does not write.
    """
    pack, heads = open_export(export)
    if set(heads) != {MAIN} or refs not in (None, refs_bytes(heads)):
        raise ValueError("other branches than main, or refs that contradict the export")
    commit = pack.get(bytes.fromhex(heads[MAIN]), "commit")
    head = re.match(rb"tree ([0-9a-f]{40})\n(?:parent [0-9a-f]{40}\n)?author [^\n]*> (\d+) \+0000\n", commit)
    if not head:
        raise ValueError("a commit that icf-utils does not write")
    tree = pack.get(bytes.fromhex(head[1].decode("ascii")), "tree")
    entries = {entry.name.decode("ascii"): entry for entry in parse_tree(tree)}
    modules = pack.get(entries.pop(".gitmodules").oid, "blob") if ".gitmodules" in entries else b""
    (config,) = parse_tree(pack.get(entries.pop(".datalad").oid, "tree")) if ".datalad" in entries else [None]
    found = _ID.fullmatch(pack.get(config.oid, "blob")) if config else None
    if not found:
        raise ValueError("no id of a dataset")
    visits = _parse_modules(modules, entries)
    dataset_id, time = found[1].decode("ascii"), int(head[2])
    return StudyDataset(dataset_id, heads[MAIN], time, visits, pack, tree, modules)


def check_pack_entries(dataset: StudyDataset, export: bytes) -> None:
    """Check the bytes of all earlier commits. Raises ``ValueError`` if any of them is damaged."""
    if export_pack(join_pack(dataset.pack.entries()), {MAIN: dataset.commit}) != export:
        raise ValueError("other checksums, another order or more bytes than icf-utils writes")


def _message(before: Mapping[str, Submodule], after: Mapping[str, Submodule]) -> str:
    added = sorted(after.keys() - before.keys())
    changed = sorted(name for name in after.keys() & before.keys() if after[name] != before[name])
    said = [f"Add {_named(added)}"] if added else []
    if changed:
        said.append(f"{'change' if said else 'Change'} {_named(changed)}")
    return ", ".join(said)


def _named(names: list[str]) -> str:
    return f"visit {names[0]}" if len(names) == 1 else format_count(len(names), "visit")


def _encode_modules(visits: Mapping[str, Submodule]) -> bytes:
    parts = []
    for name in sorted(visits):
        one = visits[name]
        parts.append(
            f'[submodule "{name}"]\n\tpath = {name}\n\turl = {_quoted(one.url)}\n'
            f"\tdatalad-id = {one.dataset_id}\n\tdatalad-url = {_quoted(one.datalad_url)}\n"
        )
    return "".join(parts).encode("utf-8")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _parse_modules(raw: bytes, entries: Mapping[str, TreeEntry]) -> dict[str, Submodule]:
    text, found, length = raw.decode("utf-8"), {}, 0
    for match in _MODULE.finditer(text):
        name, url, dataset_id, datalad_url = match.groups()
        if name not in entries or entries[name].mode != GITLINK:
            raise ValueError(f"no link to the dataset of '{name}'")
        found[name] = Submodule(entries[name].oid.hex(), dataset_id, _unquoted(url), _unquoted(datalad_url))
        length += len(match[0])
    if length != len(text) or len(found) != len(entries):
        raise ValueError("a .gitmodules that icf-utils does not write")
    return found


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text) if "\\" in text else text
