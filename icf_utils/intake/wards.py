"""The sessions that are receiving, when one is complete, and what complete ones hold. Reads the journal.

Nothing here is safe to use from several threads at once; the reception has the lock.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path

from icf_utils.intake.journal import Journal
from icf_utils.intake.sessions import Session
from icf_utils.intake.settings import Rule
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
    rule, images = ward.rule, ward.counts["images"]
    if ward.pending:
        return ""
    if rule.expected and images >= rule.expected:
        return "all expected images have come"
    if rule.force and now - ward.first >= rule.force:
        return f"{rule.force} s have passed since the first image"
    if not ward.associations and now - ward.last >= rule.quiet:
        return f"nothing has come for {rule.quiet} s"
    return ""


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
        return past.images.get(image)

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
