"""The Atom feed of a study (RFC 4287): what is in it, for programs that tell people what is new. Pure.

The same visits give the same feed, whatever the order in which they came, and no clock is read: an entry's time is the
date of its visit, and a feed reader recognises what is new by the entries' identifiers. A new version of a visit is a
new entry. Where the study shows no dates, all times are the first of 1970, since the format requires one.
"""

from __future__ import annotations

import html
import uuid
from collections.abc import Sequence
from urllib.parse import quote

from icf_utils.catalog.study_index import IndexedVisit
from icf_utils.formatting import format_count, format_size

FEED_PATH = "feed.xml"
#: Entries of the feed: the visits with the latest dates.
_MOST = 500
_NO_DATE = "1970-01-01"


def feed_bytes(name: str, catalog_id: str, visits: Sequence[IndexedVisit]) -> bytes:
    """The feed of a study; ``catalog_id`` identifies it."""
    latest = sorted(sorted(visits, key=lambda visit: visit.visit), key=lambda visit: visit.date, reverse=True)[:_MOST]
    updated = max((visit.date for visit in visits), default="") or _NO_DATE
    entries = "".join(_entry(catalog_id, visit) for visit in latest)
    text = f"""<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom">
<id>urn:uuid:{_uuid(catalog_id)}</id>
<title>{_text(name)}</title>
<updated>{updated}T00:00:00Z</updated>
<author><name>{_text(name)}</name></author>
<link rel="self" href="{FEED_PATH}"/>
<link rel="alternate" type="text/html" href="index.html"/>
<generator>icf-utils</generator>
{entries}</feed>
"""
    return text.encode("utf-8", "backslashreplace")


def _entry(catalog_id: str, visit: IndexedVisit) -> str:
    entry_id = _uuid(f"{catalog_id} {visit.visit} {visit.version}")
    title = visit.visit if visit.version == 1 else f"{visit.visit}, version {visit.version}"
    series, images = len(visit.series.kinds), sum(visit.series.images)
    about = [visit.date, format_count(series, "series"), format_count(images, "image"), format_size(visit.size)]
    return f"""<entry>
<id>urn:uuid:{entry_id}</id>
<title>{_text(title)}</title>
<updated>{visit.date or _NO_DATE}T00:00:00Z</updated>
<link rel="alternate" type="text/html" href="index.html#/visit/{quote(visit.visit)}"/>
<summary>{_text(", ".join(filter(None, about)))}</summary>
</entry>
"""


def _uuid(text: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"icf-utils feed {text}")


def _text(text: str) -> str:
    return html.escape(text, quote=False)
