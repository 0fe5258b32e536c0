"""The value of an element of a header as plain text, for names that are made of header values. Pure."""

from __future__ import annotations

from icf_utils.dicom.charsets import parse_character_sets
from icf_utils.dicom.constants import SPECIFIC_CHARACTER_SET
from icf_utils.dicom.elements import Header
from icf_utils.dicom.values import convert_value
from icf_utils.errors import IcfError


def header_text(found: Header, tag: int | None, *, person_names: bool = False) -> str:
    """The text of an element; several values are joined by ``-``.

    Empty if the element is absent or cannot be converted, and for person names unless they are asked for. The scan of
    the header must have asked for the tag and for SpecificCharacterSet.
    """
    element = found.elements.get(tag) if tag is not None else None
    if tag is None or element is None:
        return ""
    charsets = found.elements.get(SPECIFIC_CHARACTER_SET)
    try:
        terms = parse_character_sets(charsets.raw) if charsets else ()
        value = convert_value(tag, element.vr, element.raw, terms, found.big_endian, person_names=person_names).value
    except IcfError:
        return ""
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)
