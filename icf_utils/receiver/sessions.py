"""Which session an image belongs to, and when a session is complete. Writes the spool and the journal.

Images of the same rule, visit identifier and StudyInstanceUID belong to one session, over however many associations
they come. An image that a session has already is a duplicate if its content is the same, and goes to the session's
quarantine if it differs. This also holds for sessions that are complete: an image that belongs to none of them opens
a new session, for the visit's next version.

An image that was refused belongs to a session as well, so that the session cannot be a success: to that of its visit as
far as its header says which, or else to a session for the refused images of its sender.

A session is complete when nothing has arrived for ``quiet`` seconds and no association that brought its images is open,
when all ``expected`` images have come and no such association is open, or ``force`` seconds after its first image.

One lock guards what is kept in memory; files are written and compared without it. :class:`CompletedSessions` is not
safe for threads by itself.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from icf_utils.errors import IcfError, InvalidSetting, printable, storage_errors
from icf_utils.formatting import format_count
from icf_utils.progress import Progress
from icf_utils.receiver.identify import ImageIdentity, Sender, identify, read_file_header, sop_uids
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import (
    ASSOCIATION_LOST,
    CONFLICTING,
    FORCED,
    LATE,
    Association,
    Session,
    SessionFilter,
    has_lost_association,
)
from icf_utils.receiver.placement import place_session, placement_notes
from icf_utils.receiver.settings import ReceiverSettings, Rule
from icf_utils.receiver.spool import (
    PartialImage,
    Spool,
    count_quarantined,
    file_md5,
    images_below,
    same_content,
)
from icf_utils.templates import EmptyField, Template

#: What became of an image, as the counts of sessions and associations name it.
Disposition = Literal["images", "duplicates", "quarantined"]

#: Seconds that the images of a complete visit are kept in memory after the last one for it has come.
_KEPT_IN_MEMORY = 3600.0


class SessionKey(NamedTuple):
    """What images of one session have in common; ``visit`` is without a revision's suffix."""

    rule: str
    study: str
    visit: str
    study_uid: str


@dataclass
class OpenSession:
    """A session in the state ``receiving``. Times are of the monotonic clock.

    ``files`` are its images by their keys, ``pending`` the keys of those that are being written, ``associations`` the
    open ones that brought images of it. ``refused`` has the reasons for which images were refused, by their keys, and
    ``refusals`` those of them that are not in the journal yet: empty for an image that has come since.
    """

    session: Session
    rule: Rule
    files: dict[str, Path] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    associations: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    first: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)
    has_changed: bool = True


def completion_reason(opened: OpenSession, now: float) -> str:
    """Why a session is complete now; empty if it is not. Pure."""
    rule, images, expected = opened.rule, opened.counts["images"], opened.session.expected
    if opened.pending:
        return ""
    if is_forced(opened, now):
        return f"{rule.force} s have passed since the first image"
    if opened.associations:  # if it brings more images than expected, they belong to the same visit
        return ""
    if expected and images >= expected:
        return "all expected images have arrived"
    if now - opened.last >= rule.quiet:
        return f"nothing has arrived for {rule.quiet} s"
    return ""


def is_forced(opened: OpenSession, now: float) -> bool:
    """Whether a session is complete whatever is still being sent. Pure."""
    return bool(opened.rule.force) and now - opened.first >= opened.rule.force


def missing_images_note(opened: OpenSession, now: float, associations: Iterable[Association]) -> str:
    """The note about a complete session whose images may be missing; empty if nothing suggests that. Pure."""
    if opened.associations and is_forced(opened, now):
        return FORCED
    is_whole = 0 < opened.session.expected <= opened.counts["images"]
    return ASSOCIATION_LOST if not is_whole and has_lost_association(associations) else ""


@dataclass
class Resend:
    """A failed or partial session whose images come again: over which associations, and when the last one came."""

    quiet: float
    associations: set[int] = field(default_factory=set)
    last: float = field(default_factory=time.monotonic)

    def is_over(self, now: float) -> bool:
        """Whether nothing more is expected of it. Pure."""
        return not self.associations and now - self.last >= self.quiet


class RefusedImage(NamedTuple):
    """An image that was refused: its key, and where it belongs, if that is known."""

    image: str
    identity: ImageIdentity | None


class _LateImage(NamedTuple):
    """An image that a complete session has already: where it belongs, who sent it over which association, its file."""

    key: SessionKey
    rule: Rule
    sender: Sender
    association: int
    image: str
    part: PartialImage


class CompletedImage(NamedTuple):
    """An image of a complete session: the session's id, the file while it exists, the MD5 where it is recorded."""

    session_id: str
    path: Path | None
    md5: bytes


@dataclass
class _VisitImages:
    """The images of a visit's complete sessions by their keys, and when one was last looked up."""

    images: dict[str, CompletedImage] = field(default_factory=dict)
    used: float = field(default_factory=time.monotonic)


class CompletedSessions:
    """The images of complete sessions, read from journal and spool when the first image comes for a visit again."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._visits: dict[SessionKey, _VisitImages] = {}

    def find(self, key: SessionKey, image: str) -> CompletedImage | None:
        """The image of that key in a complete session of the same visit."""
        visit = self._visits.get(key)
        if visit is None:
            visit = self._visits[key] = self._load(key)
        visit.used = time.monotonic()
        found = visit.images.get(image)
        if found and found.path and not found.path.exists():
            self._reload_session(visit, found.session_id)
            found = visit.images.get(image)
        return found

    def _reload_session(self, visit: _VisitImages, session_id: str) -> None:
        """The input of a session was removed: its images are known by their digests, or no longer at all.

        A session that was deleted before it got into the store has no digests.
        """
        kept = self._journal.digests([session_id])
        for image in [image for image, item in visit.images.items() if item.session_id == session_id]:
            path = visit.images[image].path
            if image in kept:
                visit.images[image] = CompletedImage(session_id, None, kept[image][1])
            elif path is None or not path.exists():
                del visit.images[image]

    def _load(self, key: SessionKey) -> _VisitImages:
        found = _VisitImages()
        sessions = [item for item in self._journal.revisions(key.study, key.visit) if item.study_uid == key.study_uid]
        # files that were uploaded have other file meta information than those that the receiver writes: the images of
        # such a session, which no AE title was called for, are compared when they are added to the visit
        complete = [session for session in sessions if session.state != "receiving" and session.called_ae]
        for session in complete:  # a later one may have corrected images
            for image, (_, md5) in self._journal.digests([session.id]).items():
                found.images[image] = CompletedImage(session.id, None, md5)
            for image, path in images_below(session.input).items():
                known = found.images.get(image)
                md5 = known.md5 if known and known.session_id == session.id else b""
                found.images[image] = CompletedImage(session.id, path, md5)
        return found

    def forget(self, key: SessionKey) -> None:
        """Read a visit's images again when they are needed next."""
        self._visits.pop(key, None)

    def add(self, key: SessionKey, opened: OpenSession) -> None:
        """Add the images of a session that has become complete."""
        visit = self._visits.setdefault(key, _VisitImages())
        visit.images.update(
            {image: CompletedImage(opened.session.id, path, b"") for image, path in opened.files.items()}
        )

    def drop_unused(self, now: float, receiving: Container[SessionKey]) -> None:
        """Drop the visits of which nothing has arrived for :data:`_KEPT_IN_MEMORY` seconds from memory."""
        old = [
            key for key, visit in self._visits.items() if now - visit.used > _KEPT_IN_MEMORY and key not in receiving
        ]
        for key in old:
            del self._visits[key]


class _Step(NamedTuple):
    """Something to write to the journal, and what keeps it for later if that fails."""

    action: Callable[[], object]
    keep: Callable[[], object]


class SessionManager:
    """Stores images in sessions; ``on_queued`` is called when a session has been queued."""

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
        self._open: dict[SessionKey, OpenSession] = {}
        self._completed = CompletedSessions(journal)
        self._late_duplicates: Counter[str] = Counter()  # of complete sessions, by id
        self._resends: dict[str, Resend] = {}
        self._complete: list[tuple[OpenSession, str]] = []  # those that the journal does not say it of, and why
        self._resent: list[str] = []  # complete sessions of which everything was sent again, by id
        self._unrecorded: list[tuple[Rule, Sender, int, RefusedImage, str]] = []
        self._lock, self._quarantine_lock = threading.Condition(), threading.Lock()

    # recovery

    def recover(self) -> int:
        """Reopen the sessions that a receiver which has ended left in ``receiving``; returns their number."""
        rules = {rule.name: rule for rule in self._settings.rules}
        for session in self._journal.sessions(SessionFilter(states=("receiving",))):
            rule = rules.get(session.rule)
            if rule is None:
                self._journal.update_session(session.id, images=len(images_below(session.input)))
                self._journal.change_state(session.id, "failed", "its rule was removed from the settings")
                continue
            key = SessionKey(rule.name, session.study, session.base_visit, session.study_uid)
            self._open[key] = _reopened(session, rule, self._journal.refused_images(session.id))
        for rule in self._settings.rules:
            for path in self._spool.leftover_parts(rule.name):
                self._recover_part(path, rules)
        self._spool.clear_parts()
        return len(self._open)

    def _recover_part(self, path: Path, rules: Mapping[str, Rule]) -> None:
        """Restore an image that was answered with success, but whose final name was lost in a power failure.

        What is incomplete, or belongs to no open session, was never answered with success and is dropped.
        """
        header = read_file_header(path, self._settings.rules)
        for key, opened in self._open.items():
            if header is None:
                return
            session, rule = opened.session, rules[key.rule]
            sender = Sender(session.called_ae, session.calling_ae, session.address)
            identity = identify(header, rule, sender, *sop_uids(header))
            if not isinstance(identity, ImageIdentity):
                continue
            if (identity.study, identity.visit, identity.study_uid) != (key.study, key.visit, key.study_uid):
                continue
            if identity.image not in opened.files:
                target = opened.files[identity.image] = session.input / identity.name
                opened.counts.update(images=1, size=path.stat().st_size)
                self._spool.publish(path, target)
                self._progress.message(f"{session.name}: restored an image that had lost its name")
            return

    # images

    def store(
        self, rule: Rule, sender: Sender, association: int, identity: ImageIdentity, part: PartialImage
    ) -> tuple[str, Disposition]:
        """Store a synced image, or find that it is known; returns the session's id and what became of the image.

        Raises ``OSError`` and :class:`~icf_utils.errors.StorageFailure`; the caller then discards the part.
        """
        key = SessionKey(rule.name, identity.study, identity.visit, identity.study_uid)
        image = identity.image
        with self._lock:
            while True:
                if known := self._completed.find(key, image):
                    break
                opened = self._open_session(key, rule, sender)
                opened.associations.add(association)
                if image not in opened.pending:
                    opened.pending.add(image)
                    existing = opened.files.get(image)
                    break
                self._lock.wait()  # the same image comes over another association; its session may become complete
        if known:
            return self._store_late(_LateImage(key, rule, sender, association, image, part), known)
        disposition: Disposition | None = None
        try:
            disposition = self._store_open(opened, identity, existing, part)
        finally:
            with self._lock:
                self._count(opened, image, disposition, part.size)
        return opened.session.id, disposition

    def _store_open(
        self, opened: OpenSession, identity: ImageIdentity, existing: Path | None, part: PartialImage
    ) -> Disposition:
        if existing is None:
            target = opened.session.input / identity.name
            self._spool.publish(part.path, target)
            opened.files[identity.image] = target
            return "images"
        if same_content(existing, part.path):
            part.discard()
            return "duplicates"
        self._quarantine(opened.session, identity.image, part)
        return "quarantined"

    def _count(self, opened: OpenSession, image: str, disposition: Disposition | None, size: int) -> None:
        """Count an image, unless it could not be stored (``None``); the caller has the lock."""
        opened.pending.discard(image)
        opened.last, opened.has_changed = time.monotonic(), True
        if disposition == "quarantined":  # the same different content may be sent several times
            opened.counts[disposition] = count_quarantined(opened.session)
        elif disposition:
            opened.counts[disposition] += 1
        if disposition and opened.refused.pop(image, ""):
            opened.refusals[image] = ""
        if disposition == "images":
            opened.counts["size"] += size
        self._lock.notify_all()

    def _store_late(self, late: _LateImage, known: CompletedImage) -> tuple[str, Disposition]:
        """Compare an image with the one that a complete session has."""
        part = late.part
        if not _is_same(known, part):
            with self._lock:  # somebody may have accepted it meanwhile
                self._completed.forget(late.key)
                known = self._completed.find(late.key, late.image) or known
        session = self._journal.session(known.session_id)
        assert session is not None
        if not _is_same(known, part):
            return self._quarantine_late(late, session)
        part.discard()
        with self._lock:
            self._late_duplicates[session.id] += 1
            if session.state in ("failed", "partial") and not session.deleted:
                resend = self._resends.setdefault(session.id, Resend(late.rule.quiet))
                resend.associations.add(late.association)
                resend.last = time.monotonic()
        return session.id, "duplicates"

    def _quarantine_late(self, late: _LateImage, session: Session) -> tuple[str, Disposition]:
        """Quarantine an image in a complete session, or in a new one where that was deleted."""
        with self._quarantine_lock:
            session = self._journal.session(session.id) or session
            if not session.deleted:
                self._quarantine(session, late.image, late.part)
                self._journal.set_quarantined(session.id, count_quarantined(session), CONFLICTING)
                return session.id, "quarantined"
        with self._lock:
            opened = self._open_session(late.key, late.rule, late.sender)
            opened.associations.add(late.association)
            while late.image in opened.pending:
                self._lock.wait()
            opened.pending.add(late.image)
        disposition: Disposition | None = None
        try:
            self._quarantine(opened.session, late.image, late.part)
            disposition = "quarantined"
        finally:
            with self._lock:
                self._count(opened, late.image, disposition, late.part.size)
        return opened.session.id, "quarantined"

    def _quarantine(self, session: Session, image: str, part: PartialImage) -> None:
        """Move an image to the quarantine; the caller has the quarantine's lock, or the image is pending."""
        target = session.quarantine / f"{image}.{file_md5(part.path).hex()[:12]}.dcm"
        if target.exists():
            part.discard()
            return
        self._spool.publish(part.path, target)
        self._progress.message(f"{session.name}: {CONFLICTING.partition(';')[0]}; it is kept as '{printable(target)}'")

    def _open_session(self, key: SessionKey, rule: Rule, sender: Sender) -> OpenSession:
        """The open session of a key, created if there is none; the caller has the lock."""
        if key not in self._open:
            self._open[key] = OpenSession(self._create_session(key, rule, sender), rule)
        return self._open[key]

    def _create_session(self, key: SessionKey, rule: Rule, sender: Sender) -> Session:
        place = place_session(self._journal, self._settings.store, key.study, key.visit, key.study_uid, rule.late)
        session = self._journal.open_session(
            rule=rule.name,
            study=key.study,
            visit=key.visit,
            study_uid=key.study_uid,
            called_ae=sender.called_ae,
            calling_ae=sender.calling_ae,
            address=sender.address,
            expected=rule.expected if place.change == "new" else self._still_expected(key, rule),
            revision=place.revision,
            change=place.change,
        )
        for folder in (session.input, session.folder, session.folder.parent):
            self._spool.sync(folder)
        self._progress.message(f"{session.id}: receiving {session.name}")
        for note in placement_notes(self._journal, session, place):
            self._journal.add_note(session.id, note)
            self._progress.message(f"{session.id}: {session.name}: {note}")
        return self._journal.session(session.id) or session

    def _still_expected(self, key: SessionKey, rule: Rule) -> int:
        """How many of the images that a rule expects have not come with an earlier session of the visit."""
        sessions = self._journal.revisions(key.study, key.visit)
        return max(0, rule.expected - sum(item.images for item in sessions if item.study_uid == key.study_uid))

    # refused images

    def refuse(self, rule: Rule, sender: Sender, association: int, refused: RefusedImage, reason: str) -> str:
        """Take note that an image was refused; returns the session that it belongs to, or else one of its own.

        Raises :class:`~icf_utils.errors.StorageFailure` if there can be no session now; the refusal is then recorded
        as soon as there can be one.
        """
        identity = refused.identity
        key = (
            SessionKey(rule.name, identity.study, identity.visit, identity.study_uid)
            if identity
            else SessionKey(rule.name, study_of_refused(rule), visit_of_refused(sender), "")
        )
        with self._lock:
            known = self._completed.find(key, refused.image) if identity else None
            if known is None:
                opened = self._open_refused(key, rule, sender, association, refused, reason)
                opened.associations.add(association)
                opened.refused[refused.image] = opened.refusals[refused.image] = reason
                opened.last, opened.has_changed = time.monotonic(), True
        session_id = known.session_id if known else opened.session.id
        try:  # at once: the receiver may be killed before its next look
            self._journal.record_refusals(session_id, {refused.image: reason})
        except IcfError:
            if known:
                raise
        return session_id

    def _open_refused(
        self, key: SessionKey, rule: Rule, sender: Sender, association: int, refused: RefusedImage, reason: str
    ) -> OpenSession:
        try:
            return self._open_session(key, rule, sender)
        except (IcfError, OSError):
            self._unrecorded.append((rule, sender, association, refused, reason))
            raise

    def _record_late_refusals(self) -> None:
        """Record the refusals for which there could be no session before, such as on a full disk."""
        with self._lock:
            waiting, self._unrecorded = self._unrecorded[:], []
        for at, refusal in enumerate(waiting):
            try:
                session = self.refuse(*refusal)
            except (IcfError, OSError):
                with self._lock:
                    self._unrecorded += waiting[at + 1 :]
                return
            with self._lock:  # its association may have ended long ago
                ended = [opened for opened in self._open.values() if opened.session.id == session]
                for opened in ended:
                    opened.associations.discard(refusal[2])

    # completion

    def end_association(self, association: int) -> None:
        """Take note that an association has ended."""
        with self._lock:
            for opened in self._open.values():
                opened.associations.discard(association)
            for resend in self._resends.values():
                resend.associations.discard(association)

    def update(self) -> None:
        """Bring the journal up to date, and queue the sessions that are complete; to be called about once a second."""
        now = time.monotonic()
        with storage_errors(self._spool.folder, "sync"):
            self._spool.sync_names()
        self._record_late_refusals()
        with self._lock:
            changed = [opened for opened in self._open.values() if opened.has_changed]
            for opened in changed:
                opened.has_changed = False
            late, self._late_duplicates = self._late_duplicates, Counter()
            reasons = {key: why for key, opened in self._open.items() if (why := completion_reason(opened, now))}
            for key, why in reasons.items():
                opened = self._open.pop(key)
                self._completed.add(key, opened)
                self._complete.append((opened, why))
            self._completed.drop_unused(now, self._open)
            self._resent += [session_id for session_id, resend in self._resends.items() if resend.is_over(now)]
            for session_id in self._resent:
                self._resends.pop(session_id, None)
            complete, self._complete = self._complete, []
            resent, self._resent = self._resent, []
        keep_late, mark = self._late_duplicates.update, "has_changed"
        steps = [
            _Step(partial(self._journal.add_counts, one, duplicates=number), partial(keep_late, {one: number}))
            for one, number in late.items()
        ]
        steps += [_Step(partial(self._write_counts, one), partial(setattr, one, mark, True)) for one in changed]
        steps += [_Step(partial(self._queue, *one, now), partial(self._complete.append, one)) for one in complete]
        steps += [_Step(partial(self._retry, one), partial(self._resent.append, one)) for one in resent]
        self._try_all(steps)

    def _try_all(self, steps: Iterable[_Step]) -> None:
        """Take all steps, and keep those that fail, as on a full disk, for the next update; raises the first error."""
        errors: list[IcfError] = []
        for step in steps:
            try:
                step.action()
            except IcfError as error:  # noqa: PERF203 - one must not delay the others
                with self._lock:
                    step.keep()
                errors.append(error)
        if errors:
            raise errors[0]

    def _write_counts(self, opened: OpenSession) -> None:
        counts = {name: opened.counts[name] for name in ("images", "size", "duplicates")}
        with self._lock:
            refusals, opened.refusals = opened.refusals, {}
        try:
            if refusals:
                self._journal.record_refusals(opened.session.id, refusals)
        except IcfError:
            with self._lock:
                opened.refusals = {**refusals, **opened.refusals}
            raise
        received = time.time() - (time.monotonic() - opened.last)
        with self._quarantine_lock:  # the session may have become complete, and further images been quarantined
            amount = count_quarantined(opened.session)
            self._journal.update_session(opened.session.id, **counts, quarantined=amount, last_received=received)

    def _queue(self, opened: OpenSession, why: str, now: float) -> None:
        session, images, expected = opened.session, opened.counts["images"], opened.session.expected
        self._write_counts(opened)
        if not images:
            why = "all its images are in quarantine" if opened.counts["quarantined"] else "no image could be stored"
            self._journal.change_state(session.id, "failed", why)
            self._progress.message(f"{session.id}: {session.name}: failed: {why}")
            return
        notes = [missing_images_note(opened, now, self._journal.associations(session.id))]
        if images < expected:
            notes.append(f"{images} of {expected} expected images have arrived")
        if opened.counts["quarantined"]:
            notes.append(CONFLICTING)
        for note in filter(None, notes):
            self._journal.add_note(session.id, note)
        is_held = opened.rule.late == "hold" and LATE in session.notes
        self._journal.change_state(session.id, "held" if is_held else "queued")
        self._progress.message(f"{session.id}: {session.name} is complete with {format_count(images, 'image')}: {why}")
        if is_held:
            self._progress.message(f"{session.id}: is held until somebody releases or deletes it")
        self._on_queued()

    def _retry(self, session_id: str) -> None:
        """Retry a failed session, because its images have been sent again; or see whether nothing was missing."""
        session = self._journal.session(session_id)
        if session is not None and session.state == "partial":
            if not has_lost_association(self._journal.associations(session_id)):
                self._journal.complete_by_resend(session_id)
            return
        with suppress(InvalidSetting):  # it was retried or deleted meanwhile
            session = self._journal.retry(session_id)
            self._progress.message(f"{session.id}: its images were sent again; retrying {session.name}")
            self._on_queued()


def _is_same(known: CompletedImage, part: PartialImage) -> bool:
    """Whether an image that was received has the content of one that is known."""
    return same_content(known.path, part.path) if known.path else file_md5(part.path) == known.md5


def study_of_refused(rule: Rule) -> str:
    """The study of the sessions of images that belong to no visit: the rule's, if it has only one."""
    return "refused" if rule.study_template.fields else rule.study


def visit_of_refused(sender: Sender) -> str:
    """The identifier of the session of a sender's images that belong to no visit.

    >>> visit_of_refused(Sender("STUDYA", "SCANNER 1", "10.0.0.1"))
    'refused-SCANNER_1'
    """
    try:
        return Template("refused-{calling_ae}").fill({"calling_ae": sender.calling_ae})
    except EmptyField:
        return "refused-unknown"


def _reopened(session: Session, rule: Rule, refused: dict[str, str]) -> OpenSession:
    """A session with what the spool has of it; ``force`` counts from the first image on."""
    age = max(0.0, time.time() - session.first_received)
    opened = OpenSession(session, rule, images_below(session.input), first=time.monotonic() - age, refused=refused)
    opened.counts.update(
        images=len(opened.files),
        size=sum(path.stat().st_size for path in opened.files.values()),
        duplicates=session.duplicates,
        quarantined=count_quarantined(session),
    )
    return opened
