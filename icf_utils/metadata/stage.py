"""The second stage: a TAR becomes ``_metadata_dicoms.json`` and ``_metadata_tarball.json``. Reads one, writes two."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.archive.checksum import compare_checksum, read_checksum
from icf_utils.errors import DepositMissing
from icf_utils.metadata.allowlist import AllowList, allow_list_from_settings, read_allow_list
from icf_utils.metadata.describe import ArchiveDescription, describe_archive
from icf_utils.metadata.records import TarballRecord, VisitMetadata, encode_images, encode_tarball
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice, Written
from icf_utils.settings import SETTINGS_NAME, Settings, load_settings
from icf_utils.store.elsewhere import refuse_elsewhere
from icf_utils.store.layout import Visit
from icf_utils.store.locks import visit_lock
from icf_utils.store.sums import publish_with_sums

_REMEDY = "run 'icf-utils make_studyvisit_archive' for this visit first"


@dataclass(frozen=True)
class MetadataResult:
    """The result of ``deposit_visit_metadata``; ``skipped`` names each member without a record, with the reason."""

    study: str
    visit: str
    files: tuple[Written, ...]
    images: int
    skipped: tuple[Notice, ...]
    notices: tuple[Notice, ...]


def deposit_visit_metadata(
    store_dir: str | os.PathLike[str],
    study: str,
    visit: str,
    *,
    tags: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> MetadataResult:
    """Describe an archive and its images in JSON.

    ``tags`` is a file of DICOM keywords to record in addition to the standard ones; the default is the list in the
    store's settings.

    Raises :class:`~icf_utils.errors.DepositMissing`, :class:`~icf_utils.errors.DepositDamaged` (archive cut off,
    wrong checksum), :class:`~icf_utils.errors.DepositDiffers`, :class:`~icf_utils.errors.InvalidSetting`.
    """
    place = Visit(Path(store_dir), study, visit)
    refuse_elsewhere(place, settings or load_settings(place.root))
    allowed = choose_allow_list(place, tags, settings)
    with visit_lock(place, progress):
        found = describe_verified_archive(place, allowed, progress, sha256=not place.sums.exists())
        metadata = build_visit_metadata(place, found)
        known = [(Written(place.archive, "unchanged"), found.sha256)] if found.sha256 else []
        files = publish_with_sums(place, encode_metadata_files(place, metadata), known)
    notices = tuple(found.notices)
    if not found.images:
        notices += (Notice("no-dicom", place.storepath, "contains no DICOM images; the list of images is empty"),)
    return MetadataResult(study, visit, files, len(found.images), tuple(found.others), notices)


def choose_allow_list(place: Visit, tags: str | os.PathLike[str] | None, settings: Settings | None) -> AllowList:
    """Choose what may be recorded: the settings' technical tags, and those of the file ``tags`` if given, else those
    that the settings name.
    """
    chosen = (load_settings(place.root) if settings is None else settings).metadata
    source = str(place.root / SETTINGS_NAME)
    if tags is None:
        return allow_list_from_settings(chosen, source)
    technical = replace(chosen, tags=(), allow_identifying=False)
    return read_allow_list(Path(tags)).joined(allow_list_from_settings(technical, source))


def describe_verified_archive(
    place: Visit, allowed: AllowList, progress: Progress, *, sha256: bool = False
) -> ArchiveDescription:
    """Describe the visit's archive, and check its MD5 against the checksum file; ``sha256`` asks for that.

    Raises :class:`~icf_utils.errors.DepositMissing` and :class:`~icf_utils.errors.DepositDamaged`.
    """
    if not place.archive.exists():
        raise DepositMissing(place.archive, _REMEDY)
    expected = read_checksum(place, _REMEDY)
    found = describe_archive(place.archive, place.member_root, allowed, progress, sha256=sha256)
    compare_checksum(place, expected, found.md5)
    return found


def build_visit_metadata(place: Visit, found: ArchiveDescription) -> VisitMetadata:
    """Build the metadata of a described archive."""
    tarball = TarballRecord(found.size, found.md5, place.dspath, place.storepath)
    return VisitMetadata(tarball, tuple(found.images))


def encode_metadata_files(place: Visit, metadata: VisitMetadata) -> list[tuple[Path, bytes]]:
    """Encode the two files; the small one is written last and shows that both are complete."""
    return [
        (place.dicoms_json, encode_images(metadata.images)),
        (place.tarball_json, encode_tarball(metadata.tarball)),
    ]
