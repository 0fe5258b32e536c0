"""What is kept of processings besides their outputs: failures and logs, in ``STORE/STUDY/.icf/processing``.

A log may hold what identifies a person, so it gets the access rights of the visit's archive. Reads and writes these
files; one that cannot be read counts as absent.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import storage_errors
from icf_utils.processing.model import ProcessingResult
from icf_utils.store.files import make_folders, new_file, rename_file, replace_file, temporary_name
from icf_utils.store.layout import Study, Visit, is_processing_name

FORMAT = 1

_FAILURE, _LOG = ".failure.json", ".log"


@dataclass(frozen=True)
class ProcessingFailure:
    """Why a processing of a visit failed, and the version that did."""

    code: str
    message: str
    version: str


def records_folder(study: Study) -> Path:
    """The folder of failures and logs."""
    return study.workdir / "processing"


def log_path(place: Visit, processing: str) -> Path:
    """The log of the last execution."""
    return records_folder(place.of_study) / f"{place.visit}.{processing}{_LOG}"


def _failure_path(place: Visit, processing: str) -> Path:
    return records_folder(place.of_study) / f"{place.visit}.{processing}{_FAILURE}"


def write_failure(place: Visit, result: ProcessingResult, version: str) -> None:
    """Record a failure. Raises :class:`~icf_utils.errors.StorageFailure`."""
    value = {"format": FORMAT, "code": result.code, "message": result.message, "version": version}
    path = _failure_path(place, result.processing)
    with storage_errors(path, "write"):
        make_folders(place.root, path.parent)
    replace_file(path, json.dumps(value).encode("ascii") + b"\n", root=place.root, durable=False)


def remove_failure(place: Visit, processing: str) -> None:
    """Forget the failure of a processing that has succeeded."""
    with suppress(OSError):
        _failure_path(place, processing).unlink()


def read_failures(study: Study) -> dict[tuple[str, str], ProcessingFailure]:
    """The failures of a study, by visit and processing."""
    found = {}
    for name in _names(study):
        visit, _, processing = name.removesuffix(_FAILURE).rpartition(".")
        if name.endswith(_FAILURE) and is_processing_name(processing):
            with suppress(OSError, ValueError, KeyError, TypeError):
                value = json.loads((records_folder(study) / name).read_bytes())
                failure = ProcessingFailure(str(value["code"]), str(value["message"]), str(value["version"]))
                found[visit, processing] = failure
    return found


def _names(study: Study) -> list[str]:
    try:
        return sorted(os.listdir(records_folder(study)))
    except OSError:
        return []


def keep_log(place: Visit, processing: str, log: Path, remarks: str) -> Path:
    """Keep a log with remarks at its end, instead of the one before. Raises ``StorageFailure``."""
    path = log_path(place, processing)
    with storage_errors(path, "write"):
        make_folders(place.root, path.parent)
        data = log.read_bytes() + remarks.encode("utf-8", "backslashreplace")
    part = temporary_name(path)
    with new_file(part, root=place.root, like=place.archive) as handle, storage_errors(path, "write"):
        handle.write(data)
    with storage_errors(path, "write"):
        rename_file(part, path)
    return path


def remove_log(place: Visit, processing: str) -> None:
    """Remove the log of an earlier execution."""
    with suppress(OSError):
        log_path(place, processing).unlink()
    with suppress(OSError):
        records_folder(place.of_study).rmdir()
