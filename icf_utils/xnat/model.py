"""Where an upload goes, what became of it, and the labels that XNAT takes. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from icf_utils.credentials import without_credentials
from icf_utils.errors import InvalidSetting, printable
from icf_utils.results import Notice

UploadDestination = Literal["prearchive", "archive"]
Overwrite = Literal["", "append", "delete"]

#: What became of a session: it was ``uploaded`` now; it was ``present`` in XNAT with as many files; it was uploaded
#: ``before``, as the journal says; it is only ``planned``; it ``failed``.
UploadState = Literal["uploaded", "present", "before", "planned", "failed"]

_PROJECT = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)
_NOT_IN_LABELS = re.compile(r"[^A-Za-z0-9_-]", re.ASCII)
_FIELD = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class UploadTarget:
    """A project of an XNAT, and how to put sessions there.

    ``timeout``: seconds of silence that an answer may take; an import answers when XNAT has taken in everything.
    ``patience``: seconds that XNAT may take after its answer to show a session and to end its work on it.
    ``retries``: how often a session is sent again, ``pause``: seconds before the first time, doubled each time.
    ``ca``: certificates to believe (PEM).
    """

    url: str
    project: str
    dest: UploadDestination = "prearchive"
    overwrite: Overwrite = ""
    direct_archive: bool = False
    ca: Path | None = None
    timeout: float = 900.0
    patience: float = 600.0
    retries: int = 5
    pause: float = 2.0

    def __post_init__(self) -> None:
        check_url(self.url)
        if not _PROJECT.fullmatch(self.project):
            raise InvalidSetting(
                "--project", f"'{printable(self.project)}' is no ID of a project (letters, digits, _, -)"
            )
        if self.direct_archive and self.dest != "archive":
            raise InvalidSetting("--direct-archive", "this goes with --dest archive")
        if self.direct_archive and self.overwrite:
            raise InvalidSetting("--direct-archive", "XNAT has no overwrite with it")


@dataclass(frozen=True)
class UploadOutcome:
    """What became of one session.

    ``sent`` and ``held`` are numbers of image files: how many are in the upload, and how many XNAT has (``None``: not
    known). ``size`` is that of the upload in bytes. ``uris`` are XNAT's names of it, ``answers`` what it answered to
    each try. ``left_out`` names the files that are no images: they are not
    sent, or sent in the archive that they are part of and passed over by XNAT.
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


@dataclass(frozen=True)
class UploadResult:
    """What became of all sessions, in their order. ``url`` has no credentials in it.

    ``refused`` are inputs that can be no session; nothing of them was tried.
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
        return tuple(item for item in self.sessions if item.state == "failed")


def check_url(url: str) -> None:
    """Refuse what is no address of a server, and one with a password in it, which logs and process lists would show."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidSetting("--url", f"'{printable(without_credentials(url))}' is no address such as https://xnat.org")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InvalidSetting(
            "--url", "an address has no user, password or query in it; see --user, --password-file and --token-file"
        )


def is_cleartext(url: str) -> bool:
    """Whether passwords go over a network as they are: no TLS, and not to this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return False
    try:
        return not ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return True


def cleartext_notices(url: str) -> tuple[Notice, ...]:
    """A warning where passwords go over a network as they are."""
    if not is_cleartext(url):
        return ()
    message = "is reached without TLS: password and images go in clear, and can be read on the way"
    return (Notice("no-tls", without_credentials(url), message),)


def to_label(text: str) -> str:
    """``text`` with each character that is not allowed in a label replaced, as XNAT does it (Labels.toLabelChars).

    XNAT would do so by itself; the label must be known to find the session again.

    >>> label_of("Mueller^Eva 1.2")
    'Mueller_Eva_1_2'
    """
    return _NOT_IN_LABELS.sub("_", text)


class NameWithoutLabel(InvalidSetting):
    """A name that nothing is left of in a label: many such names would become one. ``reason`` is about the name."""

    def __init__(self, option: str, field: str, name: str) -> None:
        self.reason = (
            f"nothing of its {field} can stand in a label of XNAT (letters A to Z, digits, '_' and '-'); "
            f"rename it, or give another {option}"
        )
        super().__init__(option, f"'{printable(name)}': {self.reason}")


def fill_label(template: str, values: Mapping[str, str], option: str) -> str:
    """A label from a template such as ``{subject}_{session}``; raises for an unknown field.

    Raises :class:`NoLabel` where nothing of a field's value can stand in a label.

    >>> filled("{subject}_{session}", {"subject": "s1", "session": "mr"}, "--label")
    's1_mr'
    """
    for name in _FIELD.findall(template):
        if name not in values:
            known = ", ".join(f"{{{key}}}" for key in values)
            raise InvalidSetting(option, f"there is no field '{{{printable(name)}}}' here (known: {known})")
        if not to_label(values[name]).strip("_-"):
            raise NameWithoutLabel(option, name, values[name])
    label = to_label(_FIELD.sub(lambda found: values[found[1]], template))
    if not label.strip("_-"):
        raise InvalidSetting(option, f"'{printable(template)}' makes an empty label")
    return label
