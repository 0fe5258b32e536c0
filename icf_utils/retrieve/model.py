"""What is retrieved, as frozen values; checksums of bytes as they arrive. Pure, no input or output happens here."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from icf_utils.dicom.values import Value
from icf_utils.fetch.ranges import Span
from icf_utils.fetch.source import ByteSource
from icf_utils.installation import import_package
from icf_utils.results import Notice

DigestKind = Literal["md5", "sha256", "crc32c"]


@dataclass(frozen=True)
class Digest:
    """A checksum: MD5 or SHA-256 in hexadecimal, or CRC32C as base64 of its big-endian bytes (as Google Cloud Storage
    does).
    """

    kind: DigestKind
    value: str


class RunningDigest:
    """The checksum of the bytes so far."""

    def __init__(self, kind: DigestKind) -> None:
        self._kind, self._crc = kind, 0
        self._hash = None if kind == "crc32c" else hashlib.new(kind, usedforsecurity=False)

    def update(self, chunk: bytes) -> None:
        if self._hash is not None:
            self._hash.update(chunk)
        else:
            self._crc = import_package("google_crc32c", "google-crc32c").extend(self._crc, chunk)

    def digest(self) -> Digest:
        crc32c = base64.b64encode(self._crc.to_bytes(4, "big")).decode("ascii")
        return Digest(self._kind, self._hash.hexdigest() if self._hash is not None else crc32c)


@dataclass(frozen=True)
class Image:
    """One DICOM instance inside a TAR.

    ``study`` is that of a bucket or a store, ``visit`` is empty for buckets. ``series`` and ``sop`` are UIDs, hashed in
    buckets that hash them, ``path`` is the member's name in the TAR, ``key`` the name in ``log.json``. ``tags`` are
    DICOM keywords and values, as far as they were requested.
    """

    study: str
    visit: str
    series: str
    sop: str
    path: str
    key: str
    span: Span
    digest: Digest
    tags: Mapping[str, Value] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Tar:
    """One TAR of a store or bucket, and the images to get from it."""

    url: str
    source: ByteSource = field(compare=False)
    images: tuple[Image, ...]

    @property
    def size(self) -> int:
        """Bytes of these images."""
        return sum(image.span.size for image in self.images)


@dataclass(frozen=True)
class Failure:
    """What could not be retrieved: an address, perhaps one image in it, and why. ``size`` in bytes, 0 if unknown.

    ``study`` is the study that is incomplete because of it, empty if that is not known.
    """

    url: str
    problem: str
    image: str = ""
    size: int = 0
    study: str = ""


@dataclass(frozen=True)
class Listing:
    """The images of a store or bucket.

    ``recorded`` are all DICOM keywords that it records, if every image is listed with all of its tags.
    ``is_up_to_date``: there are none, because no visit has changed since the version that was named.
    """

    tars: tuple[Tar, ...]
    failures: tuple[Failure, ...] = ()
    notices: tuple[Notice, ...] = ()
    recorded: frozenset[str] = frozenset()
    is_up_to_date: bool = False


@dataclass(frozen=True)
class PlannedFile:
    """The file that an image becomes: ``path`` below the directory, or inside ``<box>.zip``."""

    image: Image
    path: PurePosixPath
    box: str
