"""Have a clone get images by byte ranges, or by archivist again. Runs git; changes the clone's configuration only.

The remote stays the one that the dataset knows, with its UUID; ``remote.<name>.annex-externaltype`` says which program
this clone uses for it. Source: git-annex's manual page, "annex-externaltype".
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icf_utils.errors import InvalidSetting, MissingRequirement, StorageFailure

#: The programs, as git-annex names them: ``git-annex-remote-<this>``.
OURS, DATALADS = "icf", "archivist"

#: Marks a remote that git-annex did not know before, as the clone was made without DataLad.
_ADDED = "icf-added"

_NO_REMOTE = (
    "expected a clone of a visit's dataset, found a repository without an 'archivist' remote; name the folder of a "
    "clone, and run 'git annex init' there if git-annex has never been used in it"
)


@dataclass(frozen=True)
class Configured:
    """A clone, its remotes for images, which program gets them now, and whether that was so before."""

    clone: str
    remotes: tuple[str, ...]
    program: str
    state: Literal["written", "unchanged"]


def configure_clone(clone: str | os.PathLike[str], undo: bool = False) -> Configured:
    """Have ``clone`` get images by our special remote; with ``undo``, by DataLad's archivist again.

    Raises :class:`~icf_utils.errors.InvalidSetting` for what is no clone of a dataset, and
    :class:`~icf_utils.errors.MissingRequirement` where git would not find the programs it needs.
    """
    repository = _Repository(Path(clone))
    program = f"git-annex-remote-{OURS}"
    if not undo and shutil.which(program) is None:
        raise MissingRequirement(f"the program {program}", "make sure that the folder of 'icf-utils' is on the PATH")
    before = repository.settings()
    remotes = {name: kind for name, kind in repository.remotes().items() if kind in (OURS, DATALADS)}
    changed = (_undo if undo else _switch if remotes else _add)(repository, remotes)
    state: Literal["written", "unchanged"] = "unchanged" if repository.settings() == before else "written"
    return Configured(os.fspath(clone), tuple(changed), DATALADS if undo else OURS, state)


def _switch(repository: _Repository, remotes: dict[str, str]) -> list[str]:
    for name in remotes:
        repository.set(f"remote.{name}.annex-externaltype", OURS)
    return sorted(remotes)


def _add(repository: _Repository, _: dict[str, str]) -> list[str]:
    """A clone that was made without DataLad knows its remotes from the git-annex branch only.

    git-annex wants to be told that somebody trusts a remote's program; who runs this says so.
    """
    found = repository.logged()
    if not found:
        raise InvalidSetting(repository.name, _NO_REMOTE)
    for name, uuid in found.items():
        wanted = {"annex-uuid": uuid, "annex-externaltype": OURS, "annex-verified": "verified", _ADDED: "true"}
        for key, value in {**wanted, "skipFetchAll": "true"}.items():
            repository.set(f"remote.{name}.{key}", value)
    return sorted(found)


def _undo(repository: _Repository, remotes: dict[str, str]) -> list[str]:
    if not remotes and not repository.logged():
        raise InvalidSetting(repository.name, _NO_REMOTE)
    for name, kind in remotes.items():
        if repository.get(f"remote.{name}.{_ADDED}"):
            repository.run("config", "--local", "--remove-section", f"remote.{name}")
        elif kind == OURS:
            repository.set(f"remote.{name}.annex-externaltype", DATALADS)
    return sorted(remotes)


class _Repository:
    """git in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.name = folder, os.fspath(folder)
        if shutil.which("git") is None:
            raise MissingRequirement("git", "install git (https://git-scm.com)")
        if not folder.is_dir() or self.run("rev-parse", "--git-dir").returncode:
            raise InvalidSetting(self.name, "expected the folder of a clone, found no git repository")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - no shell
            ["git", "-C", self.name, *arguments],  # noqa: S607 - as the user has it
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )

    def settings(self) -> str:
        return self.run("config", "--local", "--list").stdout

    def get(self, key: str) -> str:
        return self.run("config", "--local", "--get", key).stdout.removesuffix("\n")

    def set(self, key: str, value: str) -> None:
        done = self.run("config", "--local", key, value)
        if done.returncode:
            raise StorageFailure(self.name, "change git's configuration in", OSError(0, done.stderr.strip()))

    def remotes(self) -> dict[str, str]:
        """The external special remotes of this clone, and their programs."""
        text = self.run("config", "--local", "--get-regexp", r"^remote\..*\.annex-externaltype$").stdout
        pairs = (line.rsplit(" ", 1) for line in text.splitlines())
        return {key.split(".", 1)[1].rpartition(".")[0]: kind for key, kind in pairs}

    def logged(self) -> dict[str, str]:
        """Names and UUIDs of the archivist remotes that the dataset knows."""
        for branch in ("git-annex", "origin/git-annex"):
            text = self.run("cat-file", "blob", f"{branch}:remote.log").stdout
            found = {}
            for line in text.splitlines():
                name, kind = (re.search(rf" {key}=(\S+)", line) for key in ("name", "externaltype"))
                if name and kind and kind[1] == DATALADS:
                    found[name[1]] = line.partition(" ")[0]
            if found:
                return found
        return {}
