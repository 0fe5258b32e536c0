"""The path of a retrieved image: a template, filled with safe values. Pure, no input or output happens here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from icf_utils.errors import InvalidSetting, printable
from icf_utils.retrieve.model import Image, PlannedFile
from icf_utils.templates import NameRule, Template, parse_template

#: Paths of images from buckets, as in ``cod-retrieve``; the second is inside a study's zip.
BUCKET_LAYOUT, BUCKET_ZIP_LAYOUT = "{study}/{series}/instances/{name}", "{series}/instances/{name}"
#: Paths of images from stores: those inside the TAR.
STORE_LAYOUT = "{path}"
#: Paths of outputs of processings from stores: as in the store.
OUTPUT_LAYOUT = "{study}/{name}"

_OWN_FIELDS = ("study", "visit", "series", "sop", "name", "path")
_KEYWORD = re.compile(r"[A-Z][A-Za-z0-9]{1,63}")

#: The characters of a component of a path; a template may have others between its fields.
PATH = NameRule(r"\w.+=@-", "text without other braces", around=r"^{}")

#: A component of a path may not be longer, in bytes, on the usual file systems.
_LONGEST = 255


def why_unsafe(path: str) -> str:
    """Why a name from elsewhere must not become a path; empty if it may.

    >>> why_unsafe("../../.bashrc")
    "it contains '..'"
    """
    parts = path.split("/")
    if not path or path.startswith("/"):
        return "it is empty" if not path else "it is absolute"
    if ".." in parts:
        return "it contains '..'"
    if "" in parts or "." in parts:
        return "it has an empty component"
    if "\0" in path:
        return "it contains a zero byte"
    if any(len(os.fsencode(part)) > _LONGEST for part in parts):
        return f"a component is longer than {_LONGEST} bytes"
    return ""


def template_keywords(template: str) -> tuple[str, ...]:
    """The DICOM keywords that a template uses. Raises :class:`~icf_utils.errors.InvalidSetting` for an invalid one."""
    names = parse_template("--layout", template, None, PATH).fields
    unknown = [name for name in names if name not in _OWN_FIELDS and not _KEYWORD.fullmatch(name)]
    if unknown:
        problem = f"unknown field {{{unknown[0]}}} (fields: {', '.join(_OWN_FIELDS)}, or a DICOM keyword)"
        raise InvalidSetting("--layout", problem)
    if not {"name", "sop", "path"} & set(names):
        raise InvalidSetting("--layout", "without {name}, {sop} or {path}, images would get the same name")
    return tuple(dict.fromkeys(name for name in names if name not in _OWN_FIELDS))


def path_of_image(image: Image, template: str) -> PurePosixPath:
    """The path of an image, below the target directory.

    Raises :class:`~icf_utils.errors.InvalidSetting` for a template whose path would leave it.
    """
    known = {"study": image.study, "visit": image.visit, "series": image.series, "sop": image.sop}
    known["name"] = image.path.rpartition("/")[2]
    parsed = Template(template)
    values = {name: _part(known[name] if name in known else image.tags.get(name, "")) for name in parsed.fields}
    text = parsed.fill_as_is({**values, "path": image.path})
    if problem := why_unsafe(text):
        raise InvalidSetting("--layout", f"'{printable(template)}' gives the path '{printable(text)}': {problem}")
    return PurePosixPath(text)


def _part(value: object) -> str:
    """Text as one component of a path.

    >>> _part("T1 w / 3D"), _part("..")
    ('T1_w___3D', '_')
    """
    text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return PATH.replace(text)[:100] or "_"


def plan_files(images: Iterable[Image], template: str, *, zipped: bool = False) -> tuple[PlannedFile, ...]:
    """The files that the images become; with ``zipped``, those of a study are by themselves.

    Raises :class:`~icf_utils.errors.InvalidSetting` where two have one path.
    """
    planned = tuple(PlannedFile(image, path_of_image(image, template), _part(image.study)) for image in images)
    taken: dict[tuple[str, PurePosixPath], PlannedFile] = {}
    for item in planned:
        other = taken.setdefault((item.box if zipped else "", item.path), item)
        if other is not item:
            names = " and ".join(map(_name_in_store, (other.image, item.image)))
            problem = f"{names} would both become '{printable(str(item.path))}'{_advice(other.image, item.image)}"
            raise InvalidSetting("--layout", problem)
    _refuse_nesting(planned, zipped)
    return planned


def _advice(one: Image, other: Image) -> str:
    is_in_two = (one.study, one.visit) != (other.study, other.visit)
    return "; '{study}/{visit}/{path}' keeps visits apart" if is_in_two and one.visit else ""


def _name_in_store(image: Image) -> str:
    visit = f" of {image.study}/{image.visit}" if image.visit else ""
    return f"'{printable(image.path)}'{visit}"


def _refuse_nesting(planned: Sequence[PlannedFile], zipped: bool) -> None:
    """Raise where an image's path is another one's folder."""
    files = {(item.box if zipped else "", item.path) for item in planned}
    for item in planned:
        for folder in item.path.parents:
            if (item.box if zipped else "", folder) in files:
                raise InvalidSetting("--layout", f"'{printable(str(folder))}' would be both a file and a folder")
