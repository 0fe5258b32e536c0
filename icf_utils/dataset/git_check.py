"""Have git check a dataset before it is published. Runs git on a temporary copy; nothing else is written.

The export is unpacked into a temporary folder, as a clone would unpack it, and ``git fsck --strict`` reads every object
of both branches. The user's git configuration and the ``GIT_*`` variables of a surrounding repository have no effect.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
import zipfile

from icf_utils.child_environment import git_environment
from icf_utils.errors import InputRefused, MissingRequirement, printable, storage_errors

_REMEDY = "install git (https://git-scm.com) and make sure that it is on the PATH"


def check_with_git(export: bytes, refs: bytes, source: str) -> None:
    """Check the two files of a dataset with git; ``source`` names what they were made from.

    Raises :class:`~icf_utils.errors.InputRefused` if git finds a fault, :class:`~icf_utils.errors.MissingRequirement`
    without git, and :class:`~icf_utils.errors.StorageFailure` if the temporary folder (``TMPDIR``) cannot be used.
    """
    if shutil.which("git") is None:
        raise MissingRequirement("git", _REMEDY)
    place = tempfile.gettempdir()
    with storage_errors(place, "use the temporary folder"), tempfile.TemporaryDirectory(prefix="icf-utils-") as folder:
        with zipfile.ZipFile(io.BytesIO(export)) as packed:
            packed.extractall(folder)
        listed = _check(folder, source)
    if listed != refs[: refs.rindex(b"@")].rstrip(b"\n"):
        raise InputRefused(source, [("git", "it finds branches that differ from those that icf-utils wrote")])


def _check(folder: str, source: str) -> bytes:
    """Check the repository in ``folder`` and list its branches."""
    _git(folder, source, "fsck", "--strict", "--full", "--no-dangling", "--no-progress")
    return _git(folder, source, "for-each-ref", "--format=%(objectname) %(refname)").removesuffix(b"\n")


def _git(folder: str, source: str, *arguments: str) -> bytes:
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            ["git", *arguments],  # noqa: S607 - as the user has it
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise MissingRequirement("a git that can be started", _REMEDY) from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").split("\n")
        words = "; ".join(printable(line.strip()) for line in said if line.strip())
        raise InputRefused(source, [("git", f"it refuses the dataset: {words}")])
    return done.stdout


def _environment(folder: str) -> dict[str, str]:
    """Make environment variables that select this repository alone: no configuration, no other objects."""
    return {
        **git_environment(),
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
