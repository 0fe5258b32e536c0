"""The sessions that are receiving, when one is complete, and what complete ones hold. Reads the journal.

Nothing here is safe to use from several threads at once; the reception has the lock.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from icf_utils.intake.journal import Journal
from icf_utils.intake.rules import Rule
from icf_utils.intake.sessions import BROKEN_OFF, FORCED, Association, Session, is_broken_off
from icf_utils.intake.spool import images_below

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
    return BROKEN_OFF if not is_whole and is_broken_off(associations) else ""


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
