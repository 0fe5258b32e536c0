"""Arrange the input of a program: the images of a visit, or the output of another processing. Reads the store's TARs
and writes copies below the scratch folder.

Layouts of images: ``series`` has a folder for each series, ``0003_t1_mprage/``, whatever the archive's folders are;
``mercure`` has all images in one folder, named ``<SeriesInstanceUID>#<SOPInstanceUID>.dcm``; ``archive`` has the
archive's own paths. Each image is checked against the MD5 that the visit's metadata has for it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from icf_utils.archive.reader import ArchiveMember, ArchivePass
from icf_utils.errors import DepositDamaged, storage_errors
from icf_utils.metadata.records import ImageRecord
from icf_utils.outputs.packing import OUTPUT_FOLDER
from icf_utils.processing.model import Layout
from icf_utils.progress import SILENT

#: The mode of the input's folders.
READ_ONLY_FOLDER = stat.S_IRUSR | stat.S_IXUSR

_CHUNK = 1 << 20
_LONGEST_NAME = 60
_UNSAFE = re.compile(r"[^A-Za-z0-9.+-]+")
_MAKE_AGAIN = "'icf-utils process --always-make' makes it again; then run this processing again"
_REMEDY = "run 'icf-utils verify' on this visit, and restore what is damaged"


@dataclass(frozen=True)
class InputFile:
    """A file of the input: its path there, and where its content is in a TAR. The MD5 is empty where none is known."""

    path: str
    offset: int
    size: int
    md5: str = ""


def arrange_images(images: Sequence[ImageRecord], layout: Layout) -> list[InputFile]:
    """The files of an input of images; names are made distinct where they would be the same. Pure."""
    folders = _series_folders(images)
    used: dict[str, int] = {}
    found = []
    for image in images:
        path = _path(image, layout, folders)
        stem, dot, suffix = path.rpartition(".")
        has_suffix = bool(dot) and "/" not in suffix
        path = _distinct(stem, dot + suffix, used) if has_suffix else _distinct(path, "", used)
        found.append(InputFile(path, image.offset, image.size, image.md5))
    return found


def _distinct(stem: str, suffix: str, used: dict[str, int]) -> str:
    """A name that is new to ``used``, with a number before the suffix where it has to be; it is added.

    ``used`` has, for each name, the last number that was put before its suffix.
    """
    wanted = found = f"{stem}{suffix}"
    number = used.get(wanted, 1)
    while found in used:
        number += 1
        found = f"{stem}-{number}{suffix}"
    used[wanted] = number
    used.setdefault(found, 1)
    return found


def _path(image: ImageRecord, layout: Layout, folders: Mapping[str, str]) -> str:
    if layout == "archive":
        return image.path.partition("/")[2] or image.path
    series, sop = image.uids.get("SeriesInstanceUID", ""), image.uids.get("SOPInstanceUID", "")
    if layout == "mercure":
        return f"{_safe(series) or 'none'}#{_safe(sop) or _safe(os.path.basename(image.path))}.dcm"
    name = _safe(os.path.basename(image.path)) or "image"
    return f"{folders[series]}/{name}"


def _series_folders(images: Sequence[ImageRecord]) -> dict[str, str]:
    """A folder for each series by its UID, in the order of their numbers; distinct ones where names are the same."""
    first: dict[str, ImageRecord] = {}
    for image in images:
        first.setdefault(image.uids.get("SeriesInstanceUID", ""), image)
    found: dict[str, str] = {}
    taken: dict[str, int] = {}
    for uid, image in sorted(first.items(), key=lambda item: (_series_number(item[1]), item[0])):
        text = _safe(str(image.tags.get("SeriesDescription", "")))[:_LONGEST_NAME]
        name = f"{_series_number(image):04}_{text}" if text else f"{_series_number(image):04}"
        found[uid] = name + _distinct(name.lower(), "", taken)[len(name) :]
    return found


def _series_number(image: ImageRecord) -> int:
    value = image.tags.get("SeriesNumber", 0)
    try:
        return max(0, int(str(value)))
    except ValueError:
        return 0


def _safe(text: str) -> str:
    return _UNSAFE.sub("_", text).strip("_.")


def list_output_files(path: Path, md5: str = "") -> list[InputFile]:
    """The files of an output. With the ``md5`` that it must have, it is compared, and the files get their own.

    Raises ``DepositDamaged`` or ``StorageFailure``.
    """
    found = []
    with storage_errors(path, "read"), open(path, "rb", buffering=0) as handle, SILENT.task("", 0, "B") as task:
        archive = ArchivePass(handle, path, task)
        try:
            for member in archive.members():
                below = _below_output(member)
                if below:
                    own = _md5_of_content(archive) if md5 else ""
                    found.append(InputFile(below, member.offset, member.size, own))
            if md5 and (other := archive.finish()[0].md5) != md5:
                raise DepositDamaged(path, f"the MD5 {md5} as in its provenance", other, _MAKE_AGAIN)
        finally:
            archive.close()
    return found


def _md5_of_content(archive: ArchivePass) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    while data := archive.content(_CHUNK):
        digest.update(data)
    return digest.hexdigest()


def _below_output(member: ArchiveMember) -> str:
    parts = member.name.split("/")
    if len(parts) < 3 or parts[1] != OUTPUT_FOLDER or ".." in parts or "" in parts:
        return ""
    return "/".join(parts[2:])


def write_input(tar: Path, files: Sequence[InputFile], folder: Path) -> dict[str, tuple[int, int, int]]:
    """Write the files below ``folder``, read-only; returns what the file system says about each, to find changes.

    Raises :class:`~icf_utils.errors.DepositDamaged` for content that does not have its MD5, and ``StorageFailure``.
    """
    with storage_errors(tar, "read"), open(tar, "rb", buffering=0) as source:
        for file in files:
            target = folder / file.path
            with storage_errors(target, "write"):
                target.parent.mkdir(parents=True, exist_ok=True)
                md5 = _copy(source.fileno(), file, target)
            if file.md5 and md5 != file.md5:
                raise DepositDamaged(tar, f"the MD5 {file.md5} at byte {file.offset}", md5, _REMEDY)
    with storage_errors(folder, "write"):
        for below, _, _ in os.walk(folder, topdown=False):
            os.chmod(below, READ_ONLY_FOLDER)
    return input_state(folder, [file.path for file in files])


def _copy(source: int, file: InputFile, target: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, stat.S_IRUSR)
    with os.fdopen(descriptor, "wb") as handle:
        done = 0
        while done < file.size:
            data = os.pread(source, min(_CHUNK, file.size - done), file.offset + done)
            if not data:
                break
            digest.update(data)
            handle.write(data)
            done += len(data)
    return digest.hexdigest()


def input_state(folder: Path, paths: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """Size, time of the last change of content, and inode of files below a folder; those that are gone are left out."""
    found = {}
    for path in paths:
        with suppress(OSError):
            status = os.lstat(folder / path)
            kind = status.st_ino if stat.S_ISREG(status.st_mode) else 0
            found[path] = (status.st_size, status.st_mtime_ns, kind)
    return found
