"""The sandbox of a command: bubblewrap's words for a program that sees its input, its output and system folders only.

:func:`sandbox_words` looks at the files that the words name; :func:`find_bubblewrap` starts ``bwrap`` once, to learn
whether it works here: some systems forbid user namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from icf_utils.child_environment import user_environment
from icf_utils.processing.model import Processing, Scratch
from icf_utils.processing.task import INSIDE

#: System folders that programs need; those that do not exist are left out. Links such as /bin are kept as links.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt")

#: What programs need of /etc: libraries, users' names, fonts, certificates. Nothing there that only root reads.
_ETC = (
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf"),
    *("/etc/alternatives", "/etc/fonts", "/etc/ssl/certs", "/etc/ca-certificates", "/etc/mime.types", "/etc/localtime"),
    *("/etc/java-11-openjdk", "/etc/java-17-openjdk", "/etc/java-21-openjdk", "/etc/magic", "/etc/ImageMagick-6"),
)
_FOR_NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/services", "/etc/protocols")

_UNSHARE = ("--unshare-user-try", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try")


@cache
def find_bubblewrap() -> tuple[str, str]:
    """The path of ``bwrap``, or an empty text and why it cannot be used."""
    program = shutil.which("bwrap")
    if program is None:
        return "", "bubblewrap (bwrap) is not installed"
    words = [program, *_UNSHARE, "--unshare-net", "--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc"]
    try:
        done = subprocess.run(  # noqa: S603 - the program that was just found
            [*words, "--dev", "/dev", "/bin/true"],
            env=user_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "", "bubblewrap (bwrap) cannot be started"
    return (program, "") if done.returncode == 0 else ("", "bubblewrap (bwrap) does not work on this system")


def sandbox_words(program: str, processing: Processing, scratch: Scratch, words: Sequence[str]) -> list[str]:
    """The words that run ``words`` in a sandbox; input and output have the paths that they have in a container."""
    found = [program, *_UNSHARE, "--die-with-parent", "--new-session"]
    found += [] if processing.network else ["--unshare-net"]
    found += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/run", "--bind", str(scratch.temporary), "/tmp"]  # noqa: S108
    for folder in _SYSTEM:
        if os.path.islink(folder):
            found += ["--symlink", os.readlink(folder), folder]
        else:
            found += ["--ro-bind-try", folder, folder]
    for path in (*_ETC, *(_FOR_NETWORK if processing.network else ())):
        found += ["--ro-bind-try", path, path]
    for path in _readable(processing, words):
        found += ["--ro-bind", path, path]
    binds = (
        ("--ro-bind", scratch.input, INSIDE.input),
        ("--ro-bind", scratch.task, INSIDE.task),
        ("--bind", scratch.output, INSIDE.output),
        ("--bind", scratch.home, INSIDE.home),
    )
    for option, place, inside in binds:
        found += [option, str(place), inside]
    found += ["--remount-ro", "/"]  # else what is written there is lost without an error
    return [*found, "--chdir", INSIDE.output, "--", *words]


def _readable(processing: Processing, words: Sequence[str]) -> list[str]:
    """Folders of the program's own files, and those that the settings name; not what system folders have anyway."""
    wanted = [str(folder) for folder in processing.folders]
    paths = [path for word in words if os.path.isabs(word) and os.path.isfile(word) for path in _links(word)]
    wanted += [folder for path in paths if (folder := _folder_of_program(path))]
    return [folder for folder in dict.fromkeys(wanted) if not _is_below(folder, _SYSTEM)]


def _links(path: str) -> list[str]:
    """A file's path and, where it is a link, what it leads to: an environment's Python is usually one."""
    found = [path]
    while os.path.islink(found[-1]):
        found.append(os.path.normpath(os.path.join(os.path.dirname(found[-1]), os.readlink(found[-1]))))
    return [*found, os.path.realpath(path)]


def _folder_of_program(path: str) -> str:
    """The folder of a file; of ``X/bin/program`` (a virtual environment) it is ``X``."""
    folder = Path(path).parent
    if folder.name in ("bin", "sbin") and folder.parent != folder.parent.parent:
        folder = folder.parent
    return "" if folder == folder.parent else str(folder)


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)
