"""What a dataset is built from besides the metadata: the store's address, its UUIDs and its time. Pure.

Dates that users give are checked here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from uuid import UUID

from icf_utils.errors import InvalidSetting, printable
from icf_utils.store.address import check_store_id, check_store_url
from icf_utils.store.layout import Visit, store_identity, visit_uuid

#: The latest time of a dataset (2514-05-30T01:53:03Z). git keeps commit times in 34 bits of its commit-graph file;
#: after ``git gc``, ``git fsck`` reports a repository with a later time as broken.
LATEST_TIME = 2**34 - 1

_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.]\d{1,6})?)?([Zz]|[+-]\d\d:\d\d)?)?", re.ASCII)


@dataclass(frozen=True)
class DatasetUuids:
    """The UUIDs of a visit's dataset, of its original repository, and of its two special remotes."""

    dataset: UUID
    repository: UUID
    uncurl: UUID
    archivist: UUID

    @classmethod
    def of(cls, identity: str, visit: Visit) -> DatasetUuids:
        """Derive the UUIDs from the store's ``identity`` (:func:`icf_utils.store.layout.store_identity`)."""
        names = ("dataset", "repository", "uncurl", "archivist")
        return cls(*(visit_uuid(identity, visit.study, visit.visit, name) for name in names))


@dataclass(frozen=True)
class DatasetOrigin:
    """All that a dataset's bytes depend on besides the metadata; ``time`` in whole seconds since 1970.

    ``store_url`` is the address of the store that has the archive.
    """

    store_url: str
    uuids: DatasetUuids
    time: int


def make_origin(store_url: str, store_id: str, visit: Visit, time: int, archives: str = "") -> DatasetOrigin:
    """Check address and identity of a store and derive a dataset's origin. Raises ``InvalidSetting``.

    ``archives`` is the address of the store with the archive, if that is another one.
    """
    url = check_store_url(store_url)
    return DatasetOrigin(archives or url, DatasetUuids.of(store_identity(url, check_store_id(store_id)), visit), time)


def clone_url(store_url: str, visit: Visit) -> str:
    """Return the address for ``datalad clone``. It contains ``&``, ``?`` and braces: quote it in a shell.

    DataLad splits the parameters at ``&`` and decodes percent-encoding once, hence the quoting of the store's URL.
    """
    quoted = store_url.replace("%", "%25")
    place = f"{quoted}/{visit.study}/{visit.visit}_{{{{annex_key}}}}"
    return f"datalad-annex::?type=external&externaltype=uncurl&encryption=none&url={place}"


def study_clone_url(store_url: str, study: str) -> str:
    """Return the address for ``datalad clone`` of a study as a whole; see :func:`clone_url`."""
    quoted = store_url.replace("%", "%25")
    return f"datalad-annex::?type=external&externaltype=uncurl&encryption=none&url={quoted}/{study}/{{{{annex_key}}}}"


def parse_commit_date(text: str) -> int:
    """Convert an ISO 8601 date or date-time to whole seconds since 1970; without an offset it is UTC.

    Raises :class:`~icf_utils.errors.InvalidSetting`.

    >>> parse_commit_date("1970-01-02"), parse_commit_date("1970-01-01T01:00:00+01:00")
    (86400, 0)
    """
    try:
        if not _DATE.fullmatch(text):
            raise ValueError("not ISO 8601")
        moment = datetime.fromisoformat(_plain_iso(text))
    except ValueError as error:
        problem = f"'{printable(text)}' is not a date such as 2024-05-31 or 2024-05-31T12:00:00+02:00"
        raise InvalidSetting("commit date", problem) from error
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    if not 0 <= seconds <= LATEST_TIME:
        raise InvalidSetting("commit date", f"'{printable(text)}' is not between 1970 and 2514-05-30, as git needs it")
    return int(seconds)


def _plain_iso(text: str) -> str:
    """Reduce a date-time to the subset that Python 3.10 reads: without fraction and ``Z``."""
    whole, dot, rest = re.sub(r"[Zz]\Z", "+00:00", text).partition(".")
    return whole + re.sub(r"\A\d+", "", rest) if dot else whole


def limit_time(seconds: float) -> int:
    """Limit ``seconds`` to what git and git-annex accept: whole, from 1970 to :data:`LATEST_TIME`."""
    return int(min(max(seconds, 0), LATEST_TIME))
