"""A zip that somebody posts becomes a queued session. Writes below ``<spool>/uploads``, then to the journal."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from icf_utils.errors import InvalidSetting, StorageFailure, shown, storage_errors
from icf_utils.intake.journal import Journal
from icf_utils.intake.sessions import Session
from icf_utils.intake.spool import free_revision
from icf_utils.intake.web.posted import look_through
from icf_utils.intake.web.settings import WebSettings
from icf_utils.publishing import sync_file
from icf_utils.store import check_identifier

_CHUNK = 1 << 20


def take_in(
    stream: IO[bytes],
    size: int | None,
    rule: str,
    visit: str,
    sender: str,
    address: str,
    *,
    journal: Journal,
    settings: WebSettings,
) -> Session:
    """Keep a posted zip, look through it, and queue it.

    ``size`` is what the client says in bytes. Raises :class:`~icf_utils.errors.InvalidSetting` for an unknown rule,
    :class:`~icf_utils.errors.InvalidIdentifier`, :class:`~icf_utils.errors.InputRefused` for what is no zip of one
    visit, and :class:`~icf_utils.errors.StorageFailure` where there is no room.
    """
    if rule not in settings.rules:
        known = ", ".join(map(shown, settings.rules)) or "none"
        raise InvalidSetting("rule", f"there is none called '{shown(rule[:40])}' (rules: {known})")
    check_identifier("visit", visit)
    folder = journal.spool / "uploads"
    with storage_errors(folder, "create"):
        folder.mkdir(exist_ok=True)
    _check_room(folder, size or 0, settings.reserve)
    descriptor, name = tempfile.mkstemp(prefix="upload-", suffix=".zip", dir=folder)
    path = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            taken = _copy(stream, file, path, settings)
            sync_file(file, path)
        images = look_through(path, settings.unpacked_limit)
        return journal.enqueue(
            rule=rule,
            study=settings.rules[rule],
            visit=visit,
            source=path,
            move=True,
            images=images,
            size=taken,
            first_revision=free_revision(settings.store, settings.rules[rule], visit),
            calling_ae=sender,
            address=address,
        )
    finally:
        with suppress(OSError):
            path.unlink()


def _copy(stream: IO[bytes], file: IO[bytes], path: Path, settings: WebSettings) -> int:
    taken, checked = 0, 0
    while block := stream.read(_CHUNK):
        taken += len(block)
        if taken > settings.upload_limit:
            raise InvalidSetting("upload", f"it has more than {settings.upload_limit} bytes")
        if taken - checked > (64 << 20):
            _check_room(path.parent, 0, settings.reserve)
            checked = taken
        with storage_errors(path, "write"):
            file.write(block)
    return taken


def _check_room(folder: Path, size: int, reserve: int) -> None:
    with storage_errors(folder, "examine"):
        free = shutil.disk_usage(folder).free
    if free - size < reserve:
        raise StorageFailure(folder, "write", OSError(28, "no space"))
