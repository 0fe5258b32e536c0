"""The values that the modules of this room exchange: plain frozen dataclasses. No I/O happens here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import InvalidSetting, printable

#: The default for the most array tasks of a study; SLURM's own limit (MaxArraySize) is 1001 unless it was raised.
ARRAY_SIZE = 200

_OPTION = re.compile(r"--[a-z][a-z-]*(?:=[A-Za-z0-9._,:+@/*\[\]&|()=-]+)?", re.ASCII)

#: Options of sbatch by which jobs are found again, or that would change what they run.
_DECIDED = (
    *("--array", "--job-name", "--output", "--error", "--open-mode", "--dependency", "--wrap", "--parsable", "--wait"),
    *("--cpus-per-task", "--ntasks", "--nodes", "--export-file", "--chdir", "--test-only"),
)

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,:+@/=-]*", re.ASCII)


@dataclass(frozen=True)
class JobRequest:
    """The resources that a user requests from SLURM; empty text leaves a value to the cluster's defaults.

    ``container`` is the image in which the jobs run, ``cpus`` the processors of an array task. ``more`` are further
    options of sbatch, each as ``--name=value`` or ``--name``.
    """

    partition: str = ""
    time: str = ""
    memory: str = ""
    account: str = ""
    array_size: int = ARRAY_SIZE
    container: Path | None = None
    cpus: int = 1
    more: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option, value in self._texts().items():
            if value and not _PLAIN.fullmatch(value):
                raise InvalidSetting(option, f"'{printable(value)}' is not a value that SLURM accepts")
        for option in self.more:
            if not _OPTION.fullmatch(option):
                problem = f"expected an option of sbatch such as --qos=long, found '{printable(option)}'"
                raise InvalidSetting("--sbatch", problem)
            if option.partition("=")[0] in _DECIDED:
                raise InvalidSetting("--sbatch", f"'{printable(option)}' is decided by icf-utils")
        if self.array_size < 1:
            raise InvalidSetting("--array-size", "must be at least 1")

    def options(self) -> list[str]:
        """The request as options of ``sbatch``."""
        return [*(f"{option}={value}" for option, value in self._texts().items() if value), *self.more]

    def _texts(self) -> Mapping[str, str]:
        return {
            "--partition": self.partition,
            "--time": self.time,
            "--mem": self.memory,
            "--account": self.account,
        }


@dataclass(frozen=True)
class Submission:
    """The jobs that were submitted together for a study.

    ``shards`` holds the visits of each task of the array ``array_job``; ``catalog`` those that ``catalog_job``
    brings into the catalog. The number of a job that was not submitted is empty text. ``processing`` is what the jobs
    run on the visits; empty for the stages.
    """

    number: int
    study: str
    array_job: str
    catalog_job: str
    shards: tuple[tuple[str, ...], ...]
    catalog: tuple[str, ...]
    processing: str = ""


@dataclass(frozen=True)
class QueuedTask:
    """A job, or one task of an array, that SLURM has not finished: ``task`` is its index, ``reason`` why it is
    pending.
    """

    job: str
    task: int | None
    state: str
    reason: str

    @property
    def is_pending(self) -> bool:
        return self.state in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")
