"""Which files the two branches of a visit's dataset hold. Pure: metadata in, paths and contents out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from icf_utils.dataset import branch
from icf_utils.dataset.gitobjects import FILE, LINK, File
from icf_utils.dataset.keys import link_target, lower_folder, md5e_key
from icf_utils.dataset.locator import archivist_obstacle, image_locator
from icf_utils.dataset.names import git_can_hold
from icf_utils.dataset.origin import Origin, Uuids
from icf_utils.metadata.records import ImageRecord, TarballRecord, VisitMetadata
from icf_utils.results import Notice
from icf_utils.store import Visit

#: Annexed files get the keys that this module writes, and git's own files stay in git.
ATTRIBUTES = b"* annex.backend=MD5E\n**/.git* annex.largefiles=nothing\n"

_REPOSITORY, _UNCURL, _ARCHIVIST = "icf-utils", "uncurl", "archivist"

_LEFT_OUT = "git takes this name for one of its own and cannot hold it; the file is in the archive, not in the dataset"
_NO_IMAGES = "it has no readable DICOM image; the dataset holds the archive alone"


@dataclass(frozen=True)
class Branches:
    """Files by path of both branches, the number of images among them, and what a user should know."""

    main: Mapping[bytes, File]
    annex: Mapping[bytes, File]
    images: int
    notices: tuple[Notice, ...]


@dataclass(frozen=True)
class _Annexed:
    """An image as the dataset knows it."""

    path: bytes
    key: bytes
    record: ImageRecord


def plan(metadata: VisitMetadata, visit: Visit, origin: Origin) -> Branches:
    """Both branches of the dataset that ``metadata`` describes."""
    records = [record for record in metadata.images if git_can_hold(record.path)]
    images = [_annexed(record) for record in records]
    archive = archive_key(metadata.tarball)
    return Branches(
        main=_main(images, archive, visit, origin.uuids),
        annex={**_archive_files(archive, visit, origin), **_image_files(images, archive, origin), **logs(origin)},
        images=len(images),
        notices=_notices(metadata, visit),
    )


def archive_key(tarball: TarballRecord) -> bytes:
    """The annex key of the archive."""
    return md5e_key(tarball.size, tarball.md5, tarball.dspath.encode("ascii"))


def name_bytes(path: str) -> bytes:
    """The bytes of a name in the metadata, whatever the locale."""
    return path.encode("utf-8", "surrogateescape")


def _annexed(record: ImageRecord) -> _Annexed:
    path = name_bytes(record.path)
    return _Annexed(path, md5e_key(record.size, record.md5, path), record)


def _main(images: Iterable[_Annexed], archive: bytes, visit: Visit, uuids: Uuids) -> dict[bytes, File]:
    place = visit.dspath.encode("ascii")
    return {
        b".datalad/config": File(FILE, dataset_config(uuids)),
        b".gitattributes": File(FILE, ATTRIBUTES),
        place: File(LINK, link_target(place, archive)),
        **{image.path: File(LINK, link_target(image.path, image.key)) for image in images},
    }


def dataset_config(uuids: Uuids) -> bytes:
    """``.datalad/config``, by which DataLad knows a dataset."""
    return f'[datalad "dataset"]\n\tid = {uuids.dataset}\n'.encode("ascii")


def logs(origin: Origin) -> dict[bytes, File]:
    """The files of the ``git-annex`` branch that are about repositories, not keys."""
    uuids, time = origin.uuids, origin.time
    remotes = {uuids.uncurl: _UNCURL, uuids.archivist: _ARCHIVIST}
    return {
        b"uuid.log": File(FILE, branch.uuid_log({uuids.repository: _REPOSITORY, **remotes}, time)),
        b"remote.log": File(FILE, branch.remote_log(remotes, time)),
    }


def key_file(key: bytes, suffix: bytes) -> bytes:
    """Where a log of ``key`` stands in the ``git-annex`` branch."""
    return b"%s/%s%s" % (lower_folder(key), key, suffix)


def _archive_files(archive: bytes, visit: Visit, origin: Origin) -> dict[bytes, File]:
    url = f"{origin.store_url}/{visit.storepath}".encode("ascii")
    return {
        key_file(archive, b".log"): File(FILE, branch.location_log(origin.uuids.uncurl, origin.time)),
        key_file(archive, b".log.web"): File(FILE, branch.url_log([url], origin.time)),
    }


def _image_files(images: Iterable[_Annexed], archive: bytes, origin: Origin) -> dict[bytes, File]:
    """Equal images under several names have one key: several addresses, the union of their tags."""
    by_key: dict[bytes, list[_Annexed]] = {}
    for image in images:
        by_key.setdefault(image.key, []).append(image)
    location = File(FILE, branch.location_log(origin.uuids.archivist, origin.time))
    files = {}
    for key, same in by_key.items():
        stem = key_file(key, b".log")
        files[stem] = location
        files[stem + b".web"] = File(FILE, branch.url_log(_locators(same, archive), origin.time))
        tags = branch.metadata_log(annex_fields([image.record for image in same]), origin.time)
        if tags:
            files[stem + b".met"] = File(FILE, tags)
    return files


def _locators(same: Iterable[_Annexed], archive: bytes) -> list[bytes]:
    return [image_locator(archive, image.path, image.record.size, image.record.offset) for image in same]


def annex_fields(records: Iterable[ImageRecord]) -> dict[str, set[bytes]]:
    """git-annex metadata of the images: lower-case tag names, their values as text; an empty text is no value."""
    fields: dict[str, set[bytes]] = {}
    for record in records:
        for tag, value in record.tags.items():
            texts = {_text(item) for item in (value if isinstance(value, list) else [value])}
            fields.setdefault(tag.lower(), set()).update(texts - {b""})
    return fields


def _text(value: Any) -> bytes:
    """Text as it is, a number as JSON writes it."""
    return name_bytes(value if isinstance(value, str) else json.dumps(value))


def _notices(metadata: VisitMetadata, visit: Visit) -> tuple[Notice, ...]:
    notices = [Notice("no-images", visit.archive.name, _NO_IMAGES)] if not metadata.images else []
    for record in metadata.images:
        if not git_can_hold(record.path):
            notices.append(Notice("not-in-dataset", record.path, _LEFT_OUT))
        elif obstacle := archivist_obstacle(name_bytes(record.path)):
            notices.append(Notice("archivist-unreachable", record.path, obstacle))
    return tuple(notices)
