"""Uploaded zips: each is checked to be one visit, and becomes a queued session.

A zip with the images of a session of the same visit is that session: a sender that got no answer sends it again. Other
images of that visit, by StudyInstanceUID, are late images, as those that come by C-STORE are.

Writes the zip below ``<spool>/uploads`` and reads the header of each file in it; then the journal takes it over. Errors
never contain a path of the server.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from icf_utils.dicom.constants import SOP_INSTANCE_UID, STUDY_INSTANCE_UID
from icf_utils.errors import IcfError, InputRefused, InvalidSetting, StorageFailure, printable, storage_errors
from icf_utils.formatting import format_count
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.receiver.arguments import split_words
from icf_utils.receiver.identify import study_key
from icf_utils.receiver.journal import Journal, NewSession
from icf_utils.receiver.model import Session
from icf_utils.receiver.placement import place_session, placement_notes
from icf_utils.receiver.web.settings import WebSettings
from icf_utils.sources.digests import digest_file
from icf_utils.sources.images import scan_files
from icf_utils.sources.open import open_source
from icf_utils.sources.packed import ZIP_MAGIC
from icf_utils.sources.source import Source
from icf_utils.sources.zip_directory import refuse_huge_directory
from icf_utils.store.files import sync_file
from icf_utils.store.layout import Visit, check_identifier

_CHUNK = 1 << 20


#: Held while it is decided whether an upload is a new session, so that two equal ones become one.
_DECIDING = threading.Lock()


class UploadSpace:
    """Where bodies are kept: files without names below ``folder``, while more than ``reserve`` bytes stay free."""

    def __init__(self, folder: Path, reserve: int) -> None:
        self._folder, self._reserve = folder, reserve

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more leave the reserve free."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._folder).free - size >= self._reserve

    def new_file(self) -> IO[bytes]:
        """A file that is gone when it is closed. Raises ``OSError``."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile("w+b", dir=self._folder)


class Enqueued(NamedTuple):
    """The session of an upload; ``is_new`` is false if an earlier upload of the same images made it."""

    session: Session
    is_new: bool


def enqueue_upload(
    stream: IO[bytes],
    size: int | None,
    rule: str,
    visit: str,
    sender: str,
    address: str,
    *,
    arguments: str = "",
    journal: Journal,
    settings: WebSettings,
) -> Enqueued:
    """Store an uploaded zip, check it, and queue it as a session, unless a session of the visit has the same images.

    ``size`` is the Content-Length in bytes, if the client sent one; ``arguments`` are words for the programs. Raises
    :class:`~icf_utils.errors.InvalidSetting` for an unknown rule, :class:`~icf_utils.errors.InvalidIdentifier`,
    :class:`~icf_utils.errors.InputRefused` for what is not a zip of one visit, and
    :class:`~icf_utils.errors.StorageFailure` if there is not enough space.
    """
    if rule not in settings.rules:
        known = ", ".join(map(printable, settings.rules)) or "none"
        raise InvalidSetting("rule", f"no rule '{printable(rule[:40])}' (rules: {known})")
    check_identifier("visit", visit)
    words = split_words(arguments) if arguments else None
    folder = journal.spool / "uploads"
    with storage_errors(folder, "create"):
        folder.mkdir(exist_ok=True)
    _check_space(folder, size or 0, settings.reserve)
    descriptor, name = tempfile.mkstemp(prefix="upload-", suffix=".zip", dir=folder)
    path = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            taken = _copy(stream, file, path, settings)
            sync_file(file, path)
        images, study_uid = examine_zip(path, settings.unpacked_limit)
        study = settings.rules[rule]
        with _DECIDING:
            if same := _find_same(journal, settings.store, study, visit, path):
                return Enqueued(same, is_new=False)
            late = settings.late.get(rule, "version")
            place = place_session(journal, settings.store, study, visit, study_uid, late)
            new = NewSession(
                rule=rule,
                study=study,
                visit=visit,
                revision=place.revision,
                change=place.change,
                study_uid=study_uid,
                calling_ae=sender,
                address=address,
                images=images,
                size=taken,
            )
            is_held = late == "hold" and place.is_known
            session = journal.enqueue(new, path, move=True, is_held=is_held, arguments=words)
            for note in placement_notes(journal, session, place):
                journal.add_note(session.id, note)
        return Enqueued(journal.session(session.id) or session, is_new=True)
    finally:
        with suppress(OSError):
            path.unlink()


def _find_same(journal: Journal, store: Path, study: str, visit: str, path: Path) -> Session | None:
    """The session of a visit that has the images of an upload, by SOPInstanceUID and MD5; failed ones do not count."""
    sessions = [item for item in journal.revisions(study, visit) if not item.deleted and item.state != "failed"]
    if not sessions:
        return None
    images = _image_digests(path)
    return next((item for item in sessions if _session_digests(item, store) == images), None)


def _session_digests(session: Session, store: Path) -> frozenset[tuple[str, str]]:
    """SOPInstanceUID and MD5 of the images of a session: of its input, or of the visit that was made of it."""
    try:
        if session.input.exists():
            return _image_digests(session.input)
        metadata = read_visit_metadata(Visit(store, session.study, session.visit))
    except IcfError:
        return frozenset()
    return frozenset((image.uids.get("SOPInstanceUID") or "", image.md5) for image in metadata.images)


def _image_digests(path: Path) -> frozenset[tuple[str, str]]:
    with open_source(path, path.parent) as source:
        found = [file for file in scan_files(source, frozenset({SOP_INSTANCE_UID})) if file.is_image]
        return frozenset((file.header.uid(SOP_INSTANCE_UID), digest_file(source, file.entry)[1]) for file in found)


def _copy(stream: IO[bytes], file: IO[bytes], path: Path, settings: WebSettings) -> int:
    taken, checked = 0, 0
    while block := stream.read(_CHUNK):
        taken += len(block)
        if taken > settings.upload_limit:
            raise InvalidSetting("upload", f"it has more than {settings.upload_limit} bytes")
        if taken - checked > (64 << 20):
            _check_space(path.parent, 0, settings.reserve)
            checked = taken
        with storage_errors(path, "write"):
            file.write(block)
    return taken


def _check_space(folder: Path, size: int, reserve: int) -> None:
    with storage_errors(folder, "examine"):
        free = shutil.disk_usage(folder).free
    if free - size < reserve:
        raise StorageFailure(folder, "write", OSError(28, "not enough space"))


#: The name of an uploaded zip in messages.
_UPLOAD = "the upload"

#: A zip with more unpacked bytes than the first number, and more than the second times its own size, is refused: images
#: cannot be compressed like that, except blank ones, of which there are few.
_SUSPICIOUS_SIZE, _SUSPICIOUS_RATIO = 1_000_000_000, 200


def examine_zip(path: Path, unpacked_limit: int) -> tuple[int, str]:
    """The number of DICOM images in a zip of one visit, and their StudyInstanceUID, empty if they have none.

    Raises :class:`~icf_utils.errors.InputRefused` for what is not a zip, contains no images or those of several
    studies, or is larger than ``unpacked_limit`` bytes when it is unpacked.
    """
    try:
        _check_sizes(path, unpacked_limit)
        with open_source(path, path.parent) as source:
            return _images_of_one_study(source)
    except InputRefused as error:  # without its path on the server
        place = os.fspath(path)
        refusals = [
            (_UPLOAD if name == place else name, reason.replace(place, _UPLOAD)) for name, reason in error.refusals
        ]
        raise InputRefused(_UPLOAD, refusals) from error


def _check_sizes(path: Path, limit: int) -> None:
    """Check the sizes in the zip's directory; no more than these is ever read of a member."""
    with path.open("rb") as file:
        if not file.read(4).startswith(ZIP_MAGIC):
            raise _refused("is not a zip")
        refuse_huge_directory(file, os.fspath(path))
        try:
            with zipfile.ZipFile(file) as archive:
                size = sum(info.file_size for info in archive.infolist())
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise _refused("is damaged or truncated") from error
        packed = os.fstat(file.fileno()).st_size
    if size > limit:
        raise _refused(f"contains {size} bytes when it is unpacked; at most {limit} are accepted")
    if size > _SUSPICIOUS_SIZE and size > packed * _SUSPICIOUS_RATIO:
        raise _refused(
            f"contains {size} bytes when it is unpacked, {size // packed} times its own size, which images never do"
        )


def _images_of_one_study(source: Source) -> tuple[int, str]:
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
        raise _refused("contains no DICOM images")
    if len(studies) > 1:
        firsts = [(name, f"is the first file of study {study_key(uid)}") for uid, name in studies.items()]
        raise InputRefused(
            _UPLOAD, [(_UPLOAD, f"contains {format_count(len(studies), 'study')}; upload each separately"), *firsts]
        )
    return images, next(iter(studies), "")


def _refused(reason: str) -> InputRefused:
    return InputRefused(_UPLOAD, [(_UPLOAD, reason)])
