"""Makes a clone get images by byte ranges, or by archivist again. Runs git; changes only the clone's configuration.

The remote stays the one that the dataset knows, with its UUID; ``remote.<name>.annex-externaltype`` says which program
this clone uses for it. Source: git-annex's manual page, "annex-externaltype".
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icf_utils.dataset.special_remote.clone import Clone
from icf_utils.dataset.special_remote.security import CA_SETTING, LOCAL_STORE_SETTING
from icf_utils.errors import InvalidSetting, MissingRequirement, printable
from icf_utils.fetch.tls import TlsFiles, client_context

#: The programs, as git-annex names them: ``git-annex-remote-<this>``.
ICF, ARCHIVIST = "icf", "archivist"

#: Marks a remote that git-annex did not know before, since the clone was made without DataLad.
_ADDED = "icf-added"

_NO_REMOTE = (
    "expected a clone of a visit's dataset, found a repository without an 'archivist' remote; name the folder of a "
    "clone, and run 'git annex init' there if git-annex has never been used in it"
)


@dataclass(frozen=True)
class ConfiguredClone:
    """A clone, its remotes for images, the program that gets them now, and whether that is new."""

    clone: str
    remotes: tuple[str, ...]
    program: str
    state: Literal["written", "unchanged"]


def configure_clone(
    clone: str | os.PathLike[str],
    undo: bool = False,
    local_stores: tuple[str | os.PathLike[str], ...] = (),
    ca: str | os.PathLike[str] | None = None,
) -> ConfiguredClone:
    """Make ``clone`` get images by the special remote of icf-utils; with ``undo``, by DataLad's archivist again.

    ``local_stores`` are folders with stores on this machine, whose files the dataset may name by ``file://``. ``ca`` is
    a file of trusted CA certificates (PEM).

    Raises :class:`~icf_utils.errors.InvalidSetting` for what is not a clone of a dataset or not a folder, and
    :class:`~icf_utils.errors.MissingRequirement` where git would not find the programs it needs.
    """
    for option, value in (("--local-store", local_stores), ("--ca", ca)):
        if undo and value:
            raise InvalidSetting(option, "cannot be combined with --undo")
    if ca:
        client_context(TlsFiles(authority=Path(ca)))  # raises for a file that cannot be used
    folder, stores = os.fspath(clone), [_existing(store) for store in local_stores]
    found = Clone.at(Path(clone))
    program = f"git-annex-remote-{ICF}"
    if not undo and shutil.which(program) is None:
        raise MissingRequirement(f"the program {program}", "make sure that the folder of 'icf-utils' is on the PATH")
    before = found.own_settings()
    remotes = {name: kind for name, kind in found.remotes_with("annex-externaltype") if kind in (ICF, ARCHIVIST)}
    changed = (_undo if undo else _switch if remotes else _add)(found, folder, remotes)
    for store in stores:
        _allow(found, changed, store)
    for name in changed if ca else ():
        found.change_setting(f"remote.{name}.{CA_SETTING}", os.path.abspath(ca or ""))
    state: Literal["written", "unchanged"] = "unchanged" if found.own_settings() == before else "written"
    return ConfiguredClone(folder, tuple(changed), ARCHIVIST if undo else ICF, state)


def _switch(clone: Clone, _: str, remotes: dict[str, str]) -> list[str]:
    for name in remotes:
        clone.change_setting(f"remote.{name}.annex-externaltype", ICF)
    return sorted(remotes)


def _add(clone: Clone, folder: str, _: dict[str, str]) -> list[str]:
    """A clone that was made without DataLad knows its remotes from the git-annex branch only.

    git-annex requires that somebody trusts a remote's program; whoever runs this does.
    """
    found = _logged_remotes(clone)
    if not found:
        raise InvalidSetting(folder, _NO_REMOTE)
    for name, uuid in found.items():
        settings = {"annex-uuid": uuid, "annex-externaltype": ICF, "annex-verified": "verified", _ADDED: "true"}
        for key, value in {**settings, "skipFetchAll": "true"}.items():
            clone.change_setting(f"remote.{name}.{key}", value)
    return sorted(found)


def _undo(clone: Clone, folder: str, remotes: dict[str, str]) -> list[str]:
    if not remotes and not _logged_remotes(clone):
        raise InvalidSetting(folder, _NO_REMOTE)
    added = {name for name, _ in clone.remotes_with(_ADDED)}
    for name, kind in remotes.items():
        if name in added:
            clone.change_setting("--remove-section", f"remote.{name}")
            continue
        if kind == ICF:
            clone.change_setting(f"remote.{name}.annex-externaltype", ARCHIVIST)
        for setting in (LOCAL_STORE_SETTING, CA_SETTING):
            if name in dict(clone.remotes_with(setting)):
                clone.change_setting("--unset-all", f"remote.{name}.{setting}")
    return sorted(remotes)


def _existing(folder: str | os.PathLike[str]) -> str:
    path = os.path.realpath(folder)
    if not os.path.isdir(path):
        raise InvalidSetting("--local-store", f"the folder '{printable(path)}' does not exist")
    return path


def _allow(clone: Clone, remotes: list[str], store: str) -> None:
    """Let the dataset name files below a folder."""
    known = clone.remotes_with(LOCAL_STORE_SETTING)
    for name in remotes:
        if (name, store) not in known:
            clone.change_setting("--add", f"remote.{name}.{LOCAL_STORE_SETTING}", store)


def _logged_remotes(clone: Clone) -> dict[str, str]:
    """Names and UUIDs of the archivist remotes that the dataset knows."""
    for branch in ("git-annex", "origin/git-annex"):
        text = clone.git("cat-file", "blob", f"{branch}:remote.log").stdout.decode("utf-8", "surrogateescape")
        found = {}
        for line in text.splitlines():
            name, kind = (re.search(rf" {key}=(\S+)", line) for key in ("name", "externaltype"))
            if name and kind and kind[1] == ARCHIVIST:
                found[name[1]] = line.partition(" ")[0]
        if found:
            return found
    return {}
