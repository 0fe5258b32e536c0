"""Makes a clone get images by byte ranges, or by archivist again. Runs git; changes only the clone's configuration.

The remote stays the one that the dataset knows, with its UUID; ``remote.<name>.annex-externaltype`` says which program
this clone uses for it. Source: git-annex's manual page, "annex-externaltype".
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icf_utils.dataset.special_remote.clone import Clone
from icf_utils.dataset.special_remote.moved_store import follow_store, unfollow_store
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


#: What icf-utils writes of the two special remotes of a dataset, besides their UUIDs and times.
_OWN_REMOTES = {
    name: {"autoenable": "true", "encryption": "none", "externaltype": name, "name": name, "type": "external"}
    for name in (ARCHIVIST, "uncurl")
}

#: git-annex's setting of a remote whose configuration somebody has checked, and what it was before.
_VERIFIED, _BEFORE = "annex-verified", "icf-verified-before"


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
    trust: bool = False,
    store_url: str = "",
) -> ConfiguredClone:
    """Make ``clone`` get images by the special remote of icf-utils; with ``undo``, by DataLad's archivist again.

    ``local_stores`` are folders with stores on this machine, whose files the dataset may name by ``file://``. ``ca`` is
    a file of trusted CA certificates (PEM). With ``trust``, the dataset's two special remotes are marked as verified,
    without which git-annex refuses every push, if their configuration is the one that icf-utils writes.
    ``store_url`` is the address that the store has moved to, where archives and updates of the dataset are asked for.

    Raises :class:`~icf_utils.errors.InvalidSetting` for what is not a clone of a dataset or not a folder, and
    :class:`~icf_utils.errors.MissingRequirement` where git would not find the programs it needs.
    """
    if undo:
        _refuse_with_undo(**{"--local-store": local_stores, "--ca": ca, "--trust": trust, "--store-url": store_url})
    folder, stores = os.fspath(clone), [_existing(store) for store in local_stores]
    found = Clone.at(Path(clone))
    program = f"git-annex-remote-{ICF}"
    if not undo and shutil.which(program) is None:
        raise MissingRequirement(f"the program {program}", "make sure that the folder of 'icf-utils' is on the PATH")
    authority = _usable_authority(ca)
    before = found.own_settings()
    if trust:
        _check_remotes(found, folder)
    remotes = {name: kind for name, kind in found.remotes_with("annex-externaltype") if kind in (ICF, ARCHIVIST)}
    changed = (_undo if undo else _switch if remotes else _add)(found, folder, remotes)
    if undo:
        unfollow_store(found)
    elif store_url:
        follow_store(found, folder, store_url)
    for name in changed if authority else ():
        found.change_setting(f"remote.{name}.{CA_SETTING}", authority)
    for store in stores:
        _allow(found, changed, store)
    if trust:
        _trust(found, folder)
    state: Literal["written", "unchanged"] = "unchanged" if found.own_settings() == before else "written"
    return ConfiguredClone(folder, tuple(changed), ARCHIVIST if undo else ICF, state)


def _usable_authority(ca: str | os.PathLike[str] | None) -> str:
    """The absolute path of a file of trusted CA certificates. Raises for one that cannot be used."""
    if not ca:
        return ""
    client_context(TlsFiles(authority=Path(ca)))
    return os.path.abspath(ca)


def _refuse_with_undo(**options: object) -> None:
    for option, value in options.items():
        if value:
            raise InvalidSetting(option, "cannot be combined with --undo")


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
    verified = dict(clone.remotes_with(_VERIFIED))
    given = {setting: dict(clone.remotes_with(setting)) for setting in (LOCAL_STORE_SETTING, CA_SETTING)}
    for name, value in clone.remotes_with(_BEFORE):
        if value:
            clone.change_setting(f"remote.{name}.{_VERIFIED}", value)
        elif verified.get(name):
            clone.change_setting("--unset-all", f"remote.{name}.{_VERIFIED}")
        clone.change_setting("--unset-all", f"remote.{name}.{_BEFORE}")
    for name, kind in remotes.items():
        if name in added:
            clone.change_setting("--remove-section", f"remote.{name}")
            continue
        if kind == ICF:
            clone.change_setting(f"remote.{name}.annex-externaltype", ARCHIVIST)
        for setting, names in given.items():
            if name in names:
                clone.change_setting("--unset-all", f"remote.{name}.{setting}")
    return sorted(remotes)


def _check_remotes(clone: Clone, folder: str) -> None:
    """Refuse remotes that are configured in another way than icf-utils does: they could send data elsewhere.

    Every special remote of the clone is compared, since git-annex refuses a push because of any of them.
    """
    logged = clone.remote_log()
    enabled = dict(clone.remotes_with("annex-externaltype"))
    uuids = dict(clone.remotes_with("annex-uuid"))
    for name in sorted(enabled):
        found = logged.get(uuids.get(name, ""))
        own = _OWN_REMOTES.get(found.get("name", "")) if found else None
        if found is None or own is None:
            continue  # somebody else's remote, which stays as it is
        differing = {key for key in {*found, *own} - {"timestamp"} if found.get(key) != own.get(key)}
        if enabled[name] not in (own["externaltype"], ICF if own["externaltype"] == ARCHIVIST else ""):
            differing.add("externaltype")
        if differing:
            shown, keys = printable(name), ", ".join(sorted(map(printable, differing)))
            raise InvalidSetting(
                folder,
                f"the special remote '{shown}' is not configured as icf-utils does it ({keys}); look at it with "
                f"'git annex info {shown}', and if you trust it, run 'git annex verifyremote {shown}'",
            )


def _trust(clone: Clone, folder: str) -> None:
    """Mark the two special remotes as verified; what they were is kept for --undo."""
    values, known = dict(clone.remotes_with(_VERIFIED)), dict(clone.remotes_with(_BEFORE))
    own = {uuid for uuid, found in clone.remote_log().items() if found.get("name") in _OWN_REMOTES}
    names = [name for name, uuid in clone.remotes_with("annex-uuid") if uuid in own]
    if not names:
        raise InvalidSetting(folder, _NO_REMOTE)
    for name in names:
        if values.get(name) != "verified":
            if name not in known:
                clone.change_setting(f"remote.{name}.{_BEFORE}", values.get(name, ""))
            clone.change_setting(f"remote.{name}.{_VERIFIED}", "verified")


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
    logged = clone.remote_log().items()
    return {one["name"]: uuid for uuid, one in logged if one.get("externaltype") == ARCHIVIST and "name" in one}
