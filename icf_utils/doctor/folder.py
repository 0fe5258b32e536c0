"""Checks of a store's folder: settings, rights, free space, and what its file system can do.

Reads the store. Where it may write there, it makes one temporary file in the root and removes it at once.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from icf_utils.doctor.model import Check
from icf_utils.errors import IcfError, printable
from icf_utils.formatting import format_count, format_size
from icf_utils.settings import SETTINGS_NAME, Settings, load_settings
from icf_utils.store.layout import list_studies

#: Below these, space is short: bytes, and the share of the file system. No visit fits in the first.
_TOO_LITTLE, _LITTLE, _SMALL_SHARE = 1_000_000_000, 20_000_000_000, 0.05

#: Seconds by which the clock of a file server may differ. Locks are judged by the times of files.
CLOCK_TOLERANCE = 5.0


def check_folder(store: Path) -> Iterator[Check]:
    """Check the folder of a store; the address is checked by :mod:`icf_utils.doctor.address`."""
    if not store.is_dir():
        yield Check("store", "failed", f"'{printable(store)}' is not a folder", "check the path")
        return
    if not _may(store, os.R_OK):
        yield Check("store", "failed", f"'{printable(store)}' cannot be read by this user", "ask its owner for access")
        return
    yield _check_contents(store)
    settings = read_settings(store)
    yield settings if isinstance(settings, Check) else Check("settings", "ok", _settings_text(store))
    yield from _check_rights(store, settings)
    yield _check_space(store)
    if _may(store, os.W_OK):
        yield from _check_file_system(store)


def read_settings(store: Path) -> Settings | Check:
    """The settings of the store, or a failed check that says what is wrong with them."""
    try:
        return load_settings(store)
    except IcfError as error:
        return Check("settings", "failed", str(error))


def _may(folder: Path, right: int) -> bool:
    """Whether this process has a right in a folder, and may enter it."""
    return os.access(folder, right | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def _settings_text(store: Path) -> str:
    path = store / SETTINGS_NAME
    return f"'{printable(path)}'" if path.exists() else f"no {SETTINGS_NAME}; defaults apply"


def _check_contents(store: Path) -> Check:
    studies = list_studies(store)
    visits = sum(len(study.visits()) for study in studies)
    text = f"'{printable(store)}': {format_count(len(studies), 'study')}, {format_count(visits, 'visit')}"
    return Check("store", "ok", text)


def _check_rights(store: Path, settings: Settings | Check) -> Iterator[Check]:
    folders = [store, *(study.folder for study in list_studies(store))]
    closed = [folder for folder in folders if not _may(folder, os.W_OK)]
    if len(closed) == len(folders):
        yield Check("rights", "warning", "this user can read the store, but not deposit in it")
    elif closed:
        names = ", ".join(f"'{printable(folder)}'" for folder in closed[:5])
        yield Check("rights", "warning", f"this user cannot write to {names}", "ask the owner for access")
    else:
        yield Check("rights", "ok", "this user can deposit in the store")
    if isinstance(settings, Settings) and settings.store.group_shared:
        yield _check_group(folders)


def _check_group(folders: list[Path]) -> Check:
    """A shared store's folders belong to one group, which may write, and hand it on (set-group-ID)."""
    wrong = [folder for folder in folders if not _is_shared(folder, folders[0].stat().st_gid)]
    if not wrong:
        return Check("group", "ok", "all folders of the store are shared with its group")
    names = ", ".join(f"'{printable(folder)}'" for folder in wrong[:5])
    return Check("group", "warning", f"not shared with the store's group: {names}", "chgrp GROUP, and chmod g+rwxs")


def _is_shared(folder: Path, group: int) -> bool:
    found, wanted = folder.stat(), stat.S_IRWXG | stat.S_ISGID
    return found.st_gid == group and found.st_mode & wanted == wanted


def _check_space(store: Path) -> Check:
    found = os.statvfs(store)
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    text = f"{format_size(free)} of {format_size(total)} free"
    if found.f_files and not found.f_favail:
        return Check("free space", "failed", f"{text}, but no more files can be created (no inodes)")
    if free < _TOO_LITTLE:
        return Check("free space", "failed", text, "free some space")
    if free < _LITTLE and free < total * _SMALL_SHARE:
        return Check("free space", "warning", text)
    return Check("free space", "ok", text)


def _check_file_system(store: Path) -> Iterator[Check]:
    """What locks and the atomic write need: hard links, and times that agree with this machine's clock."""
    try:
        with tempfile.TemporaryDirectory(prefix=".icf-doctor-", dir=store) as folder:
            probe, link = Path(folder, "probe"), Path(folder, "link")
            before = time.time()
            probe.write_bytes(b"probe")
            difference = _distance(probe.stat().st_mtime, before, time.time())
            try:
                os.link(probe, link)
                yield Check("hard links", "ok", "supported; locks work between hosts")
            except OSError as error:
                text = f"not supported by this file system ({error.strerror}); files are created exclusively instead"
                yield Check("hard links", "warning", text)
    except OSError as error:
        yield Check("file system", "failed", f"a temporary file cannot be written: {error.strerror}")
        return
    yield clock_check("clock (file system)", difference)


def _distance(moment: float, first: float, last: float) -> float:
    """Seconds by which a moment lies outside of an interval."""
    return max(0.0, first - moment, moment - last)


def clock_check(subject: str, difference: float) -> Check:
    """Judge the seconds by which another clock differs from this machine's."""
    if difference <= CLOCK_TOLERANCE:
        return Check(subject, "ok", f"agrees with this machine's within {CLOCK_TOLERANCE:g} s")
    remedy = "synchronise the clocks of both (NTP)"
    return Check(subject, "warning", f"differs from this machine's by {difference:.0f} s", remedy)
