"""Gets images in clones: many at a time, by few requests, checked twice, with git-annex's records right.

``git annex get`` takes about ten milliseconds for each file, during which little is transferred. Here the bytes come by
several connections, and git-annex places hundreds of images at a time (:mod:`icf_utils.retrieve.annex`).

Uses the network; writes into clones; runs git and git-annex, and for visits that are not installed DataLad, if there is
one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from icf_utils.dataset.clone_files import CloneFiles, CloneTree
from icf_utils.dataset.cloning import SubdatasetInstaller
from icf_utils.errors import InvalidSetting, printable
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.files import FileSource
from icf_utils.fetch.ranges import Span
from icf_utils.formatting import format_count
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.retrieve.annex import AnnexDestination, Placer, leftovers, lock_work_folder
from icf_utils.retrieve.clone_images import CloneAccess, CloneListing, list_clone, open_archives
from icf_utils.retrieve.model import Failure, Image, PlannedFile, Tar
from icf_utils.retrieve.plan import SeriesLine, series_lines
from icf_utils.retrieve.selection import ALL, Selection, no_match
from icf_utils.retrieve.transfer import TarTransfer


@dataclass(frozen=True)
class GetResult:
    """What :func:`get_images` did: ``images`` of ``size`` bytes have come, ``unchanged`` were here already.

    ``clones`` are the folders of the clones that images were wanted in.
    """

    clones: tuple[str, ...]
    images: int
    size: int
    unchanged: int
    failures: tuple[Failure, ...]
    notices: tuple[Notice, ...]


@dataclass(frozen=True)
class GetPlan:
    """What :func:`get_images` would do: a line for each series, ``saved`` are the images that are here."""

    clones: tuple[str, ...]
    series: tuple[SeriesLine, ...]
    failures: tuple[Failure, ...]
    notices: tuple[Notice, ...]


@dataclass
class _Outcome:
    """What is known so far; collected over clones."""

    clones: list[str] = field(default_factory=list)
    images: int = 0
    size: int = 0
    unchanged: int = 0
    failures: list[Failure] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)


@dataclass(frozen=True)
class _Request:
    """Paths of one clone, below its top folder; an empty one is the whole clone."""

    clone: CloneFiles
    paths: tuple[str, ...]


def get_images(
    paths: Sequence[str | os.PathLike[str]] = (".",),
    *,
    recursive: bool = False,
    selection: Selection = ALL,
    access: CloneAccess | None = None,
    installer: SubdatasetInstaller | None = None,
    connections: int = 4,
    progress: Progress = SILENT,
) -> GetResult:
    """Get the images at ``paths``, files and folders of clones, that match ``selection``.

    Visits of a study's clone are installed where a path is in one; with ``recursive``, all below the paths. The archive
    of a visit is got if its path is named. Images that are here already are not transferred again. Interrupted, it
    keeps what is complete; the same call continues.

    Raises :class:`~icf_utils.errors.IcfError` where nothing can be done: no clone, no git-annex, a refused password.
    What fails for single images is in the result.
    """
    access, out = access or CloneAccess(), _Outcome()
    try:
        for clone, listing in _listings(paths, recursive, selection, installer or SubdatasetInstaller(), out):
            _get(clone, listing, access, connections, progress, out)
    except BaseException:
        access.stop.set()
        raise
    return GetResult(tuple(out.clones), out.images, out.size, out.unchanged, tuple(out.failures), tuple(out.notices))


def plan_images(
    paths: Sequence[str | os.PathLike[str]] = (".",), *, recursive: bool = False, selection: Selection = ALL
) -> GetPlan:
    """What :func:`get_images` would get. Nothing is installed or transferred; raises like it."""
    out, items = _Outcome(), {}
    for _, listing in _listings(paths, recursive, selection, None, out):
        items.update({_planned(wanted.image): wanted.is_here for wanted in listing.images})
    return GetPlan(tuple(out.clones), series_lines(tuple(items), items), tuple(out.failures), tuple(out.notices))


def _listings(
    paths: Sequence[str | os.PathLike[str]],
    recursive: bool,
    selection: Selection,
    installer: SubdatasetInstaller | None,
    out: _Outcome,
) -> Iterator[tuple[CloneFiles, CloneListing]]:
    """The clones that images are wanted in, each with its images. Without an ``installer``, nothing is installed."""
    if any(not name.lstrip("+-").isdigit() for name in selection.series):
        raise InvalidSetting("--series", "a dataset has no UIDs: give the SeriesNumber")
    seen: list[Image] = []
    for request in _requests(paths):
        for clone, tree, wanted in _walk(request, recursive, installer, out):
            files = [file for file in tree.files if _is_below(file.path, wanted)]
            if not files:
                continue
            named = {file.path for file in files if file.path in wanted or os.path.dirname(file.path) in wanted}
            listing = list_clone(clone, files, named, selection, with_tags=installer is None)
            out.clones.append(os.fspath(clone.top))
            out.failures += listing.failures
            out.notices += listing.notices
            seen += listing.everything if selection != ALL else ()
            yield clone, listing
    for what in selection.unmatched(seen) if selection != ALL else ():
        out.failures.append(Failure(", ".join(os.fspath(path) for path in paths), no_match(what)))


def _requests(paths: Iterable[str | os.PathLike[str]]) -> list[_Request]:
    """The clones that paths are in, with the paths below their top folders."""
    found: dict[Path, tuple[CloneFiles, list[str]]] = {}
    for path in paths:
        # the last part may be a link into the annex
        place = Path(os.path.abspath(path))
        place = Path(os.path.realpath(place)) if place.is_dir() else Path(os.path.realpath(place.parent), place.name)
        folder = place
        while not folder.is_dir():
            folder = folder.parent
        clone = CloneFiles.at(folder)
        top = Path(os.path.realpath(clone.top))
        relative = "" if place == top else place.relative_to(top).as_posix()
        found.setdefault(top, (clone, []))[1].append(relative)
    return [_Request(clone, tuple(dict.fromkeys(wanted))) for clone, wanted in found.values()]


def _walk(
    request: _Request, recursive: bool, installer: SubdatasetInstaller | None, out: _Outcome
) -> Iterator[tuple[CloneFiles, CloneTree, Sequence[str]]]:
    """The clone of a request, and the subdatasets that its paths are in, or contain if ``recursive``."""
    clone, tree = request.clone, request.clone.tree()
    inside = _split(request.paths, tree.subdatasets, recursive)
    own = inside.pop("", [])
    for path in own:
        if not any(_is_below(name, [path]) for name in (*(file.path for file in tree.files), *tree.subdatasets)):
            out.failures.append(Failure(os.fspath(clone.top / path), "the clone has no annexed file there"))
    left_out = [name for name in tree.subdatasets if name not in inside and _is_below(name, own)]
    if left_out:
        what = format_count(len(left_out), "subdataset")
        out.notices.append(Notice("subdatasets", os.fspath(clone.top), f"{what} left out; use -r to get their images"))
    if own:
        yield clone, tree, own
    _install(clone.top, list(inside), installer, out)
    for name, paths in inside.items():
        if _is_installed(clone.top / name):
            yield from _walk(_Request(CloneFiles.at(clone.top / name), tuple(paths)), recursive, installer, out)


def _split(paths: Iterable[str], subdatasets: Sequence[str], recursive: bool) -> dict[str, list[str]]:
    """The paths that are in each subdataset, below its folder; those that are in none under an empty name.

    >>> _split(["a/x", "b", "c"], ["a", "c/d"], False)
    {'a': ['x'], '': ['b', 'c']}
    >>> _split(["", "a/x"], ["a", "c/d"], True)
    {'': [''], 'a': ['', 'x'], 'c/d': ['']}
    """
    found: dict[str, list[str]] = {}
    for path in paths:
        name = next((name for name in subdatasets if _is_below(path, [name])), "")
        found.setdefault(name, []).append(path[len(name) + 1 :] if name else path)
        if not name and recursive:
            for below in subdatasets:
                if _is_below(below, [path]):
                    found.setdefault(below, []).append("")
    return found


def _install(top: Path, names: Sequence[str], installer: SubdatasetInstaller | None, out: _Outcome) -> None:
    """Install those of the subdatasets that are not; without an ``installer``, say that they are not listed."""
    missing = [name for name in names if not _is_installed(top / name)]
    if not missing:
        return
    if installer is None:
        what = format_count(len(missing), "subdataset")
        why = f"{what} not installed and therefore not listed; 'datalad get -n {printable(missing[0])}' installs one"
        out.notices.append(Notice("not-installed", os.fspath(top), why))
        return
    installer.install(top, missing)
    for name in missing:
        if not _is_installed(top / name):
            out.failures.append(Failure(os.fspath(top / name), "the subdataset could not be installed; see above"))


def _is_installed(folder: Path) -> bool:
    return (folder / ".git").exists()


def _is_below(path: str, wanted: Sequence[str]) -> bool:
    return any(not one or path == one or path.startswith(f"{one}/") for one in wanted)


def _get(
    clone: CloneFiles, listing: CloneListing, access: CloneAccess, connections: int, progress: Progress, out: _Outcome
) -> None:
    """Get the images of one clone."""
    out.unchanged += sum(wanted.is_here for wanted in listing.images)
    missing = {wanted.image.path: wanted.image for wanted in listing.images if not wanted.is_here}
    work = clone.work_folder()
    if not missing and not work.exists():
        return
    with lock_work_folder(work):
        placer = Placer(clone)
        with placer:
            waiting = leftovers(work, listing.paths)
            for file, path in waiting:
                placer.add(file, path)
            arrived = {path for _, path in waiting}
            tars, failures = open_archives(clone, listing, access, arrived)
            out.failures += failures
            out.failures += _transfer(tars, AnnexDestination(work, placer), access, connections, progress)
        for path, problem in placer.failures.items():
            out.failures.append(Failure(os.fspath(clone.top), problem, path, missing[path].span.size))
    out.images += len(missing.keys() & set(placer.placed))
    out.size += sum(missing[path].span.size for path in placer.placed if path in missing)


def _transfer(
    tars: Sequence[Tar], destination: AnnexDestination, access: CloneAccess, connections: int, progress: Progress
) -> list[Failure]:
    transfers = [TarTransfer(tar, _not_shared(tar, destination), destination) for tar in tars]
    size = sum(item.image.span.size for transfer in transfers for item in transfer.items)
    with (
        ThreadPoolExecutor(connections, "get") as pool,
        progress.task("Getting images", size, "B") as task,
    ):

        def on_bytes(count: int) -> None:
            if access.stop.is_set():
                raise FetchFailure("transfer", "stopped", "run the same command again to continue", kind="stopped")
            task.advance(count)

        runs = [pool.submit(transfer.run, batch, on_bytes) for transfer in transfers for batch in transfer.batches()]
        try:
            for run in runs:
                run.result()
        except BaseException:
            access.stop.set()
            raise
    return [failure for transfer in transfers for failure in transfer.failures]


def _not_shared(tar: Tar, destination: AnnexDestination) -> list[PlannedFile]:
    """The files that must be copied: an archive of a store on this machine may share its blocks with the clone."""
    items = [_planned(image) for image in tar.images]
    if not isinstance(tar.source, FileSource):
        return items
    whole = Span(0, tar.source.size())
    return [item for item in items if item.image.span != whole or not destination.share(item, tar.source)]


def _planned(image: Image) -> PlannedFile:
    return PlannedFile(image, PurePosixPath(image.path), "")
