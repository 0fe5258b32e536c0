"""Whether a visit's metadata is that visit's, and can be what it says. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from icf_utils.dicom.values import Value
from icf_utils.errors import DepositDamaged, shown
from icf_utils.metadata.records import ImageRecord, VisitMetadata
from icf_utils.store import Visit

_REMEDY = "move both metadata files of the visit away and run 'icf-utils deposit_visit_metadata' again"
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9]*")


def check_metadata(metadata: VisitMetadata, visit: Visit) -> None:
    """Raise :class:`~icf_utils.errors.DepositDamaged` at the first thing that cannot be."""
    _same(visit, "storepath", visit.storepath, metadata.tarball.storepath)
    _same(visit, "dspath", visit.dspath, metadata.tarball.dspath)
    for record in metadata.images:
        for expected, found in _problems(record, metadata.tarball.size, visit.member_root):
            raise _damaged(visit, record.path, expected, found)
    _check_places([record.path for record in metadata.images], visit)


def _same(visit: Visit, key: str, expected: str, found: str) -> None:
    if found != expected:
        raise DepositDamaged(visit.tarball_json, f"'{expected}' under '{key}'", f"'{shown(found)}'", _REMEDY)


def _damaged(visit: Visit, path: str, expected: str, found: str) -> DepositDamaged:
    return DepositDamaged(visit.dicoms_json, f"{expected} for the image '{shown(path)}'", found, _REMEDY)


def _problems(record: ImageRecord, archive_size: int, root: str) -> Iterator[tuple[str, str]]:
    """What was expected of the record, and what was found instead."""
    if not record.path.startswith(f"{root}/"):
        yield f"a path below '{root}/'", "another one"
    if not {"", ".", ".."}.isdisjoint(record.path.split("/")) or "\0" in record.path:
        yield "a path of plain names", "an empty name, '.', '..' or a NUL"
    if not _encodes(record.path):
        yield "a path that is a file name", "characters that no file name has"
    if record.offset + record.size > archive_size:
        yield f"content within the archive's {archive_size} bytes", f"an end at byte {record.offset + record.size}"
    if not all(_TAG.fullmatch(tag) and _is_plain(value) for tag, value in record.tags.items()):
        yield "DICOM keywords with text or numbers", "something else"


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _is_plain(value: Value) -> bool:
    """No lone surrogates and no NaN or infinity, which Python's JSON reader lets pass."""
    items = value if isinstance(value, list) else [value]
    return all(_encodes(item) if isinstance(item, str) else _is_json(item) for item in items)


def _is_json(number: float) -> bool:
    try:
        json.dumps(number, allow_nan=False)
    except ValueError:
        return False
    return True


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
