"""Write ``Containerfile``, for Docker and Podman, from ``icf.def``: ``python -m singularity.containerfile [--check]``.

The definition file is the one list of what is inside. Both images are made by the same ``%post``, and start programs by
the same ``%environment`` and ``%runscript``. With ``--check`` nothing is written; the exit code is 1 if the file is not
what the definition file gives.
"""

from __future__ import annotations

import sys
from pathlib import Path

from singularity.recipe import Recipe, read_recipe

FOLDER = Path(__file__).parent
TARGET = FOLDER / "Containerfile"

#: Where the image keeps the script that starts every program.
ENTRYPOINT = "/usr/local/bin/icf-entrypoint"

_HEAD = """\
# syntax=docker/dockerfile:1
# Made from icf.def by 'python -m singularity.containerfile'. Build in the project's root, where the paths begin:
#     podman build -t icf-utils -f singularity/Containerfile .
#     docker build -t icf-utils -f singularity/Containerfile .
# Run as yourself, with the folders that it should see:
#     podman run --rm --userns keep-id -v /data:/data icf-utils verify -o /data/store
"""


def containerfile(recipe: Recipe) -> str:
    """The file's text."""
    labels = " \\\n      ".join(f'{name}="{value}"' for name, value in recipe.labels().items())
    copies = "".join(f"COPY {copy.source} {copy.target}\n" for copy in recipe.files())
    return (
        f"{_HEAD}FROM docker.io/library/{recipe.header['from']}\n\nLABEL {labels}\n\n{copies}\n"
        f"RUN <<'POST' sh -ex\n{recipe.script('post').rstrip()}\nPOST\n\n"
        f"COPY --chmod=755 <<'SCRIPT' {ENTRYPOINT}\n{entrypoint(recipe)}SCRIPT\n\n"
        f'ENTRYPOINT ["{ENTRYPOINT}"]\n'
    )


def entrypoint(recipe: Recipe) -> str:
    """The script that sets the environment and starts what was asked for."""
    return f"#!/bin/sh\n{recipe.script('environment').rstrip()}\n\n{recipe.script('runscript').rstrip()}\n"


def main(arguments: list[str]) -> int:
    """Write the file, or compare it."""
    text = containerfile(read_recipe(FOLDER / "icf.def"))
    if arguments == ["--check"]:
        return int(not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
