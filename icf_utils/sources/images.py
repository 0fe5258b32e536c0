"""Which files of an input are DICOM images, with the header elements that a caller wants. Reads the head of each file.

This is the one loop over an input's images: what an image is (:func:`icf_utils.dicom.header.file_kind`), how much of a
file is read for it, and how progress is counted is the same for every command. What to make of images that are damaged,
of several studies or without a UID is the caller's decision.
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
    """What the loop needs of an input; every :class:`~icf_utils.sources.source.Source` has it."""

    @property
    def entries(self) -> tuple[InputFile, ...]:
        """The files."""

    def open(self, entry: InputFile) -> AbstractContextManager[FileReader]:
        """Open one file for one sequential read."""


@dataclass(frozen=True)
class ScannedFile:
    """A file of an input and what its head holds."""

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
    """Every file of ``source`` (or those in ``entries``) in order, images or not.

    ``wanted`` are tags (``0xggggeeee``); :data:`~icf_utils.dicom.header.IDENTITY_TAGS` are always among the elements.
    A file that cannot be read raises what the source raises; with ``on_failure`` it is handed to that function and
    passed over.
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
    """One file of ``source``; ``wanted`` as for :func:`scan_files`."""
    with source.open(entry) as reader:
        _, header = read_head(reader.read, entry.size, wanted)
    return ScannedFile(entry, header, file_kind(header))
