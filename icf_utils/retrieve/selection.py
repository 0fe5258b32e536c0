"""Which images are wanted: by series, by tags, by name. Pure, no input or output happens here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from icf_utils.errors import InvalidSetting, shown
from icf_utils.retrieve.values import Image


@dataclass(frozen=True)
class Selection:
    """What an image must fulfil; nothing said: all images.

    ``series``: SeriesInstanceUIDs or SeriesNumbers, one of which must fit. ``tags``: DICOM keywords and values, all of
    which must fit. ``images``: names inside the TAR, or SOPInstanceUIDs, one of which must fit.
    """

    series: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    images: tuple[str, ...] = ()

    def keywords(self) -> tuple[str, ...]:
        """The DICOM keywords that :meth:`takes` needs to know."""
        number = ("SeriesNumber",) if self.has_numbers() else ()
        return (*number, *(keyword for keyword, _ in self.tags))

    def has_numbers(self) -> bool:
        """Whether a series is asked for by its SeriesNumber."""
        return any(map(_is_number, self.series))

    def takes(self, image: Image) -> bool:
        series = not self.series or any(_is_series(image, name) for name in self.series)
        named = not self.images or any(_is_image(image, name) for name in self.images)
        return series and named and all(_has(image, keyword, value) for keyword, value in self.tags)

    def unmet(self, images: Iterable[Image]) -> tuple[str, ...]:
        """What was asked for and fits none of all the images that there are, in the words of the command line."""
        everything = tuple(images)
        missing = [f"--series {name}" for name in self.series if not any(_is_series(i, name) for i in everything)]
        missing += [f"--image {name}" for name in self.images if not any(_is_image(i, name) for i in everything)]
        missing += [
            f"--tag {key}={value}" for key, value in self.tags if not any(_has(i, key, value) for i in everything)
        ]
        if not missing and everything and not any(map(self.takes, everything)):
            missing.append("all of --series, --tag and --image together")
        return tuple(missing)


#: Every image.
ALL = Selection()


def parse_tag(text: str) -> tuple[str, str]:
    """``SeriesDescription=T1w`` as a pair. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    keyword, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Z][A-Za-z0-9]{1,63}", keyword):
        raise InvalidSetting("--tag", f"expected a DICOM keyword and a value, as in Modality=MR, found '{shown(text)}'")
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
    found = image.tags.get(keyword, "")
    return value in (map(str, found) if isinstance(found, (list, tuple)) else (str(found),))
