"""The one file of a ``multipart/form-data`` body."""

from __future__ import annotations

import io
from email import message_from_bytes
from email.message import Message
from typing import BinaryIO

from tests.xnat.standin_state import Refused


def one_part(content_type: str, body: BinaryIO) -> tuple[str, BinaryIO]:
    """Name and content of the file; more than one, or none, are refused as XNAT does."""
    message = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body.read())
    parts = message.get_payload()
    assert isinstance(parts, list)
    files = [part for part in parts if isinstance(part, Message) and part.get_filename()]
    if len(files) != 1:
        raise Refused(400, "Importer is limited to one uploaded resource at a time.")
    content = files[0].get_payload(decode=True)
    assert isinstance(content, bytes)
    return str(files[0].get_filename()), io.BytesIO(content)
