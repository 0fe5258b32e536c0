"""The quick tests on every declared Python that is installed, with the newest and with the lowest versions of packages.

``make matrix`` runs this with the Python of ``.venv-test``, whose uv resolves and installs. *Lowest* takes the lower
bounds that ``pyproject.toml`` names ("lowest-direct"), or the next version that has a wheel for the Python: old
releases of compiled packages have none for Pythons that came later. Environments are kept in ``.venv-matrix`` for the
next time. A Python that is not there is named and left out. Exits with 1 when an installation or a test fails.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "clone,cloud,docs,intake,previews,test,xnat"
#: The options of uv for each.
RESOLUTIONS = {
    "newest": ("--resolution", "highest"),
    "lowest": ("--resolution", "lowest-direct", "--only-binary", ":all:", "--no-binary", "icf-utils"),
}


def declared_pythons(project: str) -> list[str]:
    """The minors that the classifiers of ``pyproject.toml`` name: ``3.10``, ..."""
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)


def find_python(version: str) -> Path | None:
    """The interpreter of a version: on the PATH, or one of pyenv's."""
    candidates = [shutil.which(f"python{version}")]
    folder = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    candidates += [str(path / "bin/python") for path in sorted(folder.glob(f"{version}.*"), reverse=True)]
    for candidate in filter(None, candidates):
        done = subprocess.run([candidate, "--version"], capture_output=True, check=False, text=True)
        if done.returncode == 0 and done.stdout.startswith(f"Python {version}."):
            return Path(candidate)
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", metavar="3.N", help="only this version (may be repeated)")
    parser.add_argument("--resolution", choices=RESOLUTIONS, help="only these versions of packages")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest (default: --quick -n auto -q)")
    given = parser.parse_args(arguments)
    versions = given.python or declared_pythons((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    resolutions = [given.resolution] if given.resolution else list(RESOLUTIONS)
    rows = [
        (version, resolution, *_check(version, resolution, given.pytest))
        for version in versions
        for resolution in resolutions
    ]
    for version, resolution, outcome, seconds in rows:
        sys.stdout.write(f"Python {version:5} {resolution:7} {outcome} ({seconds:.0f} s)\n")
    return int(any(outcome == "FAILED" for _, _, outcome, _ in rows))


def _check(version: str, resolution: str, pytest: Sequence[str]) -> tuple[str, float]:
    """One cell of the matrix: what came of it, and how long its tests took."""
    python = find_python(version)
    if python is None:
        return "not installed here", 0.0
    sys.stdout.write(f"== Python {version}, {resolution} versions\n")
    sys.stdout.flush()
    place = ROOT / ".venv-matrix" / f"{version}-{resolution}"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    install = ["pip", "install", "--python", str(place), *RESOLUTIONS[resolution]]
    start = time.monotonic()
    steps = [
        [*uv, "venv", "--allow-existing", "--python", str(python), str(place)],
        [*uv, *install, "--editable", f".[{EXTRAS}]"],
        [str(place / "bin/python"), "-m", "pytest", *(pytest or ("--quick", "-n", "auto", "-q"))],
    ]
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "UV_PYTHON_DOWNLOADS": "never", "UV_LINK_MODE": "hardlink"}
    for step in steps:
        start = time.monotonic()
        if subprocess.run(step, cwd=ROOT, env=environment, check=False).returncode:
            return "FAILED", time.monotonic() - start
    return "passed", time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())
