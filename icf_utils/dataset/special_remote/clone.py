"""A clone as git and git-annex see it: its configuration, its remotes, and the contents that it holds. Runs both.

git gets the environment that it needs, git-annex, which starts programs of the user's own, all but secrets
(:mod:`icf_utils.child_environment`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from icf_utils.child_environment import git_environment, user_environment
from icf_utils.errors import InvalidSetting, MissingRequirement, RemoteFailure, StorageFailure, printable

#: Characters of what git-annex said that a message repeats.
_ENOUGH_TO_SAY = 500


class Clone:
    """The clone whose git directory is ``git_dir``."""

    def __init__(self, git_dir: Path) -> None:
        self.git_dir = git_dir

    @classmethod
    def at(cls, folder: Path) -> Clone:
        """The clone that ``folder`` is in.

        Raises :class:`~icf_utils.errors.InvalidSetting` where there is none, and
        :class:`~icf_utils.errors.MissingRequirement` without git.
        """
        if shutil.which("git") is None:
            raise MissingRequirement("git", "install git (https://git-scm.com)")
        done = None
        if folder.is_dir():
            done = run_git("-C", os.fspath(folder), "rev-parse", "--absolute-git-dir")
        if done is None or done.returncode:
            raise InvalidSetting(
                os.fspath(folder), f"expected the folder of a clone, found no git repository{_why(done)}"
            )
        return cls(Path(os.fsdecode(done.stdout.removesuffix(b"\n"))))

    def superproject(self) -> Clone | None:
        """The clone that has this one as a submodule, ``None`` for others."""
        done = self.git("config", "--local", "core.worktree")
        folder = self.git_dir.parent if self.git_dir.name == ".git" else self.git_dir
        if done.returncode == 0:
            folder = self.git_dir / os.fsdecode(done.stdout.removesuffix(b"\n"))
        done = run_git("-C", os.fspath(folder), "rev-parse", "--show-superproject-working-tree")
        above = os.fsdecode(done.stdout.removesuffix(b"\n"))
        return Clone.at(Path(above)) if done.returncode == 0 and above else None

    # -- configuration

    def git(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Git in this clone, whatever it answers."""
        return run_git(f"--git-dir={self.git_dir}", *arguments)

    def setting(self, name: str) -> str | None:
        """A setting as git finds it (this clone's, the user's, the system's), ``None`` where there is none."""
        done = self.git("config", "--get", name)
        return None if done.returncode else done.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")

    def settings(self, name: str) -> list[str]:
        """All values of a setting that git finds."""
        done = self.git("config", "--null", "--get-all", name)
        return done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]

    def remote_log(self) -> dict[str, dict[str, str]]:
        """The settings of the special remotes that the dataset knows, by their UUIDs."""
        for branch in ("git-annex", "origin/git-annex"):
            text = self.git("cat-file", "blob", f"{branch}:remote.log").stdout.decode("utf-8", "surrogateescape")
            if text:
                lines = map(str.split, text.splitlines())
                return {uuid: dict(word.split("=", 1) for word in words if "=" in word) for uuid, *words in lines}
        return {}

    def own_settings(self, pattern: str = ".") -> list[tuple[str, str]]:
        """Names and values of this clone's own settings whose names fit a regular expression."""
        text = self.git("config", "--local", "--null", "--get-regexp", pattern).stdout.decode(
            "utf-8", "surrogateescape"
        )
        return [(name, value) for name, _, value in (item.partition("\n") for item in text.split("\0") if item)]

    def change_setting(self, *arguments: str) -> None:
        """``git config --local`` with these arguments. Raises :class:`~icf_utils.errors.StorageFailure`."""
        done = self.git("config", "--local", *arguments)
        if done.returncode:
            problem = printable(done.stderr.decode("utf-8", "replace").strip())
            raise StorageFailure(self.git_dir, "change git's configuration in", OSError(0, problem))

    def remotes_with(self, setting: str) -> list[tuple[str, str]]:
        """Names of this clone's remotes that have ``remote.<name>.<setting>``, with each value of it."""
        found = self.own_settings(rf"^remote\..*\.{setting}$")
        return [(name.partition(".")[2].rpartition(".")[0], value) for name, value in found]

    # -- contents

    def content_of(self, key: str) -> Path | None:
        """The file that holds the content of ``key``, ``None`` where it is not here."""
        done = self._annex("contentlocation", key)
        name = done.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")
        if done.returncode or not name:
            return None
        places = [self.git_dir / name, self.git_dir.parent / name]
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
                "'git annex whereis --key' lists who should have it",
            )
        return place

    def is_present_elsewhere(self, key: str) -> bool:
        """Whether some remote has ``key`` now. Raises :class:`~icf_utils.errors.RemoteFailure` if that is not known."""
        code = self._annex("checkpresentkey", key).returncode
        if code not in (0, 1):
            raise RemoteFailure(f"archive {key}", "git-annex cannot find out whether it is there", "try again later")
        return code == 0

    def _annex(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Its standard output is captured: that of this process is the conversation with git-annex."""
        command = ["git", f"--git-dir={self.git_dir}", "annex", *arguments]
        if self.git_dir.name == ".git":
            command[1:2] = ["-C", str(self.git_dir.parent)]
        return subprocess.run(  # noqa: S603 - no shell
            command, env=user_environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )


def _why(done: subprocess.CompletedProcess[bytes] | None) -> str:
    """Git's own words, where it refuses a repository that is there: ``safe.directory``, ``safe.bareRepository``."""
    said = done.stderr.decode("utf-8", "replace").strip() if done else ""
    if not said or "not a git repository" in said:
        return ""
    return (
        "; git says: "
        + " ".join(printable(line.strip()) for line in said.splitlines() if line.strip())[:_ENOUGH_TO_SAY]
    )


def run_git(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run git, whatever it answers."""
    return subprocess.run(  # noqa: S603 - no shell
        ["git", *arguments],  # noqa: S607 - as the user has it
        env=git_environment(),
        input=stdin,
        capture_output=True,
        check=False,
    )
