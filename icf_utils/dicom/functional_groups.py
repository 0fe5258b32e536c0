"""Values of enhanced multi-frame images (PS3.3 section C.7.6.16), which have most attributes in functional groups.

An attribute is taken from SharedFunctionalGroupsSequence, or from PerFrameFunctionalGroupsSequence if it has the same
value in all frames; frames that differ give nothing. Some attributes have another tag there than in images of one
frame (:data:`OTHER_TAGS`). Pure: bytes in, values out; malformed or hostile sequences give what could be read, without
recursion.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from icf_utils.dicom.constants import (
    ECHO_TIME,
    EFFECTIVE_ECHO_TIME,
    INVERSION_TIME,
    INVERSION_TIMES,
    ITEM,
    ITEM_DELIMITATION_ITEM,
    PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE,
    SEQUENCE_DELIMITATION_ITEM,
    SHARED_FUNCTIONAL_GROUPS_SEQUENCE,
    UNDEFINED_LENGTH,
)
from icf_utils.dicom.elements import Element, Header, HeaderReader, skip_undefined

#: Tags of enhanced images (PS3.3 sections C.8.13.5 and C.8.13.4) that say what another tag says in images of one
#: frame: EffectiveEchoTime for EchoTime, InversionTimes for InversionTime.
OTHER_TAGS = {ECHO_TIME: EFFECTIVE_ECHO_TIME, INVERSION_TIME: INVERSION_TIMES}
_OTHER_VR = "FD"


def find_elements(found: Header, tags: Collection[int]) -> dict[int, Element]:
    """Find ``tags`` in the functional groups of a scanned file, for which the scan must have asked.

    The tags are those of images of one frame. Tags that the groups do not have, or of which frames have different
    values, are left out. If the file is in explicit VR, the elements have their VR.
    """
    sources = {OTHER_TAGS.get(tag, tag): tag for tag in tags} | {tag: tag for tag in tags}
    shared = _items(found, SHARED_FUNCTIONAL_GROUPS_SEQUENCE, frozenset(sources))
    result: dict[int, Element] = {}
    for item in shared:
        result |= {tag: element for tag, element in item.items() if tag not in result}
    missing = frozenset(tag for tag, own in sources.items() if not {own, OTHER_TAGS.get(own)} & set(result))
    if missing:
        result |= _common(_items(found, PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, missing))
    return {tag: element for tag in tags if (element := _own(result, tag)) is not None}


def _own(elements: Mapping[int, Element], tag: int) -> Element | None:
    """The element of a tag, or of the other tag with its meaning; implicit VR says nothing of the latter's VR."""
    other = elements.get(OTHER_TAGS.get(tag, tag))
    return elements.get(tag) or (replace(other, vr=other.vr or _OTHER_VR) if other else None)


def _common(items: Iterator[dict[int, Element]]) -> dict[int, Element]:
    """The elements that all items have with the same value."""
    common = dict(next(items, {}))
    for item in items:
        common = {tag: element for tag, element in common.items() if item.get(tag) == element}
        if not common:
            break
    return common


def _items(found: Header, sequence: int, wanted: frozenset[int]) -> Iterator[dict[int, Element]]:
    """Yield the wanted elements of each item of a sequence: those in the items of the macros' own sequences.

    An item has one sequence for each functional group, with one item that has the attributes. What is nested deeper is
    skipped.
    """
    element = found.elements.get(sequence)
    if element is None:
        return
    raw = element.raw
    reader = HeaderReader(raw, 0, found.big_endian)
    reader.is_implicit = element.vr != "SQ"  # None in implicit VR; UN is implicit VR (PS3.5 section 6.2.2)
    position, item = 0, dict[int, Element]()
    ends: list[int | None] = []  # where the open item, sequence and item end; None up to a delimiter
    while position + 8 <= len(raw):
        tag, vr, start, length = reader.header(position, implicit=_is_delimiter(reader, position) or None)
        end = None if length == UNDEFINED_LENGTH else start + length
        if (tag == ITEM) != (len(ends) in _PLACES_OF_ITEMS) and tag not in _DELIMITERS:
            return
        if tag in _DELIMITERS:
            position = start
            del ends[-1:]
        elif tag == ITEM or (len(ends) == 1 and _is_group(reader, tag, vr, end)):
            position = start
            ends.append(end)
        else:
            position = skip_undefined(reader, start, vr) if end is None else start + length
            if len(ends) == _ATTRIBUTES and tag in wanted and end is not None and end <= len(raw):
                item[tag] = Element(vr.decode("latin-1") if vr else None, raw[start:end])
        if position < 0:
            return
        while ends and ends[-1] is not None and position >= ends[-1]:
            ends.pop()
        if not ends and tag != SEQUENCE_DELIMITATION_ITEM:
            yield item
            item = {}


_DELIMITERS = (ITEM_DELIMITATION_ITEM, SEQUENCE_DELIMITATION_ITEM)
#: How many levels are open where an item must follow, and where attributes follow.
_PLACES_OF_ITEMS, _ATTRIBUTES = (0, 2), 3


def _is_delimiter(reader: HeaderReader, position: int) -> bool:
    """Whether an item or a delimiter begins here; these have no VR (PS3.5 section 7.5)."""
    return reader.header(position, implicit=True)[0] >> 16 == 0xFFFE


def _is_group(reader: HeaderReader, tag: int, vr: bytes | None, end: int | None) -> bool:
    """Whether an element of an item is the sequence of a functional group; private ones are not read."""
    return (tag >> 16) % 2 == 0 and (vr == b"SQ" or end is None or reader.is_implicit)
