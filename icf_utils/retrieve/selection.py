"""Which images are selected: by series, by tags, by name. Pure, no input or output happens here."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from icf_utils.errors import InvalidSetting, printable
from icf_utils.retrieve.model import Image


@dataclass(frozen=True)
class Selection:
    """The conditions for an image; without any, all images match.

    ``series``: SeriesInstanceUIDs or SeriesNumbers, one of which must match. ``tags``: DICOM keywords and values, all
    of which must match. ``images``: names inside the TAR, or SOPInstanceUIDs, one of which must match.
    """

    series: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    images: tuple[str, ...] = ()

    def keywords(self) -> tuple[str, ...]:
        """The DICOM keywords whose values :meth:`matches` needs."""
        number = ("SeriesNumber",) if self.has_numbers() else ()
        return (*number, *(keyword for keyword, _ in self.tags))

    def has_numbers(self) -> bool:
        """Whether a series is selected by its SeriesNumber."""
        return any(map(_is_number, self.series))

    def matches(self, image: Image) -> bool:
        series = not self.series or any(_is_series(image, name) for name in self.series)
        named = not self.images or any(_is_image(image, name) for name in self.images)
        return series and named and all(_has(image, keyword, value) for keyword, value in self.tags)

    def unmatched(self, images: Iterable[Image], recorded: Collection[str] = ()) -> tuple[str, ...]:
        """The conditions that no image matches, as options of the command line.

        ``recorded`` are the DICOM keywords that the images may have, where that is known. Values that images have are
        not repeated.
        """
        everything = tuple(images)
        missing = [f"--series {name}" for name in self.series if not any(_is_series(i, name) for i in everything)]
        missing += [f"--image {name}" for name in self.images if not any(_is_image(i, name) for i in everything)]
        missing += [
            f"--tag {key}={value}{_reason(everything, key, value, recorded)}"
            for key, value in self.tags
            if not any(_has(i, key, value) for i in everything)
        ]
        if not missing and everything and not any(map(self.matches, everything)):
            missing.append(f"{' and '.join(self._given())} together")
        return tuple(missing)

    def _given(self) -> list[str]:
        """The conditions as options of the command line: each tag, and the other options without their values."""
        others = [option for option, names in (("--series", self.series), ("--image", self.images)) if names]
        return [*others, *(f"--tag {key}={value}" for key, value in self.tags)]


#: Every image.
ALL = Selection()


def parse_tag(text: str) -> tuple[str, str]:
    """``SeriesDescription=T1w`` as a pair. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    keyword, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Z][A-Za-z0-9]{1,63}", keyword):
        raise InvalidSetting(
            "--tag",
            "expected a DICOM keyword, spelled as in the standard, and a value, as in Modality=MR; "
            f"found '{printable(text)}'",
        )
    return keyword, value


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,12}", text) is not None


def _is_series(image: Image, name: str) -> bool:
    if image.series == name:
        return True
    number = str(image.tags.get("SeriesNumber", ""))
    return _is_number(name) and _is_number(number) and int(number) == int(name)


def _is_image(image: Image, name: str) -> bool:
    return name in (image.path, image.sop)


def _has(image: Image, keyword: str, value: str) -> bool:
    return value in _values(image, keyword)


def _values(image: Image, keyword: str) -> tuple[str, ...]:
    found = image.tags.get(keyword, "")
    return tuple(map(str, found)) if isinstance(found, (list, tuple)) else (str(found),)


def _reason(images: Sequence[Image], keyword: str, value: str, recorded: Collection[str]) -> str:
    """Why a tag may match no image, as far as is known; begins with a colon."""
    same = [name for name in sorted(recorded) if name.lower() == keyword.lower()]
    if recorded and not same:
        return f": {keyword} is not recorded here; recorded are {', '.join(sorted(recorded))}"
    if recorded and keyword not in recorded:
        return f": {keyword} is not recorded here; recorded is {', '.join(same)} (upper and lower case differ)"
    if images and not any(keyword in image.tags for image in images):
        return f": no image here has {keyword}"
    if any(value.lower() == there.lower() for image in images for there in _values(image, keyword)):
        return ": an image has the same value in other upper and lower case"
    return ""
