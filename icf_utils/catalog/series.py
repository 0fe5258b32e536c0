"""The series of a visit: grouping, order, names, and the values that a search finds them by. Pure.

No UID leaves this module. Values of tags are searchable unless they can identify a person.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from icf_utils.catalog.privacy import NameRule, image_name, value_text
from icf_utils.catalog.series_paths import SeriesPaths, find_paths, folder_owners
from icf_utils.dicom.values import Value
from icf_utils.metadata.records import STANDARD_TAGS, ImageRecord
from icf_utils.settings import TECHNICAL_TAGS

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

    ``middle`` is the position of the middle image's file in the archive: offset and length in bytes; ``ends`` are those
    of the first and the last image's. ``kind`` is what a search finds the series by. ``paths`` are those of the files.
    """

    number: str
    description: str
    protocol: str
    modality: str
    folder: str
    images: tuple[CatalogImage, ...]
    kind: SeriesKind
    middle: tuple[int, int]
    ends: tuple[tuple[int, int], tuple[int, int]]
    paths: SeriesPaths

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
    owners = folder_owners(found)
    return tuple(
        _series(members, folder, names, at, owners)
        for at, (members, folder) in enumerate(zip(found, folders, strict=True))
    )


def _group_key(image: ImageRecord) -> tuple[str, ...]:
    uid = image.uids.get("SeriesInstanceUID", "")
    return (uid,) if uid else (_text([image], "SeriesNumber"), _text([image], "SeriesDescription"))


def _order(members: Sequence[ImageRecord]) -> tuple[int, int, str]:
    number = _text(members, "SeriesNumber")
    return (0, int(number), "") if _INTEGER.match(number) else (1, 0, number)


def _series(members: Sequence[ImageRecord], folder: str, names: NameRule, at: int, owners: Mapping[str, int]) -> Series:
    middle = members[len(members) // 2]
    texts = [_text(members, tag) for tag in ("SeriesDescription", "ProtocolName", "Modality")]
    images = _images(members, texts, names)
    return Series(
        number=_text(members, "SeriesNumber"),
        description=_text(members, "SeriesDescription"),
        protocol=_text(members, "ProtocolName"),
        modality=_modality(members),
        folder=folder,
        images=images,
        kind=series_kind(members),
        middle=(middle.offset, middle.size),
        ends=((members[0].offset, members[0].size), (members[-1].offset, members[-1].size)),
        paths=find_paths(at, members, owners, texts, names, (image.name for image in images)),
    )


def _text(members: Sequence[ImageRecord], tag: str) -> str:
    """The first value that is not empty: the tags used here are the same in all images of a series."""
    for image in members:
        text = value_text(image.tags.get(tag), image.uids.values())
        if text:
            return text
    return ""


def list_modalities(series: Iterable[Series]) -> list[str]:
    """The modalities of several series, sorted. A series of images of two modalities has both."""
    return sorted({modality for one in series for modality in one.modality.split("/")} - {""})


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


def _images(members: Sequence[ImageRecord], texts: Sequence[str], rule: NameRule) -> tuple[CatalogImage, ...]:
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


#: A recorded value as JSON has it; several values are a tuple.
TagValue: TypeAlias = "str | int | float | tuple[str | int | float, ...]"
#: What a search finds a series by: pairs of a DICOM keyword and a value, sorted by keyword. Series of many visits have
#: the same kind.
SeriesKind: TypeAlias = "tuple[tuple[str, TagValue], ...]"

#: The number of a series does not belong to its kind: it differs between visits that are otherwise alike.
_NUMBER = "SeriesNumber"
#: Limits: characters of a value, and different values of a tag in a series.
_LONGEST, _MOST = 200, 8


def series_kind(members: Sequence[ImageRecord]) -> SeriesKind:
    """The kind of a series: its values of standard tags, and those of additional ones.

    Empty values are left out, and so are tags with more than eight different values, or with different lists of values.
    Tags in PS3.15 Table E.1-1 are left out even if a configuration records them: the catalog has more readers.
    """
    extra = [tag for tag in members[0].tags if tag not in STANDARD_TAGS]
    wanted = [tag for tag in (*STANDARD_TAGS, *_harmless(extra)) if tag != _NUMBER]
    values = ((tag, _common_value(_distinct(members, tag))) for tag in sorted(wanted))
    return tuple((tag, value) for tag, value in values if value not in ("", ()))


def _common_value(values: Sequence[TagValue]) -> TagValue:
    """One value, or several of which none is a list itself."""
    if len(values) == 1:
        return values[0]
    if len(values) > _MOST or any(isinstance(value, tuple) for value in values):
        return ()
    return tuple(sorted((value for value in values if not isinstance(value, tuple)), key=_value_order))


def _value_order(value: str | int | float) -> tuple[bool, float, str]:
    return (True, 0, value) if isinstance(value, str) else (False, value, "")


def _distinct(members: Sequence[ImageRecord], tag: str) -> list[TagValue]:
    """The distinct values that are not empty, in the order of the images; each is converted once."""
    seen = {repr(image.tags.get(tag)): image for image in reversed(members)}
    values = (_clean(image.tags.get(tag), image.uids.values()) for image in reversed(seen.values()))
    return [value for value in dict.fromkeys(values) if value not in ("", ())]


def _clean(value: Value | None, uids: Iterable[str]) -> TagValue:
    """A recorded value without identifiers. Whole numbers are integers, so that 3 and 3.0 are one value."""
    if isinstance(value, list):
        items = [_clean(item, uids) for item in value]
        return tuple(item for item in items if not isinstance(item, tuple))
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    return value if isinstance(value, int) else value_text(value, uids)[:_LONGEST]


def kind_texts(kind: SeriesKind, keyword: str) -> tuple[str, ...]:
    """The values of a keyword in a kind, as texts."""
    found = dict(kind).get(keyword, ())
    return tuple(str(item) for item in (found if isinstance(found, tuple) else (found,)))


def _harmless(keywords: Sequence[str]) -> list[str]:
    return [keyword for keyword in keywords if _is_harmless(keyword)]


@cache
def _is_harmless(keyword: str) -> bool:
    if keyword in TECHNICAL_TAGS:  # known, so that the data dictionary need not be loaded
        return True

    from pydicom.datadict import tag_for_keyword  # here: the import takes a while

    from icf_utils.dicom.confidentiality import is_identifying

    tag = tag_for_keyword(keyword)
    return tag is not None and not is_identifying(tag)
