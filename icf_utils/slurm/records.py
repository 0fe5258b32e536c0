"""Records of submitted jobs: a folder ``STORE/STUDY/.icf/slurm/NUMBER`` for each submission. Reads and writes them.

A folder holds the scripts, a list of visits for each task, the jobs' logs and, written last, ``jobs.json``, the
record of what was submitted. What became of a visit is decided from the store; the record only says which job has
which visits, as long as SLURM knows the job.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from icf_utils.errors import DepositDamaged, storage_errors
from icf_utils.pipeline.model import VisitInput
from icf_utils.slurm.model import Submission
from icf_utils.store.files import make_folders, replace_file, tidy_workdir
from icf_utils.store.layout import Study, check_identifier

#: The version of the files' format.
FORMAT = 1

#: How many finished submissions of a study are kept for their logs.
KEPT = 20

_RECORD = "jobs.json"
_NUMBER = re.compile(r"\d{4,9}", re.ASCII)


def visits_job_name(study: Study) -> str:
    """The name of the array job of a study in a store."""
    return f"icf-visits-{_tag(study)}"


def catalog_job_name(study: Study) -> str:
    """The name of the catalog job; SLURM runs one job of a name at a time (``singleton``)."""
    return f"icf-catalog-{_tag(study)}"


def process_job_name(study: Study, processing: str) -> str:
    """The name of the array job that runs a processing on visits of a study."""
    return f"icf-process-{processing}-{_tag(study)}"


def _tag(study: Study) -> str:
    """The study and a digest of the store's real path, as several stores may have studies of the same name."""
    store = os.path.realpath(study.root).encode("utf-8", "surrogateescape")
    return f"{study.study}-{hashlib.md5(store, usedforsecurity=False).hexdigest()[:8]}"


def slurm_folder(study: Study) -> Path:
    """The folder of a study's submissions."""
    return study.workdir / "slurm"


def next_folder(study: Study) -> Path:
    """The folder that the next submission will get."""
    return slurm_folder(study) / f"{max(_numbers(study), default=0) + 1:04}"


def create_folder(study: Study) -> Path:
    """Create a folder for a submission, even if other processes create theirs at the same time."""
    while True:
        folder = next_folder(study)
        with storage_errors(folder, "create"):
            try:
                make_folders(study.root, folder.parent)
                folder.mkdir()
                return folder
            except FileExistsError:
                continue


def write_visits(path: Path, visits: Sequence[VisitInput]) -> None:
    """Write the list of a job's visits with their inputs."""
    rows = [[visit.study, visit.visit, None if visit.input is None else str(visit.input)] for visit in visits]
    write_text(path, json.dumps({"format": FORMAT, "visits": rows}, indent=0) + "\n")


def read_visits(path: Path) -> list[VisitInput]:
    """Read a list that :func:`write_visits` has written. Raises ``StorageFailure`` or ``DepositDamaged``."""
    with storage_errors(path, "read"):
        raw = path.read_bytes()
    try:
        rows = json.loads(raw)["visits"]
        return [_visit(*row) for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise DepositDamaged(path, "a list of visits", "something else", "submit the jobs again") from error


def _visit(study: str, visit: str, source: str | None) -> VisitInput:
    check_identifier("study", study)
    check_identifier("visit", visit)
    return VisitInput(study, visit, None if source is None else Path(source))


def write_text(path: Path, text: str) -> None:
    """Write a small file in one step."""
    replace_file(path, text.encode("utf-8", errors="surrogateescape"), durable=False)


def write_submission(folder: Path, submission: Submission) -> None:
    """Record which jobs were submitted."""
    write_text(folder / _RECORD, json.dumps({"format": FORMAT, **asdict(submission)}) + "\n")


def read_submissions(study: Study) -> list[Submission]:
    """Read the study's submissions, the latest last; records that cannot be read are skipped."""
    found = [_read_submission(slurm_folder(study) / f"{number:04}" / _RECORD) for number in sorted(_numbers(study))]
    return [submission for submission in found if submission]


def _read_submission(path: Path) -> Submission | None:
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
        if value.pop("format") != FORMAT:
            return None
        shards = tuple(tuple(map(str, shard)) for shard in value.pop("shards"))
        return Submission(shards=shards, catalog=tuple(value.pop("catalog")), **value)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def remove_old_submissions(study: Study, active: Collection[int], processing: str = "") -> None:
    """Remove the oldest finished submissions of a kind; the latest :data:`KEPT` and the ``active`` ones stay."""
    records = [record for record in read_submissions(study) if record.processing == processing]
    finished = [record.number for record in records if record.number not in active]
    for number in finished[:-KEPT]:
        shutil.rmtree(slurm_folder(study) / f"{number:04}", ignore_errors=True)


def remove_submission(study: Study, folder: Path) -> None:
    """Remove the folder of a submission that failed."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        slurm_folder(study).rmdir()
    tidy_workdir(study)


def _numbers(study: Study) -> list[int]:
    try:
        return [int(name) for name in os.listdir(slurm_folder(study)) if _NUMBER.fullmatch(name)]
    except OSError:
        return []
