"""What the clone has: an archive's file in the annex, and getting it there. Runs git-annex."""

from __future__ import annotations

import subprocess
from pathlib import Path

from icf_utils.errors import RemoteFailure

_ENOUGH_TO_SAY = 500


class Clone:
    """The clone whose git directory is ``git_dir``."""

    def __init__(self, git_dir: Path) -> None:
        self._git_dir = git_dir

    def content_of(self, key: str) -> Path | None:
        """The file that holds the content of ``key``, None where it is not here."""
        done = self._annex("contentlocation", key)
        name = done.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")
        if done.returncode or not name:
            return None
        places = [self._git_dir / name, self._git_dir.parent / name]
        return next((place for place in places if place.is_file()), None)

    def get(self, key: str) -> Path:
        """Have git-annex get ``key`` from wherever it can. Raises :class:`~icf_utils.errors.RemoteFailure`."""
        done = self._annex("get", "--key", key)
        place = self.content_of(key)
        if done.returncode or place is None:
            said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()[-_ENOUGH_TO_SAY:]
            raise RemoteFailure(
                f"archive {key}",
                f"git-annex cannot get it whole either: {said}",
                "see 'git annex whereis --key' for who should have it",
            )
        return place

    def is_present_elsewhere(self, key: str) -> bool:
        """Whether some remote has ``key`` now. Raises :class:`~icf_utils.errors.RemoteFailure` if nobody knows."""
        code = self._annex("checkpresentkey", key).returncode
        if code not in (0, 1):
            raise RemoteFailure(f"archive {key}", "git-annex cannot find out whether it is there", "try again later")
        return code == 0

    def _annex(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Standard output is ours alone: the process's own is the conversation with git-annex."""
        command = ["git", f"--git-dir={self._git_dir}", "annex", *arguments]
        if self._git_dir.name == ".git":
            command[1:2] = ["-C", str(self._git_dir.parent)]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603 - no shell
