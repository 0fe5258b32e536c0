"""COD buckets: the images of studies, by the ``metadata.json`` of each series. Uses the network.

The format is that of the package ``cloud-optimized-dicom``, versions 1.0 and 2.0. The rules:

- A member's name is what follows ``studies/`` in an instance's URI, since a bucket may have moved; it must be in the
  TAR of its own series. The position is ``start_byte`` and ``size``.
- An image without a CRC32C is not retrieved, since it could not be checked.
- Where a bucket hashes UIDs, names and URIs contain the hashed ones, and only these are used.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from icf_utils.dicom.values import Value
from icf_utils.errors import InvalidSetting, printable
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.open import read_whole
from icf_utils.fetch.ranges import Span
from icf_utils.installation import import_package
from icf_utils.progress import Progress
from icf_utils.results import Notice
from icf_utils.retrieve.buckets import Bucket, BucketObject, BucketPlace
from icf_utils.retrieve.layout import why_unsafe
from icf_utils.retrieve.model import Digest, Failure, Image, Listing, Tar

#: The largest ``metadata.json`` that is read, unpacked, in bytes; the largest record of one instance; and how many
#: values the JSON of either may have, each of which takes some 100 bytes of memory.
LARGEST, _LARGEST_RECORD, _MOST_VALUES = 1 << 27, 1 << 24, 4_000_000

#: A record of one instance has at most the first number of bytes and so many times its packed size: text is compressed
#: to a tenth. The window is the memory that unpacking may need.
_SMALL_RECORD, _LARGEST_RATIO, _LARGEST_WINDOW = 1 << 16, 100, 1 << 24

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


class InvalidMetadata(Exception):
    """The bytes are not a valid ``metadata.json``; the text says why."""


@dataclass(frozen=True)
class SeriesMetadata:
    """The instances in a ``metadata.json``: images, and those that cannot be retrieved."""

    images: tuple[Image, ...]
    failures: tuple[Failure, ...]


def is_object_name(text: str) -> bool:
    """Whether a UID, or a hashed one, can be part of an object's name."""
    return _NAME.fullmatch(text) is not None


def decompress(raw: bytes) -> bytes:
    """The JSON of a ``metadata.json``, which may be compressed by gzip. Raises :class:`NotMetadata`."""
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    machine = zlib.decompressobj(wbits=31)
    try:
        data = machine.decompress(raw, LARGEST)
    except zlib.error as error:
        raise InvalidMetadata(f"it is damaged gzip ({error})") from error
    if not machine.eof:
        raise InvalidMetadata(f"it is incomplete, or larger than {LARGEST} bytes")
    return data


def parse_bounded(raw: bytes) -> Any:
    """The JSON of a text that somebody else wrote; its structure may not need many times its size in memory.

    Raises :class:`InvalidMetadata`.
    """
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > _MOST_VALUES:
        raise InvalidMetadata(f"it has more than {_MOST_VALUES} values")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidMetadata("it is not JSON") from error


def read_series(raw: bytes, study: str, series: str, url: str, keywords: Sequence[str] = ()) -> SeriesMetadata:
    """The instances of the series at ``studies/<study>/series/<series>``, with values of the DICOM ``keywords``.

    ``url`` is the TAR's address for failures. Raises :class:`NotMetadata`.
    """
    instances = _instances(parse_bounded(decompress(raw)))
    read = [_one(key, record, study, series, keywords, url) for key, record in instances.items()]
    images = tuple(item for item in read if isinstance(item, Image))
    return SeriesMetadata(images, tuple(item for item in read if isinstance(item, Failure)))


def _one(key: str, record: Any, study: str, series: str, keywords: Sequence[str], url: str) -> Image | Failure:
    try:
        return _image(key, record, study, series, keywords)
    except InvalidMetadata as error:
        return Failure(url, str(error), image=key, study=study)


def _instances(document: Any) -> Mapping[str, Any]:
    cod = document.get("cod") if isinstance(document, dict) else None
    instances = cod.get("instances") if isinstance(cod, dict) else None
    if not isinstance(instances, dict):
        raise InvalidMetadata("expected instances in 'cod', found none")
    return instances


def _image(key: str, record: Any, study: str, series: str, keywords: Sequence[str]) -> Image:
    if not isinstance(record, dict):
        raise InvalidMetadata("expected a JSON object for the instance")
    member = _member(record, study, series)
    headers = record.get("headers")
    start = headers.get("start_byte") if isinstance(headers, dict) else None
    size = record.get("size")
    if type(start) is not int or type(size) is not int or start < 0 or size < 0:
        raise InvalidMetadata("expected integers for start_byte and size")
    return Image(
        study=study,
        visit="",
        series=series,
        sop=key,
        path=member,
        key=f"{study}/{series}/{key}",
        span=Span(start, size),
        digest=_digest(record),
        tags=_tags(record, keywords) if keywords else {},
    )


def _member(record: Mapping[str, Any], study: str, series: str) -> str:
    """The member's name in the TAR, by the URI, which must be of this series."""
    uri = record.get("uri", record.get("url"))
    if not isinstance(uri, str):
        raise InvalidMetadata("expected a 'uri' or a 'url'")
    outside, _, member = uri.partition(".tar://")
    place = f"{study}/series/{series}"
    if outside.rpartition("studies/")[2] != place:
        raise InvalidMetadata(f"expected a 'uri' in {printable(place)}.tar, found another")
    if problem := why_unsafe(member):
        raise InvalidMetadata(f"its name in the TAR is unsafe: {problem}")
    if not is_object_name(member.rpartition("/")[2]):
        raise InvalidMetadata("its name in the TAR is unsafe: it contains unusual characters")
    return member


def _digest(record: Mapping[str, Any]) -> Digest:
    text = record.get("crc32c")
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 4:
        raise InvalidMetadata("expected a CRC32C, without which the image cannot be checked")
    return Digest("crc32c", base64.b64encode(raw).decode("ascii"))


def _tags(record: Mapping[str, Any], keywords: Sequence[str]) -> dict[str, Value]:
    from pydicom.datadict import tag_for_keyword

    elements = _elements(record.get("metadata"))
    found: dict[str, Value] = {}
    for keyword in keywords:
        number = tag_for_keyword(keyword)
        element = elements.get(f"{number:08X}") if number is not None else None
        values = element.get("Value") if isinstance(element, dict) else None
        if isinstance(values, list) and values:
            texts = [_text(value) for value in values]
            found[keyword] = texts[0] if len(texts) == 1 else texts
    return found


def _text(value: Any) -> str | int | float:
    """One value of the DICOM JSON model (PS3.18, annex F); person names are objects there."""
    if isinstance(value, dict):
        return str(value.get("Alphabetic", ""))
    return value if isinstance(value, (str, int, float)) and not isinstance(value, bool) else str(value)


def _elements(metadata: Any) -> Mapping[str, Any]:
    """DICOM JSON: inline in version 1.0, base64 of zstd in 2.0."""
    if isinstance(metadata, dict):
        return metadata
    if not isinstance(metadata, str):
        return {}
    zstandard = import_package("zstandard")
    try:
        packed = base64.b64decode(metadata)
        largest = min(_LARGEST_RECORD, _SMALL_RECORD + _LARGEST_RATIO * len(packed))
        reader = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).stream_reader(packed)
        raw = reader.read(largest + 1)
    except (ValueError, zstandard.ZstdError) as error:
        raise InvalidMetadata("its DICOM elements cannot be read") from error
    if len(raw) > largest:
        raise InvalidMetadata(f"its DICOM elements are larger than {largest} bytes")
    elements = parse_bounded(raw)
    return elements if isinstance(elements, dict) else {}


@dataclass(frozen=True)
class SeriesObjects:
    """The objects of one series, as they were listed."""

    study: str
    series: str
    tar: BucketObject | None
    metadata: BucketObject | None
    is_locked: bool
    has_error: bool


def list_images(
    bucket: Bucket,
    place: BucketPlace,
    studies: Sequence[str],
    *,
    only: frozenset[str],
    keywords: Sequence[str],
    jobs: int,
    progress: Progress,
) -> Listing:
    """The images of these studies, or of all, with values of the DICOM ``keywords``.

    If ``only`` is given, these series are listed and no others. Series that cannot be read are in the listing's
    failures. Raises :class:`~icf_utils.fetch.errors.FetchFailure` where the bucket
    as a whole cannot be read, and :class:`~icf_utils.errors.InvalidSetting` for an invalid name of a study.
    """
    series, failures = _listed(bucket, place, studies)
    series = [one for one in series if not only or one.series in only]
    with progress.task("Reading metadata", len(series), "series") as task, ThreadPoolExecutor(jobs) as pool:
        parts = []
        for part in pool.map(lambda one: _read(bucket, place, one, keywords), series):
            parts.append(part)
            task.advance(1)
    notices = [notice for one in series for notice in _notices(one)]
    return Listing(
        tuple(tar for part in parts for tar in part.tars),
        (*failures, *(failure for part in parts for failure in part.failures)),
        (*notices, *(notice for part in parts for notice in part.notices)),
    )


def _listed(bucket: Bucket, place: BucketPlace, studies: Sequence[str]) -> tuple[list[SeriesObjects], list[Failure]]:
    root = place.named("studies") + "/"
    for study in studies:
        if not is_object_name(study):
            raise InvalidSetting("--study", f"'{printable(study)}' cannot be a study of a bucket")
    if not studies:
        everything = group_by_series(bucket.list(root), root)
        nothing = Failure(bucket.url(root), "no studies found; check the bucket and the prefix")
        return everything, [] if everything else [nothing]
    found: list[SeriesObjects] = []
    failures = []
    for study in dict.fromkeys(studies):
        here = group_by_series(bucket.list(f"{root}{study}/"), root)
        found += here
        if not here:
            failures.append(Failure(bucket.url(f"{root}{study}"), "no such study; check its name and the prefix"))
    return found, failures


def group_by_series(objects: Iterable[BucketObject], root: str) -> list[SeriesObjects]:
    """Objects by series, in the order of their names; ``root`` is the common prefix of all names."""
    parts: dict[tuple[str, str], dict[str, BucketObject]] = {}
    for item in objects:
        for study, series, kind in _kinds(item.name.removeprefix(root)):
            parts.setdefault((study, series), {})[kind] = item
    return [
        SeriesObjects(
            study, series, kinds.get("tar"), kinds.get("metadata.json"), ".gradient.lock" in kinds, "error.log" in kinds
        )
        for (study, series), kinds in sorted(parts.items())
        if kinds.keys() & {"tar", "metadata.json", ".gradient.lock", "error.log"}
    ]


def _kinds(name: str) -> Iterator[tuple[str, str, str]]:
    parts = name.split("/")
    if len(parts) < 3 or parts[1] != "series" or not is_object_name(parts[0]):
        return
    if len(parts) == 3 and parts[2].endswith(".tar") and is_object_name(parts[2][:-4]):
        yield parts[0], parts[2][:-4], "tar"
    if len(parts) == 4 and is_object_name(parts[2]):
        yield parts[0], parts[2], parts[3]


def _notices(one: SeriesObjects) -> Iterator[Notice]:
    name = f"{one.study}/{one.series}"
    if one.is_locked:
        yield Notice(
            "being-written", name, "it has a .gradient.lock: it is being written, or its writer was interrupted"
        )
    if one.has_error:
        yield Notice("writer-failed", name, "it has an error.log: its writer failed, and images may be missing")


def _read(bucket: Bucket, place: BucketPlace, one: SeriesObjects, keywords: Sequence[str]) -> Listing:
    url = bucket.url(place.named("studies", one.study, "series", f"{one.series}.tar"))
    if one.metadata is None:
        return Listing((), (Failure(url, "it has no metadata.json, which lists its images", study=one.study),))
    try:
        raw = read_whole(bucket.open(one.metadata), LARGEST)
        series = read_series(raw, one.study, one.series, url, keywords)
    except InvalidMetadata as error:
        return Listing((), (Failure(url, f"its metadata.json cannot be used: {error}", study=one.study),))
    except FetchFailure as error:
        if error.kind in ("unauthorised", "stopped"):
            raise
        return Listing((), (Failure(url, f"its metadata.json could not be fetched: {error}", study=one.study),))
    if not series.images and not series.failures:
        notice = Notice("empty-series", f"{one.study}/{one.series}", "its metadata.json lists no images")
        return Listing((), notices=(notice,))
    if one.tar is None:
        size = sum(image.span.size for image in series.images)
        return Listing(
            (),
            (
                Failure(url, "it has a metadata.json, but the TAR does not exist", size=size, study=one.study),
                *series.failures,
            ),
        )
    return Listing((Tar(url, bucket.open(one.tar), series.images),), series.failures)
