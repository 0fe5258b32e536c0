"""Records of earlier runs: one small file for each visit and stage in ``STORE/STUDY/.icf/state``. Reads and writes
them.

Each file is replaced in one step, so that a reader sees the old or the new one, on shared file systems as well. A file
that cannot be read counts as absent: that costs time, never correctness.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from icf_utils.errors import storage_errors
from icf_utils.pipeline.fingerprints import Fingerprint, SourceFingerprint
from icf_utils.pipeline.model import StageFailure
from icf_utils.settings import STAGE_NAMES
from icf_utils.store.files import make_folders, new_file, rename_file
from icf_utils.store.layout import WORK_DIR_NAME, Study, Visit

#: The version of the files' format; a file of another one counts as absent.
FORMAT = 1

#: Takes the place of a visit's identifier in the record of the whole study; no identifier contains a ``+``.
WHOLE_STUDY = "+study"

_ERROR, _PART = ".error.json", ".part"


@dataclass(frozen=True)
class StageRecord:
    """What a stage was made from and what it made. Names are relative to the study's folder.

    ``source`` is the input that an archive was made from or compared with. ``facts`` are digests of what has no file of
    its own, such as the visit's entry on its study's page.
    """

    version: int
    parameters: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, Fingerprint] = field(default_factory=dict)
    outputs: Mapping[str, Fingerprint] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    source: SourceFingerprint | None = None


def state_folder(study: Study) -> Path:
    """The folder of the records of a study's visits."""
    return study.workdir / "state"


def read_record(study: Study, visit: str, stage: str) -> StageRecord | None:
    """Read the record of a visit's stage; ``None`` if there is none that can be used."""
    value = _read(_path(study, visit, stage))
    try:
        return StageRecord(
            version=value["version"],
            parameters=dict(value["parameters"]),
            inputs=_fingerprints(value["inputs"]),
            outputs=_fingerprints(value["outputs"]),
            facts=dict(value["facts"]),
            source=SourceFingerprint(**value["source"]) if value["source"] else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def read_records(visit: Visit) -> dict[str, StageRecord]:
    """Read the records of a visit, by stage."""
    found = {stage: read_record(visit.of_study, visit.visit, stage) for stage in STAGE_NAMES}
    return {stage: state for stage, state in found.items() if state}


def write_record(study: Study, visit: str, stage: str, state: StageRecord) -> None:
    """Record a stage and remove its error. Raises :class:`~icf_utils.errors.StorageFailure`."""
    _write(study, _path(study, visit, stage), {"format": FORMAT, **asdict(state)})
    remove_error(study, visit, stage)


def write_error(study: Study, visit: str, stage: str, failure: StageFailure) -> None:
    """Record why a stage failed. Raises :class:`~icf_utils.errors.StorageFailure`."""
    _write(study, _error_path(study, visit, stage), {"format": FORMAT, **asdict(failure)})


def remove_error(study: Study, visit: str, stage: str) -> None:
    """Remove the recorded error of a stage that is now up to date."""
    with suppress(OSError):
        os.unlink(_error_path(study, visit, stage))


def has_error(study: Study, visit: str, stage: str) -> bool:
    """Whether the stage failed in the last run."""
    return os.path.exists(_error_path(study, visit, stage))


def read_errors(study: Study) -> dict[tuple[str, str], StageFailure]:
    """Read the errors of a study's visits, by visit and stage."""
    return {key: failure for key in _names(study, _ERROR) if (failure := _failure(study, *key))}


def recorded_stages(study: Study) -> set[tuple[str, str]]:
    """The visits and stages that have a record."""
    return {key for key in _names(study, ".json") if key[1] in STAGE_NAMES and key[0] != WHOLE_STUDY}


def remove_unfinished_records(study: Study) -> None:
    """Remove the temporary files of processes of this host that were killed."""
    host = f".{socket.gethostname()}."
    with suppress(OSError):
        for name in os.listdir(state_folder(study)):
            owner, suffix = os.path.splitext(name)
            pid = owner.rpartition(".")[2]
            if suffix == _PART and host in name and not os.path.exists(f"/proc/{pid}"):
                (state_folder(study) / name).unlink(missing_ok=True)


def _failure(study: Study, visit: str, stage: str) -> StageFailure | None:
    value = _read(_error_path(study, visit, stage))
    try:
        return StageFailure(str(value["type"]), str(value["message"]), int(value["exit_code"]))
    except (KeyError, TypeError, ValueError):
        return None


def _names(study: Study, suffix: str) -> list[tuple[str, str]]:
    """Visit and stage from the names of state files with this ending, sorted."""
    try:
        names = os.listdir(state_folder(study))
    except OSError:
        return []
    parts = [name.removesuffix(suffix).rpartition(".") for name in sorted(names) if name.endswith(suffix)]
    return [(visit, stage) for visit, _, stage in parts if visit and stage in STAGE_NAMES]


def _path(study: Study, visit: str, stage: str) -> str:
    return f"{study.root}/{study.study}/{WORK_DIR_NAME}/state/{visit}.{stage}.json"


def _error_path(study: Study, visit: str, stage: str) -> str:
    return f"{study.root}/{study.study}/{WORK_DIR_NAME}/state/{visit}.{stage}{_ERROR}"


def _fingerprints(value: Mapping[str, Mapping[str, Any]]) -> dict[str, Fingerprint]:
    return {name: Fingerprint(**fingerprint) for name, fingerprint in value.items()}


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb", buffering=0) as handle:
            value = json.loads(handle.read())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and value.get("format") == FORMAT else {}


def _write(study: Study, path: str, value: Mapping[str, object]) -> None:
    """No sync: a file that a power failure tears cannot be read, and counts as not there."""
    folder, target = state_folder(study), Path(path)
    data = json.dumps(value, ensure_ascii=True, sort_keys=True).encode("ascii") + b"\n"
    part = Path(f"{path}.{secrets.token_hex(4)}.{socket.gethostname()}.{os.getpid()}{_PART}")
    with storage_errors(target, "write"):
        make_folders(study.root, folder)
        with new_file(part, root=study.root, like=target, folders=(folder, study.workdir)) as handle:
            handle.write(data)
        rename_file(part, target)
