"""A visit's images as series: grouping, order, names, values to search for. Pure; no UID leaves this module.

What a study can be searched by: values of tags, as far as they identify nobody. Pure.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from icf_utils.catalog.privacy import NameRule, image_name, make_distinct, value_text
from icf_utils.metadata.records import STANDARD_TAGS, ImageRecord

_NOT_IN_FOLDER_NAMES = re.compile(r"[^\w.+-]+")
#: A number as DICOM's integer string writes it (PS3.5 section 6.2, IS).
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}\Z", re.ASCII)


@dataclass(frozen=True)
class CatalogImage:
    """One image as the file tree shows it; ``size`` in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Series:
    """A series of a visit; texts are clean and empty where nothing is recorded. ``folder`` is unique in the visit.

    ``middle`` is the place of the middle image's file in the archive: byte position and length. ``values`` are what a
    search finds the series by.
    """

    number: str
    description: str
    protocol: str
    modality: str
    folder: str
    images: tuple[CatalogImage, ...]
    values: tuple[TagValue, ...]
    middle: tuple[int, int]

    @property
    def size(self) -> int:
        """All images together, in bytes."""
        return sum(image.size for image in self.images)


def group_series(images: Iterable[ImageRecord], names: NameRule = "plain") -> tuple[Series, ...]:
    """The series of a visit by number, then by their first image's place in the archive.

    Images belong together by SeriesInstanceUID; those without one by SeriesNumber and SeriesDescription.
    """
    groups: dict[tuple[str, ...], list[ImageRecord]] = {}
    for image in images:
        groups.setdefault(_group_key(image), []).append(image)
    found = sorted(groups.values(), key=_order)
    folders = make_distinct((_folder_name(members) for members in found), "{name}_{number}")
    return tuple(_series(members, folder, names) for members, folder in zip(found, folders, strict=True))


def _group_key(image: ImageRecord) -> tuple[str, ...]:
    uid = image.uids.get("SeriesInstanceUID", "")
    return (uid,) if uid else (_text([image], "SeriesNumber"), _text([image], "SeriesDescription"))


def _order(members: Sequence[ImageRecord]) -> tuple[int, int, str]:
    number = _text(members, "SeriesNumber")
    return (0, int(number), "") if _INTEGER.match(number) else (1, 0, number)


def _series(members: Sequence[ImageRecord], folder: str, names: NameRule) -> Series:
    middle = members[len(members) // 2]
    return Series(
        number=_text(members, "SeriesNumber"),
        description=_text(members, "SeriesDescription"),
        protocol=_text(members, "ProtocolName"),
        modality=_modality(members),
        folder=folder,
        images=_images(members, names),
        values=series_values(members),
        middle=(middle.offset, middle.size),
    )


def _text(members: Sequence[ImageRecord], tag: str) -> str:
    """The first image's value that is not empty: the tags used here are the same in all images of a series."""
    for image in members:
        text = value_text(image.tags.get(tag), image.uids.values())
        if text:
            return text
    return ""


def _modality(members: Sequence[ImageRecord]) -> str:
    found = {value_text(image.tags.get("Modality"), image.uids.values()) for image in members}
    return "/".join(sorted(found - {""}))


def _folder_name(members: Sequence[ImageRecord]) -> str:
    number, description = _text(members, "SeriesNumber"), _text(members, "SeriesDescription")
    start = f"{int(number):02d}" if _INTEGER.match(number) else number
    words = [_NOT_IN_FOLDER_NAMES.sub("_", word).strip("_.") for word in (start, description)]
    return "_".join(word for word in words if word)[:100] or "series"


def _images(members: Sequence[ImageRecord], rule: NameRule) -> tuple[CatalogImage, ...]:
    texts = [_text(members, tag) for tag in ("SeriesDescription", "ProtocolName", "Modality")]
    shown = (
        image_name(posixpath.basename(image.path), at, image.uids.values(), texts, rule)
        for at, image in enumerate(members, 1)
    )
    names = make_distinct(shown, "{name} ({number})")
    return tuple(CatalogImage(name, image.size) for name, image in zip(names, members, strict=True))


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

    from icf_utils.dicom.confidentiality import is_identifying

    tags = {keyword: tag_for_keyword(keyword) for keyword in keywords}
    return [keyword for keyword, tag in tags.items() if tag is not None and not is_identifying(tag)]
