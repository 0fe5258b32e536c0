"""What the archive stage leaves for the metadata stage, so that this one need not read a new archive again.

While an archive is written, :class:`ArchiveDescriber` describes its images as :mod:`icf_utils.metadata.describe` does
from the finished file. The description is kept in ``.icf/handover/<visit>.json``: one line of JSON with the archive's
digests and what the file system says about it, then the bytes of ``<visit>_metadata_dicoms.json``. It is used only if

- size, inode, and times of modification and status change of the archive are those that it names,
- it is younger than the last change of the archive: a later change within the same tick of the clock cannot be seen,
- it was made for the same tags, by the same version of the description, and is whole.

Otherwise the archive is read. The file has the owner, group, mode and ACL of the archive, and is removed when the
metadata is deposited. Reads and writes this file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from icf_utils.archive.hashing import BackgroundDigest, Digests
from icf_utils.archive.reader import ArchiveMember
from icf_utils.dicom.elements import Header
from icf_utils.dicom.header import check_pixels
from icf_utils.errors import IcfError, storage_errors
from icf_utils.metadata.allowlist import AllowList
from icf_utils.metadata.describe import ArchiveDescription, describe_member, tags_to_scan
from icf_utils.metadata.records import encode_images
from icf_utils.results import Notice
from icf_utils.store.files import make_folders, new_file
from icf_utils.store.layout import Visit

#: The version of the description: that of the metadata stage, which is raised when the stage writes other bytes.
VERSION = 3

_FORMAT = 1

#: What an allow-list was made of: names of tags as settings give them, and the MD5 of a file of them; plain JSON.
Request = dict[str, Any]


@dataclass(frozen=True)
class HandedOver:
    """The description of an archive: its ``md5``, ``sha256`` and ``size`` (bytes), and the number of ``images``.

    ``dicoms_json`` are the bytes of the visit's file of this name; ``others`` and ``notices`` are those of
    :class:`~icf_utils.metadata.describe.ArchiveDescription`.
    """

    md5: str
    sha256: str
    size: int
    images: int
    others: tuple[Notice, ...]
    notices: tuple[Notice, ...]
    dicoms_json: bytes


class ArchiveDescriber:
    """Describes the images of an archive while it is written, with the tags of an allow-list.

    ``request`` is what the list was made of; a reader of what is handed over needs the same.
    """

    def __init__(self, allowed: AllowList, request: Request) -> None:
        self._request, self._tags = request, tags_to_scan(allowed)
        self._digests: BackgroundDigest | None = None
        self.begin()

    @property
    def wanted(self) -> frozenset[int]:
        """The tags that a scan of a file's header must return."""
        return self._tags.wanted

    def begin(self) -> None:
        """Forget what was given: the archive is written from its beginning, perhaps again."""
        self.close()
        self._done, self._names = ArchiveDescription(), list[str]()
        self._digests = BackgroundDigest()

    def take_content(self, block: bytes) -> None:
        """Take the next bytes of the current member's content."""
        assert self._digests
        self._digests.update([block])

    def end_member(self, member: ArchiveMember, found: Header, read_at: Callable[[int, int], bytes] | None) -> None:
        """Describe the member whose content was given; ``read_at`` reads from it, if its head was not all of it."""
        assert self._digests
        self._digests.next_item()
        if read_at:
            check_pixels(found, read_at)
        self._names.append(member.name)
        describe_member(member, found, self._tags, self._done)

    def on_published(self, place: Visit, digests: Digests, size: int) -> None:
        """Keep the description of the archive, which has its name. If this fails, the archive is read again later."""
        assert self._digests
        done = self._done
        md5_of = dict(zip(self._names, self._digests.finish_items(), strict=True))
        images = [replace(image, md5=md5_of[image.path]) for image in done.images]
        raw = encode_images(images)
        with suppress(OSError, IcfError):
            record = {
                "format": _FORMAT,
                "version": VERSION,
                "archive": _status_of(place.archive),
                "request": self._request,
                "md5": digests.md5,
                "sha256": digests.sha256,
                "size": size,
                "images": len(images),
                "others": [asdict(notice) for notice in done.others],
                "notices": [asdict(notice) for notice in done.notices],
                "content": hashlib.sha256(raw).hexdigest(),
            }
            _write(place, json.dumps(record).encode("ascii") + b"\n" + raw)

    def close(self) -> None:
        """End the background thread; safe to call again."""
        if self._digests:
            self._digests.close()


def _write(place: Visit, data: bytes) -> None:
    path = place.handover
    with storage_errors(path, "create"):
        make_folders(place.root, path.parent)
        part = _part(place)
        part.unlink(missing_ok=True)  # of a process that was killed
        with new_file(part, root=place.root, like=place.archive, folders=(path.parent, place.workdir)) as handle:
            handle.write(data)
        os.replace(part, path)


def read_handover(place: Visit, request: Request) -> HandedOver | None:
    """Read what the archive stage has left of the visit's archive; ``None`` if it cannot be relied on."""
    try:
        with open(place.handover, "rb") as handle:
            written = os.fstat(handle.fileno()).st_ctime_ns
            record: Any = json.loads(handle.readline())
            raw = handle.read()
        archive = _status_of(place.archive)
        expected = {"format": _FORMAT, "version": VERSION, "archive": archive, "request": request}
        if {key: record[key] for key in expected} != expected or written <= archive["ctime"]:
            return None
        if hashlib.sha256(raw).hexdigest() != record["content"]:
            return None
        return HandedOver(
            md5=record["md5"],
            sha256=record["sha256"],
            size=record["size"],
            images=record["images"],
            others=tuple(Notice(**notice) for notice in record["others"]),
            notices=tuple(Notice(**notice) for notice in record["notices"]),
            dicoms_json=raw,
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def remove_handover(place: Visit) -> None:
    """Remove what was handed over, if anything is there."""
    for path in (place.handover, _part(place)):
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        place.handover.parent.rmdir()


def _part(place: Visit) -> Path:
    return place.handover.with_name(f"{place.visit}.part")


def _status_of(path: Path) -> dict[str, int]:
    found = os.lstat(path)
    return {
        "size": found.st_size,
        "inode": found.st_ino,
        "device": found.st_dev,
        "mtime": found.st_mtime_ns,
        "ctime": found.st_ctime_ns,
    }
