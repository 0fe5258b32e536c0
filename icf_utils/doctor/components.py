"""Which programs, Python packages and extras are there, and whether they are new enough.

Reads the metadata of installed packages and runs ``PROGRAM --version`` (or the like) of each program; changes nothing.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from icf_utils import __version__
from icf_utils.child_environment import user_environment
from icf_utils.doctor.model import Check
from icf_utils.errors import printable
from icf_utils.installation import NAME, install_hint, requirements_of

if TYPE_CHECKING:
    from packaging.requirements import Requirement

#: Extras for users, in the order of their display; those for developers are not examined.
EXTRAS = {
    "clone": "clones of datasets with DataLad and git-annex",
    "cloud": "retrieving from buckets of cloud providers",
    "intake": "receiving and sending images by C-STORE",
    "previews": "preview images in catalogs",
    "xnat": "importing into XNAT's prearchive, and sending to XNAT",
}

_SECONDS = 20.0
_VERSION = re.compile(rb"\d+(\.\d+)+")


@dataclass(frozen=True)
class Program:
    """A program that is looked for on the PATH. ``purpose`` says for what it is needed.

    ``asked`` is another program that prints its version. ``least`` is the oldest version that is sufficient.
    """

    name: str
    purpose: str
    arguments: tuple[str, ...] = ("--version",)
    extra: str = ""
    asked: str = ""
    least: str = ""


PROGRAMS = (
    Program("git", "needed to clone datasets"),
    Program("git-annex", "needed to clone datasets", ("version", "--raw"), extra="clone"),
    Program("datalad", "needed to clone datasets with DataLad", extra="clone"),
    Program("git-annex-remote-icf", "needed to get single images in clones", ()),
    Program("ssh-keygen", "needed to sign visits and to check signatures", ("-V",), asked="ssh", least="8.9"),
    Program("sbatch", "needed for 'icf-utils run --slurm'", ("-V",)),
)


@dataclass(frozen=True)
class Component:
    """A part of the installation: its version, empty if it is not installed, and the path of a program."""

    name: str
    version: str
    path: str = ""


def list_components() -> list[Component]:
    """The versions that a report of a problem should name: of icf-utils, Python, programs and packages."""
    found = [Component(NAME, __version__), Component("Python", platform.python_version(), sys.executable)]
    found += [_component(program) for program in PROGRAMS if program.arguments]
    known = {component.name for component in found}
    packages = dict.fromkeys(one.name for extra in ("", *EXTRAS) for one in _requirements(extra))
    return [*found, *(Component(name, _installed(name)) for name in packages if name not in known)]


def check_installation() -> list[Check]:
    """Check Python, the required packages, the extras and the programs."""
    python = Check("Python", "ok", f"{platform.python_version()} ({sys.executable})")
    return [python, _check_packages(), *map(check_extra, EXTRAS), *map(_check_program, PROGRAMS)]


def _check_packages() -> Check:
    required = _requirements()
    if not required:
        return Check(
            "Python packages", "skipped", f"{NAME} is not installed as a package, so its requirements are unknown"
        )
    if problems := _problems(required):
        return Check("Python packages", "failed", "; ".join(problems), install_hint())
    return Check("Python packages", "ok", f"{len(required)} required packages are installed")


def check_extra(extra: str) -> Check:
    """Check whether the packages of an extra are installed."""
    subject, required = f"extra {extra}", _requirements(extra)
    if not required:
        return Check(subject, "skipped", "its requirements are unknown")
    problems = _problems(required)
    if not problems:
        return Check(subject, "ok", ", ".join(f"{one.name} {_installed(one.name)}" for one in required))
    if len(problems) == len(required):
        return Check(subject, "absent", f"not installed; for {EXTRAS[extra]}", install_hint(extra))
    return Check(subject, "warning", f"incomplete: {'; '.join(problems)}", install_hint(extra))


def _requirements(extra: str = "") -> list[Requirement]:
    """What icf-utils, or an extra of it, requires on this machine."""
    from packaging.requirements import Requirement

    found = map(Requirement, requirements_of(extra))
    return [one for one in found if one.marker is None or one.marker.evaluate()]


def _problems(required: Sequence[Requirement]) -> list[str]:
    """What is missing or too old."""
    found = []
    for requirement in required:
        version = _installed(requirement.name)
        if not version:
            found.append(f"{requirement.name} is not installed")
        elif not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} is {version}, expected {requirement.specifier}")
    return found


def _check_program(program: Program) -> Check:
    path = shutil.which(program.name)
    if path is None:
        return _check_hidden(program)
    if not program.arguments:
        return Check(program.name, "ok", path)
    version, said = _ask_version(program)
    if version and program.least and _is_older(version, program.least):
        remedy = f"install a newer one; {program.purpose}"
        return Check(program.name, "warning", f"{version}, expected {program.least} or later ({path})", remedy)
    if not version:
        problem = f"'{path}' does not print its version: {said or 'it printed nothing'}"
        return Check(program.name, "warning", problem, f"check its installation; {program.purpose}")
    return Check(program.name, "ok", f"{version} ({path})")


def _check_hidden(program: Program) -> Check:
    """A program that is not on the PATH, but perhaps in the folder of this Python."""
    folder = os.path.dirname(sys.executable)
    if shutil.which(program.name, path=folder):
        remedy = f"activate the environment, or add '{folder}' to PATH"
        return Check(program.name, "warning", f"installed in '{folder}', which is not on the PATH", remedy)
    remedy = install_hint(program.extra) if program.extra else ""
    return Check(program.name, "absent", f"not found; {program.purpose}", remedy)


def _component(program: Program) -> Component:
    path = shutil.which(program.name) or ""
    return Component(program.name, _ask_version(program)[0] if path else "", path)


def _is_older(version: str, least: str) -> bool:
    from packaging.version import Version

    return Version(version) < Version(least)


def _ask_version(program: Program) -> tuple[str, str]:
    """The first number like 1.2 that the program prints, empty if there is none, and its first line on an error."""
    try:
        done = subprocess.run(  # noqa: S603 - programs of the table above
            [shutil.which(program.asked or program.name) or program.name, *program.arguments],
            capture_output=True,
            check=False,
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
            env={**user_environment(), "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", printable(str(error))
    found = _VERSION.search(done.stdout) or (_VERSION.search(done.stderr) if program.asked else None)
    said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
    return found.group().decode("ascii") if found else "", printable(said[:200])


def _installed(package: str) -> str:
    """The version of an installed package, empty if there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
