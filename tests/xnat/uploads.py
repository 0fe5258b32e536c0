"""Trees of sessions to upload, and uploads to the stand-in with short pauses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icf_utils.credentials import Login, Secret
from icf_utils.xnat.model import UploadOutcome, UploadResult, UploadTarget
from icf_utils.xnat.upload import upload
from icf_utils.xnat.upload_inputs import UploadList, list_tree_uploads
from tests.data.make_dicom import dicom_bytes, uid
from tests.xnat.standin import PASSWORD, USER, StandIn

LOGIN = Login(USER, Secret(PASSWORD))


def write_session(
    folder: Path, scans: Mapping[str, int], other_files: Mapping[str, bytes] | None = None, **keywords: object
) -> Path:
    """Write the folder of a session; ``scans`` maps the names of their folders to numbers of images."""
    study = uid(folder.parent.name, folder.name)
    for number, (scan, count) in enumerate(scans.items(), 1):
        (folder / scan).mkdir(parents=True)
        for at in range(1, count + 1):
            values = {"StudyInstanceUID": study, "SeriesNumber": number, "InstanceNumber": at, **keywords}
            (folder / scan / f"{at}.dcm").write_bytes(dicom_bytes(**values))  # type: ignore[arg-type]
    for name, content in (other_files or {}).items():
        (folder / name).write_bytes(content)
    return folder


def target(server: StandIn, **settings: Any) -> UploadTarget:
    quick: dict[str, Any] = {"timeout": 10.0, "wait": 10.0, "retries": 8, "pause": 0.02, "project": "PILOT"}
    return UploadTarget(server.url, **{**quick, **settings})


def send(server: StandIn, root: Path, jobs: int = 1, **settings: Any) -> UploadResult:
    """Upload the tree below ``root``; the journal is in the folder next to it."""
    found: UploadList = list_tree_uploads(root, state=root.parent / "state")
    return upload(found.uploads, target(server, **settings), LOGIN, jobs=jobs)


def send_one(server: StandIn, root: Path, **settings: Any) -> UploadOutcome:
    (outcome,) = send(server, root, **settings).sessions
    return outcome
