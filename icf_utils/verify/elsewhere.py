"""The checks of an archive that is in another store: its size, or all of it. Uses the network; changes nothing."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.archive.checksum import format_checksum, read_checksum
from icf_utils.errors import IcfError, storage_errors
from icf_utils.fetch.authentication import Authenticator
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.source import ByteSource
from icf_utils.metadata.allowlist import recorded_tags
from icf_utils.metadata.describe import ArchiveDescription
from icf_utils.metadata.records import VisitMetadata
from icf_utils.progress import Progress
from icf_utils.store.layout import Visit
from icf_utils.verify.checks import Finding, MetadataParts, check_archive, finding_from_error

_NO_METADATA = "is in another store, and its metadata, which says what it has to be, cannot be read"


@dataclass(frozen=True)
class ElsewhereOptions:
    """How archives in another store are checked: with ``fetch``, all of their bytes.

    ``authenticator`` finds the credential that a server requires; by default, only among those that are stored: the
    user is not asked.
    """

    fetch: bool = False
    authenticator: Authenticator | None = None


ONLY_SIZE = ElsewhereOptions()


def check_elsewhere(
    place: Visit,
    metadata: VisitMetadata | None,
    url: str,
    how: ElsewhereOptions,
    progress: Progress,
) -> tuple[ArchiveDescription | None, list[Finding]]:
    """Check that the archive of a visit is at ``url``, with the size that its metadata records.

    With ``how.fetch``, the whole archive is fetched into a temporary file, and checked like one that is here.
    """
    if metadata is None:
        return None, [Finding(place.archive, "", _NO_METADATA)]
    findings = _other_checksum(place, metadata)
    try:
        source = (how.authenticator or Authenticator(may_ask=False)).source(url, expected=metadata.tarball.size)
        if not source.exists():
            return None, [*findings, Finding(place.archive, "", f"is neither here nor at {url}")]
        if not how.fetch:
            return None, findings
        found, problems = _fetched(place, metadata, source, progress)
    except FetchFailure as error:
        return None, [*findings, Finding(place.archive, "", f"is not here, and cannot be checked elsewhere: {error}")]
    return found, [*findings, *(replace(one, path=place.archive) for one in problems)]


def _other_checksum(place: Visit, metadata: VisitMetadata) -> list[Finding]:
    """A checksum file may be here although the archive is not; it has to be that of the metadata."""
    if not place.checksum.exists():
        return []
    try:
        expected = read_checksum(place, "restore it from a copy")
    except IcfError as error:
        return [finding_from_error(place.checksum, error)]
    if expected == metadata.tarball.md5:
        return []
    return [Finding(place.checksum, "", f"says {expected}, but the metadata says {metadata.tarball.md5}")]


def _fetched(
    place: Visit, metadata: VisitMetadata, source: ByteSource, progress: Progress
) -> tuple[ArchiveDescription | None, list[Finding]]:
    with tempfile.TemporaryDirectory(prefix="icf-utils-") as folder:
        copy = Visit(Path(folder), place.study, place.visit)
        with storage_errors(copy.archive, "write"), progress.task("fetch", metadata.tarball.size, "B") as task:
            copy.of_study.folder.mkdir()
            copy.checksum.write_bytes(format_checksum(metadata.tarball.md5, copy.archive.name))
            with copy.archive.open("wb") as file:
                for piece in source.read():
                    file.write(piece)
                    task.advance(len(piece))
        return check_archive(copy, MetadataParts(metadata.tarball, metadata.images), progress, recorded_tags(metadata))
