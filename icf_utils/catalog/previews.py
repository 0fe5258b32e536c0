"""Pictures of series in a catalog: which there are, and making them. Reads archive and catalog; writes nothing.

A picture's file is named by the place of its series on the visit's page and by the MD5 of its own bytes, so that a
check needs nothing else, and a changed picture gets another address. Pictures lie with the pages of one version of a
visit: when its archive changes, they are gone.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

from icf_utils.catalog.entries import VisitPage, previews_folder
from icf_utils.catalog.pictures import LeftOut, Picture, shows_head, thumbnail
from icf_utils.errors import DepositMissing, MissingRequirement, storage_errors
from icf_utils.progress import Progress
from icf_utils.results import Notice
from icf_utils.store import Study, Visit

_NAME = re.compile(r"([0-9]{4,6})-([0-9a-f]{32})\.png")
_REMEDY = "previews are made from the archive; leave out --previews where it is not there"


def preview_name(at: int, png: bytes) -> str:
    """The file name of the picture of the series at place ``at``."""
    return f"{at:04d}-{hashlib.md5(png, usedforsecurity=False).hexdigest()}.png"


def named_previews(study: Study, page: VisitPage) -> dict[int, str]:
    """Names of pictures in the catalog that belong to the page as it is, by the place of their series."""
    folder = study.catalog / previews_folder(page)
    with storage_errors(folder, "read"):
        try:
            names = sorted(path.name for path in folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return {}
    matches = (_NAME.fullmatch(name) for name in names)
    found = {int(match.group(1)): match.group() for match in matches if match}
    return {at: name for at, name in found.items() if at < len(page.series)}


def is_intact(name: str, png: bytes) -> bool:
    """Whether a picture is the one that its name speaks of."""
    match = _NAME.fullmatch(name)
    return match is not None and preview_name(int(match.group(1)), png) == name


def kept_previews(study: Study, page: VisitPage) -> dict[int, bytes]:
    """The intact pictures that the catalog has of the page."""
    folder, found = study.catalog / previews_folder(page), {}
    for at, name in named_previews(study, page).items():
        with storage_errors(folder / name, "read"):
            png = (folder / name).read_bytes()
        if is_intact(name, png):
            found[at] = png
    return found


def make_previews(place: Visit, page: VisitPage, progress: Progress) -> tuple[dict[int, bytes], tuple[Notice, ...]]:
    """A picture of each series' middle image by the place of the series, and notices of what was left out.

    Raises :class:`~icf_utils.errors.MissingRequirement` without numpy and :class:`~icf_utils.errors.DepositMissing`
    without the archive. What cannot be decoded is left out and named.
    """
    _require_numpy()
    if not place.archive.exists():
        raise DepositMissing(place.archive, _REMEDY)
    found: dict[int, bytes] = {}
    notices: list[Notice] = []
    with progress.task("previews", len(page.series), "series") as task:
        for at, picture in enumerate(_pictures(place.archive, page)):
            subject = f"{page.visit}, series {_number(page, at)}"
            if isinstance(picture, LeftOut):
                notices.append(Notice("preview-left-out", subject, picture.reason))
            else:
                found[at] = picture.png
                if picture.head:
                    notices.append(_face(subject))
            task.advance(1)
    return found, tuple(notices)


def _number(page: VisitPage, at: int) -> str:
    """What a notice calls a series: its number, and no text that a header holds."""
    number = page.series[at].number
    return number if number.isascii() and number.isdigit() else f"in place {at + 1} of the page"


def _face(subject: str) -> Notice:
    why = "a preview of a head was made, or of what may be one; faces can be recognised in such images"
    return Notice("preview-face", subject, why)


def _pictures(archive: Path, page: VisitPage) -> Iterator[Picture | LeftOut]:
    with storage_errors(archive, "read"), archive.open("rb") as handle:
        for series in page.series:
            offset, size = series.middle
            handle.seek(offset)
            texts = (series.description, series.protocol)
            yield _picture(handle.read(size), texts)


def _picture(content: bytes, texts: tuple[str, ...]) -> Picture | LeftOut:
    """Whatever a file holds, the catalog is made: decoders raise all kinds of errors."""
    import warnings

    from pydicom import dcmread

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values that a picture does not need
            dataset = dcmread(io.BytesIO(content), force=True)
            png = thumbnail(dataset)
            return png if isinstance(png, LeftOut) else Picture(png, shows_head(dataset, texts))
    except Exception as error:  # noqa: BLE001 - the text of such an error may quote values; its kind does not
        return LeftOut(f"the image cannot be decoded here ({type(error).__name__})")


def _require_numpy() -> None:
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise MissingRequirement("numpy", "install it with: pip install 'icf-utils[previews]'") from error
