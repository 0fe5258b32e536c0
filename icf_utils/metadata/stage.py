"""The second stage: a TAR becomes ``_metadata_dicoms.json`` and ``_metadata_tarball.json``. Reads one, writes two."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.archive.checksum import compare_checksum, file_md5, read_checksum
from icf_utils.errors import DepositMissing, StorageFailure
from icf_utils.metadata.allowlist import AllowList, allow_list_from_settings, read_allow_list
from icf_utils.metadata.describe import ArchiveDescription, describe_archive
from icf_utils.metadata.handover import ArchiveDescriber, HandedOver, read_handover, remove_handover
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
    with visit_lock(place, progress):
        found = read_handover(place, _request(place, tags, settings))
        if found is None:
            found = _read_archive(place, choose_allow_list(place, tags, settings), progress)
        compare_checksum(place, read_checksum(place, _REMEDY), found.md5)
        known = [(Written(place.archive, "unchanged"), found.sha256)] if found.sha256 else []
        tarball = TarballRecord(found.size, found.md5, place.dspath, place.storepath)
        written = [(place.dicoms_json, found.dicoms_json), (place.tarball_json, encode_tarball(tarball))]
        files = publish_with_sums(place, written, known)
        remove_handover(place)
    notices = found.notices
    if not found.images:
        notices += (Notice("no-dicom", place.storepath, "contains no DICOM images; the list of images is empty"),)
    return MetadataResult(study, visit, files, found.images, found.others, notices)


def _read_archive(place: Visit, allowed: AllowList, progress: Progress) -> HandedOver:
    """Describe the archive from its bytes."""
    found = describe_verified_archive(place, allowed, progress, sha256=not place.sums.exists())
    return HandedOver(
        md5=found.md5,
        sha256=found.sha256,
        size=found.size,
        images=len(found.images),
        others=tuple(found.others),
        notices=tuple(found.notices),
        dicoms_json=encode_images(found.images),
    )


def make_describer(place: Visit, tags: str | os.PathLike[str] | None, settings: Settings | None) -> ArchiveDescriber:
    """What describes an archive while it is written, for :func:`deposit_visit_metadata` with the same arguments.

    Raises :class:`~icf_utils.errors.InvalidSetting`.
    """
    return ArchiveDescriber(choose_allow_list(place, tags, settings), _request(place, tags, settings))


def _request(place: Visit, tags: str | os.PathLike[str] | None, settings: Settings | None) -> dict[str, object]:
    """What :func:`choose_allow_list` chooses from; looking its names up takes as long as all the rest of the stage."""
    chosen = (load_settings(place.root) if settings is None else settings).metadata
    names: dict[str, object] = {"tags": list(chosen.tags), "allow_identifying": chosen.allow_identifying}
    with suppress(StorageFailure):  # reported when the file is read
        names = {"file": file_md5(tags)} if tags is not None else names
    return {"technical_tags": list(chosen.technical_tags), **names}


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
