"""The words that run a container by Apptainer or Singularity, and its variables. :func:`find_runtime` looks at PATH.

Options and variables are those that both programs document since Apptainer 1.0 and Singularity 3.6. ``--containall``
gives a clean environment, an own /tmp and HOME and process space; these are kept in the scratch folder (``--workdir``).
Variables are handed over as ``APPTAINERENV_NAME`` or ``SINGULARITYENV_NAME``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from icf_utils.errors import InvalidSetting, MissingRequirement, printable
from icf_utils.processing.model import Processing, Scratch
from icf_utils.processing.task import DEFAULT_PATH

#: Variables that the container itself decides.
_OF_CONTAINER = ("PATH", "HOME", "TMPDIR", "LANG")


def find_runtime() -> str:
    """The path of ``apptainer`` or ``singularity``. Raises :class:`~icf_utils.errors.MissingRequirement`."""
    found = shutil.which("apptainer") or shutil.which("singularity")
    if found is None:
        remedy = "install Apptainer, or name a 'command' instead of a 'container'"
        raise MissingRequirement("apptainer or singularity", remedy)
    return found


def container_words(
    runtime: str, processing: Processing, image: Path, scratch: Scratch, words: Sequence[str]
) -> list[str]:
    """The words that run ``words`` in the image, or the image's own program if there are none."""
    binds = ((scratch.input, "/input:ro"), (scratch.output, "/output"), (scratch.task, "/task.json:ro"))
    for path in (*(place for place, _ in binds), *processing.folders):
        if ":" in str(path) or "," in str(path):
            problem = f"'{printable(path)}' cannot be bound: its name contains ':' or ','"
            raise InvalidSetting("TMPDIR or folders", problem)
    found = [runtime, "exec" if words else "run", "--containall", "--no-home", "--workdir", str(scratch.temporary)]
    for place, inside in binds:
        found += ["--bind", f"{place}:{inside}"]
    for folder in processing.folders:
        found += ["--bind", f"{folder}:{folder}:ro"]
    found += [] if processing.network else ["--net", "--network", "none"]
    return [*found, "--pwd", "/output", str(image), *words]


def container_environment(runtime: str, variables: Mapping[str, str], scratch: Scratch, path: str) -> dict[str, str]:
    """The environment of the runtime: what it needs itself, and the program's variables under its prefix."""
    prefix = "SINGULARITYENV_" if os.path.basename(runtime).startswith("singularity") else "APPTAINERENV_"
    return {
        "PATH": path or DEFAULT_PATH,
        "HOME": str(scratch.home),
        "TMPDIR": str(scratch.temporary),
        "LANG": "C.UTF-8",
        **{f"{prefix}{name}": value for name, value in variables.items() if name not in _OF_CONTAINER},
    }
