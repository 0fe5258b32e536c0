"""A zip that somebody posts becomes a queued session. Writes below ``<spool>/uploads``, then to the journal.

Whether a posted zip is one visit. Reads the zip's directory, and the beginning of each file in it.

Nothing that is said here names a place on the server.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from icf_utils.dicom.constants import STUDY_INSTANCE_UID
from icf_utils.errors import InputRefused, InvalidSetting, StorageFailure, printable, storage_errors
from icf_utils.formatting import format_count
from icf_utils.receiver.identify import study_key
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import Session
from icf_utils.receiver.spool import first_free_revision
from icf_utils.receiver.web.settings import WebSettings
from icf_utils.sources.images import scan_files
from icf_utils.sources.open import open_source
from icf_utils.sources.packed import ZIP_MAGIC
from icf_utils.sources.source import Source
from icf_utils.store.files import sync_file
from icf_utils.store.layout import check_identifier

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
        known = ", ".join(map(printable, settings.rules)) or "none"
        raise InvalidSetting("rule", f"there is none called '{printable(rule[:40])}' (rules: {known})")
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
            first_revision=first_free_revision(settings.store, settings.rules[rule], visit),
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


#: What is posted has no other name for who has posted it.
_UPLOAD = "the upload"

#: A zip of more than so many bytes that are so many times its own size is no visit: images do not shrink like that,
#: except blank ones, of which there are few.
_SUSPICIOUS, _RATIO = 1_000_000_000, 200


def look_through(path: Path, unpacked_limit: int) -> int:
    """The number of DICOM images in a zip.

    Raises :class:`~icf_utils.errors.InputRefused` for what is no zip, holds no image or those of several studies, or
    has more than ``unpacked_limit`` bytes in it.
    """
    try:
        _check_sizes(path, unpacked_limit)
        with open_source(path, path.parent) as source:
            return _count_images(source)
    except InputRefused as error:  # without the name that it has on the server
        place = os.fspath(path)
        refusals = [
            (_UPLOAD if name == place else name, reason.replace(place, _UPLOAD)) for name, reason in error.refusals
        ]
        raise InputRefused(_UPLOAD, refusals) from error


def _check_sizes(path: Path, limit: int) -> None:
    """By what the zip's directory says; no more than that is ever read of a member."""
    with path.open("rb") as file:
        if not file.read(4).startswith(ZIP_MAGIC):
            raise _refused("is no zip")
        try:
            with zipfile.ZipFile(file) as archive:
                size = sum(info.file_size for info in archive.infolist())
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise _refused("is damaged or cut") from error
        packed = os.fstat(file.fileno()).st_size
    if size > limit:
        raise _refused(f"holds {size} bytes when it is unpacked; at most {limit} are taken")
    if size > _SUSPICIOUS and size > packed * _RATIO:
        raise _refused(f"holds {size} bytes when it is unpacked, {size // packed} times its own size: no images do")


def _count_images(source: Source) -> int:
    studies: dict[str, str] = {}
    images = 0
    for file in scan_files(source, frozenset({STUDY_INSTANCE_UID})):
        if not file.is_image:
            continue
        images += 1
        study_uid = file.header.uid(STUDY_INSTANCE_UID)
        if study_uid:
            studies.setdefault(study_uid, file.entry.name)
    if not images:
        raise _refused("holds no DICOM image")
    if len(studies) > 1:
        firsts = [(name, f"is the first file of study {study_key(uid)}") for uid, name in studies.items()]
        raise InputRefused(
            _UPLOAD, [(_UPLOAD, f"holds {format_count(len(studies), 'study')}; post each by itself"), *firsts]
        )
    return images


def _refused(reason: str) -> InputRefused:
    return InputRefused(_UPLOAD, [(_UPLOAD, reason)])
