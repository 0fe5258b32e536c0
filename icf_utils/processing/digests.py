"""SHA-256 of programs and images, computed once for each state of a file. Reads files; the cache is this process's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from icf_utils.errors import MissingRequirement, printable, storage_errors
from icf_utils.outputs.provenance import ProgramRecord
from icf_utils.processing.model import Processing
from icf_utils.store.sums import file_sha256


def record_program(processing: Processing, search: str | None = None) -> ProgramRecord:
    """What the provenance says of a program: its words, and the digests of its files as they are now.

    Raises :class:`~icf_utils.errors.MissingRequirement` if the program or image does not exist.
    """
    if processing.container is not None:
        return _record_container(processing, processing.container)
    words = processing.command
    program = find_program(words[0], search)
    files = [program, *(word for word in words[1:] if os.path.isabs(word) and os.path.isfile(word))]
    names = [words[0], *files[1:]]
    return ProgramRecord(
        "command", words, {name: program_sha256(path) for name, path in zip(names, files, strict=True)}
    )


def _record_container(processing: Processing, image: Path) -> ProgramRecord:
    if not image.is_file():
        remedy = "check 'container' in the settings, and that this machine has the image"
        raise MissingRequirement(f"the container image '{printable(image)}'", remedy)
    return ProgramRecord("container", (image.name, *processing.args), {image.name: program_sha256(str(image))})


def find_program(word: str, search: str | None = None) -> str:
    """The file of a program that is named by a path or found on PATH. Raises ``MissingRequirement``."""
    found = shutil.which(word, path=search)
    if found is None:
        remedy = "install it, or write its whole path into 'command' of the settings"
        raise MissingRequirement(f"the program '{printable(word)}'", remedy)
    return os.path.abspath(found)


def program_sha256(path: str) -> str:
    """The SHA-256 of a program or an image. Raises :class:`~icf_utils.errors.StorageFailure`."""
    with storage_errors(path, "read"):
        status = os.stat(path)
    return _sha256(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@lru_cache(maxsize=256)
def _sha256(path: str, *_state: int) -> str:
    return file_sha256(Path(path))


def arguments_problem(arguments: Sequence[str]) -> str:
    """Why arguments of one send cannot be used; empty if they can: at most 64 of 1,000 printable characters."""
    if len(arguments) > 64:
        return "at most 64 arguments can be given"
    if any(len(word) > 1000 or not word.isprintable() for word in arguments):
        return "an argument can have at most 1,000 characters, all of them printable"
    return ""
