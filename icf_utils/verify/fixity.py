"""The fixity log: when each visit of a store was read, and what was found. Reads and writes ``STUDY/.icf/fixity``.

One file for each visit, named by it, with a line of JSON for each time that it was verified: the time (UTC), how many
images were read, and how many problems were found. The lines have no identifiers, paths or digests. Lines are only
added; a line left incomplete by a power failure is skipped. The log of a visit that is removed or renamed is removed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from icf_utils.errors import storage_errors
from icf_utils.regular_files import read_regular
from icf_utils.store.files import make_folders
from icf_utils.store.layout import Visit

FIXITY_FOLDER = "fixity"


@dataclass(frozen=True)
class FixityRecord:
    """One time that a visit was read: ``time`` (ISO 8601, UTC), ``images`` that were read, ``problems`` found."""

    time: str
    images: int
    problems: int


def fixity_log(place: Visit) -> Path:
    """The file of a visit's log."""
    return place.workdir / FIXITY_FOLDER / f"{place.visit}.jsonl"


def record_fixity(place: Visit, images: int, problems: int) -> FixityRecord:
    """Add a line about a visit that was just read, durable on return. Raises ``StorageFailure``."""
    now = datetime.now(tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    record = FixityRecord(now, images, problems)
    path = fixity_log(place)
    with storage_errors(path, "add to"):
        make_folders(place.root, path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            line = json.dumps(asdict(record)).encode("ascii") + b"\n"
            os.write(descriptor, b"\n" + line if torn else line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return record


def read_fixity(place: Visit) -> tuple[FixityRecord, ...]:
    """Read a visit's log, the oldest line first; empty for a visit that was never verified."""
    try:
        raw = read_regular(fixity_log(place))
    except OSError:
        return ()
    return tuple(_records(raw))


def _records(raw: bytes) -> Iterator[FixityRecord]:
    for line in raw.splitlines():
        with suppress(ValueError, LookupError, TypeError, RecursionError):
            value: Any = json.loads(line)
            time = datetime.fromisoformat(value["time"].replace("Z", "+00:00")).astimezone(timezone.utc)
            yield FixityRecord(time.strftime("%Y-%m-%dT%H:%M:%SZ"), int(value["images"]), int(value["problems"]))


def last_read(place: Visit) -> str:
    """When a visit was last read; empty if never, which sorts first."""
    return max((record.time for record in read_fixity(place)), default="")


@dataclass(frozen=True)
class FixitySummary:
    """What the log says of a study's visits.

    ``never`` counts visits that were never verified, ``problems`` those that had problems when they were last verified,
    ``unsigned`` those without a signature file. ``oldest`` is the time of the visit that was not read for the longest
    time (ISO 8601, UTC), ``latest`` the time when one was last read; both are empty if none was.
    """

    study: str
    visits: int
    never: int
    problems: int
    unsigned: int
    oldest: str
    latest: str


def summarize_fixity(places: Sequence[Visit]) -> list[FixitySummary]:
    """Summarize the logs of visits by study, in the order of the studies. Reads the logs, and no deposit."""
    found = []
    for study in dict.fromkeys(place.study for place in places):
        of_study = [place for place in places if place.study == study]
        last = [records[-1] for place in of_study if (records := read_fixity(place))]
        times = sorted(record.time for record in last)
        found.append(
            FixitySummary(
                study=study,
                visits=len(of_study),
                never=len(of_study) - len(last),
                problems=sum(record.problems > 0 for record in last),
                unsigned=sum(not place.signature.exists() for place in of_study),
                oldest=times[0] if times else "",
                latest=times[-1] if times else "",
            )
        )
    return found
