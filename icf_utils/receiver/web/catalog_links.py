"""Where a visit is in its study's catalog on the web. Looks at the store's files."""

from __future__ import annotations

from urllib.parse import quote

from icf_utils.store.layout import Visit


def catalog_page(store_url: str, place: Visit) -> str:
    """The address of a visit's page; empty if the store has no web address, or if no catalog shows the visit."""
    if not store_url.startswith(("https://", "http://")) or not place.catalog_file.is_file():
        return ""
    return f"{store_url.rstrip('/')}/{quote(place.study)}/catalog/#/visit/{quote(place.visit)}"
