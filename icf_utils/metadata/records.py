r"""A visit's two JSON files: their records, their canonical bytes, strict parsing, and what they must agree on.

``<visit>_metadata_tarball.json`` is one object; ``<visit>_metadata_dicoms.json`` is an array with one record per image,
each on its own line. In a name outside UTF-8, the offending bytes are lone surrogates (``\udcXX``), as Python's
``os.fsdecode`` produces them; ``os.fsencode`` restores the bytes.

Encoding, parsing and checking are pure. :func:`read_visit_metadata` and :func:`read_unchecked_metadata` read the two
files; nothing is written here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from icf_utils.dicom.values import Value
from icf_utils.errors import DepositDamaged, printable
from icf_utils.formatting import format_count
from icf_utils.store.layout import Visit, read_deposit

#: The tags in every record (DICOM keywords); empty text if an image lacks them.
STANDARD_TAGS = (
    "SeriesDescription",
    "SeriesNumber",
    "Modality",
    "MRAcquisitionType",
    "ProtocolName",
    "PulseSequenceName",
)

#: The identifiers in every record; they stay in the store's JSON and never enter a catalog.
UID_TAGS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")

_MD5 = re.compile(r"[0-9a-f]{32}")
_REMEDY = (
    "run 'icf-utils verify --repair' for this visit, or 'icf-utils visit refresh' if another program made the file"
)


@dataclass(frozen=True)
class ImageRecord:
    """One DICOM image of an archive.

    ``path`` is the member's name in the TAR, ``offset`` the byte position of its content there, ``size`` its length in
    bytes. ``tags`` has the standard tags and those of the allow-list, ``uids`` the three UIDs.
    """

    path: str
    md5: str
    size: int
    offset: int
    tags: Mapping[str, Value]
    uids: Mapping[str, str]


@dataclass(frozen=True)
class TarballRecord:
    """The archive: ``size`` in bytes, ``md5`` in hexadecimal, its paths in the dataset and in the store."""

    size: int
    md5: str
    dspath: str
    storepath: str


@dataclass(frozen=True)
class VisitMetadata:
    """The content of a visit's two JSON files; images are in the order of the archive."""

    tarball: TarballRecord
    images: tuple[ImageRecord, ...]


def encode_tarball(record: TarballRecord) -> bytes:
    """Encode ``<visit>_metadata_tarball.json`` in its canonical form."""
    fields = {"size": record.size, "md5": record.md5, "dspath": record.dspath, "storepath": record.storepath}
    return encode_json(fields) + b"\n"


def encode_images(records: Iterable[ImageRecord]) -> bytes:
    """Encode ``<visit>_metadata_dicoms.json`` in its canonical form."""
    lines = [encode_json(_image_fields(record)) for record in records]
    return b"[\n" + b",\n".join(lines) + b"\n]\n" if lines else b"[]\n"


def encode_json(value: object) -> bytes:
    """Encode JSON in UTF-8: keys in the order given, lone surrogates escaped. Raises ``ValueError`` for NaN."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes its JSON escape, \udcXX


def _image_fields(record: ImageRecord) -> dict[str, Any]:
    extra = sorted(set(record.tags) - set(STANDARD_TAGS))
    return {
        "path": record.path,
        "md5": record.md5,
        "size": record.size,
        **{tag: record.tags.get(tag, "") for tag in STANDARD_TAGS},
        "offset": record.offset,
        **{tag: record.uids.get(tag, "") for tag in UID_TAGS},
        **{tag: record.tags[tag] for tag in extra},
    }


def parse_tarball(raw: bytes, source: str) -> TarballRecord:
    """Parse the bytes of a ``_metadata_tarball.json``; ``source`` names the file in errors.

    Raises :class:`~icf_utils.errors.DepositDamaged`.
    """
    value = _json(raw, source)
    if not isinstance(value, dict):
        raise DepositDamaged(source, "a JSON object", type(value).__name__, _REMEDY)
    return TarballRecord(
        size=_number(value, "size", source),
        md5=_md5(value, source),
        dspath=_text(value, "dspath", source),
        storepath=_text(value, "storepath", source),
    )


def parse_images(raw: bytes, source: str) -> tuple[ImageRecord, ...]:
    """Parse the bytes of a ``_metadata_dicoms.json``. Raises :class:`~icf_utils.errors.DepositDamaged`."""
    value = _json(raw, source)
    if not isinstance(value, list):
        raise DepositDamaged(source, "a JSON array", type(value).__name__, _REMEDY)
    return tuple(_image(item, f"{source}, record {at + 1}") for at, item in enumerate(value))


def _image(item: Any, source: str) -> ImageRecord:
    if not isinstance(item, dict):
        raise DepositDamaged(source, "a JSON object", type(item).__name__, _REMEDY)
    own = {"path", "md5", "size", "offset", *UID_TAGS}
    return ImageRecord(
        path=_text(item, "path", source),
        md5=_md5(item, source),
        size=_number(item, "size", source),
        offset=_number(item, "offset", source),
        tags={key: _value(item[key], key, source) for key in item if key not in own},
        uids={tag: _text(item, tag, source) for tag in UID_TAGS},
    )


def _json(raw: bytes, source: str) -> Any:
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DepositDamaged(source, "JSON in UTF-8", f"invalid JSON ({error})", _REMEDY) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _number(item: Mapping[str, Any], key: str, source: str) -> int:
    value = item.get(key)
    if type(value) is not int or value < 0:
        raise DepositDamaged(source, f"a whole number under '{key}'", _kind(item, key), _REMEDY)
    return value


def _text(item: Mapping[str, Any], key: str, source: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise DepositDamaged(source, f"text under '{key}'", _kind(item, key), _REMEDY)
    return value


def _md5(item: Mapping[str, Any], source: str) -> str:
    value = _text(item, "md5", source)
    if not _MD5.fullmatch(value):
        raise DepositDamaged(source, "an MD5 digest of 32 hexadecimal digits under 'md5'", "other text", _REMEDY)
    return value


def _value(value: Any, key: str, source: str) -> Value:
    if _is_scalar(value) or (isinstance(value, list) and all(_is_scalar(item) for item in value)):
        return value  # type: ignore[no-any-return]
    raise DepositDamaged(source, f"text, a number or a list under '{key}'", type(value).__name__, _REMEDY)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _kind(item: Mapping[str, Any], key: str) -> str:
    return type(item[key]).__name__ if key in item else "nothing"


_TAG = re.compile(r"[A-Za-z][A-Za-z0-9]*")


def check_metadata(metadata: VisitMetadata, visit: Visit) -> None:
    """Check that the metadata belong to ``visit`` and are consistent.

    Raises :class:`~icf_utils.errors.DepositDamaged` for the first contradiction.
    """
    _same(visit, "storepath", visit.storepath, metadata.tarball.storepath)
    _same(visit, "dspath", visit.dspath, metadata.tarball.dspath)
    for record in metadata.images:
        for expected, found in _problems(record, metadata.tarball.size, visit.member_root):
            raise _damaged(visit, record.path, expected, found)
    _check_places([record.path for record in metadata.images], visit)


def _same(visit: Visit, key: str, expected: str, found: str) -> None:
    if found != expected:
        raise DepositDamaged(visit.tarball_json, f"'{expected}' under '{key}'", f"'{printable(found)}'", _REMEDY)


def _damaged(visit: Visit, path: str, expected: str, found: str) -> DepositDamaged:
    return DepositDamaged(visit.dicoms_json, f"{expected} for the image '{printable(path)}'", found, _REMEDY)


def _problems(record: ImageRecord, archive_size: int, root: str) -> Iterator[tuple[str, str]]:
    """Yield what was expected of the record and what was found instead."""
    if not record.path.startswith(f"{root}/"):
        yield f"a path below '{root}/'", "another one"
    if not {"", ".", ".."}.isdisjoint(record.path.split("/")) or "\0" in record.path:
        yield "a path of plain names", "an empty name, '.', '..' or NUL"
    if not _encodes(record.path):
        yield "a path that can be a file name", "characters that file names cannot have"
    if record.offset + record.size > archive_size:
        yield (
            f"content within the archive's {format_count(archive_size, 'byte')}",
            f"an end at byte {record.offset + record.size}",
        )
    if not (all(map(_is_keyword, record.tags)) and all(map(_is_plain, record.tags.values()))):
        yield "DICOM keywords with text or numbers", "something else"


@lru_cache(maxsize=1024)
def _is_keyword(tag: str) -> bool:
    return _TAG.fullmatch(tag) is not None


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _is_plain(value: Value) -> bool:
    """Whether a value has no lone surrogates, NaN or infinity, which Python's JSON parser accepts."""
    if isinstance(value, str):
        return value.isascii() or _encodes(value)
    items = value if isinstance(value, list) else [value]
    return all(_encodes(item) if isinstance(item, str) else _is_json(item) for item in items)


def _is_json(number: float) -> bool:
    return isinstance(number, int) or math.isfinite(number)


def _check_places(paths: list[str], visit: Visit) -> None:
    taken = set(paths)
    if len(taken) < len(paths):
        raise _damaged(visit, next(_repeated(paths)), "one record", "several")
    for folder in {path.rpartition("/")[0] for path in paths}:
        clash = next((above for above in _upwards(folder) if above in taken), None)
        if clash is not None:
            raise _damaged(visit, clash, "a file", "a folder of the same name")


def _repeated(paths: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            yield path
        seen.add(path)


def _upwards(folder: str) -> Iterator[str]:
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def read_visit_metadata(visit: Visit) -> VisitMetadata:
    """Read and check a visit's two JSON files.

    Raises :class:`~icf_utils.errors.DepositMissing` or :class:`~icf_utils.errors.DepositDamaged`.
    """
    metadata = read_unchecked_metadata(visit)
    check_metadata(metadata, visit)
    return metadata


def read_unchecked_metadata(visit: Visit) -> VisitMetadata:
    """Read and parse the files without :func:`check_metadata`, for a caller that checks by itself."""
    is_lost = any(path.exists() for path in (visit.tarball_json, visit.dicoms_json, visit.export, visit.refs))
    command = "verify --repair" if is_lost else "deposit_visit_metadata"
    remedy = f"run 'icf-utils {command}' for this visit first"
    tarball = parse_tarball(read_deposit(visit.tarball_json, remedy), str(visit.tarball_json))
    return VisitMetadata(tarball, parse_images(read_deposit(visit.dicoms_json, remedy), str(visit.dicoms_json)))
