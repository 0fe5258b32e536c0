"""What has been uploaded, remembered: one line of JSON for each step, synced to the disk before the next is taken.

A run that was ended, even by a loss of power, goes on where it was: what is done is not sent again, and what was being
sent is looked for first. Reads and writes ``<folder>/xnat-<name of the target>.jsonl``; one process at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from icf_utils.errors import Busy, printable, storage_errors
from icf_utils.store.flock import open_locked
from icf_utils.xnat.model import UploadTarget


class UploadRunning(Busy):
    """Another process uploads to the same project, with the same journal.

    The system gives the journal free when that process ends, however it does: the file is never to be removed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "another upload to the same project", 0.0)
        self.args = (
            f"another upload to the same project is running, with the journal '{printable(path)}'. Wait until it has "
            "ended, and run the same command again; leave the file, which remembers what was uploaded",
        )


class UploadJournal:
    """The journal of one target in one folder, from ``with`` to its end. Safe to use from several threads."""

    def __init__(self, folder: Path, target: UploadTarget) -> None:
        name = f"{target.url.rstrip('/')} {target.project} {target.dest}"
        self.path = folder / f"xnat-{hashlib.sha256(name.encode()).hexdigest()[:12]}.jsonl"
        self._target, self._lock = target, threading.Lock()
        self._last: dict[str, Mapping[str, object]] = {}

    def __enter__(self) -> UploadJournal:
        """Raises :class:`UploadRunning` while another process uploads there."""
        with storage_errors(self.path, "open"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = open_locked(self.path)
        if file is None:
            raise UploadRunning(self.path)
        self._file = file
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def last(self, subject: str, label: str) -> Mapping[str, object]:
        """The last step of a session; nothing for one that was never begun."""
        with self._lock:
            return self._last.get(f"{subject}/{label}", {})

    def note(self, subject: str, label: str, state: str, **more: object) -> None:
        """Write a step down; on return it is on the disk."""
        moment = datetime.now(timezone.utc).isoformat(timespec="seconds")
        entry = {"time": moment, "subject": subject, "label": label, "state": state, **more}
        line = json.dumps(entry, ensure_ascii=True).encode() + b"\n"
        with self._lock, storage_errors(self.path, "write"):
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._last[f"{subject}/{label}"] = entry

    def _read(self) -> None:
        """A last line without its end was being written when the power went; nothing was done upon it."""
        self._file.seek(0)
        raw = self._file.read()
        whole, _, rest = raw.rpartition(b"\n")
        if rest:
            self._file.truncate(len(raw) - len(rest))
        for line in whole.splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line of another version: such a session was never begun
                entry = json.loads(line)
                self._last[f"{entry['subject']}/{entry['label']}"] = entry


def default_journal_folder() -> Path:
    """Its place for inputs outside of a store: ``$XDG_STATE_HOME`` or ``~/.local/state``, and ``icf-utils``."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "icf-utils"
