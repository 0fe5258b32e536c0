"""DICOM files for tests, small and always the same. ``write_visit`` writes below the folder it is given."""

from __future__ import annotations

import re
import struct
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"

UNDEFINED_LENGTH = 0xFFFFFFFF

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "icf-utils.test")
_LONG_VRS = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
_PIXEL_DATA = 0x7FE00010


def uid(*names: object) -> str:
    """A UID that follows from names: ``2.25.`` and a version-5 UUID (PS3.5 section B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, names))).int}"


def element(
    tag: int,
    vr: str,
    value: bytes,
    *,
    length: int | None = None,
    transfer_syntax: str = EXPLICIT_LITTLE,
) -> bytes:
    """The bytes of one element (PS3.5 section 7.1), with whatever VR and declared ``length`` (default: the true one).

    ``value`` is written as it is, without padding.
    """
    order = ">" if transfer_syntax == EXPLICIT_BIG else "<"
    size = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if transfer_syntax == IMPLICIT_LITTLE:
        return head + struct.pack("<I", size) + value
    if vr in _LONG_VRS:
        return head + vr.encode("ascii") + struct.pack(order + "HI", 0, size) + value
    return head + vr.encode("ascii") + struct.pack(order + "H", size) + value


def item(content: bytes, *, length: int | None = None) -> bytes:
    """A sequence item around the bytes of elements (PS3.5 section 7.5), little endian."""
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content) if length is None else length) + content


def dicom_bytes(
    *,
    transfer_syntax: str = EXPLICIT_LITTLE,
    preamble: bool = True,
    file_meta: bool = True,
    raw: Mapping[int, bytes] | None = None,
    **keywords: object,
) -> bytes:
    """A small, valid MR image of 2 x 2 pixels.

    ``keywords`` are DICOM keywords and override the image's own values; ``None`` leaves one out. Text is encoded by
    the SpecificCharacterSet given, unless that is bytes; ``bytes`` are written unchanged, padded to even length,
    valid or not. ``raw`` holds whole elements (see :func:`element`) by tag, which replace those of the same tag or are
    put in tag order. SOP instance and series UIDs follow from StudyInstanceUID, SeriesNumber and InstanceNumber.
    """
    values = {**_image(keywords), **keywords}
    given = {keyword: value for keyword, value in values.items() if value is not None}
    declared = given.get("SpecificCharacterSet")
    encodings = declared.split("\\") if isinstance(declared, str) else ["ISO_IR 6"]
    parts = {_tag(keyword): _element_of(keyword, value, transfer_syntax, encodings) for keyword, value in given.items()}
    parts.update(raw or {})
    dataset = b"".join(parts[tag] for tag in sorted(parts))
    if transfer_syntax == DEFLATED:
        packer = zlib.compressobj(level=0, wbits=-zlib.MAX_WBITS)  # stored: the same bytes from every zlib
        dataset = packer.compress(dataset) + packer.flush()
        dataset += bytes(len(dataset) % 2)
    meta = _meta(given, transfer_syntax) if file_meta else b""
    return (bytes(128) + b"DICM" if preamble else b"") + meta + dataset


def write_visit(
    folder: Path,
    series: Mapping[int, tuple[str, int]],
    *,
    companions: Mapping[str, bytes] | None = None,
    **keywords: object,
) -> list[Path]:
    """Write a visit below ``folder`` and return the paths of its images, sorted.

    ``series`` maps a SeriesNumber to SeriesDescription and number of images; each becomes a folder such as
    ``03_bold_rest`` with files ``0001.dcm``, ... ``companions`` are other files by relative name. The remaining
    arguments are those of :func:`dicom_bytes`, for all images.
    """
    written = []
    for number, (description, count) in series.items():
        below = folder / f"{number:02}_{re.sub(r'[^A-Za-z0-9]+', '_', description)}"
        below.mkdir(parents=True, exist_ok=True)
        own = {"SeriesNumber": number, "SeriesDescription": description, "ProtocolName": description}
        for at in range(1, count + 1):
            written.append(below / f"{at:04}.dcm")
            written[-1].write_bytes(dicom_bytes(**{**own, "InstanceNumber": at, **keywords}))  # type: ignore[arg-type]
    for name, content in (companions or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return sorted(written)


def _image(given: Mapping[str, object]) -> dict[str, object]:
    study = given.get("StudyInstanceUID", uid("study"))
    series = given.get("SeriesNumber", 1)
    instance = given.get("InstanceNumber", 1)
    return {
        "SOPClassUID": MR_IMAGE,
        "SOPInstanceUID": uid(study, series, instance),
        "StudyDate": "20200229",
        "StudyTime": "101112",
        "Modality": "MR",
        "Manufacturer": "Invented Instruments",
        "SeriesDescription": "t1_mprage_sag",
        "PatientName": "Test^Invented",
        "PatientID": "TEST01",
        "MRAcquisitionType": "3D",
        "EchoTime": "2.98",
        "ProtocolName": "t1_mprage_sag",
        "StudyInstanceUID": study,
        "SeriesInstanceUID": uid(study, series),
        "SeriesNumber": series,
        "InstanceNumber": instance,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": 2,
        "Columns": 2,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": struct.pack("<4H", *(zlib.crc32(f"{series}/{instance}/{at}".encode()) & 0xFFF for at in range(4))),
    }


def _element_of(keyword: str, value: object, transfer_syntax: str, encodings: list[str]) -> bytes:
    tag = _tag(keyword)
    vr = "OW" if tag == _PIXEL_DATA else dictionary_VR(tag)
    if tag == _PIXEL_DATA and transfer_syntax.startswith("1.2.840.10008.1.2.4."):
        assert isinstance(value, bytes)
        content = encapsulate([value]) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        return element(tag, "OB", content, length=UNDEFINED_LENGTH)
    if isinstance(value, bytes):
        return element(tag, vr, _even(value, vr), transfer_syntax=transfer_syntax)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = transfer_syntax == IMPLICIT_LITTLE
    buffer.is_little_endian = transfer_syntax != EXPLICIT_BIG
    write_data_element(buffer, DataElement(tag, vr, value, validation_mode=config.IGNORE), encodings)
    return buffer.getvalue()


def _meta(given: Mapping[str, object], transfer_syntax: str) -> bytes:
    """File meta information (PS3.10 section 7.1)."""
    entries = {
        0x00020002: str(given.get("SOPClassUID", MR_IMAGE)),
        0x00020003: str(given.get("SOPInstanceUID", uid("none"))),
        0x00020010: transfer_syntax,
        0x00020012: uid("implementation"),
    }
    body = element(0x00020001, "OB", b"\0\1")
    body += b"".join(element(tag, "UI", _even(text.encode("ascii"), "UI")) for tag, text in entries.items())
    return element(0x00020000, "UL", struct.pack("<I", len(body))) + body


def _even(value: bytes, vr: str) -> bytes:
    return value + (b"\0" if vr in ("UI", "OB", "UN") else b" ") * (len(value) % 2)


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None, f"no DICOM keyword: {keyword}"
    return tag
