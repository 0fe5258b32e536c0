"""How this copy of icf-utils was installed, and so how more is installed with it. Reads metadata of installed packages.

No index has to know the name ``icf-utils``: hints lead to the checkout or wheel that this copy came from (recorded in
``direct_url.json``, PEP 610), or name the missing packages themselves. What pipx and ``uv tool`` installed is extended
by these programs, as the changes of pip would be lost with the next upgrade.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from icf_utils.errors import MissingRequirement

NAME = "icf-utils"

#: Written into the container image; there, nothing can be installed later.
IMAGE_FACTS = Path("/usr/share/icf-utils")

_EXTRA = re.compile(r"""(?:\band\s+)?\bextra\s*==\s*["']([^"']+)["']""")

Manager = Literal["pip", "pipx", "uv tool", "container"]


@dataclass(frozen=True)
class Installation:
    """Where this copy came from.

    ``source`` is the checkout or wheel file if that still exists, else empty; ``python`` the interpreter that runs.
    """

    manager: Manager
    source: str = ""
    editable: bool = False
    python: str = sys.executable


def find_installation() -> Installation:
    """The installation of the running copy."""
    source, editable = _origin()
    prefix = Path(sys.prefix)
    if (IMAGE_FACTS / "version").exists() and prefix == Path("/opt/icf-utils"):
        return Installation("container")
    if (prefix / "pipx_metadata.json").exists():
        return Installation("pipx", source, editable)
    if (prefix / "uv-receipt.toml").exists():
        return Installation("uv tool", source, editable)
    return Installation("pip", source, editable)


def requirements_of(extra: str = "") -> list[str]:
    """What an extra asks for (without one: the package itself), as requirements that any installer understands.

    Empty where nothing is recorded, as in a checkout that was not installed.
    """
    from importlib import metadata  # here: every command would load it

    try:
        listed = metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for requirement in listed:
        extras = _EXTRA.findall(requirement)
        if extras == ([extra] if extra else []):
            found.append(_EXTRA.sub("", requirement).strip(" ;()"))
    return found


def install_hint(extra: str = "", package: str = "", installation: Installation | None = None) -> str:
    """What to type to have an extra of this copy, or one ``package`` that it asks for; with neither, all of these.

    >>> here = Installation("pip", "/src/icf-utils", editable=True, python="/venv/bin/python")
    >>> print(install_hint("cloud", installation=here))
    install it with: /venv/bin/python -m pip install --editable '/src/icf-utils[cloud]'
    """
    found = installation or find_installation()
    if found.manager == "container":
        return "this image was built without it: build one from the project's recipe, which includes it"
    wanted = requirements_of(extra)
    if not extra:
        wanted = [one for one in wanted if not package or _name(one) == _name(package)] or [package or NAME]
    return f"install it with: {shlex.join(_command(found, extra, wanted))}"


def missing_package(package: str, extra: str = "") -> MissingRequirement:
    """The error to raise where a package cannot be imported; ``extra`` names the extra that brings it.

    Without ``extra``, it is one that every full installation has (a minimal one leaves it out).
    """
    return MissingRequirement(f"the Python package {package}", install_hint(extra, package))


def import_package(module: str, package: str = "", extra: str = "") -> Any:
    """Import a module of another package, which is called ``package`` if not the same.

    Raises :class:`~icf_utils.errors.MissingRequirement` where it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise missing_package(package or module, extra) from error


def _name(requirement: str) -> str:
    """The normalised name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]).lower()


def _command(found: Installation, extra: str, wanted: Sequence[str]) -> Sequence[str]:
    editable = ["--editable"] if found.editable else []
    whole = [*editable, f"{found.source}[{extra}]"] if extra and found.source else list(wanted)
    if found.manager == "pipx":
        return ["pipx", "inject", NAME, *wanted]
    if found.manager == "uv tool" and found.source:
        added = [part for requirement in wanted for part in ("--with", requirement)]
        return ["uv", "tool", "install", "--force", *added, *editable, found.source]
    return [found.python, "-m", "pip", "install", *whole]


def _origin() -> tuple[str, bool]:
    """The folder or file on this machine that this copy was installed from, and whether it is used in place."""
    from importlib import metadata

    try:
        text = metadata.distribution(NAME).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return _checkout(), True
    recorded = json.loads(text) if text else {}
    url = urlsplit(recorded.get("url", ""))
    path = unquote(url.path) if url.scheme == "file" else ""
    if not path or not Path(path).exists():
        return "", False
    return path, bool(recorded.get("dir_info", {}).get("editable", False))


def _checkout() -> str:
    """The checkout that holds this module, where nothing was installed: ``python -m icf_utils`` in it."""
    root = Path(__file__).parents[1]
    return str(root) if (root / "pyproject.toml").is_file() else ""
