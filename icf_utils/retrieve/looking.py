"""What a COD bucket has of the wanted studies: lists it and reads the series' metadata. Uses the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from icf_utils.errors import InvalidSetting, shown
from icf_utils.fetch.opening import read_all
from icf_utils.fetch.problems import FetchFailure
from icf_utils.progress import Progress
from icf_utils.results import Notice
from icf_utils.retrieve.buckets import Bucket, Listed
from icf_utils.retrieve.cod import LARGEST, NotMetadata, is_name, read_series
from icf_utils.retrieve.places import BucketPlace
from icf_utils.retrieve.values import Found, Tar, Trouble


@dataclass(frozen=True)
class SeriesObjects:
    """The objects of one series, as they were listed."""

    study: str
    series: str
    tar: Listed | None
    metadata: Listed | None
    is_locked: bool
    has_error: bool


def look(
    bucket: Bucket,
    place: BucketPlace,
    studies: Sequence[str],
    *,
    only: frozenset[str],
    keywords: Sequence[str],
    jobs: int,
    progress: Progress,
) -> Found:
    """All series of the named studies, or of all; tags for the DICOM ``keywords``.

    If ``only`` names series, no others are looked into.

    Series that cannot be had are troubles. Raises :class:`~icf_utils.fetch.problems.FetchFailure` where the bucket
    as a whole cannot be used, and :class:`~icf_utils.errors.InvalidSetting` for what is no study's name.
    """
    series, troubles = _listed(bucket, place, studies)
    series = [one for one in series if not only or one.series in only]
    with progress.task("Reading metadata", len(series), "series") as task, ThreadPoolExecutor(jobs) as pool:
        parts = []
        for part in pool.map(lambda one: _read(bucket, place, one, keywords), series):
            parts.append(part)
            task.advance(1)
    notices = [notice for one in series for notice in _notices(one)]
    return Found(
        tuple(tar for part in parts for tar in part.tars),
        (*troubles, *(trouble for part in parts for trouble in part.troubles)),
        (*notices, *(notice for part in parts for notice in part.notices)),
    )


def _listed(bucket: Bucket, place: BucketPlace, studies: Sequence[str]) -> tuple[list[SeriesObjects], list[Trouble]]:
    root = place.named("studies") + "/"
    for study in studies:
        if not is_name(study):
            raise InvalidSetting("--study", f"'{shown(study)}' cannot be a study of a bucket")
    if not studies:
        everything = group(bucket.list(root), root)
        nothing = Trouble(bucket.url(root), "there are no studies; check bucket and prefix")
        return everything, [] if everything else [nothing]
    found: list[SeriesObjects] = []
    troubles = []
    for study in dict.fromkeys(studies):
        here = group(bucket.list(f"{root}{study}/"), root)
        found += here
        if not here:
            troubles.append(Trouble(bucket.url(f"{root}{study}"), "there is no such study; check its name and prefix"))
    return found, troubles


def group(objects: Iterable[Listed], root: str) -> list[SeriesObjects]:
    """Objects by series, in the order of their names; ``root`` is the common beginning of all names. Pure."""
    parts: dict[tuple[str, str], dict[str, Listed]] = {}
    for item in objects:
        for study, series, kind in _kinds(item.name.removeprefix(root)):
            parts.setdefault((study, series), {})[kind] = item
    return [
        SeriesObjects(
            study, series, kinds.get("tar"), kinds.get("metadata.json"), ".gradient.lock" in kinds, "error.log" in kinds
        )
        for (study, series), kinds in sorted(parts.items())
        if kinds.keys() & {"tar", "metadata.json", ".gradient.lock", "error.log"}
    ]


def _kinds(name: str) -> Iterator[tuple[str, str, str]]:
    parts = name.split("/")
    if len(parts) < 3 or parts[1] != "series" or not is_name(parts[0]):
        return
    if len(parts) == 3 and parts[2].endswith(".tar") and is_name(parts[2][:-4]):
        yield parts[0], parts[2][:-4], "tar"
    if len(parts) == 4 and is_name(parts[2]):
        yield parts[0], parts[2], parts[3]


def _notices(one: SeriesObjects) -> Iterator[Notice]:
    name = f"{one.study}/{one.series}"
    if one.is_locked:
        yield Notice("being-written", name, "it has a .gradient.lock: somebody is writing it, or was interrupted")
    if one.has_error:
        yield Notice("writer-failed", name, "it has an error.log: its writer failed, images may be missing")


def _read(bucket: Bucket, place: BucketPlace, one: SeriesObjects, keywords: Sequence[str]) -> Found:
    url = bucket.url(place.named("studies", one.study, "series", f"{one.series}.tar"))
    if one.metadata is None:
        return Found((), (Trouble(url, "it has no metadata.json: nobody knows what is in it", study=one.study),))
    try:
        raw = read_all(bucket.open(one.metadata), LARGEST)
        series = read_series(raw, one.study, one.series, url, keywords)
    except NotMetadata as error:
        return Found((), (Trouble(url, f"its metadata.json cannot be used: {error}", study=one.study),))
    except FetchFailure as error:
        if error.kind in ("unauthorised", "stopped"):
            raise
        return Found((), (Trouble(url, f"its metadata.json did not come: {error}", study=one.study),))
    if not series.images and not series.troubles:
        notice = Notice("empty-series", f"{one.study}/{one.series}", "its metadata.json names no image")
        return Found((), notices=(notice,))
    if one.tar is None:
        size = sum(image.span.size for image in series.images)
        return Found(
            (),
            (
                Trouble(url, "it has a metadata.json, but there is no such TAR", size=size, study=one.study),
                *series.troubles,
            ),
        )
    return Found((Tar(url, bucket.open(one.tar), series.images),), series.troubles)
