"""The check of a visit's SHA-256 sums, and the list that a repair makes. Reads the visit's files; changes nothing.

A file that differs from its line was changed, or the list was: the other files say which.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import IcfError, StorageFailure
from icf_utils.metadata.describe import ArchiveDescription
from icf_utils.results import Notice
from icf_utils.store.layout import Visit, find_deposit, is_output_file
from icf_utils.store.sums import file_sha256, list_summed, parse_sums_of, read_lines
from icf_utils.store.visit_files import belongs
from icf_utils.verify.checks import Finding, finding_from_error

_KEPT = re.compile(r"_dicom\.v\d+\.tar\Z")

_NO_SUMS = "has no SHA-256 sums yet; 'icf-utils verify --repair' makes them"
_NO_LIST = "is missing although its signature is there"
_UNLISTED = "is not in the visit's SHA-256 sums: the command that wrote it was interrupted, or it was put there"


@dataclass(frozen=True)
class SumsCheck:
    """The check of a visit's list: its bytes, ``None`` without a readable one, and what was found."""

    raw: bytes | None
    findings: tuple[Finding, ...]
    notices: tuple[Notice, ...] = ()


def check_sums(
    place: Visit, found: ArchiveDescription | None, named: Collection[Path], *, is_elsewhere: bool
) -> SumsCheck:
    """Compare all files of a visit with its list, except those that other findings have ``named``.

    ``found`` is the archive, which was read. With ``is_elsewhere``, it is in another store.
    """
    passed = {*named, *((place.archive, place.checksum) if is_elsewhere else ())}
    raw = None
    try:
        raw = find_deposit(place.sums)
        if raw is None:
            if place.signature.exists():
                return SumsCheck(None, (Finding(place.sums, "", _NO_LIST),))
            return SumsCheck(None, (), (Notice("no-sums", place.sums.name, _NO_SUMS),) if found else ())
        sums = parse_sums_of(place, raw)
    except IcfError as error:
        return SumsCheck(raw, (finding_from_error(place.sums, error), *_lost_files(place, raw or b"", passed)))
    names = list_summed(place)
    known = {place.archive.name: found.sha256} if found else {}
    folder = place.of_study.folder
    findings = [Finding(folder / name, "", _UNLISTED) for name in names if name not in sums]
    findings += _differences(place, sums, known)
    return SumsCheck(raw, tuple(finding for finding in findings if finding.path not in passed))


def _lost_files(place: Visit, raw: bytes, passed: Collection[Path]) -> Iterator[Finding]:
    """Find files that do not exist although a damaged list still has a line of them."""
    folder = place.of_study.folder
    for name in read_lines(raw):
        path = folder / name
        if _is_of(place, name) and not os.path.lexists(path) and path not in passed:
            yield Finding(path, "", f"is missing although '{place.sums.name}' lists it")


def _is_of(place: Visit, name: str) -> bool:
    """Whether a name is one of the visit's files, and not a damaged name."""
    return ".." not in name.split("/") and belongs(name.split("/", maxsplit=1)[0], place.visit, ())


def _differences(place: Visit, sums: Mapping[str, str], known: Mapping[str, str]) -> Iterator[Finding]:
    for name, expected in sums.items():
        path = place.of_study.folder / name
        try:
            digest = known.get(name) or file_sha256(path)
        except StorageFailure as error:
            missing = isinstance(error.__cause__, FileNotFoundError | NotADirectoryError)
            problem = f"is missing although '{place.sums.name}' lists it" if missing else str(error)
            yield Finding(path, "", problem)
            continue
        if digest != expected:
            yield Finding(path, "", f"its SHA-256 is {digest}, but '{place.sums.name}' says {expected}")


def repaired_sums(
    place: Visit,
    found: ArchiveDescription,
    doubtful: Collection[Path],
    unproved: Collection[Path] = (),
    *,
    keeps_lines: bool,
) -> dict[str, str]:
    """The list as it should be after a visit's other files were repaired.

    Files that a repair cannot prove, outputs, kept archives and those that are ``unproved`` or below such a folder,
    keep the lines that they have; with ``keeps_lines``, all files do. New ones get lines unless they are ``doubtful``.
    Of a damaged list, the lines that are left count.
    """
    before: Mapping[str, str] = {}
    with suppress(IcfError):
        before = read_lines(find_deposit(place.sums) or b"")
    folder = place.of_study.folder
    sums = {}
    known = {name for name in before if _is_of(place, name)}
    for name in sorted({*known, *list_summed(place)}):
        path = folder / name
        is_proved = not (is_output_file(name) or _KEPT.search(name) or {path, *path.parents} & set(unproved))
        if name in before and (keeps_lines or not (is_proved and path.exists())):
            sums[name] = before[name]
        elif is_proved or path not in doubtful:
            sums[name] = found.sha256 if path == place.archive else file_sha256(path)
    return sums
