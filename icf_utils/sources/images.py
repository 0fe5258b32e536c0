"""Find the DICOM images of an input, and the header elements that a caller wants. Reads the head of each file.

This is the one loop over the files of an input: what counts as an image (:func:`icf_utils.dicom.header.file_kind`), how
much of a file is read to find out, and how progress is counted are the same in every command. What to do about images
that are damaged, belong to several studies or lack a UID is decided by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from icf_utils.dicom.elements import Header
from icf_utils.dicom.header import FileKind, file_kind, read_head
from icf_utils.errors import IcfError
from icf_utils.progress import SILENT, Progress
from icf_utils.sources.source import FileReader, InputFile


class OpenableFiles(Protocol):
    """Files that can be opened by name, such as a :class:`~icf_utils.sources.source.Source`."""

    @property
    def entries(self) -> tuple[InputFile, ...]:
        """The files in their order."""

    def open(self, entry: InputFile) -> AbstractContextManager[FileReader]:
        """Open one file for one sequential read."""


@dataclass(frozen=True)
class ScannedFile:
    """A file of an input, with what its head contains."""

    entry: InputFile
    header: Header
    kind: FileKind

    @property
    def is_image(self) -> bool:
        """Whether the file is a DICOM image, with or without preamble."""
        return self.kind.is_image


def scan_files(
    source: OpenableFiles,
    wanted: frozenset[int],
    *,
    entries: Iterable[InputFile] | None = None,
    progress: Progress = SILENT,
    activity: str = "reading headers",
    on_failure: Callable[[InputFile, IcfError], None] | None = None,
) -> Iterator[ScannedFile]:
    """Scan every file of ``source`` (or those in ``entries``) in order, and yield it, image or not.

    ``wanted`` are tags (``0xggggeeee``); :data:`~icf_utils.dicom.header.IDENTITY_TAGS` are added to them. If a file
    cannot be read, the source's error is raised; with ``on_failure``, that function gets the error instead, and the
    file is skipped.
    """
    chosen = source.entries if entries is None else tuple(entries)
    with progress.task(activity, len(chosen), "file") as task:
        for entry in chosen:
            try:
                found = scan_file(source, entry, wanted)
            except IcfError as error:
                if on_failure is None:
                    raise
                on_failure(entry, error)
            else:
                yield found
            task.advance(1)


def scan_file(source: OpenableFiles, entry: InputFile, wanted: frozenset[int]) -> ScannedFile:
    """Scan one file of ``source``; ``wanted`` as for :func:`scan_files`."""
    with source.open(entry) as reader:
        _, header = read_head(reader.read, entry.size, wanted)
    return ScannedFile(entry, header, file_kind(header))
