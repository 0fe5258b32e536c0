"""The images of a clone that are not here yet, by archive, with where their bytes come from. Uses git and the network.

Everything is read from the clone itself: the keys of its files, and the addresses and tags that git-annex has recorded
for them. What a dataset may make icf-utils read is decided as in the special remote
(:mod:`icf_utils.dataset.special_remote.security`), except that the server which the user cloned from is asked wherever
it is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from icf_utils.credentials import Login, Secret, bind_credential
from icf_utils.dataset.annex_keys import ImageLocator, key_md5, key_size, parse_locator
from icf_utils.dataset.clone_files import AnnexedFile, CloneFiles
from icf_utils.dataset.special_remote.clone import Clone
from icf_utils.dataset.special_remote.configure import ARCHIVIST, ICF
from icf_utils.dataset.special_remote.opener import Opener
from icf_utils.dataset.special_remote.origins import at_one_origin, origin_name, origins_of_remotes, stores_of_remotes
from icf_utils.dataset.special_remote.rewriting import read_rewriting
from icf_utils.dataset.special_remote.security import CloneServerRule, read_rule, read_tls
from icf_utils.dicom.values import Value
from icf_utils.errors import IcfError, InvalidSetting
from icf_utils.fetch.authentication import Authenticator
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.files import FileSource
from icf_utils.fetch.ranges import Span
from icf_utils.fetch.source import ByteSource
from icf_utils.fetch.tls import TlsFiles
from icf_utils.results import Notice
from icf_utils.retrieve.model import Digest, Failure, Image, Tar
from icf_utils.retrieve.selection import Selection

#: How an archive ends; what is before it is the visit.
_ARCHIVE_END = "_dicom.tar"

_LEFT_OUT = "left out: images are read from it in parts; to get it, name its path"

_BY_ANNEX = "'git annex get' may get it"


@dataclass(frozen=True)
class CloneAccess:
    """How the servers of clones are asked; ``stop`` ends transfers.

    ``login`` gives the secret that the user has named for the web server which a clone comes from, by its origin.
    ``store`` is a folder with a store, from which archives are read instead.
    """

    authenticator: Authenticator = field(default_factory=Authenticator)
    login: Callable[[str], Login | Secret | None] = lambda _: None
    tls: TlsFiles | None = None
    store: Path | None = None
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class WantedImage:
    """An image of a clone, the key of its archive, and whether it is here."""

    image: Image
    archive: str
    is_here: bool


@dataclass(frozen=True)
class CloneListing:
    """The selected images of a clone, of ``everything``; ``addresses`` are those of each archive.

    ``paths`` has a path for each key that is not here.
    """

    images: tuple[WantedImage, ...]
    everything: tuple[Image, ...]
    addresses: Mapping[str, Sequence[str]]
    paths: Mapping[str, str]
    failures: tuple[Failure, ...] = ()
    notices: tuple[Notice, ...] = ()


def list_clone(
    clone: CloneFiles, files: Sequence[AnnexedFile], named: Collection[str], selection: Selection, with_tags: bool
) -> CloneListing:
    """The images of a clone among ``files`` that match ``selection``, each content once.

    The file of an archive is one if it is in ``named``, or if no image of it is wanted. With ``with_tags``, images have
    their SeriesNumber. Raises :class:`~icf_utils.errors.IcfError` where git or git-annex fails.
    """
    by_key: dict[str, str] = {}
    for file in files:
        by_key.setdefault(file.key, file.path)
    keys = list(by_key)
    here = clone.present(keys)
    addresses = clone.addresses(keys)
    keywords = {*selection.keywords(), *(("SeriesNumber",) if with_tags else ())}
    tags = clone.tags(keys) if keywords else {}
    places = {key: _locators(key, addresses[key]) for key in keys}
    archives = {locator.archive_key for found in places.values() for locator in found}
    archive_addresses = clone.addresses(sorted(archives))
    images, failures, notices, everything = [], [], [], []
    for key, path in by_key.items():
        fields = tags.get(key, {})
        values: dict[str, Value] = {keyword: [*fields.get(keyword.lower(), ())] for keyword in keywords}
        image = _image(path, key, places[key], archive_addresses, values)
        everything.append(image)
        if not selection.matches(image):
            continue
        if key in archives and path not in named:
            if key not in here:
                notices.append(Notice("archive-left-out", path, _LEFT_OUT))
        elif places[key] or key in here:
            archive = places[key][0].archive_key if places[key] else key
            images.append(WantedImage(image, archive, key in here))
        elif key_md5(key) and key_size(key) is not None and addresses[key]:
            archive_addresses[key] = addresses[key]
            images.append(WantedImage(_whole(image, key, addresses[key]), key, False))
        else:
            problem = f"the clone records no position in an archive and no usable address for it; {_BY_ANNEX}"
            failures.append(Failure(os.fspath(clone.top), problem, path))
    missing = {key: path for key, path in by_key.items() if key not in here}
    return CloneListing(tuple(images), tuple(everything), archive_addresses, missing, tuple(failures), tuple(notices))


def _locators(key: str, urls: Iterable[str]) -> list[ImageLocator]:
    """The places of a key in archives that can be read by position, and agree with the key."""
    size = key_size(key)
    found = [parse_locator(url) for url in urls if url.startswith("dl+archive:")] if key_md5(key) else []
    return [one for one in found if one and one.offset is not None and size is not None and one.size in (None, size)]


def _image(
    path: str,
    key: str,
    places: Sequence[ImageLocator],
    archives: Mapping[str, Sequence[str]],
    values: Mapping[str, Value],
) -> Image:
    study, visit = _identity(archives.get(places[0].archive_key, ())) if places else ("", "")
    span = Span(places[0].offset or 0 if places else 0, key_size(key) or 0)
    series = values.get("SeriesNumber", "")
    number = ", ".join(map(str, series)) if isinstance(series, list) else str(series)
    return Image(study, visit, number, "", path, key, span, Digest("md5", key_md5(key)), values)


def _whole(image: Image, key: str, addresses: Sequence[str]) -> Image:
    study, visit = _identity(addresses)
    return replace(image, study=study, visit=visit, span=Span(0, key_size(key) or 0))


def _identity(addresses: Iterable[str]) -> tuple[str, str]:
    """Study and visit of an archive, by its address; empty if that is not a store's."""
    for url in addresses:
        *_, study, name = ["", "", *unquote(urlsplit(url).path).split("/")]
        if name.endswith(_ARCHIVE_END):
            return study, name.removesuffix(_ARCHIVE_END)
    return "", ""


def open_archives(
    clone: CloneFiles, listing: CloneListing, access: CloneAccess, arrived: Collection[str] = ()
) -> tuple[list[Tar], list[Failure]]:
    """The archives of the listed images that are not here, opened; and the images of those that cannot be.

    ``arrived`` has the paths of images that need no archive any more. Raises
    :class:`~icf_utils.fetch.errors.FetchFailure` where a server refuses the password.
    """
    opener, rewriting = _Openers(clone.clone, access), read_rewriting(clone.clone)
    groups: dict[str, list[Image]] = {}
    for wanted in listing.images:
        if not wanted.is_here and wanted.image.path not in arrived:
            groups.setdefault(wanted.archive, []).append(wanted.image)
    here = clone.contents(list(groups))
    tars, failures = [], []
    for archive, images in groups.items():
        addresses = listing.addresses.get(archive, ())
        where = next(iter(addresses), archive)
        try:
            urls = addresses if access.store else rewriting.rewrite(archive, addresses)
            source = _open(archive, urls, here.get(archive), opener, access.store)
            tars.append(Tar(source.where, source, tuple(images)))
        except FetchFailure as failure:
            if failure.kind in ("unauthorised", "stopped"):
                raise
            failures += [Failure(where, str(failure), image.path, image.span.size) for image in images]
        except IcfError as error:
            failures += [Failure(where, str(error), image.path, image.span.size) for image in images]
    return tars, failures


def _open(
    archive: str, addresses: Sequence[str], here: Path | None, opener: _Openers, store: Path | None
) -> ByteSource:
    size = key_size(archive)
    if here is not None:
        return FileSource(here, size)
    if store is not None:
        return _in_store(store, addresses, size)
    urls, _ = at_one_origin(addresses, opener.may_ask, opener.own)
    failure: IcfError = FetchFailure(
        archive, "no address of this archive can be read here", "get it with 'git annex get'", kind="missing"
    )
    for url in urls:
        try:
            return opener.open(url, size)
        except FetchFailure as problem:  # noqa: PERF203
            failure = problem
    raise failure


def _in_store(store: Path, addresses: Sequence[str], size: int | None) -> ByteSource:
    """The archive in a store on this machine. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    study, visit = _identity(addresses)
    path = store / study / f"{visit}{_ARCHIVE_END}"
    if not visit or not path.is_file():
        wanted = f"{study}/{visit}{_ARCHIVE_END}" if visit else "the archive of this clone"
        hint = "; it is a git repository: add it as a remote, and use 'git annex get --from'" * _is_repository(store)
        raise InvalidSetting("--from", f"'{store}' has no file {wanted}{hint}")
    if size is not None and path.stat().st_size != size:
        raise InvalidSetting(
            "--from", f"'{path}' has {path.stat().st_size} bytes, but the clone expects {size}: it is another archive"
        )
    return FileSource(path, size)


def _is_repository(folder: Path) -> bool:
    return (folder / ".git").exists() or (folder / "annex").is_dir()


class _Openers:
    """Opens addresses of a dataset: at the server that the user cloned from, and at others."""

    def __init__(self, clone: Clone, access: CloneAccess) -> None:
        uuid = next((uuid for name, uuid in clone.remotes_with("annex-uuid") if name in _image_remotes(clone)), "")
        top = _top_clone(clone)
        self.own = origins_of_remotes(top)
        rule = read_rule(clone, lambda: uuid)
        rule = replace(rule, local_stores=(*rule.local_stores, *stores_of_remotes(top)))
        tls = access.tls or read_tls(clone, lambda: uuid)
        server = min(self.own, default="")
        if server:
            access.authenticator.give(bind_credential(server, access.login(server)))
        own = CloneServerRule(rule.schemes, rule.allowed, rule.are_all_allowed, rule.local_stores)
        opener = partial(Opener, tls=tls, authenticator=access.authenticator, stop=access.stop)
        self._own, self._others = opener(own), opener(rule)

    def may_ask(self, url: str) -> bool:
        return self._for(url).may_ask(url)

    def open(self, url: str, size: int | None) -> ByteSource:
        return self._for(url).open(url, size)

    def _for(self, url: str) -> Opener:
        return self._own if origin_name(url) in self.own else self._others


def _image_remotes(clone: Clone) -> set[str]:
    return {name for name, kind in clone.remotes_with("annex-externaltype") if kind in (ICF, ARCHIVIST)}


def _top_clone(clone: Clone) -> Clone:
    """The clone that the user has made: the superdataset of a subdataset, whose own address a dataset has named."""
    while (above := clone.superproject()) is not None:
        clone = above
    return clone
