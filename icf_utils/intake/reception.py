"""Which session an image belongs to, and when a session is complete. Writes the spool and the journal.

One lock guards what is remembered; files are written and compared outside of it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from icf_utils.errors import InvalidSetting, shown, storage_errors
from icf_utils.intake.header import Identity, Sender, announced, identify, read_file_header
from icf_utils.intake.journal import Journal
from icf_utils.intake.rules import Rule
from icf_utils.intake.sessions import CONTRADICTED, Session, SessionFilter
from icf_utils.intake.settings import ReceiverSettings
from icf_utils.intake.spool import Part, Spool, digest, free_revision, images_below, same_content
from icf_utils.intake.wards import Again, Key, Past, Stored, Ward, completion, shortcoming
from icf_utils.progress import Progress

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
            self._journal.count(session_id, duplicates=amount)
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
        self._progress.message(f"{session.name}: an image came again with other content; it is in '{shown(target)}'")

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
                self._journal.set_quarantined(session_id, _count(session.quarantine), CONTRADICTED)
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
            notes.append(CONTRADICTED)
        for note in filter(None, notes):
            self._journal.add_note(session.id, note)
        self._journal.change_state(session.id, "queued")
        self._progress.message(f"{session.id}: {session.name} is complete with {images} images: {why}")
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
