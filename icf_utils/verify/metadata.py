"""Archive, checksum and JSON against each other. Reads these files once each; the comparison itself is pure."""

from __future__ import annotations

from collections.abc import Iterator

from icf_utils.archive.checksum import parse_checksum
from icf_utils.dicom.values import keyword_tag
from icf_utils.errors import DepositMissing, IcfError, shown, storage_errors
from icf_utils.metadata.allowlist import AllowList
from icf_utils.metadata.describe import Description, describe_archive
from icf_utils.metadata.reading import parse_visit_metadata
from icf_utils.metadata.records import STANDARD_TAGS, ImageRecord, VisitMetadata
from icf_utils.metadata.stage import metadata_files, visit_metadata
from icf_utils.progress import Progress
from icf_utils.store import Visit, read_deposit
from icf_utils.verify.findings import Finding, finding_of

_GONE = "bring it back from a copy"


def check_archive(
    place: Visit, metadata: VisitMetadata | None, progress: Progress, tags: AllowList | None = None
) -> tuple[Description | None, list[Finding]]:
    """Describe the archive from its bytes and hold its checksum file against it.

    ``tags`` are recorded beside the standard ones; by default those that the metadata has.
    """
    findings = []
    expected = None
    try:
        expected = parse_checksum(read_deposit(place.checksum, _GONE), place.archive.name, str(place.checksum))
    except IcfError as error:
        findings.append(finding_of(place.checksum, error))
    try:
        with storage_errors(place.archive, "examine"):
            there = place.archive.exists()
        if not there:
            raise DepositMissing(place.archive, _GONE)
        wanted = _recorded_tags(metadata) if tags is None else tags
        found = describe_archive(place.archive, place.member_root, wanted, progress)
    except IcfError as error:
        return None, [*findings, finding_of(place.archive, error)]
    if expected is not None and found.md5 != expected:
        findings.append(_disagreement(place, metadata, found.md5, expected))
    return found, findings


def _disagreement(place: Visit, metadata: VisitMetadata | None, md5: str, expected: str) -> Finding:
    """Archive and checksum do not agree: where the metadata takes the archive's side, the checksum is the odd one."""
    if metadata and metadata.tarball.md5 == md5:
        return Finding(place.checksum, "", f"says {expected}, the archive's MD5 and its metadata say {md5}")
    return Finding(place.archive, "", f"its MD5 is {md5}, the checksum file says {expected}")


def read_metadata(place: Visit) -> tuple[VisitMetadata | None, list[Finding]]:
    """The JSON files, as far as they can be read."""
    try:
        return parse_visit_metadata(place), []
    except IcfError as error:
        return None, [finding_of(place.dicoms_json, error)]


def _recorded_tags(metadata: VisitMetadata | None) -> AllowList:
    """The tags that the JSON has beside the standard ones: these are what must be found in the archive again."""
    keywords = sorted({key for image in metadata.images for key in image.tags} - set(STANDARD_TAGS)) if metadata else []
    known = {keyword: tag for keyword in keywords if (tag := keyword_tag(keyword)) is not None}
    return AllowList(known, allow_identifying=True)


def check_metadata(place: Visit, metadata: VisitMetadata, found: Description) -> list[Finding]:
    """Hold the JSON against the archive: every image's place, size, digest and tags, and the bytes of both files."""
    expected = visit_metadata(place, found)
    findings = [
        Finding(place.dicoms_json, name, problem) for name, problem in _differences(metadata.images, expected.images)
    ]
    for name, right in vars(expected.tarball).items():
        if getattr(metadata.tarball, name) != right:
            problem = f"'{name}' does not agree with the archive: {_recorded(metadata.tarball, expected.tarball, name)}"
            findings.append(Finding(place.tarball_json, "", problem))
    if not findings:
        findings += _other_bytes(place, expected)
    return findings


def _other_bytes(place: Visit, expected: VisitMetadata) -> list[Finding]:
    """The same content in other bytes: white space, order of keys, escapes."""
    problem = "says the right things, but not in the bytes that deposit_visit_metadata writes"
    return [
        Finding(path, "", problem)
        for path, data in metadata_files(place, expected)
        if read_deposit(path, _GONE) != data
    ]


def _differences(recorded: tuple[ImageRecord, ...], expected: tuple[ImageRecord, ...]) -> Iterator[tuple[str, str]]:
    there = {image.path: image for image in recorded}
    right = {image.path: image for image in expected}
    if len(there) < len(recorded):
        yield "", "has more than one record of the same image"
    for path in sorted(right.keys() - there.keys()):
        yield path, "is in the archive and has no record"
    for path in sorted(there.keys() - right.keys()):
        yield path, "has a record and is no image of the archive"
    for path in sorted(right.keys() & there.keys()):
        fields = ", ".join(_different_fields(there[path], right[path]))
        if fields:
            yield path, f"the record does not agree with the archive: {fields}"
    if list(there) != list(right) and there.keys() == right.keys():
        yield "", "does not have the images in the archive's order"


def _different_fields(recorded: ImageRecord, expected: ImageRecord) -> Iterator[str]:
    """Names of the fields that differ; their values are not shown, they come from headers."""
    for name in ("md5", "size", "offset"):
        if getattr(recorded, name) != getattr(expected, name):
            yield f"{name} ({_recorded(recorded, expected, name)})"
    for there, right in ((recorded.tags, expected.tags), (recorded.uids, expected.uids)):
        yield from (key for key in sorted(there.keys() | right.keys()) if there.get(key) != right.get(key))


def _recorded(recorded: object, expected: object, name: str) -> str:
    return f"{shown(str(getattr(recorded, name)))} recorded, {getattr(expected, name)} found"
