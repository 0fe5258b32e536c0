"""Which tags a visit's damaged metadata recorded. Reads what is left of the JSON, else the dataset.

A tag counts if at least half of the images have it, so that a changed letter makes no tag. Such as can identify a
person count only if the store's settings name them, whatever the files say.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from icf_utils.dataset.deposit_reader import read_dataset
from icf_utils.dicom.confidential import is_identifying
from icf_utils.dicom.values import keyword_tag
from icf_utils.errors import IcfError
from icf_utils.metadata.allowlist import AllowList, keywords_by_lower_case
from icf_utils.metadata.records import STANDARD_TAGS, UID_TAGS, VisitMetadata
from icf_utils.store import Visit, read_deposit

_JSON_KEY = re.compile(rb'"([A-Za-z][A-Za-z0-9]*)":')
_ANNEX_FIELD = re.compile(rb"(?:\A|\n)[0-9.]+s ([a-z][a-z0-9]*) |(?<= )([a-z][a-z0-9]*)(?= [+])")


def tags_of(place: Visit, recorded: VisitMetadata | None, permitted: AllowList) -> tuple[AllowList, str]:
    """The tags to record again beside the standard ones, and where they are known from."""
    if recorded:
        counts = Counter(key for image in recorded.images for key in image.tags)
        return _chosen(counts, len(recorded.images), permitted), "the tags that it had"
    counts = Counter(key.decode("ascii") for key in _JSON_KEY.findall(_bytes(place)))
    if counts["Modality"]:
        return _chosen(counts, counts["Modality"], permitted), "the tags that are left of it"
    fields = _fields_of_dataset(place)
    if fields:
        known = keywords_by_lower_case()
        named = Counter({known[field]: 1 for field in fields if field in known})
        return _chosen(named, 1, permitted), "the tags of the dataset"
    return permitted, "the tags that the settings name"


def _chosen(counts: Counter[str], images: int, permitted: AllowList) -> AllowList:
    always = {*STANDARD_TAGS, *UID_TAGS}
    tags = {}
    for key in sorted(counts.keys() - always):
        tag = keyword_tag(key)
        if tag is not None and 2 * counts[key] >= images and (key in permitted.tags or not is_identifying(tag)):
            tags[key] = tag
    return AllowList(tags, permitted.allow_identifying)


def _bytes(place: Visit) -> bytes:
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
