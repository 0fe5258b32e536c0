"""Open an input of any kind: a folder, a zip, a tar, or a list of files. Examines the path and the first bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from icf_utils.dicom.part10 import PREAMBLE_SIZE, PREFIX, has_preamble
from icf_utils.errors import InputRefused, InvalidSetting, StorageFailure, storage_errors
from icf_utils.sources.directory import DirectorySource
from icf_utils.sources.leave_out import DEFAULT, LeftOut
from icf_utils.sources.packed import ZIP_MAGIC, tar_source, zip_source
from icf_utils.sources.selection import SELECTION_MAGIC, open_selection, parse_selection
from icf_utils.sources.source import Source

#: The size of a tar's header, in bytes.
BLOCK = 512


@contextmanager
def open_source(
    path: Path, spool_dir: Path, strip: int = 0, leave_out: LeftOut = DEFAULT, *, single_file: bool = False
) -> Iterator[Source]:
    """Open an input and list its files; its kind is recognised by content, not by name.

    ``spool_dir`` is an existing folder for the unnamed temporary file of a compressed tar; the first ``strip`` folders
    are removed from every name in a zip or tar. Files whose names are in ``leave_out`` are not part of the input.
    With ``single_file``, a DICOM file is an input of one file.

    Raises :class:`~icf_utils.errors.InputRefused` for an input that cannot become an archive, naming every offending
    file.
    """
    label = os.fspath(path)
    status = _examine(label)
    if stat.S_ISDIR(status.st_mode):
        if strip:
            raise InvalidSetting("--strip-components", "applies to zip and tar inputs only, not to folders")
        yield _not_empty(DirectorySource(label, leave_out=leave_out))
    elif stat.S_ISREG(status.st_mode):
        with storage_errors(label, "read"):
            packed = open(label, "rb")  # noqa: SIM115 - closed below
        with packed, ExitStack() as resources:
            start = packed.read(PREAMBLE_SIZE + len(PREFIX))
            if has_preamble(start) and single_file:
                yield DirectorySource(os.path.dirname(label) or ".", [os.path.basename(label)], LeftOut(()))
                return
            if has_preamble(start):
                raise InputRefused(label, [(label, "is a single DICOM file")], "Give the folder that contains it.")
            packed.seek(0)
            if start.startswith(SELECTION_MAGIC):
                yield _not_empty(_selected(label, packed, strip, leave_out))
                return
            is_zip = start.startswith(ZIP_MAGIC)
            yield _not_empty(
                zip_source(label, packed, strip, leave_out)
                if is_zip
                else tar_source(label, packed, spool_dir, strip, resources, leave_out)
            )
    else:
        raise InputRefused(label, [(label, "is neither a folder nor a file")])


def is_compressed(path: Path) -> bool:
    """Whether a file can only be read after it was unpacked as a whole: neither a list of files, a zip nor a plain tar.

    Raises ``OSError``.
    """
    with path.open("rb") as file:
        start = file.read(BLOCK)
    return not start.startswith((SELECTION_MAGIC, *ZIP_MAGIC)) and start[257:262] != b"ustar"


def _selected(label: str, listing: BinaryIO, strip: int, leave_out: LeftOut) -> Source:
    """Open the files named in a list; see :mod:`icf_utils.sources.selection`."""
    if strip:
        raise InvalidSetting("--strip-components", "applies to zip and tar inputs only, not to lists of files")
    with storage_errors(label, "read"):
        raw = listing.read()
    return open_selection(parse_selection(raw, label), leave_out)


def _examine(label: str) -> os.stat_result:
    try:
        return os.stat(label)
    except (FileNotFoundError, NotADirectoryError) as error:
        advice = "Give a folder, a .zip or a .tar (plain, or compressed by gzip, bzip2, xz or zstd)."
        raise InputRefused(label, [(label, "does not exist")], advice) from error
    except OSError as error:
        raise StorageFailure(label, "read", error) from error


def _not_empty(source: Source) -> Source:
    if not source.entries:
        raise InputRefused(
            source.label, [(source.label, "contains no files")], "Check that this is the folder you mean."
        )
    return source
