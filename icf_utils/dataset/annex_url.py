"""The deposit for git-annex's ``annex::`` addresses, which are cloned with git and git-annex, without DataLad.

Format: git-annex's manual page *git-remote-annex* and its page "internals/git-remote-annex". A manifest lists the keys
of git bundles (https://git-scm.com/docs/gitformat-bundle, version 2). Manifest and bundles are keys in a special
remote, in folders by the MD5 of the key; a small file that can be downloaded contains the address of that remote.

The dataset is that of the ``_XDLRA`` pair. Only its ``git-annex`` branch has one commit more, which records that the
archive is on the web: without DataLad, git-annex has no other remote that could get it.

Making the files is pure; the functions at the end read and create files in the study's folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID, uuid5

from icf_utils.dataset.annex_keys import lower_folder
from icf_utils.dataset.annex_logs import encode_log, parse_log
from icf_utils.dataset.export import ANNEX, MAIN
from icf_utils.dataset.git_objects import FILE, BranchFile, GitObject
from icf_utils.dataset.git_pack import write_pack
from icf_utils.dataset.origin import DatasetOrigin
from icf_utils.errors import DepositDamaged, DepositDiffers, InvalidSetting, storage_errors
from icf_utils.store.files import make_folders, sync_folder
from icf_utils.store.layout import Visit

_LONGEST_ADDRESS = 1 << 16

#: An address with a UUID, as it begins.
_UUID = re.compile(rb"annex::([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\?")

#: git-annex's fixed UUID for the web.
WEB = UUID("00000000-0000-0000-0000-000000000001")


@dataclass(frozen=True)
class DepositFile:
    """A file of the deposit: its name relative to the study's folder, with ``/``, and its bytes."""

    name: str
    data: bytes


def check_annex_scheme(store_url: str) -> None:
    """Check that git-annex's own remotes can read a store. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    if urlsplit(store_url).scheme == "ssh":
        raise InvalidSetting("--annex-url", "git-annex reads stores over https://, http:// and file://, not ssh://")


def remote_uuid(origin: DatasetOrigin) -> UUID:
    """Return the UUID of the special remote with the deposit's keys; it follows from the dataset's id."""
    return uuid5(origin.uuids.dataset, "annex")


def annex_address(visit: Visit, origin: DatasetOrigin) -> str:
    """Return the address for ``git clone``: that of the small file, or the long one if no web server serves it."""
    if urlsplit(origin.store_url).scheme == "file":
        return long_annex_address(visit, origin)
    return f"annex::{origin.store_url}/{visit.study}/{visit.annex_url.name}"


def web_branch_files(annex: Mapping[bytes, BranchFile], origin: DatasetOrigin) -> dict[bytes, BranchFile]:
    """Make the records that differ from the ``_XDLRA`` pair, whose branch is ``annex``: archives are on the web.

    What holds of an archive in DataLad's remote, now or no longer, holds of git-annex's own as well.
    """
    uncurl, web = (str(uuid).encode("ascii") for uuid in (origin.uuids.uncurl, WEB))
    files = {}
    for path, item in annex.items():
        if not path.endswith(b".log") or b"/" not in path:
            continue
        lines = list(parse_log(item.content))
        at_web = [line._replace(value=web) for line in lines if line.value == uncurl]
        if at_web:
            places = sorted([*lines, *at_web], key=lambda line: line.value)
            addresses = list(parse_log(annex[path + b".web"].content))
            addresses += [line._replace(value=line.value[1:]) for line in addresses]
            files[path] = BranchFile(FILE, encode_log(places))
            files[path + b".web"] = BranchFile(FILE, encode_log(addresses))
    return files


def annex_deposit_files(
    objects: Mapping[bytes, GitObject], refs: Mapping[str, str], visit: Visit, origin: DatasetOrigin
) -> tuple[DepositFile, ...]:
    """Make the deposit's files; the last one marks the deposit as complete.

    ``refs`` has the commits of both branches. Raises ``OverflowError`` if the bundle would be too large.
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
    """Make a git bundle of ``objects`` with the branches where git-annex looks for them.

    ``HEAD`` is included; without it, git checks out the branch that the user's ``init.defaultBranch`` names.
    """
    space = f"refs/namespaces/git-remote-annex/{uuid}"
    places = {"HEAD": refs[MAIN], ANNEX: refs[ANNEX], MAIN: refs[MAIN]}
    lines = "".join(f"{commit} {space}/{name}\n" for name, commit in places.items())
    return b"# v2 git bundle\n%s\n%s" % (lines.encode("ascii"), write_pack(objects).data)


def long_annex_address(visit: Visit, origin: DatasetOrigin) -> str:
    """Return the complete address, which contains all parameters of the special remote.

    git-annex splits the parameters at ``&`` and decodes percent-encoding once.
    """
    folder = f"{origin.store_url}/{visit.study}/{visit.annex_folder.name}"
    parts = urlsplit(folder)
    if parts.scheme == "file":
        return _directory_address(str(remote_uuid(origin)), unquote(parts.path))
    return f"annex::{remote_uuid(origin)}?encryption=none&type=httpalso&url={quote(folder, safe=':/')}"


def mounted_annex_address(visit: Visit) -> str:
    """Return the complete address of a visit's deposit in a folder of this machine.

    The deposit contains the store's own address, which may be one on the web; only its UUID is used. Raises
    :class:`~icf_utils.errors.DepositDamaged` for a file that contains no such address.
    """
    with storage_errors(visit.annex_url, "read"):
        text = visit.annex_url.read_bytes()[:_LONGEST_ADDRESS]
    found = _UUID.match(text)
    if not found:
        remedy = "check it with 'icf-utils verify'"
        raise DepositDamaged(visit.annex_url, "an annex:: address with a UUID", "something else", remedy)
    return _directory_address(found[1].decode("ascii"), os.fspath(visit.annex_folder))


def _directory_address(uuid: str, folder: str) -> str:
    return f"annex::{uuid}?encryption=none&type=directory&directory={quote(folder, safe='/')}"


_UNEXPECTED = "it does not belong to this dataset"


def deposit_paths(visit: Visit, files: Sequence[DepositFile]) -> list[tuple[Path, bytes]]:
    """Return the paths of the files, with their bytes, for :func:`icf_utils.store.files.publish_bytes`."""
    return [(visit.of_study.folder / file.name, file.data) for file in files]


def has_annex_deposit(visit: Visit) -> bool:
    """Whether any file of such a deposit exists."""
    with storage_errors(visit.annex_url, "examine"):
        return visit.annex_url.exists() or next(list_stored_files(visit), None) is not None


def list_stored_files(visit: Visit) -> Iterator[Path]:
    """List all files in the deposit's folder."""
    for folder, _, names in os.walk(visit.annex_folder):
        yield from (Path(folder, name) for name in sorted(names))


def create_folders(visit: Visit, files: Sequence[DepositFile]) -> None:
    """Create the folders of the deposit's keys, durably.

    Raises :class:`~icf_utils.errors.DepositDiffers` if files of another deposit exist.
    """
    wanted = {path for path, _ in deposit_paths(visit, files)}
    for path in list_stored_files(visit):
        if path not in wanted:
            raise DepositDiffers(path, _UNEXPECTED)
    for path in sorted(wanted):
        create_folder(visit, path.parent)


def create_folder(visit: Visit, folder: Path) -> None:
    """Create a folder and its parents, and sync the parents."""
    if folder.is_dir():
        return
    with storage_errors(folder, "create"):
        make_folders(visit.root, folder)
    for above in [folder.parent, *folder.parent.parents]:
        sync_folder(above)
        if above == visit.of_study.folder:
            return
