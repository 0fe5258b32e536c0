"""Images in quarantine: what differs, and the two ways out. Reads the spool and the store, writes the spool.

An image is quarantined when its visit has another one of the same SOPInstanceUID. Typically somebody corrected a
header and sent the study again. So the decision is one for all quarantined images of a session: to *accept* them makes
a session with the whole visit, corrected images in place of the earlier ones; to *drop* them deletes them.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icf_utils.errors import InvalidSetting, storage_errors
from icf_utils.formatting import format_count
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.receiver.identify import image_key, name_of_file
from icf_utils.receiver.journal import ACCEPTED_NAME, Journal
from icf_utils.receiver.model import Session, visit_of_revision
from icf_utils.receiver.spool import first_free_revision, images_below
from icf_utils.store.layout import Visit


@dataclass(frozen=True)
class QuarantinedImage:
    """An image in quarantine. ``image`` is its key, ``size`` in bytes, ``received`` in POSIX seconds.

    ``differs`` are the keywords of the elements that differ from the image which the visit has, without their values;
    it is empty where that image is not at hand. Of several contents of one image, ``is_latest`` names the last one
    received, which is the one that is accepted.
    """

    image: str
    path: Path
    size: int
    received: float
    is_latest: bool
    differs: tuple[str, ...]


def quarantined_images(session: Session, store: Path) -> list[QuarantinedImage]:
    """The images in a session's quarantine, by their keys and the time of their reception."""
    with storage_errors(session.quarantine, "read"):
        paths = sorted(session.quarantine.glob("*.dcm"), key=lambda path: (path.stem[:16], path.stat().st_mtime_ns))
    latest = {path.stem[:16]: path for path in paths}
    current = _CurrentImages(session, store)
    return [
        QuarantinedImage(
            path.stem[:16],
            path,
            path.stat().st_size,
            path.stat().st_mtime,
            latest[path.stem[:16]] == path,
            _differences(current.read(path.stem[:16]), path.read_bytes()),
        )
        for path in paths
    ]


def accept_quarantine(journal: Journal, store: Path, session: Session) -> Session:
    """Queue a session with the whole visit, its quarantined images in place of the earlier ones.

    Raises :class:`~icf_utils.errors.InvalidSetting` for a session that is not finished, has nothing in quarantine, or
    whose other images are neither in the spool nor in the store.
    """
    _check(session, "accepted")
    folder = session.folder / ACCEPTED_NAME
    with storage_errors(folder, "write"):
        shutil.rmtree(folder, ignore_errors=True)
        for path in images_below(session.input).values():
            _link(path, folder / path.relative_to(session.input))
        if not images_below(session.input):
            _extract(_stored_visit(session, store), folder)
        present = {path.stem.rpartition("-")[2]: path for path in folder.rglob("*.dcm")}
        for image, path in _latest(session).items():
            target = present.get(image) or folder / name_of_file(path, image)
            target.unlink(missing_ok=True)
            _link(path, target)
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return journal.accept_quarantine(
        session.id,
        folder,
        images=len(paths),
        size=sum(path.stat().st_size for path in paths),
        first_revision=first_free_revision(store, session.study, journal.base_visit(session.id)),
    )


def drop_quarantine(journal: Journal, session: Session) -> Session:
    """Delete the images in a session's quarantine. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    _check(session, "dropped")
    amount = format_count(session.quarantined, "quarantined image")
    return journal.empty_quarantine(session.id, f"{amount} {'was' if session.quarantined == 1 else 'were'} dropped")


def _check(session: Session, participle: str) -> None:
    if not session.is_finished:
        problem = f"{session.id} is {session.state}; its images can be {participle} when it is finished"
        raise InvalidSetting("session", problem)
    if not session.quarantine.is_dir() or not any(session.quarantine.iterdir()):
        raise InvalidSetting("session", f"{session.id} has no images in quarantine")


def _latest(session: Session) -> dict[str, Path]:
    paths = sorted(session.quarantine.glob("*.dcm"), key=lambda path: path.stat().st_mtime_ns)
    return {path.stem[:16]: path for path in paths}


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _stored_visit(session: Session, store: Path) -> Visit:
    """The session's visit in the store, or its last revision before the session's that is there."""
    base = session.visit.removesuffix(f"-r{session.revision}") if session.revision > 1 else session.visit
    visits = [
        Visit(store, session.study, visit_of_revision(base, revision)) for revision in range(session.revision, 0, -1)
    ]
    return next((visit for visit in visits if visit.archive.exists()), visits[0])


def _extract(visit: Visit, folder: Path) -> None:
    """Take a visit's images from its archive, where the input was removed."""
    archive = visit.archive
    if not archive.exists():
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(*Path(member.name).parts[1:])
            source = tar.extractfile(member)
            if source is not None and ".." not in name.parts:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "xb") as file:
                    shutil.copyfileobj(source, file)


class _CurrentImages:
    """The images that a session's visit has: in the spool, or in its archive."""

    def __init__(self, session: Session, store: Path) -> None:
        self._files = images_below(session.input) if session.input.is_dir() else {}
        visit = _stored_visit(session, store)
        self._archive = visit.archive
        self._places: dict[str, tuple[int, int]] = {}
        if not self._files and self._archive.exists():
            with suppress(Exception):  # damaged or unfinished metadata: nothing is compared
                metadata = read_visit_metadata(visit)
                for record in metadata.images:
                    if (uid := record.uids.get("SOPInstanceUID")) and record.offset is not None:
                        self._places[image_key(uid)] = (record.offset, record.size)

    def read(self, image: str) -> bytes:
        if image in self._files:
            return self._files[image].read_bytes()
        if image in self._places:
            offset, size = self._places[image]
            with open(self._archive, "rb") as file:
                return os.pread(file.fileno(), size, offset)
        return b""


def _differences(one: bytes, other: bytes) -> tuple[str, ...]:
    """The keywords of the elements of two images that differ, at their top level."""
    from io import BytesIO

    import pydicom
    from pydicom.datadict import keyword_for_tag

    if not one:
        return ()
    try:
        first, second = (pydicom.dcmread(BytesIO(raw), force=True) for raw in (one, other))
        tags = sorted({*first.keys(), *second.keys()})
        wrong = [tag for tag in tags if first.get_item(tag) != second.get_item(tag) and _differ(first, second, tag)]
        return tuple(keyword_for_tag(tag) or str(tag) for tag in wrong) or ("encoding",)
    except Exception:  # noqa: BLE001 - of a header that is malformed in any way
        return ("header",)


def _differ(first: Any, second: Any, tag: Any) -> bool:
    one, other = (item.get_item(tag) for item in (first, second))
    return one is None or other is None or one.value != other.value
