"""The allow-list: DICOM keywords whose values are recorded of each image in addition to the standard tags.

:func:`read_allow_list` reads a file; everything else is pure. A list with any mistake is refused as a whole, and all
mistakes are named at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from icf_utils.dicom.confidentiality import TABLE, is_identifying, is_in_profile
from icf_utils.dicom.values import UNCONVERTIBLE_VRS, dictionary_vr, keyword_for_tag, tag_for_keyword
from icf_utils.errors import NAMED_AT_MOST, InvalidSetting, printable, storage_errors
from icf_utils.metadata.records import STANDARD_TAGS, UID_TAGS, ImageRecord, VisitMetadata
from icf_utils.settings import MetadataSettings

_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),\s*([0-9A-Fa-f]{4})\)?")
_SWITCH = re.compile(r"allow_identifying\s*:\s*(.*)")


@dataclass(frozen=True)
class AllowList:
    """``tags`` maps DICOM keywords to tag numbers, sorted by keyword, without the tags that are always recorded.

    ``allow_identifying``: tags that can identify a person may be among them.
    """

    tags: Mapping[str, int]
    allow_identifying: bool

    def joined(self, other: AllowList) -> AllowList:
        """Both lists together; ``allow_identifying`` is this list's."""
        tags = {**self.tags, **other.tags}
        return AllowList({keyword: tags[keyword] for keyword in sorted(tags)}, self.allow_identifying)


def recorded_tags(metadata: VisitMetadata | None) -> AllowList:
    """The tags that metadata has in addition to the standard ones: the archive gives them again."""
    return tags_of_images(metadata.images if metadata else ())


def tags_of_images(images: Iterable[ImageRecord]) -> AllowList:
    """The tags that records of images have in addition to the standard ones."""
    keywords = sorted({key for image in images for key in image.tags} - set(STANDARD_TAGS))
    known = {keyword: tag for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None}
    return AllowList(known, allow_identifying=True)


def read_allow_list(path: Path) -> AllowList:
    """Read the list in a file (:func:`parse_allow_list`). Raises ``StorageFailure`` and ``InvalidSetting``."""
    with storage_errors(path, "read"):
        raw = path.read_bytes()
    try:
        return parse_allow_list(raw.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise InvalidSetting(str(path), f"not text in UTF-8 ({error.reason})") from error


def allow_list_from_settings(settings: MetadataSettings, source: str) -> AllowList:
    """Check the lists in ``[metadata]`` of a store's settings; ``source`` names the file. Raises ``InvalidSetting``."""
    names = (*settings.technical_tags, *settings.tags)
    return _checked(names, settings.allow_identifying, source, "allow_identifying = true", [])


def parse_allow_list(text: str, source: str) -> AllowList:
    """Parse the list in the text of a file.

    Each line has a DICOM keyword or a tag, as ``(gggg,eeee)`` or ``gggg,eeee``; ``#`` begins a comment. One line may
    be ``allow_identifying: true`` (or ``false``). Raises :class:`~icf_utils.errors.InvalidSetting`.

    >>> dict(parse_allow_list("EchoTime  # in ms", "tags.txt").tags)
    {'EchoTime': 1572993}
    """
    lines = [line.split("#", 1)[0].strip() for line in text.splitlines()]
    switches = [found.group(1) for found in map(_SWITCH.fullmatch, lines) if found]
    names = [line for line in lines if line and not _SWITCH.fullmatch(line)]
    problems = []
    if not set(switches) <= {"true", "false"} or len(set(switches)) > 1:
        problems.append("'allow_identifying' must be given once, as 'true' or 'false'")
    return _checked(names, switches[-1:] == ["true"], source, "allow_identifying: true", problems)


def _checked(names: Iterable[str], allowed: bool, source: str, permission: str, problems: list[str]) -> AllowList:
    tags: dict[str, int] = {}
    for name in dict.fromkeys(names):
        tag, problem = _resolve(name, suggests=len(problems) < NAMED_AT_MOST)
        if tag is not None:
            tags[keyword_for_tag(tag) or ""] = tag
            problem = _objection(tag, name, allowed, permission)
        if problem:
            problems.append(problem)
    if problems:
        raise InvalidSetting(source, _report(problems))
    always = {*STANDARD_TAGS, *UID_TAGS}
    return AllowList({keyword: tags[keyword] for keyword in sorted(tags) if keyword not in always}, allowed)


def _resolve(name: str, *, suggests: bool) -> tuple[int | None, str | None]:
    """Return the tag that ``name`` denotes, or why it denotes none; ``suggests`` a similar one, which takes 50 ms."""
    as_number = _TAG.fullmatch(name)
    if as_number is None:
        tag = tag_for_keyword(name)
        if tag is not None:
            return tag, None
        return None, f"'{printable(name)}' is not a DICOM keyword{_suggestion(name) if suggests else ''}"
    tag = int(as_number.group(1) + as_number.group(2), 16)
    if tag_for_keyword(keyword_for_tag(tag) or "") != tag:  # private, unknown, or one of a repeating group
        return None, f"'{printable(name)}' is not a tag with its own DICOM keyword"
    return tag, None


def _objection(tag: int, name: str, allowed: bool, permission: str) -> str | None:
    keyword = keyword_for_tag(tag)
    if keyword in STANDARD_TAGS or keyword in UID_TAGS:  # recorded by design
        return None
    vr = dictionary_vr(tag)
    if vr is None or vr == "SQ" or vr in UNCONVERTIBLE_VRS:
        return f"'{printable(name)}' is a sequence or binary data, which cannot be recorded"
    if allowed or not is_identifying(tag):
        return None
    why = f"is listed in {TABLE}" if is_in_profile(tag) else "is a person name"
    return f"'{printable(name)}' {why}; it is recorded only if the list also says '{permission}'"


def _suggestion(name: str) -> str:
    by_lower = keywords_by_lower_case()
    close = difflib.get_close_matches(name[:100].lower(), by_lower, n=1, cutoff=0.7)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""


def keywords_by_lower_case() -> dict[str, str]:
    """Map the lower-case form of every DICOM keyword, as git-annex metadata has it, to the keyword."""
    return {keyword.lower(): keyword for keyword in _all_keywords()}


@cache
def _all_keywords() -> tuple[str, ...]:
    from pydicom.datadict import keyword_dict

    return tuple(sorted(keyword_dict))


def _report(problems: list[str]) -> str:
    named = problems[:NAMED_AT_MOST]
    rest = [f"... and {len(problems) - len(named)} more"] if len(problems) > len(named) else []
    return "\n  ".join([*named, *rest])
