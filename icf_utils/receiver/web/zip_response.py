"""A zip as the answer to a request: whole or in part (RFC 9110 section 14), with a checksum (RFC 9530). Reads files."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from flask import Request, Response

from icf_utils.errors import IcfError
from icf_utils.receiver.web.virtual_zip import VirtualZip


def zip_response(request: Request, found: VirtualZip, name: str) -> Response:
    """Send the zip, or the part that the request asks for; ``name`` is the file name for the client."""
    tag = f'"{found.tag}"'
    if found.tag in request.if_none_match:
        return Response(status=304, headers={"ETag": tag})
    span = _span(request, found)
    if span is None:
        return Response(status=416, headers={"Content-Range": f"bytes */{found.size}", "ETag": tag})
    start, stop = span
    is_part = (start, stop) != (0, found.size) or ("Range" in request.headers and _is_range_request(request, found))
    response = Response(
        _blocks(found, start, stop) if request.method == "GET" else b"",
        status=206 if is_part else 200,
        mimetype="application/zip",
        direct_passthrough=True,
    )
    response.headers["Content-Length"] = str(stop - start)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["ETag"] = tag
    response.headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(found.sha256).decode('ascii')}:"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["Cache-Control"] = "private, no-cache"
    if is_part:
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{found.size}"
    return response


def _is_range_request(request: Request, found: VirtualZip) -> bool:
    """Whether to send a part: not if it is a part of an older zip (If-Range), and not for several ranges at once."""
    condition = request.if_range
    if condition is not None and (condition.etag or condition.date) and condition.etag != found.tag:
        return False
    wanted = request.range
    return wanted is not None and wanted.units == "bytes" and len(wanted.ranges) == 1


def _span(request: Request, found: VirtualZip) -> tuple[int, int] | None:
    """The first byte to send and the one after the last; ``None`` for a range outside the zip."""
    if not _is_range_request(request, found):
        return 0, found.size
    assert request.range is not None
    return request.range.range_for_length(found.size)


def _blocks(found: VirtualZip, start: int, stop: int) -> Iterator[bytes]:
    try:
        yield from found.read(start, stop)
    except IcfError:  # too late for another status: the connection is closed, and the client requests the rest
        raise OSError("a file changed or could not be read while it was being sent") from None
