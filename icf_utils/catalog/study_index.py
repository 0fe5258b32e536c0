"""What the pages of a study search: all series of all visits, in ``data/study.json``. Pure.

Studies have thousands of visits with the same protocol. So the file names each value once (``values``, by the keywords
of ``tags``), each *kind* of series once (``kinds``: positions of values in the order of ``tags``, -1 without a value),
and a line for each visit: its identifier, date, size of its archive in bytes, position of its store's address in
``stores``, whether it has a dataset (1 or 0), and four lists with an item for each series: positions of kinds,
SeriesNumbers, numbers of images, bytes; then the number of its version, if that is above 1. Where archives are in
other stores, ``archives`` has these stores' addresses, in the order of ``stores``. ``data/visits.json`` has the
identifiers and dates alone.

``data/protocols.json`` has what is usual in the study, for comparing a series with: for each pair of ProtocolName and
SeriesDescription how many visits have it, how many such series a visit has, how many images a series has, and the most
frequent values of the parameters.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icf_utils.catalog.series import Series, SeriesKind, TagValue
from icf_utils.errors import DepositDamaged

INDEX_PATH = "data/study.json"
VISITS_PATH = "data/visits.json"
PROTOCOLS_PATH = "data/protocols.json"
_FORMAT = 1
_REMEDY = "run 'icf-utils catalog build' for this study"

#: The parameters that are compared with what is usual in a study.
COMPARED = (
    *("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle"),
    *("Rows", "Columns", "SliceThickness", "PixelSpacing"),
)


@dataclass(frozen=True)
class SeriesColumns:
    """The series of a visit in their order, as columns: their kinds, SeriesNumbers (texts where they are not integers),
    numbers of images, and bytes.
    """

    kinds: tuple[SeriesKind, ...] = ()
    numbers: tuple[int | str, ...] = ()
    images: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()


#: A visit without series, and one whose series are not known.
NO_SERIES = SeriesColumns()


@dataclass(frozen=True)
class IndexedVisit:
    """A visit as the index has it. ``date`` is empty if the study shows none; ``size`` is the archive's, in bytes.

    ``archives`` is the address of another store that has the archive; empty if that is ``store``. ``version`` is the
    number of the visit's version.
    """

    visit: str
    date: str
    size: int
    store: str
    has_dataset: bool
    series: SeriesColumns
    archives: str = ""
    version: int = 1

    @property
    def stores(self) -> tuple[str, str]:
        """The address of the visit's store, and of the one that has its archive."""
        return self.store, self.archives or self.store


def sorted_stores(visits: Iterable[IndexedVisit]) -> list[tuple[str, str]]:
    """The stores of visits (:attr:`IndexedVisit.stores`) in the order in which the index has them."""
    return sorted({visit.stores for visit in visits})


def series_columns(series: Sequence[Series]) -> SeriesColumns:
    """The series of a visit as columns."""
    return SeriesColumns(
        tuple(one.kind for one in series),
        tuple(_number(one.number) for one in series),
        tuple(len(one.images) for one in series),
        tuple(one.size for one in series),
    )


def _number(text: str) -> int | str:
    digits = text.lstrip("+-")
    return int(text) if digits.isascii() and digits.isdigit() and len(text) - len(digits) < 2 else text


def series_digest(series: SeriesColumns, known: dict[int, str]) -> str:
    """A digest of a visit's series. ``known`` keeps those of kinds between calls: most visits share their kinds."""
    kinds = [known.get(id(kind)) or known.setdefault(id(kind), _json(kind)) for kind in series.kinds]
    text = _json([kinds, series.numbers, series.images, series.sizes])
    return hashlib.md5(text.encode("utf-8", "backslashreplace"), usedforsecurity=False).hexdigest()


def encode_index(about: Mapping[str, Any], visits: Sequence[IndexedVisit]) -> bytes:
    """Encode the index: ``about`` is what the pages say of the study itself; each visit has a line of its own."""
    kinds = _Kinds()
    places = [[kinds.place(kind) for kind in visit.series.kinds] for visit in visits]
    tags, values, table, order = kinds.tables()
    stores = sorted_stores(visits)
    addresses = {"stores": [store for store, _ in stores]}
    if any(store != archives for store, archives in stores):
        addresses["archives"] = [archives for _, archives in stores]
    head = {"format": _FORMAT, **about, **addresses, "tags": tags, "values": values, "kinds": table}
    rows = zip(visits, places, strict=True)
    lines = (_json(_line(visit, stores.index(visit.stores), [order[at] for at in own])) for visit, own in rows)
    return _with_lines(_json(head)[:-1] + ',"visits":', lines, "}")


def encode_visits(visits: Iterable[IndexedVisit]) -> bytes:
    """Encode the identifiers and dates of a study's visits."""
    return _with_lines("", (_json([visit.visit, visit.date]) for visit in visits), "")


def _with_lines(before: str, lines: Iterable[str], after: str) -> bytes:
    body = ",\n".join(lines)
    return f"{before}[\n{body}\n]{after}\n".encode("utf-8", "backslashreplace")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _line(visit: IndexedVisit, store: int, kinds: list[int]) -> list[object]:
    series = visit.series
    about = [visit.visit, visit.date, visit.size, store, int(visit.has_dataset)]
    version = [visit.version] if visit.version > 1 else []
    return [*about, kinds, series.numbers, series.images, series.sizes, *version]


class _Kinds:
    """The kinds in use, numbered as they come, and sorted in the end so that the order of visits does not matter."""

    def __init__(self) -> None:
        self._places: dict[SeriesKind, int] = {}
        self._seen: dict[int, tuple[SeriesKind, int]] = {}

    def place(self, kind: SeriesKind) -> int:
        """The number of a kind. Comparing kinds is slow, and most series share the same object."""
        known = self._seen.get(id(kind))
        if known is None:
            place = self._places.setdefault(kind, len(self._places))
            self._seen[id(kind)] = known = kind, place  # with the object, so that its id stays its own
        return known[1]

    def tables(self) -> tuple[list[str], list[list[TagValue]], list[list[int]], list[int]]:
        """The tags, the values of each, the kinds by positions of values, and the new number of each kind."""
        found: dict[str, dict[str, TagValue]] = {}
        for kind in self._places:
            for tag, value in kind:
                found.setdefault(tag, {})[_json(value)] = value
        tags = sorted(found)
        ordered = [sorted(found[tag].items(), key=lambda item: (_rank(item[1]), item[0])) for tag in tags]
        pairs = zip(tags, ordered, strict=True)
        places = {tag: {text: at for at, (text, _) in enumerate(items)} for tag, items in pairs}
        column = {tag: at for at, tag in enumerate(tags)}
        rows = [[-1] * len(tags) for _ in self._places]
        for row, kind in zip(rows, self._places, strict=True):
            for tag, value in kind:
                row[column[tag]] = places[tag][_json(value)]
        ranked = sorted(range(len(rows)), key=lambda at: rows[at])
        order = [0] * len(rows)
        for rank, at in enumerate(ranked):
            order[at] = rank
        return tags, [[value for _, value in items] for items in ordered], [rows[at] for at in ranked], order


def _rank(value: TagValue) -> tuple[int, float]:
    """Numbers come first, in their order; then texts and lists."""
    if isinstance(value, (int, float)):
        return 0, value
    return 1 if isinstance(value, str) else 2, 0


def parse_index(raw: bytes, source: str) -> dict[str, IndexedVisit]:
    """Parse an index; visits by their identifiers. Raises :class:`~icf_utils.errors.DepositDamaged`."""
    try:
        found = json.loads(raw.decode("utf-8"))
        if found["format"] != _FORMAT:
            raise ValueError("another format")
        kinds = _parsed_kinds(found["tags"], found["values"], found["kinds"])
        stores = list(zip(found["stores"], found.get("archives", found["stores"]), strict=True))
        visits = [_parsed_visit(line, kinds, stores) for line in found["visits"]]
        return {visit.visit: visit for visit in visits}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        problem = f"something else ({type(error).__name__}: {error})"
        raise DepositDamaged(source, "the index of a study as icf-utils writes it", problem, _REMEDY) from error


def _parsed_kinds(tags: list[str], values: list[list[Any]], kinds: list[list[int]]) -> list[SeriesKind]:
    known = [[tuple(value) if isinstance(value, list) else value for value in column] for column in values]
    return [
        tuple((tag, known[at][place]) for at, (tag, place) in enumerate(zip(tags, kind, strict=True)) if place >= 0)
        for kind in kinds
    ]


def _parsed_visit(line: list[Any], kinds: Sequence[SeriesKind], stores: Sequence[tuple[str, str]]) -> IndexedVisit:
    visit, date, size, store, has_dataset, places, numbers, images, sizes, *more = line
    version = more[0] if more else 1
    if not (isinstance(visit, str) and isinstance(date, str) and type(size) is int and type(version) is int):
        raise TypeError("a visit's line has other values")
    if any(type(place) is not int or place < 0 for place in (*places, *images, *sizes)):
        raise TypeError("a visit's series have other values")
    if not len(places) == len(numbers) == len(images) == len(sizes):
        raise ValueError("a visit's columns differ in length")
    columns = SeriesColumns(tuple(kinds[place] for place in places), tuple(numbers), tuple(images), tuple(sizes))
    own, archives = stores[store]
    return IndexedVisit(
        visit, date, size, own, bool(has_dataset), columns, "" if archives == own else archives, version
    )


def encode_protocols(visits: Iterable[IndexedVisit]) -> bytes:
    """Encode what is usual in a study; one line for each pair of protocol and description, in order."""
    found: dict[tuple[str, str], _Usual] = {}
    pairs: dict[int, tuple[SeriesKind, _Usual]] = {}  # by the kind's id, as in _Kinds
    for visit in visits:
        in_visit: Counter[_Usual] = Counter()
        for kind, images in zip(visit.series.kinds, visit.series.images, strict=True):
            known = pairs.get(id(kind))
            if known is None:
                pairs[id(kind)] = known = kind, found.setdefault(_pair(kind), _Usual())
            known[1].add(kind, images)
            in_visit[known[1]] += 1
        for usual, count in in_visit.items():
            usual.per_visit[count] += 1
    return _with_lines("", (_json([*pair, *found[pair].values()]) for pair in sorted(found)), "")


def _pair(kind: SeriesKind) -> tuple[str, str]:
    values = dict(kind)
    return _text(values.get("ProtocolName", "")), _text(values.get("SeriesDescription", ""))


def _text(value: TagValue) -> str:
    return str(value[0] if isinstance(value, tuple) else value)


class _Usual:
    """Counts over the series of one pair of protocol and description."""

    def __init__(self) -> None:
        self.per_visit: Counter[int] = Counter()
        self._images: Counter[int] = Counter()
        self._kinds: Counter[int] = Counter()
        self._objects: dict[int, SeriesKind] = {}

    def add(self, kind: SeriesKind, images: int) -> None:
        self._images[images] += 1
        self._kinds[id(kind)] += 1
        self._objects[id(kind)] = kind

    def values(self) -> tuple[int, int, int, dict[str, TagValue]]:
        """How many visits have it, series of a visit, images of a series, and parameters: the most frequent of each."""
        return sum(self.per_visit.values()), _mode(self.per_visit), _mode(self._images), self._parameters()

    def _parameters(self) -> dict[str, TagValue]:
        counts: dict[str, Counter[str]] = {tag: Counter() for tag in COMPARED}
        values: dict[str, TagValue] = {}
        for place, count in self._kinds.items():
            for tag, value in self._objects[place]:
                if tag in counts:
                    counts[tag][_json(value)] += count
                    values[_json(value)] = value
        return {tag: values[_mode(found)] for tag, found in counts.items() if found}


def _mode(counts: Counter[Any]) -> Any:
    """The most frequent one; the smallest of several."""
    return min(counts, key=lambda one: (-counts[one], one))
