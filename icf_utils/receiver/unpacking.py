"""List the images of a session's input (a folder or an uploaded zip), and unpack such a zip.

A zip is unpacked if its images are added to an existing visit. Writes below the given folder only.

Unpacked images are named like images received by C-STORE. So no name collides with that of another image of the visit,
and an image that the visit has with other content can be put into quarantine.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from icf_utils.dicom.constants import INSTANCE_NUMBER, SERIES_NUMBER, SOP_INSTANCE_UID
from icf_utils.errors import storage_errors
from icf_utils.receiver.identify import image_key, image_name
from icf_utils.receiver.model import Session
from icf_utils.receiver.spool import images_below
from icf_utils.sources.images import ScannedFile, scan_files
from icf_utils.sources.open import open_source
from icf_utils.sources.source import InputFile, Source

_WANTED = frozenset({SOP_INSTANCE_UID, SERIES_NUMBER, INSTANCE_NUMBER})
_BLOCK = 1 << 20


def images_of_input(session: Session) -> set[str]:
    """The keys of the images in a session's input (:func:`~icf_utils.receiver.identify.image_key`)."""
    if session.input.is_dir():
        return set(images_below(session.input))
    with open_source(session.input, session.folder) as source:
        uids = [file.header.uid(SOP_INSTANCE_UID) for file in scan_files(source, _WANTED) if file.is_image]
    return {image_key(uid) for uid in uids if uid}


def unpack_images(path: Path, folder: Path) -> None:
    """Write the files of a zip below ``folder``; those that are not images keep their names.

    Raises :class:`~icf_utils.errors.InputRefused` for a damaged zip, and :class:`~icf_utils.errors.StorageFailure`.
    """
    uses = Counter[str]()
    with open_source(path, path.parent) as source:
        for file in scan_files(source, _WANTED):
            name = _name(file)
            uses[name] += 1
            target = folder / (name if uses[name] == 1 else f"copy{uses[name]}/{name}")
            with storage_errors(target, "write"):
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(source, file.entry, target)


def _name(file: ScannedFile) -> str:
    """The name of an unpacked file: an image without SOPInstanceUID keeps its own."""
    uid = file.header.uid(SOP_INSTANCE_UID) if file.is_image else ""
    return image_name(file.header, image_key(uid)) if uid else file.entry.name


def _copy(source: Source, entry: InputFile, target: Path) -> None:
    with source.open(entry) as reader, target.open("wb") as copy:
        while block := reader.read(_BLOCK):
            copy.write(block)
