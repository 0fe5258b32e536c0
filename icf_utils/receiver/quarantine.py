"""Images in quarantine: what differs, and the two ways out. Reads the spool and the store, writes the spool.

An image is quarantined when its visit has another one of the same SOPInstanceUID. Typically somebody corrected a
header and sent the study again. So the decision is one for all quarantined images of a session: to *accept* them makes
the visit's next version, with the corrected images in place of the earlier ones; to *drop* them deletes them.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icf_utils.errors import InvalidSetting, storage_errors
from icf_utils.formatting import format_count
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.receiver.identify import image_key, name_of_file
from icf_utils.receiver.journal import ACCEPTED_NAME, Journal
from icf_utils.receiver.model import Session
from icf_utils.receiver.spool import images_below
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
    """Queue a session with the quarantined images, which take the place of the earlier ones in the visit.

    Where the visit is not in the store, the images take their place in the session itself, which is queued again.
    Returns the session that is queued. Raises :class:`~icf_utils.errors.InvalidSetting` for a session that is not
    finished or has nothing in quarantine.
    """
    _check(session, "accepted")
    latest = _latest(session)
    is_archived = Visit(store, session.study, session.visit).archive.exists()
    if session.state == "failed" and not is_archived and not session.input.is_file():
        return _accept_into(journal, session, latest)
    folder = session.folder / ACCEPTED_NAME
    with storage_errors(folder, "write"):
        shutil.rmtree(folder, ignore_errors=True)
        for image, path in latest.items():
            _link(path, folder / name_of_file(path, image))
    size = sum(path.stat().st_size for path in latest.values())
    return journal.accept_quarantine(session.id, folder, images=len(latest), size=size)


def _accept_into(journal: Journal, session: Session, latest: dict[str, Path]) -> Session:
    """Put accepted images into the place of those in a session's input. After a kill, it is repeated."""
    with storage_errors(session.input, "write"):
        session.input.mkdir(parents=True, exist_ok=True)
        present = images_below(session.input)
        for image, path in latest.items():
            target = session.input / name_of_file(path, image)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
            if image in present and present[image] != target:
                present[image].unlink()
    files = images_below(session.input).values()
    size = sum(path.stat().st_size for path in files)
    journal.update_session(session.id, images=len(files), size=size)
    note = f"{format_count(len(latest), 'quarantined image')} accepted"
    return journal.requeue_accepted(session.id, note)


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


class _CurrentImages:
    """The images that a session's visit has: in the spool, or in its archive."""

    def __init__(self, session: Session, store: Path) -> None:
        self._files = images_below(session.input) if session.input.is_dir() else {}
        visit = Visit(store, session.study, session.visit)
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
