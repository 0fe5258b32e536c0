"""The statuses of sessions in XNAT, where an upload goes, and what became of it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from icf_utils.credentials import without_credentials
from icf_utils.errors import InvalidSetting, printable
from icf_utils.results import Notice

#: The statuses of a session in the prearchive that XNAT can read (PrearcUtils.PrearcStatus).
STATUSES = frozenset(
    {
        *("ARCHIVING", "BUILDING", "CONFLICT", "DELETING", "ERROR", "MOVING", "READY", "RECEIVING"),
        *("RECEIVING_INTERRUPT", "SEPARATING"),
        *("QUEUED_ARCHIVING", "QUEUED_BUILDING", "QUEUED_DELETING", "QUEUED_MOVING", "QUEUED_SEPARATING"),
    }
)

#: The upload of the session broke off.
INTERRUPTED = "RECEIVING_INTERRUPT"

#: XNAT has finished building a session: it can be archived, the archive has such a session already, or it failed.
BUILT_STATUSES = frozenset({"READY", "CONFLICT", "ERROR"})

#: What XNAT's listings call the project of a session that has none.
UNASSIGNED = "Unassigned"

UploadDestination = Literal["prearchive", "archive"]
Overwrite = Literal["", "append", "delete"]

#: What became of a session: it was ``uploaded`` now; XNAT had it already, with the same images (``present``); it was
#: uploaded ``before``, according to the upload journal, and is still there; it is only ``planned``; XNAT has a session
#: that may be it, but nothing proves that its images are the same (``unproved``); it ``failed``.
UploadState = Literal["uploaded", "present", "before", "planned", "unproved", "failed"]

_PROJECT = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)


@dataclass(frozen=True)
class UploadTarget:
    """A project of an XNAT, and how to upload sessions to it. Times are in seconds.

    ``timeout`` bounds the wait for each response; XNAT answers an import when it has taken in everything.
    ``wait`` bounds how long XNAT may take after its answer to show a session and to finish its work on it.
    ``again`` allows a session of a DICOM study that the prearchive has under another label.
    ``retries`` says how often a session is sent again, ``pause`` how long to wait before the first time; the pause
    doubles each time. ``ca`` is a file of trusted CA certificates (PEM).

    Raises :class:`~icf_utils.errors.InvalidSetting` for values that do not fit together.
    """

    url: str
    project: str
    dest: UploadDestination = "prearchive"
    overwrite: Overwrite = ""
    direct_archive: bool = False
    again: bool = False
    ca: Path | None = None
    timeout: float = 900.0
    wait: float = 600.0
    retries: int = 5
    pause: float = 2.0

    def __post_init__(self) -> None:
        check_url(self.url)
        if not _PROJECT.fullmatch(self.project):
            problem = f"'{printable(self.project)}' is not a project ID (letters, digits, '_' and '-')"
            raise InvalidSetting("--project", problem)
        if self.direct_archive and self.dest != "archive":
            raise InvalidSetting("--direct-archive", "requires --dest archive")
        if self.direct_archive and self.overwrite:
            raise InvalidSetting("--direct-archive", "cannot be combined with --overwrite: XNAT does not offer it")


@dataclass(frozen=True)
class UploadOutcome:
    """What became of one session.

    ``sent`` and ``held`` count image files: those in the upload, and those that XNAT has (``None``: unknown). ``size``
    is the size of the upload in bytes, ``uris`` are the addresses of the session in XNAT, ``answers`` what XNAT
    answered to each attempt. ``left_out`` names the files that are not images: they are not sent, or where a whole
    archive is sent, XNAT ignores them. ``copies`` names the files with the same bytes as another image, which are
    passed over. ``notices`` name images with unusual UIDs. ``identical`` says whether XNAT shows the MD5 of every
    image that was sent: ``False`` where XNAT has changed images, as its anonymisation does, ``None`` where it shows no
    checksums.
    """

    subject: str
    label: str
    state: UploadState
    project: str
    sent: int = 0
    held: int | None = None
    size: int = 0
    tries: int = 0
    uris: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    problem: str = ""
    left_out: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()
    identical: bool | None = None


@dataclass(frozen=True)
class UploadResult:
    """What became of all sessions, in their order. ``url`` contains no credentials.

    ``refused`` are inputs that cannot become sessions; nothing of them was sent.
    """

    url: str
    project: str
    dest: UploadDestination
    sessions: tuple[UploadOutcome, ...]
    notices: tuple[Notice, ...] = ()
    journal: tuple[Path, ...] = ()
    refused: tuple[Notice, ...] = ()

    @property
    def failed(self) -> tuple[UploadOutcome, ...]:
        """The sessions of which it is not certain that XNAT has them."""
        return tuple(item for item in self.sessions if item.state in ("failed", "unproved"))


def is_busy(status: str) -> bool:
    """Whether XNAT is working on a session of this status, or will."""
    return status.startswith("QUEUED_") or status in STATUSES - BUILT_STATUSES - {INTERRUPTED}


def check_url(url: str) -> None:
    """Raise :class:`~icf_utils.errors.InvalidSetting` unless ``url`` is a server's address without credentials.

    A password in it would be visible in logs and in the list of processes.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidSetting(
            "--url", f"'{printable(without_credentials(url))}' is not an address such as https://xnat.org"
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InvalidSetting(
            "--url", "the address must not contain user, password or query; see --user, --password-file, --token-file"
        )


def is_cleartext(url: str) -> bool:
    """Whether passwords cross a network unencrypted: without TLS, and not to this computer."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return False
    try:
        return not ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return True


def cleartext_notices(url: str) -> tuple[Notice, ...]:
    """A warning where passwords cross a network unencrypted."""
    if not is_cleartext(url):
        return ()
    message = "does not use TLS: the password and the images are sent unencrypted, and can be read on the way"
    return (Notice("no-tls", without_credentials(url), message),)
