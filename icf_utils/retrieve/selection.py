"""Which images are selected: by series, by tags, by name, or by a selection file. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from icf_utils.errors import InvalidSetting, printable
from icf_utils.retrieve.model import Image
from icf_utils.retrieve.selection_file import SelectedLine

#: How a tag's value is compared: equal (numbers by their value), containing a text in upper or lower case, by order.
_ORDERS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class TagCondition:
    """A condition for the value of a DICOM ``keyword``; one of several values must meet it.

    ``comparison`` is ``=`` (the same text, or numbers of the same value), ``~`` (contains the text; upper and lower
    case are equal), or ``<``, ``<=``, ``>``, ``>=`` for numbers.
    """

    keyword: str
    value: str
    comparison: str = "="

    def __str__(self) -> str:
        return f"{self.keyword}{self.comparison}{self.value}"

    def matches(self, image: Image) -> bool:
        return any(map(self._accepts, _values(image, self.keyword)))

    def _accepts(self, found: str) -> bool:
        if self.comparison == "~":
            return self.value.casefold() in found.casefold()
        if self.comparison == "=" and found == self.value:
            return True
        one, other = _number(found), _number(self.value)
        if one is None or other is None:
            return False
        return one == other if self.comparison == "=" else _ORDERS[self.comparison](one, other)


@dataclass(frozen=True)
class Selection:
    """The conditions for an image; without any, all images match.

    ``series``: SeriesInstanceUIDs or SeriesNumbers, one of which must match. ``tags``: all of which must match; a pair
    of keyword and value is a condition of equality. ``images``: names inside the TAR, or SOPInstanceUIDs, one of which
    must match. ``modalities``: values of Modality, one of which must match. ``listed``: lines of a selection file, one
    of which must match.
    """

    series: tuple[str, ...] = ()
    tags: tuple[TagCondition | tuple[str, str], ...] = ()
    images: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    listed: tuple[SelectedLine, ...] = field(default=(), repr=False)

    def keywords(self) -> tuple[str, ...]:
        """The DICOM keywords whose values :meth:`matches` needs."""
        number = ("SeriesNumber",) if self.has_numbers() else ()
        modality = ("Modality",) if self.modalities else ()
        return (*number, *modality, *(tag.keyword for tag in self._conditions))

    def has_numbers(self) -> bool:
        """Whether a series is selected by its SeriesNumber."""
        return any(_is_whole(name) for name in (*self.series, *(line.series for line in self.listed)))

    def matches(self, image: Image) -> bool:
        series = not self.series or any(_is_series(image, name) for name in self.series)
        named = not self.images or any(_is_image(image, name) for name in self.images)
        return series and named and self._is_listed(image) and all(tag.matches(image) for tag in self._all_conditions)

    def unmatched(self, images: Iterable[Image], recorded: Collection[str] = ()) -> tuple[str, ...]:
        """The conditions that no image matches, as options of the command line.

        ``recorded`` are the DICOM keywords that the images may have, where that is known. Values that images have are
        not repeated.
        """
        everything = tuple(images)
        missing = [f"--series {name}" for name in self.series if not any(_is_series(i, name) for i in everything)]
        missing += [f"--image {name}" for name in self.images if not any(_is_image(i, name) for i in everything)]
        missing += [
            f"--tag {tag}{_reason(everything, tag, recorded)}"
            for tag in self._conditions
            if not any(map(tag.matches, everything))
        ]
        missing += [
            f"--modality {name}"
            for name in self.modalities
            if not any(name in _values(image, "Modality") for image in everything)
        ]
        missing += [f"the line of --from: {line}" for line in self._unmatched_lines(everything)]
        if not missing and everything and not any(map(self.matches, everything)):
            missing.append(f"{' and '.join(self._given())} together")
        return tuple(missing)

    @cached_property
    def _conditions(self) -> tuple[TagCondition, ...]:
        return tuple(tag if isinstance(tag, TagCondition) else TagCondition(*tag) for tag in self.tags)

    @cached_property
    def _all_conditions(self) -> tuple[TagCondition | _OneOf, ...]:
        return (*self._conditions, _OneOf("Modality", self.modalities)) if self.modalities else self._conditions

    @cached_property
    def _lines(self) -> dict[tuple[str, str], list[SelectedLine]]:
        found: dict[tuple[str, str], list[SelectedLine]] = {}
        for line in self.listed:
            found.setdefault((line.study, line.visit), []).append(line)
        return found

    def _is_listed(self, image: Image) -> bool:
        if not self.listed:
            return True
        return any(_is_of_line(image, line) for line in self._lines.get((image.study, image.visit), ()))

    def _unmatched_lines(self, images: Sequence[Image]) -> list[SelectedLine]:
        """The lines for a series or an image; that a whole visit is missing is known from its metadata."""
        by_visit: dict[tuple[str, str], list[Image]] = {}
        for image in images if self.listed else ():
            by_visit.setdefault((image.study, image.visit), []).append(image)
        return [
            line
            for line in self.listed
            if (found := by_visit.get((line.study, line.visit)))
            and not any(_is_of_line(image, line) for image in found)
        ]

    def _given(self) -> list[str]:
        """The conditions as options of the command line: each tag, and the other options without their values."""
        options = (
            ("--series", self.series),
            ("--image", self.images),
            ("--modality", self.modalities),
            ("--from", self.listed),
        )
        return [*(option for option, names in options if names), *(f"--tag {tag}" for tag in self._conditions)]


@dataclass(frozen=True)
class _OneOf:
    """A tag that has one of some values."""

    keyword: str
    names: tuple[str, ...]

    def matches(self, image: Image) -> bool:
        return not set(self.names).isdisjoint(_values(image, self.keyword))


#: Every image.
ALL = Selection()


def parse_tag(text: str) -> TagCondition:
    """``SeriesDescription=T1w``, ``ProtocolName~mprage`` or ``EchoTime<=5``.

    Raises :class:`~icf_utils.errors.InvalidSetting`.
    """
    match = re.fullmatch(r"([A-Z][A-Za-z0-9]{1,63})(<=|>=|[=~<>])(.*)", text, re.DOTALL)
    if not match:
        raise InvalidSetting(
            "--tag",
            "expected a DICOM keyword, spelled as in the standard, and a value, as in Modality=MR, ProtocolName~mprage "
            f"or EchoTime<5; found '{printable(text)}'",
        )
    keyword, comparison, value = match.groups()
    if comparison in _ORDERS and _number(value) is None:
        raise InvalidSetting("--tag", f"'{printable(text)}' compares numbers, and '{printable(value)}' is not one")
    return TagCondition(keyword, value, comparison)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\s*[+-]?[0-9]{1,30}(\.[0-9]{0,30})?([eE][+-]?[0-9]{1,2})?\s*", text) else None


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,12}", text) is not None


def _is_series(image: Image, name: str) -> bool:
    if image.series == name:
        return True
    numbers = _values(image, "SeriesNumber")
    return _is_whole(name) and any(_is_whole(number) and int(number) == int(name) for number in numbers)


def _is_image(image: Image, name: str) -> bool:
    return name in (image.path, image.sop)


def _is_of_line(image: Image, line: SelectedLine) -> bool:
    return (not line.series or _is_series(image, line.series)) and (not line.path or _is_image(image, line.path))


def _values(image: Image, keyword: str) -> tuple[str, ...]:
    found = image.tags.get(keyword, "")
    return tuple(map(str, found)) if isinstance(found, (list, tuple)) else (str(found),)


def _reason(images: Sequence[Image], tag: TagCondition, recorded: Collection[str]) -> str:
    """Why a tag may match no image, as far as is known; begins with a colon."""
    same = [name for name in sorted(recorded) if name.lower() == tag.keyword.lower()]
    if recorded and not same:
        return f": {tag.keyword} is not recorded here; recorded are {', '.join(sorted(recorded))}"
    if recorded and tag.keyword not in recorded:
        return f": {tag.keyword} is not recorded here; recorded is {', '.join(same)} (upper and lower case differ)"
    if images and not any(tag.keyword in image.tags for image in images):
        return f": no image here has {tag.keyword}"
    if any(tag.value.lower() == there.lower() for image in images for there in _values(image, tag.keyword)):
        return ": an image has the same value in other upper and lower case"
    return ""


def no_match(condition: str) -> str:
    """What is said of a condition of :meth:`Selection.unmatched`, which may contain a reason after a colon."""
    return f"no image matches {condition}" + ("" if ": " in condition else "; --dry-run without it lists the series")
