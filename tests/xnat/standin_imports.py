"""Imports into the stand-in for XNAT: what the parameters mean, what an upload may be, the inbox."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from tests.xnat.standin_multipart import one_part
from tests.xnat.standin_requests import Asked, Reply, StandIn
from tests.xnat.standin_state import Image, Order, Refused, Session, images_of, read_image

_IMPORT_PARAMETERS = {
    *("import-handler", "dest", "PROJECT_ID", "SUBJECT_ID", "EXPT_LABEL", "project", "subject", "session"),
    *("overwrite", "Ignore-Unparsable", "Direct-Archive", "prevent_anon", "prevent_auto_commit", "quarantine"),
    *("path", "cleanupAfterImport", "format"),
}
_DEST = re.compile(r"/(prearchive|archive)(?:/projects/([^/]+))?(?:/subjects/([^/]+))?(?:/experiments/([^/]+))?")
_KINDS = {"application/zip": "zip", "application/x-tar": "tar"}


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
    # only the handler that is chosen by default puts /data before its answers
    text = "".join(f"{'' if handler else '/data'}{uri}\r\n" for uri in uris)
    return 200, "text/uri-list", text


def _late(xnat: StandIn, order: Order, images: list[Image | None]) -> list[Session]:
    """Take the first image at once, the others after a while: meanwhile the session is RECEIVING."""

    def slowly() -> Iterator[Image | None]:
        for at, image in enumerate(images):
            if at == 1:
                time.sleep(xnat.slow)
            yield image

    return xnat.receive(order, slowly())


def _content(asked: Asked) -> tuple[str, BinaryIO]:
    """Kind and bytes of what was uploaded."""
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
    """Import a folder of the server's own inbox; without another word it is deleted afterwards."""
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
    return 200, "text/uri-list", "".join(f"/data{item.uri}\r\n" for item in made)


def _order(query: Mapping[str, str]) -> Order:
    """What the parameters of an import mean; those of ``dest`` win."""
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
