"""In what the next version of a visit differs from the present one: images by series, and other files. Pure.

An image is known by its SOPInstanceUID, so that files with other names are not other images; where that is missing or
not unique, by its path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from icf_utils.formatting import format_count, format_size
from icf_utils.metadata.records import ImageRecord, VisitMetadata


@dataclass(frozen=True)
class Difference:
    """How many images of a series, or other files, are new, have other content, or are gone.

    ``series`` is the series' number as its images state it; empty for images without one.
    """

    series: str
    added: int = 0
    changed: int = 0
    removed: int = 0

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


@dataclass(frozen=True)
class VisitDifference:
    """What the next version of a visit changes. Sizes in bytes.

    ``series`` has the series with differences, by number; ``renamed`` counts images that only have another file name.
    ``others`` is about files that are not images. ``remarks`` are lines about what else changes. ``instead`` says
    what is done instead of a next version (:func:`no_new_version`).
    """

    study: str
    visit: str
    version: int
    series: tuple[Difference, ...]
    others: Difference
    renamed: int
    old_size: int
    new_size: int
    old_images: int
    new_images: int
    remarks: tuple[str, ...] = ()
    instead: str = ""

    def lines(self) -> list[str]:
        """The difference for people."""
        if self.instead:
            return [f"{self.study}/{self.visit}: version {self.version} stays", f"  {self.instead}"]
        found = [f"  {_series_name(one)}: {_counts(one, 'image')}" for one in self.series]
        if self.renamed:
            found.append(f"  {format_count(self.renamed, 'image')} with another file name")
        if self.others:
            found.append(f"  other files: {_counts(self.others, 'file')}")
        if not found:
            found.append("  the same images and files, in an archive with other headers")
        images = f"{format_count(self.old_images, 'image')} -> {self.new_images}"
        sizes = f"{format_size(self.old_size)} -> {format_size(self.new_size)}"
        return [
            f"{self.study}/{self.visit}: version {self.version - 1} -> {self.version}",
            *found,
            f"  {images}; {sizes}",
            *(f"  {remark}" for remark in self.remarks),
        ]


def no_new_version(study: str, visit: str, version: int, size: int, instead: str) -> VisitDifference:
    """Say what is done to a visit that gets no new version; its archive has ``size`` bytes."""
    return VisitDifference(study, visit, version, (), Difference(""), 0, size, size, 0, 0, instead=instead)


def _series_name(one: Difference) -> str:
    return f"series {one.series}" if one.series else "images without a series number"


def _counts(one: Difference, unit: str) -> str:
    parts = [f"{format_count(count, unit)} {what}" for count, what in _pairs(one) if count]
    return ", ".join(parts)


def _pairs(one: Difference) -> Iterable[tuple[int, str]]:
    return (one.added, "added"), (one.changed, "changed"), (one.removed, "removed")


def compare_images(old: VisitMetadata, new: VisitMetadata) -> tuple[tuple[Difference, ...], int]:
    """The differences by series, and the number of images that only have another file name."""
    before, after = _by_identity(old.images), _by_identity(new.images)
    counts: dict[str, Counter[str]] = {}
    renamed = 0
    for key in before.keys() | after.keys():
        one, other = before.get(key), after.get(key)
        image = other or one
        assert image is not None
        if one and other:
            kind = "" if one.md5 == other.md5 else "changed"
            renamed += not kind and _below_root(one.path) != _below_root(other.path)
        else:
            kind = "added" if other else "removed"
        if kind:
            counts.setdefault(str(image.tags.get("SeriesNumber", "")), Counter())[kind] += 1
    ordered = sorted(
        counts, key=lambda number: (not number.isdecimal(), int(number) if number.isdecimal() else 0, number)
    )
    return tuple(Difference(number, **counts[number]) for number in ordered), renamed


def compare_files(old: Mapping[str, str], new: Mapping[str, str]) -> Difference:
    """The difference between files that are not images, as digests by path below the visit's folder."""
    return Difference(
        "",
        added=len(new.keys() - old.keys()),
        changed=sum(old[name] != new[name] for name in old.keys() & new.keys()),
        removed=len(old.keys() - new.keys()),
    )


def _by_identity(images: Iterable[ImageRecord]) -> dict[str, ImageRecord]:
    images = tuple(images)
    uids = Counter(image.uids.get("SOPInstanceUID", "") for image in images)
    found = {}
    for image in images:
        uid = image.uids.get("SOPInstanceUID", "")
        found[uid if uid and uids[uid] == 1 else f"/{_below_root(image.path)}"] = image
    return found


def _below_root(path: str) -> str:
    return path.partition("/")[2]
