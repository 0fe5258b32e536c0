"""The series of a visit: grouping, order, names, and the values that a search finds them by. Pure.

No UID leaves this module. Values of tags are searchable unless they can identify a person.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from icf_utils.catalog.privacy import NameRule, image_name, value_text
from icf_utils.metadata.records import STANDARD_TAGS, ImageRecord

#: An integer string (IS) of DICOM (PS3.5 section 6.2).
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}\Z", re.ASCII)


@dataclass(frozen=True)
class CatalogImage:
    """One image as the file tree shows it; ``size`` is in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Series:
    """A series of a visit. Texts are clean, and empty if nothing is recorded. ``folder`` is unique in the visit.

    ``middle`` is the position of the middle image's file in the archive: offset and length in bytes. ``values`` are
    what a search finds the series by.
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
    """Group images into series, ordered by number, then by the position of their first image in the archive.

    Images with the same SeriesInstanceUID belong together; without one, those with the same SeriesNumber and
    SeriesDescription.
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
    """The first value that is not empty: the tags used here are the same in all images of a series."""
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
    words = [_as_folder(word).strip("_.") for word in (start, description)]
    return "_".join(word for word in words if word)[:100] or "series"


def _as_folder(text: str) -> str:
    """Replace runs of other characters by ``_``. Combining marks stay, as Thai and Devanagari write vowels by them."""
    kept = (char if char.isalnum() or char in "_.+-" or unicodedata.category(char)[0] == "M" else " " for char in text)
    return re.sub(" +", "_", "".join(kept))


def _images(members: Sequence[ImageRecord], rule: NameRule) -> tuple[CatalogImage, ...]:
    texts = [_text(members, tag) for tag in ("SeriesDescription", "ProtocolName", "Modality")]
    shown = (
        image_name(posixpath.basename(image.path), at, image.uids.values(), texts, rule)
        for at, image in enumerate(members, 1)
    )
    names = make_distinct(shown, "{name} ({number})")
    return tuple(CatalogImage(name, image.size) for name, image in zip(names, members, strict=True))


def make_distinct(names: Iterable[str], pattern: str) -> list[str]:
    """Number repeated names by ``pattern``, which contains ``{name}`` and ``{number}``; the order stays.

    >>> make_distinct(["a", "a", "b"], "{name} ({number})")
    ['a', 'a (2)', 'b']
    """
    names = list(names)
    taken, seen, result = set(names), Counter[str](), []
    for name in names:
        seen[name] += 1
        unique = name
        if seen[name] > 1:
            unique = pattern.format(name=name, number=seen[name])
            while unique in taken:
                seen[name] += 1
                unique = pattern.format(name=name, number=seen[name])
            taken.add(unique)
        result.append(unique)
    return result


#: A DICOM keyword and a value as text.
TagValue = tuple[str, str]

#: The first values to be dropped if a visit has too many: nearly every visit has a series 1.
_NUMBER = "SeriesNumber"
#: Limits of the search: characters of a value, and values of a visit.
_LONGEST, _MOST = 200, 500


def series_values(members: Sequence[ImageRecord]) -> tuple[TagValue, ...]:
    """The searchable values of a series: those of standard tags, and of additional tags with one value in the whole
    series.

    Tags in PS3.15 Table E.1-1 are left out even if a configuration records them: the catalog has more readers.
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
    """The searchable values of all series of a visit."""
    found = {value for values in series for value in values}
    kept = sorted(found, key=lambda value: (value[0] == _NUMBER, value))[:_MOST]
    return tuple(sorted(kept))


def _texts(members: Sequence[ImageRecord], tag: str) -> Iterable[str]:
    """The distinct values as text; each is converted once."""
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
