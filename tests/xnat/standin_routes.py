"""The routes of the stand-in for XNAT: the contract of each request that is used here, and of no other."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from re import Match
from typing import BinaryIO
from urllib.parse import parse_qs

from tests.xnat.standin_state import (
    LOCKED,
    USER,
    Fault,
    Image,
    Order,
    Refused,
    Seen,
    Session,
    StandIn,
    images_of,
    read_image,
)

#: Status, content type and text of an answer.
Reply = tuple[int, str, str]

_SESSION = r"/prearchive/projects/(?P<project>[^/]+)/(?P<timestamp>[^/]+)/(?P<folder>[^/]+)"
_EXPERIMENT = (
    r"/data(?:/archive)?/projects/(?P<project>[^/]+)(?:/subjects/(?P<subject>[^/]+))?/experiments/(?P<session>[^/]+)"
)


_IMPORT_PARAMETERS = {
    *("import-handler", "dest", "PROJECT_ID", "SUBJECT_ID", "EXPT_LABEL", "project", "subject", "session"),
    *("overwrite", "Ignore-Unparsable", "Direct-Archive", "prevent_anon", "prevent_auto_commit", "quarantine"),
    *("path", "cleanupAfterImport", "format"),
}
_DEST = re.compile(r"/(prearchive|archive)(?:/projects/([^/]+))?(?:/subjects/([^/]+))?(?:/experiments/([^/]+))?")
_KINDS = {"application/zip": "zip", "application/x-tar": "tar"}


@dataclass(frozen=True)
class Asked:
    """A request for one of the routes; ``found`` is the match of its path, ``query`` the raw query."""

    xnat: StandIn
    seen: Seen
    query: str
    headers: Message
    found: Match[str]
    body: BinaryIO
    fault: Fault


def want_json(seen: Seen) -> None:
    if seen.query.get("format") != "json":
        raise Refused(400, "<html>this would be a page for people: ask for format=json</html>")


def results(seen: Seen, rows: list[dict[str, object]]) -> Reply:
    """A listing."""
    want_json(seen)
    return as_json({"ResultSet": {"Result": rows, "totalRecords": str(len(rows))}})


def as_json(value: object) -> Reply:
    return 200, "application/json", json.dumps(value)


# -- sessions ----------------------------------------------------------------------------------------------------------


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
    fields = {"label": session.name, "project": session.project, "UID": session.tag}
    return as_json({"items": [{"data_fields": fields}]})


def archived_files(asked: Asked) -> Reply:
    session = _archived(asked)
    rows: list[dict[str, object]] = [
        {
            "Name": f"{uid}.dcm",
            "Size": str(size),
            "collection": "DICOM",
            "cat_ID": scan,
            "digest": session.md5.get((scan, uid), "") if asked.xnat.checksums else "",
        }
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


# -- imports -----------------------------------------------------------------------------------------------------------


def import_(asked: Asked) -> Reply:
    query = asked.seen.query
    unknown = sorted(set(query) - _IMPORT_PARAMETERS)
    if unknown:
        asked.xnat.violations.append(f"an import has no parameters {unknown}")
    handler = query.get("import-handler")
    if handler == "inbox":
        return _inbox(asked.xnat, query)
    if handler not in (None, "SI", "DICOM-zip"):
        raise Refused(404, f"unknown importer: {handler}")
    if query.get("overwrite", "none") not in ("none", "append", "delete"):
        raise Refused(400, "Overwrite flag was not set to a valid option. ('append' or 'delete')")
    order, (kind, content) = _order(query), _content(asked)
    if asked.fault == "late":
        made = _late(asked.xnat, order, list(images_of(kind, content)))
    else:
        images = images_of(kind, content)
        made = asked.xnat.receive(order, images, at_most=1 if asked.fault == "cut" else None)
    for session in made:
        session.hidden_until = time.monotonic() + asked.xnat.shows_after
    uris = asked.xnat.answer([item.uri for item in made])
    # only the default handler writes /data before the addresses
    text = "".join(f"{'' if handler else '/data'}{uri}\r\n" for uri in uris)
    return 200, "text/uri-list", text


def _late(xnat: StandIn, order: Order, images: list[Image | None]) -> list[Session]:
    """Receive the first image at once, the others after a while, in which the session is RECEIVING."""

    def slowly() -> Iterator[Image | None]:
        for at, image in enumerate(images):
            if at == 1:
                time.sleep(xnat.slow)
            yield image

    return xnat.receive(order, slowly())


def _content(asked: Asked) -> tuple[str, BinaryIO]:
    """The kind of an upload, and its bytes."""
    if "Content-Length" not in asked.headers:
        asked.xnat.violations.append("an upload without Content-Length")
        raise Refused(400, "Unable to identify upload format.")
    kind = asked.headers.get("Content-Type", "").partition(";")[0].strip()
    if kind == "multipart/form-data":
        name, content = one_part(asked.headers["Content-Type"], asked.body)
        return ("tar" if name.endswith(".tar") else "zip"), content
    if kind not in _KINDS:
        raise Refused(400, "Unable to identify upload format.")
    return _KINDS[kind], asked.body


def _inbox(xnat: StandIn, query: Mapping[str, str]) -> Reply:
    """Import a folder of the inbox; it is deleted afterwards unless the request says otherwise."""
    folder = Path(query.get("path", ""))
    if not xnat.inbox or xnat.inbox not in folder.parents or not folder.is_dir():
        raise Refused(400, "the path is not below the inbox")
    if query.get("PROJECT_ID") not in xnat.projects:
        raise Refused(400, "a project is needed")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    images = (read_image(path.read_bytes()) for path in files)
    order = Order(query["PROJECT_ID"], query.get("SUBJECT_ID", ""), query.get("EXPT_LABEL", ""), commit=True)
    made = xnat.receive(order, images)
    if query.get("cleanupAfterImport", "true") != "false":
        shutil.rmtree(folder)
    if xnat.auto_archive:
        for item in made:
            xnat.archive(item)
    return 200, "text/uri-list", "".join(f"/data{item.uri}\r\n" for item in made)


def _order(query: Mapping[str, str]) -> Order:
    """The meaning of the parameters of an import; ``dest`` takes precedence."""
    found = _DEST.fullmatch(query["dest"]) if query.get("dest") else None
    if query.get("dest") and not found:
        raise Refused(400, "Parameter dest format error")
    _, project, subject, session = found.groups() if found else (None,) * 4
    archive = found is not None and found[1] == "archive"
    direct = query.get("Direct-Archive") == "true"
    return Order(
        project=project or query.get("PROJECT_ID") or query.get("project", ""),
        subject=subject or query.get("SUBJECT_ID") or query.get("subject", ""),
        session=session or query.get("EXPT_LABEL") or query.get("session", ""),
        commit=found is not None or direct,
        to_archive=archive or direct,
        overwrite=query.get("overwrite", ""),
        ignore_unparsable=query.get("Ignore-Unparsable") == "true",
    )


def one_part(content_type: str, body: BinaryIO) -> tuple[str, BinaryIO]:
    """Name and content of the one file of a form; like XNAT, refuses any other number of files."""
    message = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body.read())
    parts = message.get_payload()
    assert isinstance(parts, list)
    files = [part for part in parts if isinstance(part, Message) and part.get_filename()]
    if len(files) != 1:
        raise Refused(400, "Importer is limited to one uploaded resource at a time.")
    content = files[0].get_payload(decode=True)
    assert isinstance(content, bytes)
    return str(files[0].get_filename()), io.BytesIO(content)


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
