"""git's own verdict on a deposit, before it is published. Runs git on a temporary copy; nothing else is written.

The export is unpacked into a temporary folder, as a clone will unpack it, and ``git fsck --strict`` reads every object
of both branches at once. The user's configuration of git and any ``GIT_*`` variable of a surrounding repository have
no say in it.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zipfile
from typing import Any

from icf_utils.errors import InputRefused, MissingRequirement, storage_errors

_REMEDY = "install git (https://git-scm.com) and make sure that it is found on the PATH"


def check_with_git(export: bytes, refs: bytes, source: str) -> None:
    """Raise :class:`~icf_utils.errors.InputRefused` about ``source`` unless git takes the deposit as it is.

    Raises :class:`~icf_utils.errors.MissingRequirement` without git, and
    :class:`~icf_utils.errors.StorageFailure` where the temporary folder (``TMPDIR``) cannot be used.
    """
    git = _gitpython()
    place = tempfile.gettempdir()
    with storage_errors(place, "use the temporary folder"), tempfile.TemporaryDirectory(prefix="icf-utils-") as folder:
        with zipfile.ZipFile(io.BytesIO(export)) as packed:
            packed.extractall(folder)
        listed = _ask(git, folder, source)
    if listed != refs[: refs.rindex(b"@")].rstrip(b"\n"):
        raise InputRefused(source, [("git", "it finds other branches in the dataset than were put there")])


def _ask(git: Any, folder: str, source: str) -> bytes:
    """Check the repository in ``folder`` and list its branches."""
    caller = git.Git(folder)
    caller.update_environment(**_environment(folder))
    try:
        caller.fsck("--strict", "--full", "--no-dangling", "--no-progress")
        listed = caller.for_each_ref("--format=%(objectname) %(refname)", stdout_as_string=False)
    except git.GitCommandError as error:
        raise InputRefused(source, [("git", f"it refuses the dataset: {str(error.stderr).strip()}")]) from error
    return bytes(listed)


def _gitpython() -> Any:
    """GitPython, which looks for git when it is imported; not at the top, as it costs every command's start."""
    if shutil.which("git") is None:
        raise MissingRequirement("git", _REMEDY)
    try:
        import git
    except ImportError as error:
        raise MissingRequirement("GitPython with a git that runs", _REMEDY) from error
    return git


def _environment(folder: str) -> dict[str, str]:
    """Variables that replace whatever the caller's are: this repository, no configuration, no other objects."""
    return {
        "GIT_DIR": folder,
        "GIT_COMMON_DIR": folder,
        "GIT_OBJECT_DIRECTORY": os.path.join(folder, "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": "",
        "GIT_NAMESPACE": "",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "0",
        "GIT_CONFIG_PARAMETERS": "",
        "GIT_REPLACE_REF_BASE": "refs/replace/",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "HOME": folder,
        "XDG_CONFIG_HOME": folder,
        "LC_ALL": "C",
    }
