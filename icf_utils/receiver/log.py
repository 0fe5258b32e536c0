"""The receiver's log: each line with its time, as text or as JSON. Writes through a progress."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from typing import Literal

from icf_utils.progress import Progress, Task

LogFormat = Literal["text", "json"]


class ReceiverLog:
    """A progress whose messages have the time (UTC) in front, or are objects with ``time`` and ``message``."""

    def __init__(self, progress: Progress, form: LogFormat) -> None:
        self._progress, self._form = progress, form

    def task(self, label: str, total: int, unit: str) -> AbstractContextManager[Task]:
        return self._progress.task(label, total, unit)

    def message(self, text: str) -> None:
        self._progress.message(log_line(text, time.time(), self._form))


def log_line(text: str, moment: float, form: LogFormat) -> str:
    """A line of the log; ``moment`` is in POSIX seconds.

    >>> log_line("listening", 0.0, "text")
    '1970-01-01T00:00:00Z listening'
    >>> log_line("listening", 0.0, "json")
    '{"time": "1970-01-01T00:00:00Z", "message": "listening"}'
    """
    moment_text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
    return json.dumps({"time": moment_text, "message": text}) if form == "json" else f"{moment_text} {text}"
