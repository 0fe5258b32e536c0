"""Whether an archive is intact, judged by what other files of the visit record about it.

The checksum file, the metadata and the dataset each record the archive's MD5. A repair builds on the archive only if
they confirm it (:func:`weigh_evidence`, pure). :func:`collect_evidence` reads the files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from icf_utils.archive.checksum import read_checksum
from icf_utils.dataset.reader import read_dataset
from icf_utils.errors import IcfError
from icf_utils.metadata.describe import ArchiveDescription
from icf_utils.metadata.records import ImageRecord, VisitMetadata, parse_tarball
from icf_utils.store.layout import Visit, read_deposit

_KEY = re.compile(rb"MD5E-s\d+--([0-9a-f]{32})")


@dataclass(frozen=True)
class Evidence:
    """The archive's MD5 as each file records it, ``None`` where it cannot be read, and the images as the metadata
    has them.
    """

    checksum: str | None
    metadata: str | None
    dataset: str | None
    images: tuple[ImageRecord, ...] | None


@dataclass(frozen=True)
class Verdict:
    """Whether a repair may build on the archive, and the reason in words."""

    is_sound: bool
    reason: str


def collect_evidence(place: Visit, metadata: VisitMetadata | None) -> Evidence:
    """Read what the visit's files record about its archive."""
    try:
        checksum = read_checksum(place, "")
    except IcfError:
        checksum = None
    try:
        tarball = parse_tarball(read_deposit(place.tarball_json, ""), str(place.tarball_json)).md5
    except IcfError:
        tarball = None
    return Evidence(checksum, tarball, _key_of(place), metadata.images if metadata else None)


def _key_of(place: Visit) -> str | None:
    """The MD5 in the archive's git-annex key."""
    try:
        deposit = read_dataset(place)
    except IcfError:
        return None
    link = deposit.main.files.get(place.dspath.encode("ascii")) if deposit else None
    found = _KEY.search(link.content) if link else None
    return found[1].decode("ascii") if found else None


def weigh_evidence(found: ArchiveDescription, said: Evidence) -> Verdict:
    """Weigh the evidence: more files must agree with the archive's MD5 than disagree.

    The images' own checksums count like one more file. They cannot decide alone, as they do not cover the archive's
    headers. If no file records the MD5, the archive is accepted.
    """
    recorded = {"checksum file": said.checksum, "metadata": said.metadata, "dataset": said.dataset}
    known = {name: md5 for name, md5 in recorded.items() if md5 is not None}
    agree = [name for name, md5 in known.items() if md5 == found.md5]
    against = [name for name in known if name not in agree]
    images = None if said.images is None else _same_images(found, said.images)
    if not known:
        if images is False:
            return Verdict(False, "is damaged: its images are not those that its metadata lists")
        return Verdict(True, "no file records its MD5, so it was accepted")
    if agree and len(agree) + (images is True) > len(against) + (images is False):
        return Verdict(True, f"its MD5 agrees with {_listed(agree)}")
    if agree:
        return Verdict(
            False, f"agrees with {_listed(agree)} but not with {_listed(against)}: it is not clear which is damaged"
        )
    return Verdict(
        False,
        f"is damaged: its MD5 {found.md5} is not what {_listed(against)} "
        f"{'says' if len(against) == 1 else 'say'}; restore it from a copy",
    )


def _same_images(found: ArchiveDescription, recorded: tuple[ImageRecord, ...]) -> bool:
    def places(images: tuple[ImageRecord, ...]) -> set[tuple[str, str, int, int]]:
        return {(image.path, image.md5, image.size, image.offset) for image in images}

    return places(tuple(found.images)) == places(recorded)


def _listed(names: list[str]) -> str:
    *others, last = [f"its {name}" for name in names]
    return f"{', '.join(others)} and {last}" if others else last
