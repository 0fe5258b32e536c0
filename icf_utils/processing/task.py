"""What a program gets besides its input: its ``task.json``, its environment and its words. Pure.

The environment has ICF_* and the variables by which mercure's modules (``MERCURE_*``) and MONAI Deploy's find their
folders. ``task.json`` has ``process.settings``, where mercure's modules read their settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icf_utils.outputs.provenance import Recipe
from icf_utils.processing.model import Processing
from icf_utils.templates import Template

#: Where programs are looked for if this process has no PATH.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Places:
    """The paths of input, output and the rest, as the program sees them."""

    input: str
    output: str
    task: str
    home: str
    temporary: str


#: The paths in a container or sandbox: the same on every machine, as programs write them into their output.
INSIDE = Places("/input", "/output", "/task.json", "/tmp/home", "/tmp")  # noqa: S108 - inside


def encode_task(processing: Processing, recipe: Recipe, places: Places) -> bytes:
    """Encode ``task.json``."""
    value: dict[str, Any] = {
        "format": 1,
        "study": recipe.study,
        "visit": recipe.visit,
        "processing": processing.name,
        "version": processing.version,
        "archive_md5": recipe.archive_md5,
        "input": places.input,
        "output": places.output,
        "arguments": list(recipe.arguments),
        "settings": dict(processing.settings),
        "limits": {"timeout": processing.timeout, "memory": processing.memory, "cores": processing.cores},
        "id": f"{recipe.study}/{recipe.visit}",
        "process": {"module_name": processing.name, "settings": dict(processing.settings)},
    }
    return json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8") + b"\n"


def task_environment(processing: Processing, recipe: Recipe, places: Places, path: str) -> dict[str, str]:
    """The whole environment of the program; nothing of this process's but the PATH."""
    cores = str(processing.cores)
    return {
        "PATH": path or DEFAULT_PATH,
        "HOME": places.home,
        "TMPDIR": places.temporary,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), cores),
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": cores,
        "ICF_INPUT": places.input,
        "ICF_OUTPUT": places.output,
        "ICF_TASK": places.task,
        "ICF_STUDY": recipe.study,
        "ICF_VISIT": recipe.visit,
        "ICF_PROCESSING": processing.name,
        "ICF_ARGUMENTS": " ".join(recipe.arguments),
        "ICF_CORES": cores,
        "ICF_MEMORY": str(processing.memory),
        "MERCURE_IN_DIR": places.input,
        "MERCURE_OUT_DIR": places.output,
        "MONAI_INPUTPATH": places.input,
        "MONAI_OUTPUTPATH": places.output,
        "HOLOSCAN_INPUT_PATH": places.input,
        "HOLOSCAN_OUTPUT_PATH": places.output,
        **processing.environment,
    }


def fill_words(words: Sequence[str], recipe: Recipe, places: Places) -> tuple[str, ...]:
    """The words of a command with their fields filled; ``{arguments}`` becomes the words of this send."""
    values: Mapping[str, str] = {
        "input": places.input,
        "output": places.output,
        "task": places.task,
        "study": recipe.study,
        "visit": recipe.visit,
    }
    found: list[str] = []
    for word in words:
        found += recipe.arguments if word == "{arguments}" else [Template(word).fill_as_is(values)]
    return tuple(found)
