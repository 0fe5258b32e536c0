"""What a study can be searched by: values of tags, as far as they identify nobody. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from icf_utils.catalog.text import value_text
from icf_utils.metadata.records import STANDARD_TAGS, ImageRecord

#: A DICOM keyword and a value as text.
TagValue = tuple[str, str]

#: Nearly every visit has a series 1: the first to go where a visit has too many values.
_NUMBER = "SeriesNumber"
#: More of a value (characters), and more values of a visit, are in nobody's search.
_LONGEST, _MOST = 200, 500


def series_values(members: Sequence[ImageRecord]) -> tuple[TagValue, ...]:
    """The values of a series: of standard tags, and of what a configuration added as far as it is constant.

    What PS3.15 Table E.1-1 lists stays out although a configuration recorded it: the catalog is for more readers.
    """
    first = members[0]
    extra = [tag for tag in first.tags if tag not in STANDARD_TAGS]
    found = {(tag, text) for tag in STANDARD_TAGS for text in _texts(members, tag)}
    for tag in _harmless(extra):
        texts = set(_texts(members, tag))
        if len(texts) == 1:
            found.add((tag, texts.pop()))
    return tuple(sorted(found))


def visit_values(series: Iterable[Sequence[TagValue]]) -> tuple[TagValue, ...]:
    """The values of all series of a visit."""
    found = {value for values in series for value in values}
    kept = sorted(found, key=lambda value: (value[0] == _NUMBER, value))[:_MOST]
    return tuple(sorted(kept))


def _texts(members: Sequence[ImageRecord], tag: str) -> Iterable[str]:
    """The distinct values; each is turned into text once."""
    seen = {repr(image.tags.get(tag)): image for image in members}
    texts = (value_text(image.tags.get(tag), image.uids.values())[:_LONGEST] for image in seen.values())
    return [text for text in texts if text]


def _harmless(keywords: Sequence[str]) -> list[str]:
    if not keywords:
        return []
    from pydicom.datadict import tag_for_keyword  # here: most visits have none, and the import takes a while

    from icf_utils.dicom.confidential import is_identifying

    tags = {keyword: tag_for_keyword(keyword) for keyword in keywords}
    return [keyword for keyword, tag in tags.items() if tag is not None and not is_identifying(tag)]
