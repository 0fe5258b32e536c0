"""The upload journal: a record of what was uploaded to an XNAT. Reads and writes ``<folder>/xnat-<target>.jsonl``.

Each step of a session is one line of JSON, synced to the disk before the next step is taken. So a run that was ended,
even by a loss of power, can be continued: what is done is not sent again, and what was being sent is first looked for
in XNAT. One process at a time uses a journal; the file is never removed.
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
    """Another process is uploading to the same project, with the same journal.

    The operating system releases the journal when that process ends, in whatever way.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "another upload to the same project", 0.0)
        self.args = (
            f"another upload to the same project is running, with the journal '{printable(path)}'. Run the same "
            "command again when it has ended. Keep the file: it records what was uploaded",
        )


class UploadJournal:
    """The journal of one target in one folder, locked from ``with`` to its end. Safe to use from several threads."""

    def __init__(self, folder: Path, target: UploadTarget) -> None:
        name = f"{target.url.rstrip('/')} {target.project} {target.dest}"
        self.path = folder / f"xnat-{hashlib.sha256(name.encode()).hexdigest()[:12]}.jsonl"
        self._target, self._lock = target, threading.Lock()
        self._last: dict[str, Mapping[str, object]] = {}

    def __enter__(self) -> UploadJournal:
        """Raise :class:`UploadRunning` while another process uses the journal."""
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
        """The last step of a session, empty where there is none."""
        with self._lock:
            return self._last.get(f"{subject}/{label}", {})

    def note(self, subject: str, label: str, state: str, **more: object) -> None:
        """Record a step. When this returns, it is on the disk."""
        moment = datetime.now(timezone.utc).isoformat(timespec="seconds")
        entry = {"time": moment, "subject": subject, "label": label, "state": state, **more}
        line = json.dumps(entry, ensure_ascii=True).encode() + b"\n"
        with self._lock, storage_errors(self.path, "write"):
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._last[f"{subject}/{label}"] = entry

    def _read(self) -> None:
        """Read the last step of each session. A last line without its end is removed: nothing was done after it."""
        self._file.seek(0)
        raw = self._file.read()
        whole, _, rest = raw.rpartition(b"\n")
        if rest:
            self._file.truncate(len(raw) - len(rest))
        for line in whole.splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line of another version does not count
                entry = json.loads(line)
                self._last[f"{entry['subject']}/{entry['label']}"] = entry


def default_journal_folder() -> Path:
    """The folder of journals for inputs outside a store: ``icf-utils`` in ``$XDG_STATE_HOME`` or ``~/.local/state``."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "icf-utils"
