"""Authentication of requests, protection against other sites' pages, and security headers. Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from urllib.parse import urlsplit

from flask import Request, Response
from werkzeug.datastructures import Authorization

from icf_utils.credentials import Secret

_NAME = r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_HOST, _ORIGIN = re.compile(f"(?:{_NAME})?"), re.compile(f"[A-Za-z][A-Za-z0-9+.-]*://{_NAME}")

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'; "
        "base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer, the Origin of our own forms would be null
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def is_known(request: Request, token: Secret) -> bool:
    """Whether a request has the token, as ``Authorization: Bearer`` or as the password of any user."""
    return _is_token(request.authorization, token)


def _is_token(given: Authorization | None, token: Secret) -> bool:
    if given is None:
        return False
    text = given.token if given.type == "bearer" else given.password if given.type == "basic" else None
    return hmac.compare_digest((text or "").encode("utf-8", "replace"), token.value.encode("utf-8"))


def has_token(header: str, token: Secret) -> bool:
    """Whether an ``Authorization`` header has the token."""
    return _is_token(Authorization.from_header(header), token)


def is_well_formed(request: Request) -> bool:
    """Whether ``Host`` and ``Origin`` are what the standards allow (RFC 9110, 7.2; RFC 6454, 7)."""
    origin = request.headers.get("Origin", "null")
    return _HOST.fullmatch(request.headers.get("Host", "")) is not None and (
        origin == "null" or _ORIGIN.fullmatch(origin) is not None
    )


def is_of_this_site(request: Request) -> bool:
    """Whether a request that changes something was not sent by a page of another site.

    Browsers add the stored password to such requests too. Programs send neither of the two headers.
    """
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host


def form_token(token: Secret, action: str, session_id: str) -> str:
    """The text by which a form for an action (``delete``, ``retry``) proves that it comes from these pages."""
    return hmac.new(token.value.encode("utf-8"), f"{action} {session_id}".encode(), hashlib.sha256).hexdigest()


def is_form_token(given: str, token: Secret, action: str, session_id: str) -> bool:
    """Whether ``given`` is the :func:`form_token`."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), form_token(token, action, session_id).encode("ascii"))


def allow_scripts_in_pages(response: Response) -> Response:
    """Let pages, and nothing else, run the script of this server, which fetches the page again."""
    if response.mimetype == "text/html":
        policy = response.headers["Content-Security-Policy"]
        response.headers["Content-Security-Policy"] = f"{policy}; script-src 'self'; connect-src 'self'"
    return response


def add_security_headers(response: Response) -> Response:
    """Forbid browsers to embed the response, guess its type, run scripts or keep it."""
    for name, value in _HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Cache-Control", "no-store")
    return response
