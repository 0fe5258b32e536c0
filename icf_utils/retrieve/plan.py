"""What is to be retrieved, and how much of it is saved. Pure, no input or output happens here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from icf_utils.dicom.values import Value
from icf_utils.results import Notice
from icf_utils.retrieve.layout import plan_files, template_keywords
from icf_utils.retrieve.model import Failure, Image, Listing, PlannedFile, Tar
from icf_utils.retrieve.selection import Selection, no_match


@dataclass(frozen=True)
class Plan:
    """TARs with the files that their selected images become; ``failures`` and ``notices`` of the listing."""

    parts: tuple[tuple[Tar, tuple[PlannedFile, ...]], ...]
    failures: tuple[Failure, ...]
    notices: tuple[Notice, ...]

    @property
    def items(self) -> tuple[PlannedFile, ...]:
        return tuple(item for _, items in self.parts for item in items)


@dataclass(frozen=True)
class Stats:
    """What ``getStats`` of ``cod-retrieve`` counts, by the same names; sizes are sums of images' sizes in bytes.

    ``series`` and ``items`` are those that are not saved yet: ``STUDY/SERIES`` and ``STUDY/SERIES/SOP``.
    """

    totalSeriesCount: int  # noqa: N815 - the names are cod-retrieve's
    totalSavedSeriesCount: int  # noqa: N815
    totalSizeBytes: int  # noqa: N815
    totalSavedSizeBytes: int  # noqa: N815
    series: tuple[str, ...]
    items: tuple[str, ...]


@dataclass(frozen=True)
class SeriesLine:
    """A series as ``--dry-run`` lists it; sizes in bytes, ``number`` its SeriesNumber where that is known."""

    study: str
    visit: str
    series: str
    number: Value
    images: int
    size: int
    saved: int


def make_plan(listing: Listing, selection: Selection, template: str, where: str, *, zipped: bool = False) -> Plan:
    """The selected images of a listing, and their files, which are in a zip for each study if ``zipped``.

    Raises :class:`~icf_utils.errors.InvalidSetting` for the template.
    """
    everything = (image for tar in listing.tars for image in tar.images)
    unmatched = () if listing.is_up_to_date else selection.unmatched(everything, listing.recorded)
    chosen = [
        Tar(tar.url, tar.source, tuple(image for image in tar.images if selection.matches(image)))
        for tar in listing.tars
    ]
    chosen = [tar for tar in chosen if tar.images]
    images = [image for tar in chosen for image in tar.images]
    planned = iter(plan_files(images, template, zipped=zipped))
    parts = tuple((tar, tuple(next(planned) for _ in tar.images)) for tar in chosen)
    missing = tuple(Failure(where, no_match(what)) for what in unmatched)
    return Plan(parts, (*listing.failures, *missing), (*listing.notices, *_without_value(images, template)))


def _without_value(images: Sequence[Image], template: str) -> Iterator[Notice]:
    """Keywords of the template that have no value in any image: misspelled, or not recorded."""
    for keyword in template_keywords(template) if images else ():
        if not any(image.tags.get(keyword, "") not in ("", [], ()) for image in images):
            yield Notice(
                "not-recorded", keyword, "none of the selected images has a value of it; its place in the layout is '_'"
            )


def series_key(image: Image) -> str:
    """The name of a series in ``log.json`` and :class:`Stats`."""
    study, _, rest = image.key.partition("/")
    return f"{study}/{image.series}" if rest else image.key


def make_stats(items: Sequence[PlannedFile], saved: Iterable[bool]) -> Stats:
    """The figures of these images; ``saved`` says for each whether it is saved."""
    is_saved = dict(zip(items, saved, strict=True))
    by_series: dict[str, list[PlannedFile]] = {}
    for item in items:
        by_series.setdefault(series_key(item.image), []).append(item)
    left = [name for name, members in by_series.items() if not all(is_saved[item] for item in members)]
    return Stats(
        totalSeriesCount=len(by_series),
        totalSavedSeriesCount=len(by_series) - len(left),
        totalSizeBytes=sum(item.image.span.size for item in items),
        totalSavedSizeBytes=sum(item.image.span.size for item in items if is_saved[item]),
        series=tuple(left),
        items=tuple(item.image.key for item in items if not is_saved[item]),
    )


def series_lines(items: Sequence[PlannedFile], saved: Mapping[PlannedFile, bool]) -> tuple[SeriesLine, ...]:
    """One line for each series, in the order of the items."""
    groups: dict[tuple[str, str, str], list[PlannedFile]] = {}
    for item in items:
        groups.setdefault((item.image.study, item.image.visit, item.image.series), []).append(item)
    return tuple(
        SeriesLine(
            *names,
            number=members[0].image.tags.get("SeriesNumber", ""),
            images=len(members),
            size=sum(item.image.span.size for item in members),
            saved=sum(saved[item] for item in members),
        )
        for names, members in groups.items()
    )
