"""What a damaged or lost deposit was made with, recovered from what is left. Reads deposits and the catalog.

A rebuilt dataset must have the same commits, or its clones diverge from it. An origin (store address, identity and
time) is therefore accepted only if something that is left proves it: the id of a commit, or the dataset's id, which
the catalog also has.

The tags of damaged metadata are read from what is left of the JSON, else from the dataset. A tag counts if at least
half of the images have it, so that a damaged byte does not introduce one. Tags that can identify a person count only
if the store's settings name them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from icf_utils.archive.reader import latest_time
from icf_utils.catalog.page import read_entries, read_entry
from icf_utils.catalog.writer import has_pages
from icf_utils.dataset.annex_url import deposit_paths, list_stored_files
from icf_utils.dataset.build import BuiltDataset, build_annex_deposit, build_dataset
from icf_utils.dataset.export import read_export, refs_bytes
from icf_utils.dataset.lineage import Lineage
from icf_utils.dataset.origin import DatasetOrigin, limit_time, make_origin
from icf_utils.dataset.reader import kept_archives, parse_dataset, read_dataset, read_store_url
from icf_utils.dataset.store_address import address_from_settings
from icf_utils.dicom.confidentiality import is_identifying
from icf_utils.dicom.values import tag_for_keyword
from icf_utils.errors import DepositDamaged, DepositMissing, IcfError, InvalidSetting
from icf_utils.metadata.allowlist import AllowList, keywords_by_lower_case
from icf_utils.metadata.describe import ArchiveDescription
from icf_utils.metadata.history import read_history
from icf_utils.metadata.records import STANDARD_TAGS, UID_TAGS, ImageRecord, VisitMetadata
from icf_utils.metadata.stage import build_visit_metadata
from icf_utils.settings import Settings
from icf_utils.store.layout import Visit, read_deposit
from icf_utils.verify.evidence import is_record_of

_URL = rb"\d+s 1 :([!-~]+)"
_REFS = re.compile(rb"(?:(?:[0-9a-f]{40} |@)[^\n]+\n)+")
_COMMITTER = re.compile(rb"\ncommitter [^\n]+> (\d{1,11}) \+0000\n")


@dataclass(frozen=True)
class StoreOptions:
    """The store address and identity that a user gave; ``None`` if not given."""

    url: str | None
    id: str | None

    @property
    def is_given(self) -> bool:
        """Whether the user gave either."""
        return self.url is not None or self.id is not None


def recover_origin(
    place: Visit, metadata: VisitMetadata, options: StoreOptions, settings: Settings
) -> tuple[DatasetOrigin, str]:
    """Recover the origin of a visit's damaged dataset; also returns, in words, which store it is.

    Raises :class:`~icf_utils.errors.DepositDamaged` if nothing proves an origin and the user names none.
    """
    export, refs = _bytes(place, "export"), _bytes(place, "refs")
    if not options.is_given:
        try:
            _, heads = read_export(export)
            return parse_dataset(refs_bytes(heads), export, place).origin, "the store that the dataset names"
        except (ValueError, IcfError):
            pass
    candidates = list(_candidates(place, metadata, export, options, settings))
    for origin in candidates:
        if _is_named(build_dataset(metadata, place, origin), refs):
            return origin, "the store whose commits its refs name"
    found = _origin_by_id(place, metadata, export, options, candidates)
    if found is None or _REFS.fullmatch(refs):  # intact refs name commits of something else
        raise DepositDamaged(
            place.export,
            "a dataset that shows for which store and when it was made",
            "too little of it, or one that another program made",
            "repair it with the --store-url and --store-id that it was made with, or move its files away and run "
            "'icf-utils deposit_visit_dataset' again",
        )
    return found


def _origin_by_id(
    place: Visit, metadata: VisitMetadata, export: bytes, options: StoreOptions, candidates: Sequence[DatasetOrigin]
) -> tuple[DatasetOrigin, str] | None:
    """The origin whose dataset id is left in the export or in the catalog, or else the one that the user names."""
    for origin in candidates:
        if str(origin.uuids.dataset).encode("ascii") in export:
            return origin, "the store whose id is left in it"
    dated = [one for one in candidates if _fits_catalog(place, one) and _fits_plain(place, metadata, one)]
    for origin in dated:
        if has_pages(place.of_study, str(origin.uuids.dataset)) and _is_day_known(place):
            return origin, "the store whose id the catalog has"
    return (dated[0], "the store that --store-url names") if options.url is not None and dated else None


def _is_named(built: BuiltDataset, refs: bytes) -> bool:
    """Whether refs name a commit of this dataset, perhaps with damaged digits."""
    words = [word.decode("latin-1") for word in refs.split()]
    return any(is_record_of(word, commit) for commit in (built.main_commit, built.annex_commit) for word in words)


def find_confirmation(place: Visit, found: ArchiveDescription, options: StoreOptions, settings: Settings) -> str:
    """Name, in words, what is left of the dataset that only this archive gives; empty if nothing does.

    That is a commit that the refs name, or all file names of the deposit for ``annex::`` addresses, which come from
    their content. The archive is described with the tags that the dataset was made with, as far as they are known.
    """
    metadata, export, refs = build_visit_metadata(place, found), _bytes(place, "export"), _bytes(place, "refs")
    stored = next(list_stored_files(place), None) is not None
    if not (refs or stored):
        return ""
    with suppress(IcfError):
        for origin in _candidates(place, metadata, export, options, settings):
            if _is_named(build_dataset(metadata, place, origin), refs):
                return "the commits that the refs of its dataset name"
            if stored and _fits_plain(place, metadata, origin):
                return "the files for annex:: addresses"
    return ""


def recover_lineage(place: Visit) -> Lineage | None:
    """What the commits of a visit's dataset follow, from the export; ``None`` for a dataset with one commit.

    Raises :class:`~icf_utils.errors.DepositDamaged` if the visit has a history and the export does not show it.
    """
    try:
        export = _bytes(place, "export")
        _, heads = read_export(export)
        return parse_dataset(refs_bytes(heads), export, place).lineage(kept_archives(place))
    except (ValueError, DepositDamaged, DepositMissing) as error:
        if not read_history(place):
            return None
        raise DepositDamaged(
            place.export,
            "a dataset with the commits of earlier versions, which the visit's history names",
            "a damaged one",
            "restore both files of the dataset from a copy",
        ) from error


def _fits_catalog(place: Visit, origin: DatasetOrigin) -> bool:
    """Whether the catalog shows the day of this origin's commits, or no day."""
    entry = read_entry(place)
    day = datetime.fromtimestamp(origin.time, timezone.utc).strftime("%Y-%m-%d")
    return entry is None or not origin.time or entry.date in ("", day)


def _is_day_known(place: Visit) -> bool:
    """Whether :func:`_fits_catalog` or :func:`_fits_plain` had anything to compare; dates may be hidden."""
    entry = read_entry(place)
    return bool(entry and entry.date) or next(list_stored_files(place), None) is not None


def _fits_plain(place: Visit, metadata: VisitMetadata, origin: DatasetOrigin) -> bool:
    """Whether this origin would give the stored files for ``annex::`` addresses, whose names come from their
    content.
    """
    stored = set(list_stored_files(place))
    return not stored or stored <= {
        path for path, _ in deposit_paths(place, build_annex_deposit(metadata, place, origin).files)
    }


def find_catalogued_store(place: Visit, settings: Settings) -> StoreOptions | None:
    """Find the store that the visit's catalog pages were made for, proved by their dataset id; ``None`` if unknown."""
    for url in dict.fromkeys([settings.store.url, *_urls_elsewhere(place)]):
        for name in dict.fromkeys([settings.store.id, ""]):
            with suppress(InvalidSetting):
                dataset_id = address_from_settings(place, settings, url, name).dataset_id
                if has_pages(place.of_study, dataset_id):
                    return StoreOptions(url, name)
    return None


def _bytes(place: Visit, which: str) -> bytes:
    try:
        return read_deposit(getattr(place, which), "")
    except IcfError:
        return b""


def _candidates(
    place: Visit, metadata: VisitMetadata, export: bytes, options: StoreOptions, settings: Settings
) -> Iterator[DatasetOrigin]:
    """All origins that the dataset may have been made with, the most likely first."""
    pattern = _URL + re.escape(f"/{place.storepath}\n".encode("ascii"))
    found = [url.decode("ascii") for url in re.findall(pattern, export)]
    urls = [options.url] if options.url is not None else [*found, settings.store.url, *_urls_elsewhere(place)]
    names = [options.id] if options.id is not None else [settings.store.id, ""]
    times = [*map(int, _COMMITTER.findall(export)), limit_time(latest_time(place.archive, metadata.tarball.size))]
    for url in dict.fromkeys(urls):
        for name in dict.fromkeys(names):
            for time in dict.fromkeys(times):
                with suppress(InvalidSetting):  # damage can look like an address
                    yield make_origin(url, name, place, time)


def _urls_elsewhere(place: Visit) -> Iterator[str]:
    """Store addresses in the study's other datasets and in the catalog's pages."""
    for visit in place.of_study.visits():
        with suppress(IcfError):
            url = read_store_url(Visit(place.root, place.study, visit)) if visit != place.visit else None
            if url:
                yield url
                break
    pattern = re.compile(
        rb"(?:https?|file|ssh)://[^\s\"'\\\\<>]*?(?=/" + re.escape(place.storepath.encode("ascii")) + rb")"
    )
    entry = read_entry(place)
    if entry is None and read_entries(place.of_study) is not None:
        return
    folder = entry.dataset_id if entry else "*"
    for path in sorted(place.of_study.catalog.glob(f"metadata/{folder}/**/*.json")):
        with suppress(OSError):
            yield from (url.decode("ascii", "replace") for url in pattern.findall(path.read_bytes()))


_JSON_KEY = re.compile(rb'"([A-Za-z][A-Za-z0-9]*)":')
_ANNEX_FIELD = re.compile(rb"(?:\A|\n)[0-9.]+s ([a-z][a-z0-9]*) |(?<= )([a-z][a-z0-9]*)(?= [+])")


#: Where tags come from that :func:`keep_proved_tags` has to look through.
_OF_DATASET = "the tags of the dataset"


def recover_tags(place: Visit, recorded: Sequence[ImageRecord] | None, permitted: AllowList) -> tuple[AllowList, str]:
    """Recover the tags to record in addition to the standard ones; also returns, in words, where they come from.

    ``recorded`` are the images as the metadata has them, if it can be read.
    """
    if recorded is not None:
        counts = Counter(key for image in recorded for key in image.tags)
        return _chosen(counts, len(recorded), permitted), "the tags that it recorded"
    counts = Counter(key.decode("ascii") for key in _JSON_KEY.findall(_json_bytes(place)))
    if counts["Modality"]:
        return _chosen(counts, counts["Modality"], permitted), "the tags that are left in it"
    fields = _fields_of_dataset(place)
    if fields:
        known = keywords_by_lower_case()
        named = Counter({known[field]: 1 for field in fields if field in known})
        chosen = _chosen(named, 1, permitted)
        return AllowList({**permitted.tags, **chosen.tags}, permitted.allow_identifying), _OF_DATASET
    return permitted, "the tags that the settings name"


def keep_proved_tags(place: Visit, source: str, images: Sequence[ImageRecord]) -> list[ImageRecord]:
    """The records without tags that a dataset contradicts.

    A dataset has no fields for empty values. A tag of the settings that it does not have may have been recorded where
    it is empty in all images, and was not where an image has a value.
    """
    if source != _OF_DATASET:
        return list(images)
    known = keywords_by_lower_case()
    proved = {known[field] for field in _fields_of_dataset(place) if field in known} | {*STANDARD_TAGS, *UID_TAGS}
    wrong = {key for image in images for key, value in image.tags.items() if value != "" and key not in proved}
    return [replace(image, tags={k: v for k, v in image.tags.items() if k not in wrong}) for image in images]


def _chosen(counts: Counter[str], images: int, permitted: AllowList) -> AllowList:
    always = {*STANDARD_TAGS, *UID_TAGS}
    tags = {}
    for key in sorted(counts.keys() - always):
        tag = tag_for_keyword(key)
        if tag is not None and 2 * counts[key] >= images and (key in permitted.tags or not is_identifying(tag)):
            tags[key] = tag
    return AllowList(tags, permitted.allow_identifying)


def _json_bytes(place: Visit) -> bytes:
    try:
        return read_deposit(place.dicoms_json, "")
    except IcfError:
        return b""


def _fields_of_dataset(place: Visit) -> set[str]:
    try:
        deposit = read_dataset(place)
    except IcfError:
        return set()
    logs: Iterable[bytes] = ()
    if deposit:
        logs = (file.content for path, file in deposit.annex.files.items() if path.endswith(b".log.met"))
    return {(first or later).decode("ascii") for log in logs for first, later in _ANNEX_FIELD.findall(log)}
