"""What the modules of the cluster hand to each other: plain frozen values. No input or output happens here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import InvalidSetting, printable

#: Array tasks of a study at most, unless the user says otherwise: SLURM's own limit is 1000 where nobody has raised it.
ARRAY_SIZE = 200

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,:+@/=-]*", re.ASCII)


@dataclass(frozen=True)
class JobRequest:
    """What a user asks of SLURM; empty text leaves it to the cluster's defaults.

    ``container`` is an image that the jobs run in, ``cpus`` the number of visits that an array task makes at a time.
    """

    partition: str = ""
    time: str = ""
    memory: str = ""
    account: str = ""
    array_size: int = ARRAY_SIZE
    container: Path | None = None
    cpus: int = 1

    def __post_init__(self) -> None:
        for option, value in self._texts().items():
            if value and not _PLAIN.fullmatch(value):
                raise InvalidSetting(option, f"'{printable(value)}' is nothing that SLURM knows")
        if self.array_size < 1:
            raise InvalidSetting("--array-size", "there must be one task at least")

    def options(self) -> list[str]:
        """As ``sbatch`` takes it."""
        return [f"{option}={value}" for option, value in self._texts().items() if value]

    def _texts(self) -> Mapping[str, str]:
        return {
            "--partition": self.partition,
            "--time": self.time,
            "--mem": self.memory,
            "--account": self.account,
        }


@dataclass(frozen=True)
class Submission:
    """The jobs of one study that were submitted at once.

    ``shards`` holds the visits of each task of the array ``array_job``, ``catalog`` those that ``catalog_job`` brings
    into the catalog. A job that was not submitted is empty text.
    """

    number: int
    study: str
    array_job: str
    catalog_job: str
    shards: tuple[tuple[str, ...], ...]
    catalog: tuple[str, ...]


@dataclass(frozen=True)
class QueuedTask:
    """A job, or one task of an array, that SLURM has not finished: ``task`` is its index, ``reason`` why it waits."""

    job: str
    task: int | None
    state: str
    reason: str

    @property
    def is_pending(self) -> bool:
        return self.state in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")
