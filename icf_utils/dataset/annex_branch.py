"""The files in the two branches of a visit's dataset: metadata in, paths and contents out. Pure.

``main`` has a symbolic link for each image and for the archive; ``git-annex`` has, for each key, where its content is,
its addresses and its tags. The formats are those of https://git-annex.branchable.com/internals/ ("The git-annex
branch"). Every record carries a time, in whole seconds since 1970; each file is byte for byte what git-annex's batch
commands write with that time as their clock (``GIT_ANNEX_VECTOR_CLOCK``).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from icf_utils.dataset.annex_keys import archivist_obstacle, image_locator, link_target, lower_folder, md5e_key
from icf_utils.dataset.git_objects import FILE, LINK, BranchFile, fits_file_systems, git_can_hold
from icf_utils.dataset.origin import DatasetOrigin, DatasetUuids
from icf_utils.metadata.records import ImageRecord, TarballRecord, VisitMetadata
from icf_utils.results import Notice
from icf_utils.store.layout import Visit

#: Makes git-annex use the kind of keys that this module writes, and keeps git's own files in git.
ATTRIBUTES = b"* annex.backend=MD5E\n**/.git* annex.largefiles=nothing\n"

_REPOSITORY, _UNCURL, _ARCHIVIST = "icf-utils", "uncurl", "archivist"

_LEFT_OUT = "git reserves this name and refuses it in a tree; the file is in the archive but not in the dataset"
_TOO_LONG = "a part of its path is longer than 255 bytes, or the path is longer than 4,095; it is in the archive only"
_NO_IMAGES = "it has no readable DICOM image; the dataset contains only the archive"


@dataclass(frozen=True)
class Branches:
    """Files of both branches by path, the number of images among them, and notices for the user."""

    main: Mapping[bytes, BranchFile]
    annex: Mapping[bytes, BranchFile]
    images: int
    notices: tuple[Notice, ...]


@dataclass(frozen=True)
class _Annexed:
    """An image with its path and key."""

    path: bytes
    key: bytes
    record: ImageRecord


def make_branches(metadata: VisitMetadata, visit: Visit, origin: DatasetOrigin) -> Branches:
    """Make both branches of the dataset that ``metadata`` describes."""
    records = [record for record in metadata.images if not _obstacle(record.path)]
    images = [_annexed(record) for record in records]
    archive = archive_key(metadata.tarball)
    return Branches(
        main=_main(images, archive, visit, origin.uuids),
        annex={
            **archive_files(archive, visit.storepath, origin),
            **_image_files(images, archive, origin),
            **repository_logs(origin),
        },
        images=len(images),
        notices=_notices(metadata, visit),
    )


def archive_key(tarball: TarballRecord) -> bytes:
    """Return the annex key of the archive."""
    return md5e_key(tarball.size, tarball.md5, tarball.dspath.encode("ascii"))


def encode_name(path: str) -> bytes:
    """Encode a name of the metadata, independently of the locale."""
    return path.encode("utf-8", "surrogateescape")


def _annexed(record: ImageRecord) -> _Annexed:
    path = encode_name(record.path)
    return _Annexed(path, md5e_key(record.size, record.md5, path), record)


def _main(images: Iterable[_Annexed], archive: bytes, visit: Visit, uuids: DatasetUuids) -> dict[bytes, BranchFile]:
    place = visit.dspath.encode("ascii")
    return {
        b".datalad/config": BranchFile(FILE, dataset_config(uuids)),
        b".gitattributes": BranchFile(FILE, ATTRIBUTES),
        place: BranchFile(LINK, link_target(place, archive)),
        **{image.path: BranchFile(LINK, link_target(image.path, image.key)) for image in images},
    }


def dataset_config(uuids: DatasetUuids) -> bytes:
    """Make ``.datalad/config``, by which DataLad recognises a dataset."""
    return f'[datalad "dataset"]\n\tid = {uuids.dataset}\n'.encode("ascii")


def repository_logs(origin: DatasetOrigin) -> dict[bytes, BranchFile]:
    """Make the files of the ``git-annex`` branch about repositories (not keys)."""
    uuids, time = origin.uuids, origin.time
    remotes = {uuids.uncurl: _UNCURL, uuids.archivist: _ARCHIVIST}
    return {
        b"uuid.log": BranchFile(FILE, uuid_log({uuids.repository: _REPOSITORY, **remotes}, time)),
        b"remote.log": BranchFile(FILE, remote_log(remotes, time)),
    }


def key_log_path(key: bytes, suffix: bytes) -> bytes:
    """Return the path of a log of ``key`` in the ``git-annex`` branch."""
    return b"%s/%s%s" % (lower_folder(key), key, suffix)


def archive_files(archive: bytes, storepath: str, origin: DatasetOrigin) -> dict[bytes, BranchFile]:
    """Make the logs of an archive: the key ``archive`` is at ``storepath`` below the store's address."""
    url = f"{origin.store_url}/{storepath}".encode("ascii")
    return {
        key_log_path(archive, b".log"): BranchFile(FILE, location_log(origin.uuids.uncurl, origin.time)),
        key_log_path(archive, b".log.web"): BranchFile(FILE, url_log([url], origin.time)),
    }


def _image_files(images: Iterable[_Annexed], archive: bytes, origin: DatasetOrigin) -> dict[bytes, BranchFile]:
    """Make the logs of all images; equal images share a key, with all their addresses and the union of their tags."""
    by_key: dict[bytes, list[_Annexed]] = {}
    for image in images:
        by_key.setdefault(image.key, []).append(image)
    location = BranchFile(FILE, location_log(origin.uuids.archivist, origin.time))
    files = {}
    for key, same in by_key.items():
        stem = key_log_path(key, b".log")
        files[stem] = location
        files[stem + b".web"] = BranchFile(FILE, url_log(_locators(same, archive), origin.time))
        tags = metadata_log(annex_fields([image.record for image in same]), origin.time)
        if tags:
            files[stem + b".met"] = BranchFile(FILE, tags)
    return files


def _locators(same: Iterable[_Annexed], archive: bytes) -> list[bytes]:
    return [image_locator(archive, image.path, image.record.size, image.record.offset) for image in same]


def annex_fields(records: Iterable[ImageRecord]) -> dict[str, set[bytes]]:
    """Collect git-annex metadata of images with one key: names in lower case, values as text, without empty ones."""
    fields: dict[str, set[bytes]] = {}
    for record in records:
        for tag, value in record.tags.items():
            texts = {_text(item) for item in (value if isinstance(value, list) else [value])}
            fields.setdefault(tag.lower(), set()).update(texts - {b""})
    return fields


def _text(value: Any) -> bytes:
    """Encode a value: text unchanged, a number as JSON writes it."""
    return encode_name(value if isinstance(value, str) else json.dumps(value))


def _obstacle(path: str) -> str:
    """Why a dataset cannot have a file at ``path``; empty if it can."""
    if not git_can_hold(path):
        return _LEFT_OUT
    return "" if fits_file_systems(encode_name(path)) else _TOO_LONG


def _notices(metadata: VisitMetadata, visit: Visit) -> tuple[Notice, ...]:
    notices = [Notice("no-images", visit.archive.name, _NO_IMAGES)] if not metadata.images else []
    for record in metadata.images:
        if obstacle := _obstacle(record.path):
            notices.append(Notice("not-in-dataset", record.path, obstacle))
        elif obstacle := archivist_obstacle(encode_name(record.path)):
            notices.append(Notice("archivist-unreachable", record.path, obstacle))
    return tuple(notices)


#: git-annex writes values with these in base64, as they would end or change the record.
_NEEDS_BASE64 = re.compile(rb"\A!|[ \r\n]")


def uuid_log(descriptions: Mapping[UUID, str], time: int) -> bytes:
    """Make ``uuid.log``: the descriptions of repositories and remotes."""
    return _by_uuid({uuid: f"{text} timestamp={time}s" for uuid, text in descriptions.items()})


def remote_log(external: Mapping[UUID, str], time: int) -> bytes:
    """Make ``remote.log``: external special remotes, named like their programs, that clones enable automatically."""
    line = "autoenable=true encryption=none externaltype={0} name={0} type=external timestamp={1}s"
    return _by_uuid({uuid: line.format(name, time) for uuid, name in external.items()})


def _by_uuid(texts: Mapping[UUID, str]) -> bytes:
    return "".join(f"{uuid} {texts[uuid]}\n" for uuid in sorted(texts, key=str)).encode("utf-8")


def location_log(uuid: UUID, time: int) -> bytes:
    """Make ``<key>.log``: the remote that has the key."""
    return b"%ds 1 %s\n" % (time, str(uuid).encode("ascii"))


def url_log(urls: Iterable[bytes], time: int) -> bytes:
    """Make ``<key>.log.web``: addresses of the key. The colon means that a special remote claims the address."""
    return b"".join(b"%ds 1 :%s\n" % (time, url) for url in urls)


def metadata_log(fields: Mapping[str, Iterable[bytes]], time: int) -> bytes:
    """Make ``<key>.log.met``: the metadata fields of a key, each with a set of values. Empty if there are none."""
    texts = [_field(name, set(fields[name])) for name in sorted(fields) if fields[name]]
    return b"%ds %s\n" % (time, b" ".join(texts)) if texts else b""


def _field(name: str, values: set[bytes]) -> bytes:
    return b" ".join([name.encode("ascii"), *(b"+" + _value(value) for value in sorted(values))])


def _value(value: bytes) -> bytes:
    return b"!" + base64.b64encode(value) if _NEEDS_BASE64.search(value) else value
