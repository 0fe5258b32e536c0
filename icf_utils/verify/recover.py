"""What a damaged dataset was built with: address and identity of its store, and its time. Reads the two files.

A dataset that is built again must be the same commits, or clones of it part from it. So an origin is believed only if
something is left that proves it: a commit's id, or the dataset's id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from icf_utils.config import Settings
from icf_utils.dataset.archive_time import latest_time
from icf_utils.dataset.build import expected_deposit
from icf_utils.dataset.deposit_reader import deposited_store_url, parse_deposit
from icf_utils.dataset.export import read_export, refs_bytes
from icf_utils.dataset.origin import Origin, limited, origin_of
from icf_utils.errors import DepositDamaged, IcfError, InvalidSetting
from icf_utils.metadata.records import VisitMetadata
from icf_utils.store import Visit, read_deposit

_URL = rb"\d+s 1 :([!-~]+)"
_COMMITTER = re.compile(rb"\ncommitter [^\n]+> (\d{1,11}) \+0000\n")


@dataclass(frozen=True)
class StoreOptions:
    """What the user says of the store; ``None`` where nothing."""

    url: str | None
    id: str | None


def recovered_origin(
    place: Visit, metadata: VisitMetadata, options: StoreOptions, settings: Settings
) -> tuple[Origin, str]:
    """The origin of a visit's damaged dataset, and how it is known.

    Raises :class:`~icf_utils.errors.DepositDamaged` where nothing proves one and the user names none.
    """
    export, refs = _bytes(place, "export"), _bytes(place, "refs")
    if options.url is None and options.id is None:
        try:
            _, heads = read_export(export)
            return parse_deposit(refs_bytes(heads), export, place).origin, "the dataset names"
        except (ValueError, IcfError):
            pass
    candidates = list(_candidates(place, metadata, export, options, settings))
    for origin in candidates:
        built = expected_deposit(metadata, place, origin)
        if any(commit.encode("ascii") in refs for commit in (built.main_commit, built.annex_commit)):
            return origin, "gives the commits which its refs name"
    for origin in candidates:
        if str(origin.uuids.dataset).encode("ascii") in export:
            return origin, "gives the id which is left of it"
    if options.url is not None and candidates:
        return candidates[0], "--store-url names"
    raise DepositDamaged(
        place.export,
        "a dataset that tells which store it was made for",
        "too little of it",
        "repair it with the --store-url and --store-id that it was made with",
    )


def _bytes(place: Visit, which: str) -> bytes:
    try:
        return read_deposit(getattr(place, which), "")
    except IcfError:
        return b""


def _candidates(
    place: Visit, metadata: VisitMetadata, export: bytes, options: StoreOptions, settings: Settings
) -> Iterator[Origin]:
    """Everything that it may have been built with, the likeliest first."""
    pattern = _URL + re.escape(f"/{place.storepath}\n".encode("ascii"))
    found = [url.decode("ascii") for url in re.findall(pattern, export)]
    urls = [options.url] if options.url is not None else [*found, settings.store.url, *_urls_elsewhere(place)]
    names = [options.id] if options.id is not None else [settings.store.id, ""]
    times = [*map(int, _COMMITTER.findall(export)), limited(latest_time(place.archive, metadata.tarball.size))]
    for url in dict.fromkeys(urls):
        for name in dict.fromkeys(names):
            for time in dict.fromkeys(times):
                with suppress(InvalidSetting):  # damage can look like an address
                    yield origin_of(url, name, place, time)


def _urls_elsewhere(place: Visit) -> Iterator[str]:
    """Addresses that the study's other datasets and the catalog's pages have."""
    for visit in place.of_study.visits():
        with suppress(IcfError):
            url = deposited_store_url(Visit(place.root, place.study, visit)) if visit != place.visit else None
            if url:
                yield url
                break
    pattern = re.compile(
        rb"(?:https?|file|ssh)://[^\s\"'\\\\<>]*?(?=/" + re.escape(place.storepath.encode("ascii")) + rb")"
    )
    for path in sorted(place.of_study.catalog.glob("metadata/**/*.json")):
        with suppress(OSError):
            yield from (url.decode("ascii", "replace") for url in pattern.findall(path.read_bytes()))
