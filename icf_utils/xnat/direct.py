"""What a direct import is asked for, what it needs of XNAT, and what it says. Looks only whether a folder is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from icf_utils.errors import InvalidSetting, printable
from icf_utils.results import Notice
from icf_utils.xnat.database import UNASSIGNED
from icf_utils.xnat.session_layout import check_label
from icf_utils.xnat.staging import CopiedFile, FileRights


class PrearchiveRequests(Protocol):
    """What is asked of XNAT itself, over HTTP."""

    def check_project(self, project: str) -> None:
        """Raise :class:`~icf_utils.errors.RemoteFailure` for a project whose prearchive cannot be listed."""

    def rebuild(self, src: str) -> None:
        """Ask for a session's description to be made from its files. ``src`` is its address in the prearchive."""

    def status(self, project: str, timestamp: str, foldername: str) -> str | None:
        """The status that XNAT shows, ``None`` for a session that it does not list."""


@dataclass(frozen=True)
class PrearchiveSession:
    """What a session is to be called, and how it is to be treated.

    Labels are checked on creation; no ``project`` leaves it unassigned, without ``subject`` XNAT takes PatientName.
    ``server_root`` is the prearchive as XNAT's host sees it, if that is not as we do.
    """

    root: Path
    label: str
    project: str | None = None
    subject: str | None = None
    server_root: str = ""
    rights: FileRights = field(default_factory=FileRights)
    prevent_anon: bool = False
    prevent_auto_commit: bool = False
    again: bool = False
    wait: float = 600.0

    def __post_init__(self) -> None:
        check_label("--session", self.label)
        if self.project == UNASSIGNED:
            raise InvalidSetting("--project", "leave it out for a session that is not assigned to a project")
        for what, value in (("--project", self.project), ("--subject", self.subject)):
            if value is not None:
                check_label(what, value)
        if not self.root.is_dir():
            raise InvalidSetting("--prearchive", f"'{printable(self.root)}' is no folder")


@dataclass(frozen=True)
class PrearchiveResult:
    """What was put into the prearchive. ``status`` is XNAT's last word, ``log`` its log of the session."""

    project: str | None
    timestamp: str
    session: str
    study_uid: str
    folder: Path
    url: str
    files: tuple[CopiedFile, ...]
    scans: tuple[str, ...]
    status: str
    log: str
    notices: tuple[Notice, ...]


@dataclass(frozen=True)
class PrearchivePlan:
    """What would be done: the folder, SQL with its values, HTTP requests, and the files' places."""

    folder: Path
    statements: tuple[str, ...]
    values: Mapping[str, object]
    requests: tuple[str, ...]
    places: Mapping[str, str]
    study_uid: str
    notices: tuple[Notice, ...]
