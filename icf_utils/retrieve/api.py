"""Retrieving images from Python. Uses the network and the target directory.

A :class:`Retriever` lists, counts and retrieves the images of an :class:`ImageSource`: a :class:`StoreSource` or a
:class:`BucketSource`. :class:`CodRetrieve` has the functions of ``cod-retrieve`` by the same names.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from icf_utils.credentials import Login, Secret, bind_credential, without_credentials
from icf_utils.errors import InvalidSetting
from icf_utils.fetch.http import DEFAULT_RETRY, HttpClient, RetryPolicy
from icf_utils.fetch.tls import TlsFiles
from icf_utils.progress import SILENT, Progress
from icf_utils.retrieve.buckets import Bucket, BucketPlace, FolderBucket, GcsBucket, parse_bucket, parse_bucket_details
from icf_utils.retrieve.files import WORK_NAME, FolderDestination, check_saved, read_log
from icf_utils.retrieve.job import RetrieveJob, RetrieveResult
from icf_utils.retrieve.layout import BUCKET_LAYOUT, BUCKET_ZIP_LAYOUT, OUTPUT_LAYOUT, STORE_LAYOUT, template_keywords
from icf_utils.retrieve.model import Listing, PlannedFile
from icf_utils.retrieve.plan import Plan, Stats, make_plan, make_stats
from icf_utils.retrieve.selection import ALL, Selection
from icf_utils.retrieve.store_source import check_folder, store_url
from icf_utils.retrieve.zips import ZipDestination

if TYPE_CHECKING:
    from icf_utils.fetch.authentication import Authenticator
    from icf_utils.fetch.http import HttpClient


__all__ = [
    "BucketPlace",
    "BucketSource",
    "CodRetrieve",
    "RetrieveJob",
    "RetrieveResult",
    "Retriever",
    "Selection",
    "StoreSource",
    "parse_bucket",
]


class Retriever:
    """Retrieves the images of ``source`` that match ``selection`` into ``directory``; a context manager.

    ``layout`` is a template for the images' paths (empty: the source's default), ``zipped`` makes one zip for each
    study, ``connections`` is how many requests run at a time, ``tls`` names certificates for ``https``. Raises
    :class:`~icf_utils.errors.InvalidSetting`.
    """

    def __init__(
        self,
        source: ImageSource,
        directory: str | os.PathLike[str],
        *,
        selection: Selection = ALL,
        layout: str = "",
        zipped: bool = False,
        connections: int = 4,
        retry: RetryPolicy = DEFAULT_RETRY,
        tls: TlsFiles | None = None,
        progress: Progress = SILENT,
    ) -> None:
        if connections < 1:
            raise InvalidSetting("connections", "expected 1 or more")
        self._source, self._root, self._zipped = source, Path(directory), zipped
        self._selection, self._layout = selection, layout or source.layout(zipped)
        self._keywords = tuple(dict.fromkeys((*selection.keywords(), *template_keywords(self._layout))))
        self._connections, self._retry, self._progress = connections, retry, progress
        self._plan: Plan | None = None
        self._stop = threading.Event()
        self._client = HttpClient(connections, retry, tls=tls, stop=self._stop)

    def __enter__(self) -> Retriever:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def plan(self) -> Plan:
        """What is to be retrieved; determined once. Raises :class:`~icf_utils.errors.IcfError`."""
        if self._plan is None:
            found = self._source.list_images(
                self._selection, self._keywords, self._connections, self._client, self._progress
            )
            self._plan = make_plan(found, self._selection, self._layout, self._source.where, zipped=self._zipped)
        return self._plan

    def saved(self) -> dict[PlannedFile, bool]:
        """For each image, whether it exists and is correct; reads them all, changes nothing."""
        items, work = self.plan().items, self._root / WORK_NAME
        destination = ZipDestination(self._root, work, items) if self._zipped else FolderDestination(self._root, work)
        with ThreadPoolExecutor(self._connections) as pool:
            try:
                return check_saved(items, destination.has_correct, pool, self._progress)
            finally:
                if isinstance(destination, ZipDestination):
                    destination.close()

    def stats(self) -> Stats:
        """How much there is, and how much of it is saved."""
        return make_stats(self.plan().items, self.saved().values())

    def job(self) -> RetrieveJob:
        """A job that retrieves what is not saved yet, when it is started."""
        self._stop.clear()
        return RetrieveJob(
            self.plan,
            self._root,
            zipped=self._zipped,
            connections=self._connections,
            stop=self._stop,
            progress=self._progress,
        )


class CodRetrieve:
    """A COD bucket and a directory, with the functions of ``cod-retrieve``.

    ``bucket`` is a URL, which may have ``?token=`` (see :func:`~icf_utils.retrieve.buckets.parse_bucket`), the details
    ``{bucket, bucketPrefix, token}`` (see :func:`~icf_utils.retrieve.buckets.place_of`), or a
    :class:`~icf_utils.retrieve.buckets.BucketPlace`. The latter two are used unchanged.
    """

    def __init__(
        self,
        bucket: str | Mapping[str, object] | BucketPlace,
        directory: str | os.PathLike[str],
        connections: int = 4,
    ) -> None:
        self._place = _place(bucket)
        self._directory, self._connections = Path(directory), connections

    def logs(self) -> tuple[str, ...]:
        """The entries of ``log.json``: ``STUDY/SERIES/SOP``."""
        return read_log(self._directory)

    def get_stats(self, studies: Sequence[str]) -> Stats:
        """Figures of these studies; of all studies if none is given."""
        with self._retriever(studies, zipped=False) as retriever:
            return retriever.stats()

    def download(self, studies: Sequence[str], zip_output: bool = False) -> RetrieveJob:
        """A job for these studies; with ``zip_output`` it makes one zip for each."""
        return self._retriever(studies, zip_output).job()

    def _retriever(self, studies: Sequence[str], zipped: bool) -> Retriever:
        source = BucketSource(self._place, tuple(studies))
        return Retriever(source, self._directory, zipped=zipped, connections=self._connections)


def _place(bucket: str | Mapping[str, object] | BucketPlace) -> BucketPlace:
    if isinstance(bucket, str):
        return parse_bucket(bucket)
    return parse_bucket_details(bucket) if isinstance(bucket, Mapping) else bucket


class ImageSource(Protocol):
    """A store or bucket with TARs of images."""

    @property
    def where(self) -> str:
        """Its address for messages, without credentials."""

    def layout(self, zipped: bool) -> str:
        """The default template for the paths of images."""

    def list_images(
        self, selection: Selection, keywords: Sequence[str], jobs: int, client: HttpClient, progress: Progress
    ) -> Listing:
        """Its images, at least those that match the selection, with values of the DICOM ``keywords``."""


@dataclass(frozen=True)
class BucketSource:
    """Studies of a COD bucket; all studies if none is given."""

    place: BucketPlace
    studies: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return self.place.where

    def layout(self, zipped: bool) -> str:
        return BUCKET_ZIP_LAYOUT if zipped else BUCKET_LAYOUT

    def list_images(
        self, selection: Selection, keywords: Sequence[str], jobs: int, client: HttpClient, progress: Progress
    ) -> Listing:
        from icf_utils.retrieve.cod import list_images

        only = frozenset() if selection.has_numbers() else frozenset(selection.series)
        bucket = open_bucket(self.place, client)
        return list_images(bucket, self.place, self.studies, only=only, keywords=keywords, jobs=jobs, progress=progress)


@dataclass(frozen=True)
class StoreSource:
    """Visits (pairs of study and visit) of a store, and of ``studies`` all visits; without both, all of the store.

    ``patterns`` and ``since`` narrow the visits down; see :class:`~icf_utils.retrieve.store_source.VisitChoice`.
    ``url`` may be a path on this machine. ``auth`` is sent to the server of ``url`` only. For what requires another
    credential, ``authenticator`` finds one, if it is given. With ``processings``, their outputs are listed instead of
    the images: a TAR and a provenance for each.
    """

    url: str | os.PathLike[str]
    visits: tuple[tuple[str, str], ...] = ()
    studies: tuple[str, ...] = ()
    auth: Login | Secret | None = field(default=None, repr=False)
    authenticator: Authenticator | None = field(default=None, repr=False, compare=False)
    patterns: tuple[str, ...] = ()
    since: int = 0
    processings: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return without_credentials(store_url(self.url))

    def layout(self, zipped: bool) -> str:
        return OUTPUT_LAYOUT if self.processings else STORE_LAYOUT

    def list_images(
        self, selection: Selection, keywords: Sequence[str], jobs: int, client: HttpClient, progress: Progress
    ) -> Listing:
        from icf_utils.fetch.authentication import Authenticator
        from icf_utils.retrieve.outputs import list_outputs
        from icf_utils.retrieve.store_source import ADVICE, StoreReader, VisitChoice, list_images

        url = store_url(self.url)
        check_folder(url)
        authenticator = self.authenticator or Authenticator(ADVICE, may_find=False)
        authenticator.give(bind_credential(url, self.auth) if url.startswith("http") else None)
        listed = tuple(dict.fromkeys((line.study, line.visit) for line in selection.listed))
        choice = VisitChoice((*self.visits, *listed), self.studies, self.patterns, self.since)
        reader = StoreReader(url, client, authenticator)
        if self.processings:
            return list_outputs(reader, choice, self.processings, jobs, progress)
        return list_images(reader, choice, selection.modalities, jobs, progress)


def open_bucket(place: BucketPlace, client: HttpClient) -> Bucket:
    """The bucket at a place. Raises :class:`~icf_utils.errors.MissingRequirement` without the extra ``cloud``."""
    if place.scheme == "file":
        return FolderBucket(Path(place.bucket))
    if place.scheme in ("gs", "s3"):
        from icf_utils.retrieve.obstore import CloudBucket

        return CloudBucket(place, client)
    return GcsBucket(place, client)
