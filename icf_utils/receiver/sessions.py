"""Which session an image belongs to, and when a session is complete. Writes the spool and the journal.

One lock guards what is remembered; files are written and compared outside of it.


The sessions that are receiving, when one is complete, and what complete ones hold. Reads the journal.

Nothing here is safe to use from several threads at once; the reception has the lock.


One image on its way in. Writes its file by the spool.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from icf_utils.dicom.part10 import write_file_meta
from icf_utils.errors import InvalidSetting, printable, storage_errors
from icf_utils.formatting import format_count
from icf_utils.progress import Progress
from icf_utils.receiver.identify import Identity, Sender, announced, identify, read_file_header
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import (
    ASSOCIATION_LOST,
    CONFLICTING,
    FORCED,
    Association,
    Session,
    SessionFilter,
    has_lost_association,
)
from icf_utils.receiver.pynetdicom_server import Answer, Connection, StoreRequest
from icf_utils.receiver.settings import ReceiverSettings, Rule
from icf_utils.receiver.spool import Part, Spool, digest, free_revision, images_below, same_content

#: What became of an image.
Verdict = Literal["images", "duplicates", "quarantined"]


class Reception:
    """Takes images into sessions. ``on_queued`` is told when a session is complete."""

    def __init__(
        self,
        settings: ReceiverSettings,
        journal: Journal,
        spool: Spool,
        progress: Progress,
        on_queued: Callable[[], None],
    ) -> None:
        self._settings, self._journal, self._spool = settings, journal, spool
        self._progress, self._on_queued = progress, on_queued
        self._wards: dict[Key, Ward] = {}
        self._past = Past(journal)
        self._late: Counter[str] = Counter()
        self._again: dict[str, Again] = {}
        self._lock, self._apart = threading.Condition(), threading.Lock()

    def recover(self) -> int:
        """Go on with the sessions of a receiver that has ended; how many."""
        rules = {rule.name: rule for rule in self._settings.rules}
        for session in self._journal.sessions(SessionFilter(states=("receiving",))):
            rule = rules.get(session.rule)
            if rule is None:
                names = images_below(session.input)
                self._journal.update_session(session.id, images=len(names))
                self._journal.change_state(session.id, "failed", "its rule is no longer in the settings")
                continue
            base = session.visit.removesuffix(f"-r{session.revision}") if session.revision > 1 else session.visit
            age = max(0.0, time.time() - session.first_received)  # 'force' counts from the first image on
            ward = Ward(session, rule, images_below(session.input), first=time.monotonic() - age)
            ward.counts.update(
                images=len(ward.names),
                size=sum(path.stat().st_size for path in ward.names.values()),
                duplicates=session.duplicates,
                quarantined=_count(session.quarantine),
            )
            self._wards[(rule.name, session.study, base, session.study_uid)] = ward
        for rule in self._settings.rules:
            for path in self._spool.leftovers(rule.name):
                self._take_back(rule, path)
        self._spool.clear_parts()
        return len(self._wards)

    def _take_back(self, rule: Rule, path: Path) -> None:
        """An image that was stored, and whose new name was lost as the power failed.

        What is not whole, or of no session, was not answered with success, and goes.
        """
        found = read_file_header(path, rule)
        for (name, _, visit, study_uid), ward in self._wards.items():
            if found is None or name != rule.name:
                continue
            session = ward.session
            sender = Sender(session.called_ae, session.calling_ae, session.address)
            identity = identify(found, rule, sender, *announced(found))
            if not isinstance(identity, Identity) or (identity.visit, identity.study_uid) != (visit, study_uid):
                continue
            if identity.image not in ward.names:
                target = ward.names[identity.image] = session.input / identity.name
                ward.counts.update(images=1, size=path.stat().st_size)
                self._spool.publish(path, target)
                self._progress.message(f"{session.name}: took back an image whose name was lost")
            return

    def take(self, rule: Rule, sender: Sender, association: int, identity: Identity, part: Part) -> tuple[str, Verdict]:
        """Store a synced part, or tell that it is there already; the session's id, and what became of the image.

        Raises ``OSError`` and :class:`~icf_utils.errors.StorageFailure`; the part is the caller's then.
        """
        key = (rule.name, rule.study, identity.visit, identity.study_uid)
        image = identity.image
        with self._lock:
            while True:
                if known := self._past.image(key, image):
                    break
                ward = self._ward(key, rule, sender)
                ward.associations.add(association)
                if image not in ward.pending:
                    ward.pending.add(image)
                    there = ward.names.get(image)
                    break
                self._lock.wait()  # the same image over another association; the session may be complete afterwards
        if known:
            return self._compare_with_past(known, rule, association, image, part)
        verdict: Verdict | None = None
        try:
            verdict = self._settle(ward, identity, there, part)
        finally:
            with self._lock:
                self._note(ward, image, verdict, part.size)
        return ward.session.id, verdict

    def close_association(self, association: int) -> None:
        """An association has ended."""
        with self._lock:
            for ward in self._wards.values():
                ward.associations.discard(association)
            for again in self._again.values():
                again.associations.discard(association)

    def tick(self) -> None:
        """Bring the journal up to date, and queue the sessions that are complete; to be called about once a second."""
        now = time.monotonic()
        with storage_errors(self._spool.folder, "sync"):
            self._spool.sync_names()
        with self._lock:
            changed = [ward for ward in self._wards.values() if ward.is_changed]
            for ward in changed:
                ward.is_changed = False
            late, self._late = self._late, Counter()
            done = {key: why for key, ward in self._wards.items() if (why := completion(ward, now))}
            complete = {key: (self._wards.pop(key), why) for key, why in done.items()}
            for key, (ward, _) in complete.items():
                self._past.remember(key, ward)
            self._past.forget(now, self._wards)
            again = [session_id for session_id, item in self._again.items() if item.is_over(now)]
            for session_id in again:
                del self._again[session_id]
        for session_id, amount in late.items():
            self._journal.add_counts(session_id, duplicates=amount)
        for ward in changed:
            self._write_counts(ward)
        for ward, why in complete.values():
            self._queue(ward, why, now)
        for session_id in again:
            self._retry(session_id)

    def _settle(self, ward: Ward, identity: Identity, there: Path | None, part: Part) -> Verdict:
        if there is None:
            target = ward.session.input / identity.name
            self._spool.publish(part.path, target)
            ward.names[identity.image] = target
            return "images"
        if same_content(there, part.path):
            part.discard()
            return "duplicates"
        self._quarantine(ward.session, identity.image, part)
        return "quarantined"

    def _note(self, ward: Ward, image: str, verdict: Verdict | None, size: int) -> None:
        """What became of an image (``None``: nothing); the caller has the lock."""
        ward.pending.discard(image)
        ward.last, ward.is_changed = time.monotonic(), True
        if verdict is None:
            ward.refused.add(image)
        elif verdict == "quarantined":  # the same contradiction may come again and again
            ward.counts[verdict] = _count(ward.session.quarantine)
        else:
            ward.counts[verdict] += 1
        if verdict == "images":
            ward.refused.discard(image)
            ward.counts["size"] += size
        ward.counts["refused"] = len(ward.refused)
        self._lock.notify_all()

    def _quarantine(self, session: Session, image: str, part: Part) -> None:
        """Keep an image apart; the caller has the lock of what is apart, or the image's place in the ward."""
        target = session.quarantine / f"{image}.{digest(part.path).hex()[:12]}.dcm"
        if target.exists():
            part.discard()
            return
        self._spool.publish(part.path, target)
        self._progress.message(
            f"{session.name}: an image came again with other content; it is in '{printable(target)}'"
        )

    def _compare_with_past(
        self, known: Stored, rule: Rule, association: int, image: str, part: Part
    ) -> tuple[str, Verdict]:
        session_id, path, kept = known
        session = self._journal.session(session_id)
        assert session is not None
        same = same_content(path, part.path) if path else digest(part.path) == kept
        if not same:
            with self._apart:
                self._quarantine(session, image, part)
                self._journal.set_quarantined(session_id, _count(session.quarantine), CONFLICTING)
            return session_id, "quarantined"
        part.discard()
        with self._lock:
            self._late[session_id] += 1
            if session.state == "failed" and not session.deleted:
                again = self._again.setdefault(session_id, Again(rule.quiet))
                again.associations.add(association)
                again.last = time.monotonic()
        return session_id, "duplicates"

    def _ward(self, key: Key, rule: Rule, sender: Sender) -> Ward:
        """The session that receives a visit, a new one where there is none; the caller has the lock."""
        if key not in self._wards:
            self._wards[key] = Ward(self._open(key, rule, sender), rule)
        return self._wards[key]

    def _open(self, key: Key, rule: Rule, sender: Sender) -> Session:
        _, study, visit, study_uid = key
        revision = free_revision(self._settings.store, study, visit)
        session = self._journal.open_session(
            rule=rule.name,
            study=study,
            visit=visit,
            study_uid=study_uid,
            called_ae=sender.called_ae,
            calling_ae=sender.calling_ae,
            address=sender.address,
            expected=rule.expected,
            first_revision=revision,
        )
        for folder in (session.input, session.folder, session.folder.parent):
            self._spool.sync(folder)
        self._progress.message(f"{session.id}: receiving {session.name}")
        if session.revision > 1:
            others = [item for item in self._journal.revisions(study, visit) if item.study_uid == study_uid]
            reason = (
                "these images came after the visit was complete"
                if len(others) > 1 or revision > 1
                else "another StudyInstanceUID has the same visit identifier"
            )
            note = f"revision {session.revision} of {visit}: {reason}"
            self._journal.add_note(session.id, note)
            self._progress.message(f"{session.name}: {note}")
        return session

    def _write_counts(self, ward: Ward) -> None:
        counts = {name: ward.counts[name] for name in ("images", "size", "duplicates", "refused")}
        received = time.time() - (time.monotonic() - ward.last)
        with self._apart:  # others may come to be apart when the session is complete
            amount = _count(ward.session.quarantine)
            self._journal.update_session(ward.session.id, **counts, quarantined=amount, last_received=received)

    def _queue(self, ward: Ward, why: str, now: float) -> None:
        session, images, expected = ward.session, ward.counts["images"], ward.session.expected
        self._write_counts(ward)
        if not images:
            self._journal.change_state(session.id, "failed", "no image could be stored")
            return
        notes = [shortcoming(ward, now, self._journal.associations(session.id))]
        if images < expected:
            notes.append(f"{images} of {expected} expected images have come")
        if ward.counts["quarantined"]:
            notes.append(CONFLICTING)
        for note in filter(None, notes):
            self._journal.add_note(session.id, note)
        self._journal.change_state(session.id, "queued")
        self._progress.message(f"{session.id}: {session.name} is complete with {format_count(images, 'image')}: {why}")
        self._on_queued()

    def _retry(self, session_id: str) -> None:
        """The images of a failed session have been sent again, so that somebody wants it tried again."""
        with suppress(InvalidSetting):  # it is queued already, or was deleted
            session = self._journal.retry(session_id)
            self._progress.message(f"{session.id}: {session.name} is tried again, as its images were sent again")
            self._on_queued()


def _count(folder: Path) -> int:
    """How many images are in a folder; none where there is no folder."""
    return sum(1 for _ in folder.glob("*.dcm"))


#: Seconds that the images of a complete visit are kept in mind after the last one for it has come.
_MEMORY = 3600.0

#: A session's place: name of the rule, study, visit without a revision, StudyInstanceUID.
Key = tuple[str, str, str, str]


@dataclass
class Ward:
    """A session that is receiving. Times are of the monotonic clock."""

    session: Session
    rule: Rule
    names: dict[str, Path] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    associations: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    first: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)
    is_changed: bool = True


#: An image that a complete session has: the session's id, its file where it is still there, its digest or nothing.
Stored = tuple[str, Path | None, bytes]


@dataclass
class _Images:
    """The images of complete sessions of one visit, by their keys, and when somebody last asked for them."""

    images: dict[str, Stored] = field(default_factory=dict)
    used: float = field(default_factory=time.monotonic)


def completion(ward: Ward, now: float) -> str:
    """Why a session is complete now, in words; empty where it is not. Pure."""
    rule, images, expected = ward.rule, ward.counts["images"], ward.session.expected
    if ward.pending:
        return ""
    if is_forced(ward, now):
        return f"{rule.force} s have passed since the first image"
    if ward.associations:  # more images than were expected belong to the same visit
        return ""
    if expected and images >= expected:
        return "all expected images have come"
    if now - ward.last >= rule.quiet:
        return f"nothing has come for {rule.quiet} s"
    return ""


def is_forced(ward: Ward, now: float) -> bool:
    """Whether a session is complete whatever may still come. Pure."""
    return bool(ward.rule.force) and now - ward.first >= ward.rule.force


def shortcoming(ward: Ward, now: float, associations: Iterable[Association]) -> str:
    """The note about a complete session of which images may be missing; empty where nothing says so. Pure."""
    if ward.associations and is_forced(ward, now):
        return FORCED
    is_whole = 0 < ward.session.expected <= ward.counts["images"]
    return ASSOCIATION_LOST if not is_whole and has_lost_association(associations) else ""


@dataclass
class Again:
    """A failed session whose images are being sent again: when the last one came, and over what."""

    quiet: float
    associations: set[int] = field(default_factory=set)
    last: float = field(default_factory=time.monotonic)

    def is_over(self, now: float) -> bool:
        """Whether nothing more of it is to be expected. Pure."""
        return not self.associations and now - self.last >= self.quiet


class Past:
    """What the complete sessions of a visit hold, looked up when the first image comes for it again."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._visits: dict[Key, _Images] = {}

    def image(self, key: Key, image: str) -> Stored | None:
        """An image in a complete session of the same visit, by its key."""
        past = self._visits.get(key)
        if past is None:
            past = self._visits[key] = self._look_back(key)
        past.used = time.monotonic()
        found = past.images.get(image)
        if found and found[1] and not found[1].exists():
            self._forget_files(past, found[0])
            found = past.images.get(image)
        return found

    def _forget_files(self, past: _Images, session_id: str) -> None:
        """The input of a session was removed: its images are known by their digests, or not at all any more.

        There are none of a session that was deleted before it got as far as the store.
        """
        kept = self._journal.digests([session_id])
        for image in [image for image, stored in past.images.items() if stored[0] == session_id]:
            path = past.images[image][1]
            if image in kept:
                past.images[image] = (session_id, None, kept[image][1])
            elif path is None or not path.exists():
                del past.images[image]

    def _look_back(self, key: Key) -> _Images:
        _, study, visit, study_uid = key
        found = _Images()
        sessions = [item for item in self._journal.revisions(study, visit) if item.study_uid == study_uid]
        closed = [session for session in sessions if session.state != "receiving"]
        for image, (session_id, kept) in self._journal.digests(session.id for session in closed).items():
            found.images[image] = (session_id, None, kept)
        for session in closed:
            for image, path in images_below(session.input).items():
                found.images[image] = (session.id, path, found.images.get(image, ("", None, b""))[2])
        return found

    def remember(self, key: Key, ward: Ward) -> None:
        """A session is complete."""
        past = self._visits.setdefault(key, _Images())
        past.images.update({image: (ward.session.id, path, b"") for image, path in ward.names.items()})

    def forget(self, now: float, receiving: Container[Key]) -> None:
        """Let go of complete visits that nobody sends any more."""
        old = [key for key, past in self._visits.items() if now - past.used > _MEMORY and key not in receiving]
        for key in old:
            del self._visits[key]


class Taker(Protocol):
    """Who gives out files for images, and takes the images."""

    def new_part(self, rule: Rule) -> Part | None:
        """Where an image is written; nothing where the disk's reserve is reached."""

    def no_room(self, connection: Connection) -> Answer:
        """What is answered to an image that nothing was written of."""

    def take(self, connection: Connection, request: StoreRequest, part: Part) -> Answer:
        """An image that has come as a whole."""


class ArrivingImage:
    """An image that comes piece by piece; see :class:`~icf_utils.receiver.pynetdicom_server.Arriving`."""

    def __init__(self, receiver: Taker, connection: Connection, request: StoreRequest, transfer_syntax: str) -> None:
        self._receiver, self._connection, self._request = receiver, connection, request
        self._part = receiver.new_part(connection.rule)
        if self._part:
            self._part.write(write_file_meta(request.sop_class, request.sop_instance, transfer_syntax))

    def write(self, piece: memoryview) -> None:
        if self._part:
            self._part.write(piece)

    def finish(self) -> Answer:
        if self._part:
            return self._receiver.take(self._connection, self._request, self._part)
        return self._receiver.no_room(self._connection)

    def drop(self) -> None:
        if self._part:
            self._part.discard()
