"""The checks of a visit's files against each other, and what they find. Reads the files; changes nothing.

Each file is compared with what the files before it give. The archive is read from beginning to end: its MD5 must be
that of its checksum file, and the metadata must be, byte for byte, what ``deposit_visit_metadata`` writes for this
archive and these tags. The dataset, and its deposit for ``annex::`` addresses, must be what this metadata gives with
the store address, identity and date that the dataset itself records. Where the bytes differ, the content is compared
to name the images and fields. Values from headers never appear in a finding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from icf_utils.archive.checksum import RESTORE_ADVICE, read_checksum
from icf_utils.dataset.annex_url import deposit_paths, has_annex_deposit, list_stored_files
from icf_utils.dataset.build import BuiltDataset, build_annex_deposit, build_dataset
from icf_utils.dataset.git_objects import BranchFile
from icf_utils.dataset.lineage import Lineage
from icf_utils.dataset.origin import DatasetOrigin, DatasetUuids
from icf_utils.dataset.reader import DepositedDataset, kept_archives, read_dataset
from icf_utils.errors import DepositDamaged, DepositMissing, IcfError, StorageFailure, printable, storage_errors
from icf_utils.metadata.allowlist import AllowList
from icf_utils.metadata.describe import ArchiveDescription, describe_archive
from icf_utils.metadata.records import (
    ImageRecord,
    TarballRecord,
    VisitMetadata,
    check_metadata,
    parse_images,
    parse_tarball,
)
from icf_utils.metadata.stage import build_visit_metadata, encode_metadata_files
from icf_utils.progress import Progress
from icf_utils.results import Notice
from icf_utils.store.layout import Visit, read_deposit, store_identity


@dataclass(frozen=True)
class Finding:
    """Something wrong in the store: the file, the image or page in it if known, and the problem in words."""

    path: Path
    subject: str
    problem: str


@dataclass(frozen=True)
class VisitCheck:
    """The verification of one visit. Without findings, its files agree with each other.

    ``absent`` names the stages that have not been made yet (``metadata``, ``dataset``, ``catalog``), not an error.
    ``signed_by`` is who has signed the visit, if that was to be checked.
    """

    study: str
    visit: str
    images: int
    absent: tuple[str, ...]
    findings: tuple[Finding, ...]
    notices: tuple[Notice, ...] = ()
    signed_by: str = ""


@dataclass(frozen=True)
class VerifyResult:
    """The verification of a store or of one visit; ``left`` counts visits for which the time was too short."""

    visits: tuple[VisitCheck, ...]
    left: int = 0

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, in the order of the visits."""
        return tuple(finding for visit in self.visits for finding in visit.findings)


#: How errors name a place within a JSON file.
_RECORD = re.compile(r"(.+\.json), (record \d+)", re.DOTALL)


def finding_from_error(path: Path, error: IcfError, remedy: bool = False) -> Finding:
    """Turn an error that a check met into a finding about the file that the error names, or else about ``path``.

    With ``remedy``, the finding says what to do about damage: for what a repair could not rebuild.
    """
    if isinstance(error, DepositDamaged):
        within = _RECORD.fullmatch(error.path)
        place, subject = within.groups() if within else (error.path, "")
        advice = f"; {error.remedy}" if remedy else ""
        return Finding(Path(place), subject, f"expected {error.expected}, found {error.found}{advice}")
    if isinstance(error, DepositMissing):
        return Finding(Path(error.path), "", f"does not exist; {error.remedy}")
    if isinstance(error, StorageFailure):
        return Finding(Path(error.path), "", str(error))
    return Finding(path, "", str(error))


_DEPOSIT_METADATA = "run 'icf-utils deposit_visit_metadata' for this visit first"


def check_archive(
    place: Visit, metadata: MetadataParts, progress: Progress, tags: AllowList
) -> tuple[ArchiveDescription | None, list[Finding]]:
    """Describe the archive from its bytes and compare it with its checksum file.

    ``tags`` are recorded in addition to the standard ones.
    """
    findings = []
    expected = None
    try:
        expected = read_checksum(place, "restore it from a copy")
    except IcfError as error:
        findings.append(finding_from_error(place.checksum, error))
    try:
        with storage_errors(place.archive, "examine"):
            there = place.archive.exists()
        if not there:
            raise DepositMissing(place.archive, RESTORE_ADVICE)
        found = describe_archive(place.archive, place.member_root, tags, progress, sha256=True)
    except IcfError as error:
        return None, [*findings, finding_from_error(place.archive, error)]
    if expected is not None and found.md5 != expected:
        findings.append(_disagreement(place, metadata, found.md5, expected))
    return found, findings


def _disagreement(place: Visit, metadata: MetadataParts, md5: str, expected: str) -> Finding:
    """Blame the checksum file if the metadata agrees with the archive, else the archive."""
    if metadata.tarball and metadata.tarball.md5 == md5:
        return Finding(place.checksum, "", f"says {expected}, but the archive's MD5 and its metadata say {md5}")
    return Finding(place.archive, "", f"its MD5 is {md5}, but the checksum file says {expected}")


@dataclass(frozen=True)
class MetadataParts:
    """What the two JSON files record; ``None`` for one that is missing or damaged."""

    tarball: TarballRecord | None
    images: tuple[ImageRecord, ...] | None

    @property
    def whole(self) -> VisitMetadata | None:
        """The metadata, if both files can be read."""
        if self.tarball is None or self.images is None:
            return None
        return VisitMetadata(self.tarball, self.images)


def read_metadata(place: Visit) -> tuple[MetadataParts, list[Finding]]:
    """Read the JSON files, each by itself; if that fails, the findings say why."""
    findings: list[Finding] = []
    tarball, images = None, None
    try:
        tarball = parse_tarball(read_deposit(place.tarball_json, _DEPOSIT_METADATA), str(place.tarball_json))
    except IcfError as error:
        findings.append(finding_from_error(place.tarball_json, error))
    try:
        images = parse_images(read_deposit(place.dicoms_json, _DEPOSIT_METADATA), str(place.dicoms_json))
    except IcfError as error:
        findings.append(finding_from_error(place.dicoms_json, error))
    return MetadataParts(tarball, images), findings


def check_visit_metadata(place: Visit, metadata: MetadataParts, found: ArchiveDescription) -> list[Finding]:
    """Check the metadata against the archive: position, size, MD5 and tags of every image, and both files' bytes.

    A file that could not be read does not keep the other one from being checked.
    """
    expected = build_visit_metadata(place, found)
    findings: list[Finding] = []
    if metadata.images is not None:
        findings += (
            Finding(place.dicoms_json, name, problem)
            for name, problem in _metadata_differences(metadata.images, expected.images)
        )
    if metadata.tarball is not None:
        findings += _tarball_differences(place, metadata.tarball, expected.tarball)
    return findings or list(_other_bytes(place, metadata, expected))


def _tarball_differences(place: Visit, recorded: TarballRecord, expected: TarballRecord) -> Iterator[Finding]:
    for name, right in vars(expected).items():
        if getattr(recorded, name) != right:
            problem = f"'{name}' does not agree with the archive: {_recorded(recorded, expected, name)}"
            yield Finding(place.tarball_json, "", problem)


def _other_bytes(place: Visit, metadata: MetadataParts, expected: VisitMetadata) -> Iterator[Finding]:
    """Find files with the same content in other bytes: white space, order of keys, escapes."""
    problem = "has the right content, but not in the bytes that deposit_visit_metadata writes"
    is_read = {place.tarball_json: metadata.tarball is not None, place.dicoms_json: metadata.images is not None}
    for path, data in encode_metadata_files(place, expected):
        if is_read[path] and read_deposit(path, "restore it from a copy") != data:
            yield Finding(path, "", problem)


def _metadata_differences(
    recorded: tuple[ImageRecord, ...], expected: tuple[ImageRecord, ...]
) -> Iterator[tuple[str, str]]:
    there = {image.path: image for image in recorded}
    right = {image.path: image for image in expected}
    if len(there) < len(recorded):
        yield "", "has more than one record of the same image"
    for path in sorted(right.keys() - there.keys()):
        yield path, "is in the archive but has no record"
    for path in sorted(there.keys() - right.keys()):
        yield path, "has a record but is not an image in the archive"
    for path in sorted(right.keys() & there.keys()):
        fields = ", ".join(_different_fields(there[path], right[path]))
        if fields:
            yield path, f"the record does not agree with the archive: {fields}"
    if list(there) != list(right) and there.keys() == right.keys():
        yield "", "does not list the images in the archive's order"


def _different_fields(recorded: ImageRecord, expected: ImageRecord) -> Iterator[str]:
    """The names of the fields that differ; values are not named if they come from headers."""
    for name in ("md5", "size", "offset"):
        if getattr(recorded, name) != getattr(expected, name):
            yield f"{name} ({_recorded(recorded, expected, name)})"
    for there, right in ((recorded.tags, expected.tags), (recorded.uids, expected.uids)):
        yield from (key for key in sorted(there.keys() | right.keys()) if there.get(key) != right.get(key))


def _recorded(recorded: object, expected: object, name: str) -> str:
    return f"{printable(str(getattr(recorded, name)))} recorded, {getattr(expected, name)} found"


_OTHER_DATASET = "does not match, byte for byte, the dataset that this metadata gives"
_DEPOSIT_DATASET = "run 'icf-utils deposit_visit_dataset' again"


def check_dataset(
    place: Visit,
    metadata: VisitMetadata,
    store_url: str | None,
    store_id: str | None,
    read: Callable[[Visit], DepositedDataset | None] = read_dataset,
) -> list[Finding]:
    """Check keys, URLs, tags, links and commits of the dataset against the metadata.

    ``store_url`` and ``store_id`` are the address that the dataset must name and the identity that it must be made for;
    ``None`` accepts any. ``read`` reads the dataset.
    """
    try:
        deposit = read(place)
        if deposit is None:
            return [Finding(place.refs, "", "is missing although the dataset's other file exists")]
        check_metadata(metadata, place)
        lineage = deposit.lineage(kept_archives(place))
        expected = build_dataset(metadata, place, deposit.origin, lineage)
    except IcfError as error:
        return [finding_from_error(place.export, error)]
    findings = [Finding(place.export, "", text) for text in _other_store(place, deposit.origin, store_url, store_id)]
    findings += check_annex_deposit(place, metadata, deposit.origin, lineage)
    if (
        read_deposit(place.export, _DEPOSIT_DATASET) == expected.export
        and read_deposit(place.refs, _DEPOSIT_DATASET) == expected.refs
    ):
        return findings
    differences = [Finding(place.export, name, problem) for name, problem in _dataset_differences(deposit, expected)]
    return findings + (differences or [Finding(place.export, "", _OTHER_DATASET)])


def _other_store(place: Visit, origin: DatasetOrigin, store_url: str | None, store_id: str | None) -> Iterator[str]:
    if store_url is not None and origin.store_url != store_url.rstrip("/"):
        yield f"names the store '{origin.store_url}', not '{store_url}'"
    if store_id is not None and origin.uuids != DatasetUuids.of(store_identity(origin.store_url, store_id), place):
        yield f"was not made for the store identity '{printable(store_id)}'"


def _dataset_differences(deposit: DepositedDataset, expected: BuiltDataset) -> Iterator[tuple[str, str]]:
    yield from _files("main", deposit.main.files, expected.main_files)
    yield from _files("git-annex", deposit.annex.files, expected.annex_files)


def _files(
    branch: str, there: Mapping[bytes, BranchFile], wanted: Mapping[bytes, BranchFile]
) -> Iterator[tuple[str, str]]:
    for path in sorted(there.keys() | wanted.keys()):
        if there.get(path) != wanted.get(path):
            name = path.decode("utf-8", "surrogateescape")
            state = "missing" if path not in there else "not expected" if path not in wanted else "different"
            yield name, f"is {state} on the branch {branch}"


#: About a file whose other half exists.
HALF_MISSING = "is missing: the stage was interrupted, or the file was lost"
_WITHOUT_DATASET = "belongs to a dataset that does not exist"
_DEPOSIT_ANNEX_URL = "run 'icf-utils deposit_visit_dataset --annex-url' again"


def check_annex_deposit(
    place: Visit, metadata: VisitMetadata, origin: DatasetOrigin, lineage: Lineage | None = None
) -> list[Finding]:
    """Check every byte of the deposit for ``annex::`` addresses, if there is one, against metadata and ``origin``."""
    if not has_annex_deposit(place):
        return []
    try:
        wanted = dict(deposit_paths(place, build_annex_deposit(metadata, place, origin, lineage).files))
    except IcfError as error:
        return [finding_from_error(place.annex_url, error)]
    unexpected = [path for path in list_stored_files(place) if path not in wanted]
    findings = [Finding(path, "", "does not belong to this dataset") for path in unexpected]
    return [*findings, *(item for path, data in wanted.items() for item in _check_file(path, data))]


def _check_file(path: Path, data: bytes) -> list[Finding]:
    try:
        if not path.exists():
            return [Finding(path, "", HALF_MISSING)]
        same = read_deposit(path, _DEPOSIT_ANNEX_URL) == data
    except IcfError as error:
        return [finding_from_error(path, error)]
    return [] if same else [Finding(path, "", "does not match, byte for byte, what this dataset gives")]


def check_no_annex_deposit(place: Visit) -> list[Finding]:
    """Check that a visit without a dataset has no deposit for ``annex::`` addresses either."""
    return [Finding(place.annex_url, "", _WITHOUT_DATASET)] if has_annex_deposit(place) else []
