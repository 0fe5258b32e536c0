"""The images of visits in a store, by their metadata. Uses the network, or reads a store on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.dicom.values import Value
from icf_utils.errors import DepositDamaged, InvalidSetting, printable
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.files import path_of
from icf_utils.fetch.open import open_source, read_whole
from icf_utils.fetch.ranges import Span
from icf_utils.fetch.source import ByteSource
from icf_utils.metadata.records import ImageRecord, VisitMetadata, check_metadata, parse_images, parse_tarball
from icf_utils.progress import Progress
from icf_utils.retrieve.layout import why_unsafe
from icf_utils.retrieve.model import Digest, Failure, Image, Listing, Tar
from icf_utils.store.layout import Study, Visit, list_studies

if TYPE_CHECKING:
    from icf_utils.credentials import Credential
    from icf_utils.fetch.http import HttpClient

#: The largest metadata that is read, in bytes.
_LARGEST = 1 << 30

#: Readers cannot repair a store.
_REMEDY = "check the address and the names of study and visit, or ask the store's administrator"


def store_url(place: str | os.PathLike[str]) -> str:
    """The URL of a store, given as a URL or a path."""
    text = os.fspath(place)
    return text.rstrip("/") if "://" in text else Path(text).absolute().as_uri()


def check_folder(url: str) -> None:
    """Raise :class:`~icf_utils.errors.InvalidSetting` for a store on this machine whose folder does not exist."""
    if url.startswith("file:") and not path_of(url).is_dir():
        raise InvalidSetting("--store-dir", f"the folder '{printable(path_of(url))}' does not exist")


def list_visits(url: str, studies: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """All visits of these studies, or of all studies, in a store on this machine.

    Raises :class:`~icf_utils.errors.InvalidSetting` for a store on a web server, which has no list of its visits.
    """
    if not url.startswith("file:"):
        raise InvalidSetting("STUDY", "a store on a web server has no list of its visits: name each as STUDY/VISIT")
    root = path_of(url)
    found = [Study(root, study) for study in studies] if studies else list_studies(root)
    visits = tuple((study.study, visit) for study in found for visit in study.visits())
    missing = [study.study for study in found if not study.visits()]
    if missing or not visits:
        raise InvalidSetting("STUDY", f"'{printable(root)}' contains no visit of {', '.join(missing) or 'any study'}")
    return visits


def list_images(
    url: str,
    visits: Sequence[tuple[str, str]],
    client: HttpClient,
    credential: Credential | None,
    jobs: int,
    progress: Progress,
) -> Listing:
    """The images of visits (pairs of study and visit). Visits that cannot be read are in the listing's failures.

    Raises :class:`~icf_utils.errors.InvalidIdentifier` for a name that is not an identifier, and
    :class:`~icf_utils.fetch.errors.FetchFailure` where the server requires other credentials.
    """
    places = [Visit(Path(), study, visit) for study, visit in dict.fromkeys(visits)]
    with progress.task("Reading metadata", len(places), "visit") as task, ThreadPoolExecutor(jobs) as pool:
        parts = []
        for part in pool.map(lambda place: _read(url, place, client, credential), places):
            parts.append(part)
            task.advance(1)
    tars = tuple(tar for part in parts for tar in part.tars)
    recorded = frozenset(keyword for tar in tars for image in tar.images for keyword in image.tags)
    return Listing(tars, tuple(failure for part in parts for failure in part.failures), recorded=recorded)


def _read(url: str, place: Visit, client: HttpClient, credential: Credential | None) -> Listing:
    archive = f"{url}/{place.storepath}"
    try:
        metadata = _metadata(url, place, client, credential)
    except FetchFailure as error:
        if error.kind in ("unauthorised", "stopped"):
            raise
        return Listing((), (Failure(archive, f"its metadata could not be fetched: {error}", study=place.study),))
    except DepositDamaged as error:
        problem = (
            f"its metadata cannot be used: '{printable(error.path)}': expected {error.expected}, found {error.found}"
        )
        return Listing((), (Failure(archive, f"{problem}; {_REMEDY}", study=place.study),))
    source = open_source(archive, client, credential, metadata.tarball.size)
    bad = tuple(
        Failure(archive, f"its name is unsafe: {problem}", image=record.path, size=record.size, study=place.study)
        for record in metadata.images
        if (problem := why_unsafe(record.path))
    )
    images = tuple(_image(place, record) for record in metadata.images if not why_unsafe(record.path))
    return Listing((Tar(archive, source, images),), bad)


def _metadata(url: str, place: Visit, client: HttpClient, credential: Credential | None) -> VisitMetadata:
    def fetch(path: Path) -> tuple[bytes, ByteSource]:
        source = open_source(f"{url}/{path.as_posix()}", client, credential)
        return read_whole(source, _LARGEST), source

    raw, source = fetch(place.tarball_json)
    tarball = parse_tarball(raw, source.where)
    raw, source = fetch(place.dicoms_json)
    metadata = VisitMetadata(tarball, parse_images(raw, source.where))
    check_metadata(metadata, place)
    return metadata


def _image(place: Visit, record: ImageRecord) -> Image:
    uids = [record.uids[tag] for tag in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    tags: dict[str, Value] = {**record.tags, **record.uids}
    return Image(
        study=place.study,
        visit=place.visit,
        series=uids[1],
        sop=uids[2],
        path=record.path,
        key="/".join(uids) if all(uids) else record.path,
        span=Span(record.offset, record.size),
        digest=Digest("md5", record.md5),
        tags=tags,
    )
