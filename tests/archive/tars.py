"""TARs from the headers that the package makes, for tests of their readers."""

from __future__ import annotations

from icf_utils.archive.tar_headers import content_padding, end_of_archive, member_header


def archive_of(members: dict[str, bytes], mtime: float = 1.5) -> bytes:
    """Make an archive of these members."""
    data = b""
    for name, content in members.items():
        data += member_header(f"study_visit/{name}", len(content), mtime) + content + content_padding(len(content))
    return data + end_of_archive(len(data))


def record(text: str) -> bytes:
    """Make a record of a PAX header, with its length."""
    length = len(text) + 3
    while len(f"{length} {text}\n") != length:
        length += 1
    return f"{length} {text}\n".encode()
