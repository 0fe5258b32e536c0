"""Which visit of the store the images of a session belong to, and what is said of that. Reads journal and store.

A visit is known by its StudyInstanceUID, not by its identifier: images of another study never become part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import IcfError
from icf_utils.metadata.study_uids import find_visit_studies
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import LATE, Session, VisitChange, visit_of_revision
from icf_utils.receiver.spool import first_free_revision
from icf_utils.store.layout import Visit


@dataclass(frozen=True)
class Placement:
    """Where images go: the revision of a visit identifier, and what they are for that visit.

    ``is_known``: the visit is in the store, or a session has images of it.
    """

    revision: int
    change: VisitChange = "new"
    is_known: bool = False


def place_session(
    journal: Journal, store: Path, study: str, visit: str, study_uid: str, late: str = "version"
) -> Placement:
    """Find the visit of a StudyInstanceUID among those of an identifier, which is without a revision's suffix.

    Images without StudyInstanceUID, and with ``late = "separate"`` those of a known visit, get a revision of their own.
    """
    if late == "separate" or not study_uid:
        return Placement(first_free_revision(store, study, visit))
    sessions = [item for item in journal.revisions(study, visit) if item.study_uid == study_uid]
    if sessions:
        revision = sessions[0].revision
        archive = Visit(store, study, visit_of_revision(visit, revision)).archive
        return Placement(revision, "late", any(item.images for item in sessions) or archive.exists())
    free = first_free_revision(store, study, visit)
    for revision in range(1, free):
        if is_of_study(Visit(store, study, visit_of_revision(visit, revision)), study_uid):
            return Placement(revision, "late", is_known=True)
    return Placement(free)


def placement_notes(journal: Journal, session: Session, place: Placement) -> Iterator[str]:
    """What is to be said of a new session and its visit."""
    if place.is_known:
        yield LATE
    elif session.revision > 1 and session.study_uid:
        of_visit = [item.study_uid for item in journal.revisions(session.study, session.base_visit)]
        is_late = of_visit.count(session.study_uid) > 1 or set(of_visit) == {session.study_uid}
        reason = LATE if is_late else "another StudyInstanceUID has the same visit identifier"
        yield f"revision {session.revision} of {session.base_visit}: {reason}"
    if others := journal.other_visits(session):
        yield f"the study has images of this StudyInstanceUID under another identifier as well: {', '.join(others)}"


def is_of_study(place: Visit, study_uid: str) -> bool:
    """Whether a visit in the store has images of a StudyInstanceUID and of no other."""
    try:
        found = find_visit_studies(place)
    except IcfError:  # a visit without images, or one that cannot be read: its images are compared with nothing
        return False
    return [item.uid for item in found.studies] == [study_uid]
