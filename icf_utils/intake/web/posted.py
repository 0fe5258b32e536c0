"""Whether a posted zip is one visit. Reads the zip's directory, and the beginning of each file in it.

Nothing that is said here names a place on the server.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from icf_utils.dicom.facts import STUDY_INSTANCE_UID, is_bare_dataset, is_dataset, uid_text
from icf_utils.dicom.head import read_head
from icf_utils.errors import InputRefused
from icf_utils.intake.header import study_key
from icf_utils.sources.entries import Source
from icf_utils.sources.select import open_source
from icf_utils.sources.zips import ZIP_MAGIC

#: What is posted has no other name for who has posted it.
_UPLOAD = "the upload"

#: A zip of more than so many bytes that are so many times its own size is no visit: images do not shrink like that,
#: except blank ones, of which there are few.
_SUSPICIOUS, _RATIO = 1_000_000_000, 200

_WANTED = frozenset({0x00080016, 0x00080018, STUDY_INSTANCE_UID})


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
    for entry in source.entries:
        with source.open(entry) as reader:
            _, found = read_head(reader.read, entry.size, _WANTED)
        if found.is_directory or not ((found.magic and is_dataset(found)) or is_bare_dataset(found)):
            continue
        images += 1
        study_uid = uid_text(found.elements.get(STUDY_INSTANCE_UID))
        if study_uid:
            studies.setdefault(study_uid, entry.name)
    if not images:
        raise _refused("holds no DICOM image")
    if len(studies) > 1:
        firsts = [(name, f"is the first file of study {study_key(uid)}") for uid, name in studies.items()]
        raise InputRefused(_UPLOAD, [(_UPLOAD, f"holds {len(studies)} studies; post each by itself"), *firsts])
    return images


def _refused(reason: str) -> InputRefused:
    return InputRefused(_UPLOAD, [(_UPLOAD, reason)])
