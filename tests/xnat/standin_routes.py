"""The routes of the stand-in for XNAT: listings, one session, what can be done with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qs

from tests.xnat.standin_imports import import_
from tests.xnat.standin_requests import USER, Asked, Reply, StandIn, as_json, results, want_json
from tests.xnat.standin_state import LOCKED, Refused, Session

_SESSION = r"/prearchive/projects/(?P<project>[^/]+)/(?P<timestamp>[^/]+)/(?P<folder>[^/]+)"
_EXPERIMENT = (
    r"/data(?:/archive)?/projects/(?P<project>[^/]+)/subjects/(?P<subject>[^/]+)/experiments/(?P<session>[^/]+)"
)


def auth(asked: Asked) -> Reply:
    return 200, "text/plain", f"User '{USER}' is logged in"


def build_info(asked: Asked) -> Reply:
    return as_json({"version": "1.8.11"})


def trap(asked: Asked) -> Reply:
    asked.xnat.violations.append("PUT /data/prearchive: every row of the prearchive is lost")
    asked.xnat.sessions = [item for item in asked.xnat.sessions if item.archived]
    return 200, "text/plain", ""


def listing(asked: Asked) -> Reply:
    project = asked.found["project"]
    if project not in (None, "Unassigned", *asked.xnat.projects, *asked.xnat.readonly):
        raise Refused(403, "you may not see this project")
    return results(asked.seen, [item.row() for item in asked.xnat.prearchived(project) if not item.is_hidden])


def prearchived(asked: Asked) -> Reply:
    session = _found(asked)
    return results(asked.seen, [session.row()])


def prearchived_resources(asked: Asked) -> Reply:
    session = _found(asked)
    if session.status in ("RECEIVING", "RECEIVING_INTERRUPT"):
        raise Refused(404, "the session has no XML yet")
    rows = [
        {"category": "scans", "cat_id": scan, "label": "DICOM", "file_count": len(sizes), "file_size": sum(sizes)}
        for scan, sizes in session.scans().items()
    ]
    return results(asked.seen, rows)


def prearchived_scans(asked: Asked) -> Reply:
    rows: list[dict[str, object]] = [
        {"ID": scan, "type": "", "series_description": ""} for scan in _found(asked).scans()
    ]
    return results(asked.seen, rows)


def logs(asked: Asked) -> Reply:
    return 200, "text/plain", _found(asked).log


def commit(asked: Asked) -> Reply:
    session = _found(asked)
    if asked.seen.query.get("action") != "commit":
        raise Refused(400, "no such action")
    if session.status in (*LOCKED, "RECEIVING"):
        raise Refused(409, "the session is locked")
    asked.xnat.rebuild(session)
    if asked.xnat.auto_archive or asked.seen.query.get("AA") == "true":
        asked.xnat.archive(session)
        return 301, "text/uri-list", f"{session.uri}\r\n"
    return 200, "text/uri-list", f"{session.uri}\r\n"


def rebuild(asked: Asked) -> Reply:
    sources = parse_qs(asked.query).get("src", []) or parse_qs(asked.body.read().decode()).get("src", [])
    if not sources:
        raise Refused(400, "no src")
    for source in sources:
        place = re.fullmatch(_SESSION, source.removeprefix("/data"))
        if not place:
            raise Refused(400, f"src is no session: {source}")
        session = _session(asked.xnat, place)
        if session.status in LOCKED:
            raise Refused(409, "the session is locked")
        asked.xnat.rebuild(session)
    return 200, "text/plain", ""


def archived(asked: Asked) -> Reply:
    session = _archived(asked)
    want_json(asked.seen)
    return as_json({"items": [{"data_fields": {"label": session.name, "project": session.project}}]})


def archived_files(asked: Asked) -> Reply:
    session = _archived(asked)
    rows: list[dict[str, object]] = [
        {"Name": f"{uid}.dcm", "Size": str(size), "collection": "DICOM", "cat_ID": scan}
        for (scan, uid), size in session.files.items()
    ]
    rows += [{"Name": "thumb.gif", "Size": "9", "collection": "SNAPSHOTS", "cat_ID": "1"}]
    return results(asked.seen, rows)


def _found(asked: Asked) -> Session:
    return _session(asked.xnat, asked.found)


def _session(xnat: StandIn, place: re.Match[str]) -> Session:
    session = xnat.in_prearchive(place["project"], place["timestamp"], place["folder"])
    if session.is_hidden:
        raise Refused(404, "no such session")
    return session


def _archived(asked: Asked) -> Session:
    session = asked.xnat.in_archive(asked.found["project"], asked.found["subject"], asked.found["session"])
    if session is None or session.is_hidden:
        raise Refused(404, "no such experiment")
    return session


ROUTES: tuple[tuple[str, str, Callable[[Asked], Reply]], ...] = (
    ("GET", "/data/auth", auth),
    ("GET", "/xapi/siteConfig/buildInfo", build_info),
    ("PUT", "/data/prearchive", trap),
    ("POST", "/data/services/import", import_),
    ("POST", "/data/services/prearchive/rebuild", rebuild),
    ("GET", "/data/prearchive(?:/projects(?:/(?P<project>[^/]+))?)?", listing),
    ("GET", f"/data{_SESSION}", prearchived),
    ("POST", f"/data{_SESSION}", commit),
    ("GET", f"/data{_SESSION}/resources", prearchived_resources),
    ("GET", f"/data{_SESSION}/scans", prearchived_scans),
    ("GET", f"/data{_SESSION}/logs", logs),
    ("GET", _EXPERIMENT, archived),
    ("GET", f"{_EXPERIMENT}/scans/ALL/files", archived_files),
)
