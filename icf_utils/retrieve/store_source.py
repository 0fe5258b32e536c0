"""The images of visits in a store, by their metadata. Uses the network, or reads a store on this machine."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from icf_utils.dicom.values import Value
from icf_utils.errors import DepositDamaged, InvalidSetting, printable
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.files import path_of
from icf_utils.fetch.open import read_whole
from icf_utils.fetch.ranges import Span
from icf_utils.fetch.source import ByteSource
from icf_utils.metadata.history import current_version
from icf_utils.metadata.records import ImageRecord, VisitMetadata, check_metadata, parse_images, parse_tarball
from icf_utils.metadata.visit_list import VisitLine, parse_visit_list
from icf_utils.progress import Progress, Task
from icf_utils.results import Notice
from icf_utils.retrieve.layout import why_unsafe
from icf_utils.retrieve.model import Digest, Failure, Image, Listing, Tar
from icf_utils.retrieve.sums import REMEDY, fetch_sums
from icf_utils.settings import load_settings
from icf_utils.store.elsewhere import other_archives
from icf_utils.store.layout import VISITS_NAME, Study, Visit, list_studies

if TYPE_CHECKING:
    from icf_utils.fetch.authentication import Authenticator
    from icf_utils.fetch.http import HttpClient

_T = TypeVar("_T")
_Item = TypeVar("_Item")

#: The largest file with the records of images, and the largest other one, that is read (bytes); and how many values the
#: records may have, each of which takes some 100 bytes of memory. Images have records of 1 kB with 40 values.
_LARGEST_RECORDS, _LARGEST_OTHER, _MOST_VALUES = 1 << 28, 1 << 26, 12_000_000

#: What to do where a server requires a credential.
ADVICE = (
    "give --user NAME (you are asked for the password; without a terminal, set ICF_STORE_PASSWORD, or use "
    "--password-file FILE or ~/.netrc), or --token-file FILE"
)


def store_url(place: str | os.PathLike[str]) -> str:
    """The URL of a store, given as a URL or a path."""
    text = os.fspath(place)
    return text.rstrip("/") if "://" in text else Path(text).absolute().as_uri()


def check_folder(url: str) -> None:
    """Raise :class:`~icf_utils.errors.InvalidSetting` for a store on this machine whose folder does not exist."""
    if url.startswith("file:") and not path_of(url).is_dir():
        raise InvalidSetting("--store-dir", f"the folder '{printable(path_of(url))}' does not exist")


@dataclass(frozen=True)
class VisitChoice:
    """Which visits of a store: pairs of study and visit, and of ``studies`` those that the rest selects.

    ``patterns`` are shell patterns, one of which the visit's identifier must match. ``since``: visits whose version is
    this one or a later one, of all that are named.
    """

    visits: tuple[tuple[str, str], ...] = ()
    studies: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    since: int = 0


class StoreReader:
    """Reads a store by its address, with the credentials of ``authenticator``; safe for threads."""

    def __init__(self, url: str, client: HttpClient, authenticator: Authenticator) -> None:
        self.url = url
        self._client, self._authenticator = client, authenticator

    def source(self, path: str, expected: int | None = None) -> ByteSource:
        """The file at ``path`` below the store's root; nothing is requested yet."""
        return self.source_at(f"{self.url}/{path}", expected)

    def source_at(self, url: str, expected: int | None = None) -> ByteSource:
        """A file at another address; a credential is sent only to the origin that it belongs to."""
        return self._authenticator.source(url, self._client, expected)

    def read(self, path: str, largest: int = _LARGEST_OTHER) -> tuple[bytes, str]:
        """The content of a small file of at most ``largest`` bytes, and its address for messages.

        Raises :class:`~icf_utils.fetch.errors.FetchFailure`.
        """
        source = self.source(path)
        return read_whole(source, largest), source.where


def list_images(
    reader: StoreReader, choice: VisitChoice, modalities: Sequence[str], jobs: int, progress: Progress
) -> Listing:
    """The images of the chosen visits. Visits that cannot be read are in the listing's failures.

    Visits of which the study's list says that they have none of ``modalities`` are left out, if any are given. Raises
    :class:`~icf_utils.errors.InvalidIdentifier` for a name that is not an identifier,
    :class:`~icf_utils.errors.InvalidSetting` where no study is named in a web store, and
    :class:`~icf_utils.fetch.errors.FetchFailure` where the server requires other credentials.
    """
    chooser = _VisitChooser(reader, choice, modalities)
    places = chooser.visits()
    with progress.task("Reading metadata", len(places), "visit") as task:
        parts = read_each(places, lambda place: _read(reader, place), jobs, task)
    tars = tuple(tar for part in parts for tar in part.tars)
    recorded = frozenset(keyword for tar in tars for image in tar.images for keyword in image.tags)
    failures = (*chooser.failures, *(failure for part in parts for failure in part.failures))
    notices = tuple(notice for part in parts for notice in part.notices)
    is_up_to_date = bool(choice.since and not places)
    return Listing(tars, failures, notices, recorded=recorded, is_up_to_date=is_up_to_date)


def read_each(items: Sequence[_Item], read: Callable[[_Item], Listing], jobs: int, task: Task) -> list[Listing]:
    """Read items of a store, ``jobs`` at a time, in their order.

    The first one is read alone: a refused password is sent once, not by several requests at a time.
    """
    parts: list[Listing] = []

    def take(found: Iterable[Listing]) -> None:
        for part in found:
            parts.append(part)
            task.advance(1)

    with ThreadPoolExecutor(jobs) as pool:
        take(map(read, items[:1]))
        take(pool.map(read, items[1:]))
    return parts


def choose_visits(reader: StoreReader, choice: VisitChoice) -> tuple[list[Visit], list[Failure]]:
    """The chosen visits, and the studies whose visits cannot be listed. Raises as :func:`list_images` does."""
    chooser = _VisitChooser(reader, choice, ())
    return chooser.visits(), chooser.failures


class _VisitChooser:
    """Finds the visits that a :class:`VisitChoice` means; ``failures`` says of which studies they cannot be found."""

    def __init__(self, reader: StoreReader, choice: VisitChoice, modalities: Sequence[str]) -> None:
        self._reader, self._choice, self._modalities = reader, choice, frozenset(modalities)
        self._read: dict[str, _StudyVisits | None] = {}
        self.failures: list[Failure] = []

    def visits(self) -> list[Visit]:
        """The visits, each once: those of studies first."""
        named = [Visit(Path(), study, visit) for study, visit in self._choice.visits]
        studies = [Study(Path(), study).study for study in self._choice.studies]
        if not studies and not named:
            studies = _all_studies(self._reader)
        found = [Visit(Path(), study, name) for study in dict.fromkeys(studies) for name in self._names(study)]
        return [place for place in dict.fromkeys((*found, *named)) if self._is_new(place)]

    def _names(self, study: str) -> Iterator[str]:
        """The visits of a study that match the patterns, without those that the list says are of other modalities."""
        known = self._study(study)
        if known is None:
            return
        if not known.names:
            self._fail(study, "it has no visit")
        for pattern in self._choice.patterns if known.names else ():
            if not any(fnmatchcase(name, pattern) for name in known.names):
                self._fail(study, f"no visit matches --visit '{printable(pattern)}'")
        for name in known.names:
            if self._choice.patterns and not any(fnmatchcase(name, pattern) for pattern in self._choice.patterns):
                continue
            line = known.lines.get(name)
            if not (line and self._modalities and self._modalities.isdisjoint(line.modalities)):
                yield name

    def _is_new(self, place: Visit) -> bool:
        if not self._choice.since:
            return True
        known = self._study(place.study)
        return known is not None and known.version(place.visit) >= self._choice.since

    def _study(self, study: str) -> _StudyVisits | None:
        """A study's visits, read once; ``None`` for those that cannot be read."""
        if study not in self._read:
            self._read[study] = None
            try:
                self._read[study] = _read_study(self._reader, study)
            except FetchFailure as failure:
                if failure.kind in ("unauthorised", "stopped"):
                    raise
                self._fail(study, _why_no_list(failure))
            except DepositDamaged as error:
                self._fail(study, f"{printable(str(error))}; {REMEDY}")
        return self._read[study]

    def _fail(self, study: str, problem: str) -> None:
        self.failures.append(Failure(f"{self._reader.url}/{study}", problem, study=study))


@dataclass(frozen=True)
class _StudyVisits:
    """The visits of a study: all names, and the lines of those that its list has."""

    names: tuple[str, ...]
    lines: Mapping[str, VisitLine]
    folder: Study | None = None

    def version(self, visit: str) -> int:
        if self.folder:
            return current_version(Visit(self.folder.root, self.folder.study, visit))
        return self.lines[visit].version if visit in self.lines else 1


def _read_study(reader: StoreReader, study: str) -> _StudyVisits:
    """From the study's list; in a store on this machine, from the folder, since the list may not exist."""
    folder = Study(path_of(reader.url), study) if reader.url.startswith("file:") else None
    if folder and not folder.visit_list.exists():
        return _StudyVisits(tuple(folder.visits()), {}, folder)
    raw, where = reader.read(f"{study}/{VISITS_NAME}")
    lines = {line.visit: line for line in parse_visit_list(raw, where)}
    names = {*lines, *(folder.visits() if folder else ())}
    return _StudyVisits(tuple(sorted(names)), lines, folder)


def _why_no_list(failure: FetchFailure) -> str:
    if failure.kind != "missing":
        return f"the list of its visits could not be fetched: {failure}"
    return (
        f"the list of its visits ({VISITS_NAME}) was not found: check the study's name; if the store has no such "
        "lists, name each visit as STUDY/VISIT (the store's administrator makes them with 'icf-utils catalog build')"
    )


def _all_studies(reader: StoreReader) -> list[str]:
    """The studies of a store on this machine; a web server has no list of them."""
    if not reader.url.startswith("file:"):
        raise InvalidSetting("STUDY", "a store on a web server has no list of its studies: name one")
    root = path_of(reader.url)
    studies = [study.study for study in list_studies(root)]
    if not studies:
        raise InvalidSetting("STUDY", f"'{printable(root)}' contains no study")
    return studies


def _read(reader: StoreReader, place: Visit) -> Listing:
    archive = f"{reader.url}/{place.storepath}"
    try:
        metadata, notices = _metadata(reader, place)
    except FetchFailure as error:
        if error.kind in ("unauthorised", "stopped"):
            raise
        return Listing((), (Failure(archive, f"its metadata could not be fetched: {error}", study=place.study),))
    except DepositDamaged as error:
        problem = (
            f"its metadata cannot be used: '{printable(error.path)}': expected {error.expected}, found {error.found}"
        )
        advice = f"if the visit is being changed, repeat the command; otherwise, {REMEDY}"
        return Listing((), (Failure(archive, f"{problem}; {advice}", study=place.study),))
    size = metadata.tarball.size
    source = _StoredArchive(reader.source(place.storepath, size), lambda: _find_elsewhere(reader, place, size))
    bad = tuple(
        Failure(archive, f"its name is unsafe: {problem}", image=record.path, size=record.size, study=place.study)
        for record in metadata.images
        if (problem := why_unsafe(record.path))
    )
    images = tuple(_image(place, record) for record in metadata.images if not why_unsafe(record.path))
    return Listing((Tar(archive, source, images),), bad, notices)


class _StoredArchive:
    """An archive, read from the store, or from another one that ``find`` knows if this one does not have it.

    A :class:`~icf_utils.fetch.source.ByteSource`. Nothing is asked of a store in advance.
    """

    def __init__(self, source: ByteSource, find: Callable[[], ByteSource | None]) -> None:
        self._source, self._find = source, find
        self._lock, self._was_moved = threading.Lock(), False

    @property
    def where(self) -> str:
        return self._source.where

    def size(self) -> int | None:
        return self._try(lambda source: source.size())

    def exists(self) -> bool:
        return self._source.exists() or (self._move(self._source) and self._source.exists())

    def read(self, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        source = self._source
        try:
            yield from source.read(start, size)
        except FetchFailure as failure:
            if failure.kind != "missing" or not self._move(source):
                raise
            yield from self._source.read(start, size)

    def _try(self, ask: Callable[[ByteSource], _T]) -> _T:
        source = self._source
        try:
            return ask(source)
        except FetchFailure as failure:
            if failure.kind != "missing" or not self._move(source):
                raise
            return ask(self._source)

    def _move(self, source: ByteSource) -> bool:
        """Take the other store in the place of ``source``, once; false if there is none."""
        with self._lock:
            if not self._was_moved:
                self._was_moved = True
                self._source = self._find() or self._source
            return self._source is not source


def _find_elsewhere(reader: StoreReader, place: Visit, size: int) -> ByteSource | None:
    """The archive in another store; ``None`` if it is not known to be in one.

    A store on this machine has the address in its settings, one on a web server in the visit's page of the catalog.
    Such a page cannot name a file on this machine. Credentials go to the store that they are for only.
    """
    from icf_utils.catalog.visit_data import visit_path

    url = ""
    if reader.url.startswith("file:"):
        archives = other_archives(load_settings(path_of(reader.url)))
        url = f"{archives}/{place.storepath}" if archives else ""
    else:
        with suppress(FetchFailure, ValueError, LookupError, TypeError):
            raw, _ = reader.read(f"{place.study}/catalog/{visit_path(place.visit)}")
            found = str(json.loads(raw)["archive"]["url"])
            url = found if found.startswith(("http://", "https://")) else ""
    return reader.source_at(url, size) if url else None


def _metadata(reader: StoreReader, place: Visit) -> tuple[VisitMetadata, tuple[Notice, ...]]:
    """The metadata, compared with the visit's SHA-256 sums.

    Files that do not agree are read once more: the visit may have been replaced between two requests.
    """
    try:
        return _read_metadata(reader, place)
    except DepositDamaged:
        return _read_metadata(reader, place)


def _read_metadata(reader: StoreReader, place: Visit) -> tuple[VisitMetadata, tuple[Notice, ...]]:
    tarball = reader.read(place.tarball_json.as_posix())
    images = reader.read(place.dicoms_json.as_posix(), _LARGEST_RECORDS)
    _refuse_many_values(*images)
    metadata = VisitMetadata(parse_tarball(*tarball), parse_images(*images))
    check_metadata(metadata, place)
    sums = fetch_sums(reader.read, place)
    sums.check(place.tarball_json.name, *tarball)
    sums.check(place.dicoms_json.name, *images)
    return metadata, sums.notices


def _refuse_many_values(raw: bytes, where: str) -> None:
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > _MOST_VALUES:
        raise DepositDamaged(where, f"at most {_MOST_VALUES} values", "more", REMEDY)


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
