"""The environment of child processes: what they need, and no secret. Reads and changes this process's environment.

A program that icf-utils starts gets an environment from here, never its parent's as a whole: passwords and tokens that
are meant for one server must not reach git, its hooks and helpers, or a cluster's job. A test checks every call that
starts a program.

- git gets the variables that it reads, by name (:func:`git_environment`).
- ssh-keygen gets the same, and how to reach an agent and ask for a passphrase (:func:`ssh_environment`).
- git-annex and SLURM start programs of the user's own (special remotes, jobs), whose needs are unknown. They get
  everything but the secrets of icf-utils (:func:`user_environment`).
- A Python program of icf-utils that needs no settings gets what the interpreter needs
  (:func:`interpreter_environment`).
- Worker processes (:mod:`icf_utils.worker_process`) drop the secrets when they start, except for those that their work
  needs (:func:`drop_secrets`).

The program of a processing gets none of this process's variables but PATH:
:func:`icf_utils.processing.task.task_environment` makes its environment.
"""

from __future__ import annotations

import os
from collections.abc import Collection

#: Variables that hold a secret of icf-utils, or of the database library that it uses.
SECRETS = frozenset(
    {
        *("ICF_TOKEN", "ICF_STORE_PASSWORD", "ICF_SESSIONS_TOKEN", "ICF_CLONE_PASSWORD"),
        *("XNAT_PASS", "XNAT_TOKEN", "PGPASSWORD"),
    }
)

_FOR_GIT = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TMP", "TEMP", "TZ", "LANG", "LANGUAGE"),
        *("LD_LIBRARY_PATH", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "GIT_EXEC_PATH", "GIT_TERMINAL_PROMPT"),
        *("GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM"),
    }
)
_FOR_SSH = frozenset({"SSH_AUTH_SOCK", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "DISPLAY", "WAYLAND_DISPLAY", "TERM"})
_FOR_GIT_PREFIXES = ("LC_", "GIT_CONFIG")


def git_environment() -> dict[str, str]:
    """What git reads: where programs, configuration and temporary files are, the language, and nothing else."""
    return {name: value for name, value in os.environ.items() if name in _FOR_GIT or name.startswith(_FOR_GIT_PREFIXES)}


def ssh_environment() -> dict[str, str]:
    """What ssh-keygen reads: what git does, and the variables of an agent and of a passphrase's question."""
    found = {name: value for name, value in os.environ.items() if name in _FOR_SSH}
    return git_environment() | found


def user_environment() -> dict[str, str]:
    """The environment of this process, which is the user's, without :data:`SECRETS`."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS}


def interpreter_environment() -> dict[str, str]:
    """What this Python needs to start, where its libraries are in a folder of their own."""
    return {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"}


def drop_secrets(keep: Collection[str] = ()) -> None:
    """Remove :data:`SECRETS` from this process's environment, except for those in ``keep``."""
    for name in SECRETS.difference(keep):
        os.environ.pop(name, None)
