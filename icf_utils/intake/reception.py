"""Which session an image belongs to, and when a session is complete. Writes the spool and the journal.

One lock guards what is remembered; files are written and compared outside of it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from icf_utils.errors import shown, storage_errors
from icf_utils.intake.header import Identity, Sender, announced, identify, read_file_header
from icf_utils.intake.journal import Journal
from icf_utils.intake.sessions import Session, SessionFilter, visit_of_revision
from icf_utils.intake.settings import ReceiverSettings, Rule
from icf_utils.intake.spool import Part, Spool, digest, images_below, same_content
from icf_utils.intake.wards import Key, Past, Stored, Ward, completion
from icf_utils.progress import Progress
from icf_utils.store import Visit

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
        self._late: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Condition()

    def recover(self) -> int:
        """Go on with the sessions of a receiver that has ended; how many."""
        rules = {rule.name: rule for rule in self._settings.rules}
        for session in self._journal.sessions(SessionFilter(states=("receiving",))):
            rule = rules.get(session.rule)
            if rule is None:
                self._journal.change_state(session.id, "failed", "its rule is no longer in the settings")
                continue
            base = session.visit.removesuffix(f"-r{session.revision}") if session.revision > 1 else session.visit
            ward = Ward(session, rule, images_below(session.input))
            ward.counts.update(
                images=len(ward.names),
                size=sum(path.stat().st_size for path in ward.names.values()),
                duplicates=session.duplicates,
                quarantined=session.quarantined,
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
            return self._compare_with_past(known, image, part)
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
        for (session_id, name), amount in late.items():
            self._journal.count(session_id, **{name: amount})
        for ward in changed:
            self._write_counts(ward)
        for ward, why in complete.values():
            self._queue(ward, why)

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
        else:
            ward.counts[verdict] += 1
        if verdict == "images":
            ward.refused.discard(image)
            ward.counts["size"] += size
        ward.counts["refused"] = len(ward.refused)
        self._lock.notify_all()

    def _quarantine(self, session: Session, image: str, part: Part) -> None:
        target = session.quarantine / f"{image}.{digest(part.path).hex()[:12]}.dcm"
        if target.exists():
            part.discard()
        else:
            self._spool.publish(part.path, target)
        self._progress.message(f"{session.name}: an image came again with other content; it is in '{shown(target)}'")

    def _compare_with_past(self, known: Stored, image: str, part: Part) -> tuple[str, Verdict]:
        session_id, path, kept = known
        session = self._journal.session(session_id)
        assert session is not None
        if path is not None and path.exists():
            same = same_content(path, part.path)
        else:
            same = digest(part.path) == (kept or self._journal.digests([session_id]).get(image, ("", b""))[1])
        if same:
            part.discard()
        else:
            self._quarantine(session, image, part)
        verdict: Verdict = "duplicates" if same else "quarantined"
        with self._lock:
            self._late[session_id, verdict] += 1
        return session_id, verdict

    def _ward(self, key: Key, rule: Rule, sender: Sender) -> Ward:
        """The session that receives a visit, a new one where there is none; the caller has the lock."""
        if key not in self._wards:
            self._wards[key] = Ward(self._open(key, rule, sender), rule)
        return self._wards[key]

    def _open(self, key: Key, rule: Rule, sender: Sender) -> Session:
        _, study, visit, study_uid = key
        revision = 1
        while Visit(self._settings.store, study, visit_of_revision(visit, revision)).archive.exists():
            revision += 1
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
        counts = {name: ward.counts[name] for name in ("images", "size", "duplicates", "quarantined", "refused")}
        received = time.time() - (time.monotonic() - ward.last)
        self._journal.update_session(ward.session.id, **counts, last_received=received)

    def _queue(self, ward: Ward, why: str) -> None:
        session, images, expected = ward.session, ward.counts["images"], ward.rule.expected
        self._write_counts(ward)
        if not images:
            self._journal.change_state(session.id, "failed", "no image could be stored")
            return
        if images < expected:
            self._journal.add_note(session.id, f"{images} of {expected} expected images have come")
        self._journal.change_state(session.id, "queued")
        self._progress.message(f"{session.id}: {session.name} is complete with {images} images: {why}")
        self._on_queued()
