"""Which visit an image belongs to, and the image's file name: from its UIDs and the rule's template.

Pure, except :func:`read_file_header`, which reads a file. File names and visit identifiers are visible in catalogs,
where UIDs are not allowed; they contain keys instead, which are computed from UIDs (:func:`study_key`,
:func:`image_key`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icf_utils.dicom.constants import (
    INSTANCE_NUMBER,
    SERIES_NUMBER,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    SPECIFIC_CHARACTER_SET,
    STUDY_INSTANCE_UID,
)
from icf_utils.dicom.elements import Header
from icf_utils.dicom.header import FileKind, check_pixels, file_kind, read_head
from icf_utils.dicom.header_text import header_text
from icf_utils.dicom.uids import LONGEST_UID
from icf_utils.dicom.values import tag_for_keyword
from icf_utils.errors import storage_errors
from icf_utils.receiver.settings import ASSOCIATION_FIELDS, Rule, Target, fits
from icf_utils.templates import EmptyField, Template

#: A visit's identifier, without the suffix of a revision.
_LONGEST_VISIT = 90

_NUMBER = re.compile(r"\s*([0-9]{1,9})\s*", re.ASCII)


@dataclass(frozen=True)
class Sender:
    """Who opened an association: the AE titles of its request and the peer's IP address."""

    called_ae: str
    calling_ae: str
    address: str


@dataclass(frozen=True)
class ImageIdentity:
    """Where an image belongs. ``study`` and ``visit`` are identifiers, ``visit`` without a revision's suffix.

    ``image`` is its :func:`image_key`, and ``name`` the file's name relative to the session's input.
    """

    study_uid: str
    image: str
    study: str
    visit: str
    name: str


@dataclass(frozen=True)
class ImageRejection:
    """Why an image is not accepted, without header values.

    ``lacks_identifier`` says that a value is missing from which the visit identifier is made.
    """

    reason: str
    lacks_identifier: bool = False


def wanted_tags(rules: Iterable[Rule]) -> frozenset[int]:
    """The tags that :func:`find_rule` and :func:`identify` look at."""
    keywords = {keyword for rule in rules for keyword in (*rule.keywords, *rule.where)}
    own = {tag for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None}
    always = {SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SPECIFIC_CHARACTER_SET}
    return frozenset(own | always | {SERIES_NUMBER, INSTANCE_NUMBER})


def read_header(read_at: Callable[[int, int], bytes], size: int, rules: Sequence[Rule]) -> Header | None:
    """Parse an image of ``size`` bytes; ``None`` if it is not DICOM or not complete.

    ``read_at(position, n)`` returns ``n`` bytes of it, fewer at its end.
    """
    at = 0

    def read(count: int) -> bytes:
        nonlocal at
        block = read_at(at, count)
        at += len(block)
        return block

    _, found = read_head(read, size, wanted_tags(rules))
    if found.state == "whole":
        check_pixels(found, read_at)
    return found if found.state == "whole" and file_kind(found) is FileKind.IMAGE else None


def read_damaged_header(read_at: Callable[[int, int], bytes], size: int, rules: Sequence[Rule]) -> Header:
    """Parse as much as there is of an image that is incomplete or malformed."""
    at = 0

    def read(count: int) -> bytes:
        nonlocal at
        block = read_at(at, count)
        at += len(block)
        return block

    return read_head(read, size, wanted_tags(rules))[1]


def read_file_header(path: Path, rules: Sequence[Rule]) -> Header | None:
    """Parse an image's file as :func:`read_header` does."""
    with storage_errors(path, "read"), open(path, "rb") as file:
        return read_header(lambda at, n: os.pread(file.fileno(), n, at), os.fstat(file.fileno()).st_size, rules)


def find_rule(found: Header, rules: Sequence[Rule]) -> Rule | None:
    """The first of the rules whose conditions on header values an image meets."""
    return next((rule for rule in rules if not unmet_condition(found, rule)), None)


def unmet_condition(found: Header, rule: Rule | Target) -> str:
    """The keyword of the first condition (``where``) that an image does not meet; empty if it meets all."""
    return next((keyword for keyword, pattern in rule.where.items() if not fits(pattern, _text(found, keyword))), "")


def sop_uids(found: Header) -> tuple[str, str]:
    """SOPClassUID and SOPInstanceUID of the data set."""
    return found.uid(SOP_CLASS_UID), found.uid(SOP_INSTANCE_UID)


def identify(
    found: Header, rule: Rule, sender: Sender, sop_class: str, sop_instance: str
) -> ImageIdentity | ImageRejection:
    """Where an image belongs, or why it is not accepted; the last two arguments are the UIDs of the request."""
    study_uid = found.uid(STUDY_INSTANCE_UID)
    if not study_uid:
        return ImageRejection("StudyInstanceUID is missing or unusable")
    own_instance = found.uid(SOP_INSTANCE_UID)
    if not _is_named(own_instance, sop_instance):
        return ImageRejection("SOPInstanceUID is missing or differs from the request")
    if found.uid(SOP_CLASS_UID) != sop_class:
        return ImageRejection("SOPClassUID is missing or differs from the request")
    try:
        study = study_identifier(rule, sender, study_uid, lambda keyword: _text(found, keyword))
        visit = visit_identifier(rule, sender, study_uid, lambda keyword: _text(found, keyword))
    except EmptyField as error:
        return ImageRejection(f"no usable value of {error.field} for the visit", lacks_identifier=True)
    image = image_key(own_instance)
    return ImageIdentity(study_uid, image, study, visit, image_name(found, image))


def _is_named(own: str, requested: str) -> bool:
    """Whether a request has the UID of its image; dcmtk cuts one that is longer than PS3.5 allows."""
    return bool(own) and (own == requested or (len(requested) == LONGEST_UID and own.startswith(requested)))


def name_of_file(path: Path, image: str) -> str:
    """The name that an image's file has in its session's input; ``image`` is its key. Reads the file."""
    with storage_errors(path, "read"), open(path, "rb") as file:
        found = read_damaged_header(lambda at, n: os.pread(file.fileno(), n, at), os.fstat(file.fileno()).st_size, ())
    return image_name(found, image)


def image_name(found: Header, image: str) -> str:
    """The name of an image's file in its session's input; ``image`` is its key."""
    return f"{_number(found, 'SeriesNumber'):03d}/{_number(found, 'InstanceNumber'):05d}-{image}.dcm"


def _number(found: Header, keyword: str) -> int:
    """A number for file names; 0 for an invalid one."""
    number = _NUMBER.fullmatch(_text(found, keyword))
    return int(number[1]) if number else 0


def visit_identifier(rule: Rule, sender: Sender, study_uid: str, text: Callable[[str], str]) -> str:
    """The visit identifier of a study by the rule's template; ``text`` returns the value of a keyword.

    Raises :class:`~icf_utils.templates.EmptyField` for a value that leaves nothing.
    """
    return _identifier(rule.template, sender, study_uid, text)


def study_identifier(rule: Rule, sender: Sender, study_uid: str, text: Callable[[str], str]) -> str:
    """The study identifier by the rule's template, as :func:`visit_identifier`."""
    return _identifier(rule.study_template, sender, study_uid, text) if rule.study_template.fields else rule.study


def _identifier(template: Template, sender: Sender, study_uid: str, text: Callable[[str], str]) -> str:
    values: Mapping[str, str] = {
        "called_ae": sender.called_ae,
        "calling_ae": sender.calling_ae,
        "address": sender.address,
        "study_key": study_key(study_uid),
        **{name: text(name) for name in template.fields if name not in ASSOCIATION_FIELDS},
    }
    name = template.fill(values)
    if len(name) > _LONGEST_VISIT:  # shorten it, and keep it unique
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        name = f"{name[: _LONGEST_VISIT - 13]}-{digest}"
    return name


def study_key(study_uid: str) -> str:
    """Twelve hexadecimal digits, computed from a StudyInstanceUID.

    >>> study_key("1.2.3")
    'c47f5b18b8a4'
    """
    return hashlib.sha256(study_uid.encode("ascii")).hexdigest()[:12]


def image_key(sop_instance: str) -> str:
    """Sixteen hexadecimal digits, computed from a SOPInstanceUID.

    >>> image_key("1.2.3")
    'c47f5b18b8a430e6'
    """
    return hashlib.sha256(sop_instance.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _text(found: Header, keyword: str) -> str:
    return header_text(found, tag_for_keyword(keyword), person_names=True)
