"""A deposit for git-annex's own ``annex::`` address: clones with git and git-annex, without DataLad. Pure.

Format: git-annex's manual page *git-remote-annex* and its page "internals/git-remote-annex". A manifest lists the keys
of git bundles (https://git-scm.com/docs/gitformat-bundle, version 2); both kinds of keys lie in a special remote, in
folders by the MD5 of the key; a small file that can be downloaded says which remote that is.

The dataset is the one of the ``_XDLRA`` pair. Only its ``git-annex`` branch goes on by one commit, which says that the
archive is on the web: without DataLad, git-annex knows nobody else who could get it.


The deposit for ``annex::`` addresses in the store: publishing, comparing. Reads and writes the study's folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID, uuid5

from icf_utils.dataset import annex_branch
from icf_utils.dataset.annex_keys import lower_folder
from icf_utils.dataset.export import ANNEX, MAIN
from icf_utils.dataset.git_objects import FILE, BranchFile, GitObject
from icf_utils.dataset.git_pack import write_pack
from icf_utils.dataset.origin import DatasetOrigin
from icf_utils.errors import DepositDiffers, InvalidSetting, storage_errors
from icf_utils.store.files import make_folders, sync_folder
from icf_utils.store.layout import Visit

#: git-annex's fixed UUID of the web.
WEB = UUID("00000000-0000-0000-0000-000000000001")


@dataclass(frozen=True)
class DepositFile:
    """A file of the deposit: its name relative to the study's folder, with slashes, and its bytes."""

    name: str
    data: bytes


def check_annex_scheme(store_url: str) -> None:
    """Raise :class:`~icf_utils.errors.InvalidSetting` for a store that git-annex's own remotes cannot read."""
    if urlsplit(store_url).scheme == "ssh":
        raise InvalidSetting("--annex-url", "git-annex reads stores over https://, http:// and file://, not ssh://")


def remote_uuid(origin: DatasetOrigin) -> UUID:
    """The UUID of the special remote that the deposit is; the same whenever the dataset's id is."""
    return uuid5(origin.uuids.dataset, "annex")


def annex_address(visit: Visit, origin: DatasetOrigin) -> str:
    """What ``git clone`` takes: the address of the small file, which git-annex gets from web servers only."""
    if urlsplit(origin.store_url).scheme == "file":
        return long_annex_address(visit, origin)
    return f"annex::{origin.store_url}/{visit.study}/{visit.annex_url.name}"


def web_branch_files(archive_stem: bytes, visit: Visit, origin: DatasetOrigin) -> dict[bytes, BranchFile]:
    """The records that differ from the ``_XDLRA`` pair's: the archive is at DataLad's remote and on the web.

    ``archive_stem`` is where the archive's location log stands in the branch.
    """
    url = f"{origin.store_url}/{visit.storepath}".encode("ascii")
    places = sorted((WEB, origin.uuids.uncurl), key=str)
    return {
        archive_stem: BranchFile(FILE, b"".join(annex_branch.location_log(place, origin.time) for place in places)),
        archive_stem + b".web": BranchFile(
            FILE, annex_branch.url_log([url], origin.time) + annex_branch.web_log([url], origin.time)
        ),
    }


def annex_deposit_files(
    objects: Mapping[bytes, GitObject], refs: Mapping[str, str], visit: Visit, origin: DatasetOrigin
) -> tuple[DepositFile, ...]:
    """The deposit's files, the one that marks completeness last.

    ``refs`` has the commits of both branches. Raises ``OverflowError`` where the bundle would be too large.
    """
    uuid = remote_uuid(origin)
    bundle = bundle_bytes(objects, refs, uuid)
    digest = hashlib.sha256(bundle).hexdigest()
    key = f"GITBUNDLE-s{len(bundle)}--{uuid}-{digest}"
    return (
        _key_file(visit, key, bundle),
        _key_file(visit, f"GITMANIFEST--{uuid}", f"{key}\n".encode("ascii")),
        DepositFile(visit.annex_url.name, long_annex_address(visit, origin).encode("ascii")),
    )


def _key_file(visit: Visit, key: str, data: bytes) -> DepositFile:
    folder = lower_folder(key.encode("ascii")).decode("ascii")
    return DepositFile(f"{visit.annex_folder.name}/{folder}/{key}/{key}", data)


def bundle_bytes(objects: Mapping[bytes, GitObject], refs: Mapping[str, str], uuid: UUID) -> bytes:
    """A git bundle of ``objects`` with the branches where git-annex looks for them.

    ``HEAD`` is among them: without it, git checks out a branch of the name that the user's ``init.defaultBranch`` says.
    """
    space = f"refs/namespaces/git-remote-annex/{uuid}"
    places = {"HEAD": refs[MAIN], ANNEX: refs[ANNEX], MAIN: refs[MAIN]}
    lines = "".join(f"{commit} {space}/{name}\n" for name, commit in places.items())
    return b"# v2 git bundle\n%s\n%s" % (lines.encode("ascii"), write_pack(objects).data)


def long_annex_address(visit: Visit, origin: DatasetOrigin) -> str:
    """The address that needs no file: all that git-annex must know of the special remote.

    git-annex takes the parameters apart at ``&`` and decodes percent signs once.
    """
    folder = f"{origin.store_url}/{visit.study}/{visit.annex_folder.name}"
    parts = urlsplit(folder)
    if parts.scheme == "file":
        place = f"type=directory&directory={quote(unquote(parts.path), safe='/')}"
    else:
        place = f"type=httpalso&url={quote(folder, safe=':/')}"
    return f"annex::{remote_uuid(origin)}?encryption=none&{place}"


_STRANGER = "it does not belong to this dataset"


def deposit_paths(visit: Visit, files: Sequence[DepositFile]) -> list[tuple[Path, bytes]]:
    """Where the files lie, and their bytes, for :func:`icf_utils.store.files.publish_bytes`."""
    return [(visit.of_study.folder / file.name, file.data) for file in files]


def has_annex_deposit(visit: Visit) -> bool:
    """Whether there is any file of such a deposit."""
    with storage_errors(visit.annex_url, "examine"):
        return visit.annex_url.exists() or next(list_stored_files(visit), None) is not None


def list_stored_files(visit: Visit) -> Iterator[Path]:
    """The files in the deposit's folder, whatever they are."""
    for folder, _, names in os.walk(visit.annex_folder):
        yield from (Path(folder, name) for name in sorted(names))


def create_folders(visit: Visit, files: Sequence[DepositFile]) -> None:
    """Make the folders of the deposit's keys, durably.

    Raises :class:`~icf_utils.errors.DepositDiffers` if files of another deposit are there.
    """
    wanted = {path for path, _ in deposit_paths(visit, files)}
    for path in list_stored_files(visit):
        if path not in wanted:
            raise DepositDiffers(path, _STRANGER)
    for path in sorted(wanted):
        create_folder(visit, path.parent)


def create_folder(visit: Visit, folder: Path) -> None:
    """Make a folder and those above it; the names above are synced as well."""
    if folder.is_dir():
        return
    with storage_errors(folder, "create"):
        make_folders(visit.root, folder)
    for above in [folder.parent, *folder.parent.parents]:
        sync_folder(above)
        if above == visit.of_study.folder:
            return
