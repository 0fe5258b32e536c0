"""A series of a COD bucket: what its ``metadata.json`` says, versions 1.0 and 2.0. Pure, no input or output here.

Facts: the format of the package ``cloud-optimized-dicom``. Names are taken from what follows ``studies/`` in an
instance's URI, since a bucket may have moved; positions are ``start_byte`` and ``size``. Where a bucket hashes UIDs,
the hashed ones are in names and URIs, and only these are used.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icf_utils.dicom.values import Value
from icf_utils.errors import shown
from icf_utils.fetch.ranges import Span
from icf_utils.retrieve.layout import unsafe
from icf_utils.retrieve.values import Digest, Image, Trouble

#: The largest ``metadata.json`` that is read, unpacked, in bytes; and the largest record of one instance.
LARGEST, _LARGEST_RECORD = 1 << 30, 1 << 26

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


class NotMetadata(Exception):
    """The bytes are no ``metadata.json``; the text says why."""


@dataclass(frozen=True)
class Series:
    """What a ``metadata.json`` says: instances that can be had, and those that cannot."""

    images: tuple[Image, ...]
    troubles: tuple[Trouble, ...]


def is_name(text: str) -> bool:
    """Whether a UID, or a hashed one, can be part of an object's name."""
    return _NAME.fullmatch(text) is not None


def unpack(raw: bytes) -> bytes:
    """The JSON of a ``metadata.json``, which may be gzip (known by its first bytes). Raises :class:`NotMetadata`."""
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    machine = zlib.decompressobj(wbits=31)
    try:
        data = machine.decompress(raw, LARGEST)
    except zlib.error as error:
        raise NotMetadata(f"it begins like gzip and is none ({error})") from error
    if not machine.eof:
        raise NotMetadata("it was cut, or is larger than makes sense")
    return data


def read_series(raw: bytes, study: str, series: str, url: str, keywords: Sequence[str] = ()) -> Series:
    """The instances of the series at ``studies/<study>/series/<series>``, with values of the DICOM ``keywords``.

    ``url`` names the series' TAR in troubles. Raises :class:`NotMetadata`.
    """
    try:
        document = json.loads(unpack(raw))
    except (ValueError, RecursionError) as error:
        raise NotMetadata("it is no JSON") from error
    instances = _instances(document)
    read = [_one(key, record, study, series, keywords, url) for key, record in instances.items()]
    images = tuple(item for item in read if isinstance(item, Image))
    return Series(images, tuple(item for item in read if isinstance(item, Trouble)))


def _one(key: str, record: Any, study: str, series: str, keywords: Sequence[str], url: str) -> Image | Trouble:
    try:
        return _image(key, record, study, series, keywords)
    except NotMetadata as error:
        return Trouble(url, str(error), image=key, study=study)


def _instances(document: Any) -> Mapping[str, Any]:
    cod = document.get("cod") if isinstance(document, dict) else None
    instances = cod.get("instances") if isinstance(cod, dict) else None
    if not isinstance(instances, dict):
        raise NotMetadata("expected instances under 'cod', found none")
    return instances


def _image(key: str, record: Any, study: str, series: str, keywords: Sequence[str]) -> Image:
    if not isinstance(record, dict):
        raise NotMetadata("expected a JSON object for the instance")
    member = _member(record, study, series)
    headers = record.get("headers")
    start = headers.get("start_byte") if isinstance(headers, dict) else None
    size = record.get("size")
    if type(start) is not int or type(size) is not int or start < 0 or size < 0:
        raise NotMetadata("expected start_byte and size as whole numbers")
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
    """The member's name in the TAR: what the URI says after ``studies/``, which must be about this series."""
    uri = record.get("uri", record.get("url"))
    if not isinstance(uri, str):
        raise NotMetadata("expected a 'uri' or 'url'")
    outside, _, member = uri.partition(".tar://")
    place = f"{study}/series/{series}"
    if outside.rpartition("studies/")[2] != place:
        raise NotMetadata(f"expected a place in {shown(place)}.tar, its 'uri' names another")
    if problem := unsafe(member):
        raise NotMetadata(f"its name in the TAR is unsafe: {problem}")
    if not is_name(member.rpartition("/")[2]):
        raise NotMetadata("its name in the TAR is unsafe: it has unusual characters")
    return member


def _digest(record: Mapping[str, Any]) -> Digest:
    text = record.get("crc32c")
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 4:
        raise NotMetadata("expected a CRC32C, without which nothing can be checked")
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
    """One value of the DICOM JSON model (PS3.18, annex F); names of persons are objects there."""
    if isinstance(value, dict):
        return str(value.get("Alphabetic", ""))
    return value if isinstance(value, (str, int, float)) and not isinstance(value, bool) else str(value)


def _elements(metadata: Any) -> Mapping[str, Any]:
    """DICOM JSON: inline in version 1.0, base64 of zstd in 2.0."""
    if isinstance(metadata, dict):
        return metadata
    if not isinstance(metadata, str):
        return {}
    import zstandard

    try:
        packed = base64.b64decode(metadata)
        raw = zstandard.ZstdDecompressor().stream_reader(packed).read(_LARGEST_RECORD)
        elements = json.loads(raw)
    except (ValueError, RecursionError, zstandard.ZstdError) as error:
        raise NotMetadata("its DICOM elements cannot be read") from error
    return elements if isinstance(elements, dict) else {}
