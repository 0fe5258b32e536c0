"""The values that the modules of this room exchange: plain frozen dataclasses. No I/O happens here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Layout = Literal["series", "mercure", "archive"]
Isolation = Literal["auto", "required", "none"]
KeepLog = Literal["failed", "always", "never"]


@dataclass(frozen=True)
class Processing:
    """A program of the user's own with its limits, as the settings name it; checked.

    ``command`` are its words, or ``container`` is an image and ``args`` the words for it. ``timeout`` is in seconds,
    ``memory`` in bytes (0: no limit). ``input_from`` is the processing whose output is the input, or empty.
    """

    name: str
    version: str
    description: str
    command: tuple[str, ...]
    container: Path | None
    args: tuple[str, ...]
    input_from: str
    layout: Layout
    timeout: int
    memory: int
    cores: int
    workers: int
    network: bool
    isolation: Isolation
    folders: tuple[Path, ...]
    environment: Mapping[str, str]
    settings: Mapping[str, Any]
    is_on_slurm: bool
    partition: str
    time: str
    account: str
    keep_log: KeepLog
    keep_old: bool


@dataclass(frozen=True)
class Scratch:
    """The folders of one execution on this machine, all below ``root``, which is removed afterwards."""

    root: Path

    @property
    def input(self) -> Path:
        return self.root / "input"

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def task(self) -> Path:
        return self.root / "task.json"

    @property
    def log(self) -> Path:
        return self.root / "log"


@dataclass(frozen=True)
class ProgramEnd:
    """How a program ended: its exit code or signal, or what ended it, and what it left.

    ``reason`` is empty, ``timeout``, ``no-space``, ``stopped``, ``not-started`` (``error`` is the number then) or
    ``left-running``. ``left`` counts the processes that it left running, which were ended. Sizes in bytes.
    """

    exit_code: int | None
    signal: int | None
    reason: str
    error: int | None
    left: int
    log_size: int
    seconds: float


#: How a processing of a visit can end. ``partial``: the program says that a part of its work failed.
OutcomeState = Literal["success", "partial", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of a program: the state, a short stable word for it (``docs/errors.md``), and a sentence.

    ``words`` is what the program itself said about it, which may contain what identifies a person: it is shown where
    the log is shown, and nowhere else.
    """

    state: OutcomeState
    code: str
    message: str
    words: str = ""


ResultState = Literal["success", "partial", "failed", "up to date", "not reached"]


@dataclass(frozen=True)
class ProcessingResult:
    """What a command did for one visit and processing.

    ``code`` and ``message`` say how it ended; ``reasons`` why it was run; ``files`` and ``size`` (bytes) are those of
    the output. ``log`` is the file with what the program printed, if it was kept.
    """

    study: str
    visit: str
    processing: str
    state: ResultState
    code: str = ""
    message: str = ""
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0
    files: int = 0
    size: int = 0
    log: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.study}/{self.visit}"
