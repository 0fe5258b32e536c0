"""The addresses of XNAT's REST interface, its query parameters, and what its answers say. Pure.

The names are those of XNAT 1.8: ``/data/services/import``, the prearchive and the archive below ``/data``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

from icf_utils.xnat.values import Target

IMPORT = "/data/services/import"
SESSION = "/data/JSESSION"
REBUILD = "/data/services/prearchive/rebuild"

#: XNAT is still at work on a session with one of these statuses, or with one that begins with ``QUEUED_``.
AT_WORK = ("RECEIVING", "BUILDING", "ARCHIVING", "MOVING", "SEPARATING", "DELETING")

#: The upload of the session broke off.
INTERRUPTED = "RECEIVING_INTERRUPT"

#: The resources of a scan that hold what was uploaded; XNAT adds others, such as snapshots.
_IMAGE_RESOURCES = ("DICOM", "secondary")

_PREARCHIVED = re.compile(r"/prearchive/projects/([^/]+)/([^/]+)/([^/]+)/?")
_IN_PROJECT = re.compile(r"/(?:pre)?archive/projects/([^/]+)(?:/.*)?")


@dataclass(frozen=True)
class Sighting:
    """A session as XNAT shows it. ``key`` changes when the session does; ``files`` counts images, if known."""

    uri: str
    key: str
    status: str
    files: int | None = None

    @property
    def at_work(self) -> bool:
        return self.status in AT_WORK or self.status.startswith("QUEUED_")


def import_query(target: Target, subject: str, label: str, has_others: bool, overwrite: str) -> dict[str, str]:
    """The parameters of an import. With ``dest``, XNAT commits at once; without, the session would stay RECEIVING.

    ``has_others``: the upload holds files that are no images, over which XNAT would stumble.
    """
    query = {"import-handler": "DICOM-zip", "PROJECT_ID": target.project, "SUBJECT_ID": subject, "EXPT_LABEL": label}
    if target.direct_archive:
        query["Direct-Archive"] = "true"
    else:
        query["dest"] = f"/archive{_experiment(target.project, subject, label)}"
        if target.dest == "prearchive":
            query["dest"] = f"/prearchive/projects/{target.project}"
    if overwrite:
        query["overwrite"] = overwrite
    if has_others:
        query["Ignore-Unparsable"] = "true"
    return query


def _experiment(project: str, subject: str, label: str) -> str:
    return f"/projects/{quote(project)}/subjects/{quote(subject)}/experiments/{quote(label)}"


def experiment_path(project: str, subject: str, label: str) -> str:
    """A session in the archive."""
    return f"/data/archive{_experiment(project, subject, label)}"


def prearchive_path(project: str) -> str:
    """The listing of a project's prearchive."""
    return f"/data/prearchive/projects/{quote(project)}"


def answered_uris(text: str) -> tuple[str, ...]:
    r"""The sessions that an import answers with: a ``text/uri-list``, lines ended by CRLF, perhaps several.

    Some of XNAT's import handlers write ``/data`` or ``/REST`` before each, others do not.

    >>> answered_uris("/data/prearchive/projects/P/1/a\r\n/data/prearchive/projects/P/2/b\r\n")
    ('/prearchive/projects/P/1/a', '/prearchive/projects/P/2/b')
    """
    lines = (line.strip() for line in text.splitlines())
    found = (re.sub(r"^/(?:data|REST)(?=/)", "", line) for line in lines if line and not line.startswith("#"))
    return tuple(dict.fromkeys(uri for uri in found if uri.startswith("/")))


def project_of(uri: str) -> str:
    """The project in a session's URI, empty where it names none."""
    found = _IN_PROJECT.fullmatch(uri)
    return unquote(found[1]) if found else ""


def is_prearchived(uri: str) -> bool:
    return _PREARCHIVED.fullmatch(uri) is not None


def prearchive_sightings(rows: Iterable[Mapping[str, object]], subject: str, label: str) -> tuple[Sighting, ...]:
    """The sessions of that subject and label in a listing of the prearchive."""
    found = []
    for row in rows:
        text = {name: str(row.get(name) or "") for name in ("name", "folderName", "subject", "status", "lastmod")}
        if label in (text["name"], text["folderName"]) and text["subject"] in (subject, ""):
            uri = str(row.get("url") or "").removeprefix("/data")
            found.append(Sighting(uri, f"{uri} {text['lastmod']}", text["status"]))
    return tuple(found)


def prearchived_files(rows: Iterable[Mapping[str, object]]) -> int:
    """How many image files a prearchived session has: the sum over the resources of its scans."""
    return sum(int(str(row.get("file_count") or 0)) for row in rows if row.get("label") in _IMAGE_RESOURCES)


def archived_files(rows: Iterable[Mapping[str, object]]) -> int:
    """How many image files an archived session has: one row for each."""
    return sum(1 for row in rows if row.get("collection") in _IMAGE_RESOURCES)
