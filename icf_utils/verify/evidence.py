"""Whether an archive is intact, judged by what is left of all other files that record something about it.

Each record is a witness by itself. The checksum file, the metadata of the archive, the dataset, the history and the
outputs of processings record the archive's MD5, the sums its SHA-256. So do the catalog and the list of visits, which
are derived. The metadata of the images records the MD5, size and position of each. Refs and the deposit for ``annex::``
addresses record nothing that can be read from them alone; they confirm an archive that gives just their commits and
names.

A digest is never the right one by chance: a record that differs from the archive's MD5 in one or two digits is a
damaged record of it, and so is a damaged file that contains the MD5. A repair builds on the archive only if it is
proved (:func:`weigh_evidence`, pure). :func:`collect_evidence` reads the files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from icf_utils.archive.checksum import RESTORE_ADVICE, read_checksum
from icf_utils.catalog.page import read_entry
from icf_utils.catalog.visit_list import read_visit_list
from icf_utils.dataset.export import read_export, refs_bytes
from icf_utils.dataset.reader import parse_dataset
from icf_utils.errors import DepositDamaged, IcfError
from icf_utils.metadata.describe import ArchiveDescription
from icf_utils.metadata.history import read_history
from icf_utils.metadata.records import ImageRecord, parse_images, parse_tarball
from icf_utils.metadata.visit_list import parse_visit_list
from icf_utils.outputs.provenance import read_provenance
from icf_utils.store.layout import Visit, find_deposit, list_outputs, read_deposit
from icf_utils.store.sums import parse_sums_of
from icf_utils.verify.signatures import check_signature, is_list_signed

_KEY = re.compile(rb"MD5E-s(\d+)--([0-9a-f]{32})")

_SUMS = "its SHA-256 sums"

#: How many digits of a damaged record may differ.
_NEAR = 2


@dataclass(frozen=True)
class Witness:
    """A record of the archive's MD5; ``name`` says which, for messages.

    A record of its SHA-256 has no MD5. ``is_strong``: digests of its own protect it from damage (the objects of git, a
    signature). ``is_derived``: it follows from the metadata, and may be behind. ``is_signed``: a signer who was named
    has signed it.
    """

    name: str
    md5: str
    is_strong: bool = False
    is_derived: bool = False
    sha256: str = ""
    is_signed: bool = False

    def is_of(self, found: ArchiveDescription) -> bool:
        """Whether it is a record of this archive, perhaps with damaged digits unless something protects it."""
        if self.sha256 and self.is_strong:
            return self.sha256 == found.sha256
        if self.sha256:
            return is_record_of(self.sha256, found.sha256)
        return is_record_of(self.md5, found.md5)


@dataclass(frozen=True)
class Evidence:
    """What is left: the records of the archive's MD5, those of images, and what each image's MD5 is in the dataset.

    ``texts`` has the bytes of damaged files by the names of what they recorded.
    """

    witnesses: tuple[Witness, ...] = ()
    images: tuple[ImageRecord, ...] = ()
    dataset_images: frozenset[tuple[int, str]] = frozenset()
    texts: Mapping[str, bytes] = field(default_factory=dict)


class Standing(Enum):
    """What the evidence says of an archive."""

    PROVED = "proved"
    UNPROVED = "unproved"
    UNCLEAR = "unclear"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Verdict:
    """What the evidence says of an archive, and the reason in words."""

    standing: Standing
    reason: str

    @property
    def is_sound(self) -> bool:
        """Whether a repair may build on the archive."""
        return self.standing is Standing.PROVED


#: Says whether the archive gives what is left of files that can only be compared as a whole; empty where it does not.
Confirmation = Callable[[ArchiveDescription], str]


def collect_evidence(place: Visit, signers: Path | None = None) -> Evidence:
    """Read what the visit's files record about its archive, each by itself.

    ``signers`` is the file of those whose signature decides. Raises :class:`~icf_utils.errors.MissingRequirement` if it
    is given and ``ssh-keygen`` is not installed.
    """
    texts: dict[str, bytes] = {}
    witnesses = [*_plain_witnesses(place, texts, signers), *_derived_witnesses(place)]
    dataset_images: frozenset[tuple[int, str]] = frozenset()
    if keys := _keys_of_dataset(place):
        witnesses.append(Witness("its dataset", keys[0], is_strong=True))
        dataset_images = keys[1]
    return Evidence(tuple(witnesses), _images_of(place), dataset_images, texts)


def _plain_witnesses(place: Visit, texts: dict[str, bytes], signers: Path | None) -> Iterator[Witness]:
    yield from _witness("its checksum file", place, place.checksum, _md5_of_checksum, texts)
    yield from _witness("its metadata", place, place.tarball_json, _md5_of_tarball, texts)
    yield from _sums_witness(place, texts, signers)
    with suppress(IcfError):
        for version in read_history(place)[-1:]:
            yield Witness("its history", version.md5)
    with suppress(IcfError):
        for visit, processing in list_outputs(place.of_study):
            if visit == place.visit and (provenance := read_provenance(place, processing)):
                yield Witness(f"the provenance of its output '{processing}'", provenance.recipe.archive_md5)


def _witness(
    name: str, place: Visit, path: Path, read: Callable[[Visit], str], texts: dict[str, bytes]
) -> Iterator[Witness]:
    """The record in a file; the bytes of a damaged file are added to ``texts``."""
    try:
        yield Witness(name, read(place))
    except DepositDamaged:
        with suppress(IcfError):
            texts[name] = read_deposit(path, "")
    except IcfError:
        pass


def _sums_witness(place: Visit, texts: dict[str, bytes], signers: Path | None) -> Iterator[Witness]:
    raw: bytes | None = None
    with suppress(IcfError):
        raw = find_deposit(place.sums)
    if raw is None:
        return
    try:
        digest = parse_sums_of(place, raw).get(place.archive.name)
    except DepositDamaged:
        texts[_SUMS] = raw
        return
    if digest and (signer := _signer(place, raw, signers)):
        yield Witness(f"the SHA-256 sums that {signer} signed", "", is_strong=True, sha256=digest, is_signed=True)
    elif digest:
        is_strong = is_list_signed(place, raw) is True
        yield Witness("its signed SHA-256 sums" if is_strong else _SUMS, "", is_strong=is_strong, sha256=digest)


def _signer(place: Visit, sums: bytes, signers: Path | None) -> str:
    """Return who of the file ``signers`` has signed the list; empty if nobody."""
    return "" if signers is None else check_signature(place, sums, signers)[0]


def _md5_of_checksum(place: Visit) -> str:
    return read_checksum(place, "")


def _md5_of_tarball(place: Visit) -> str:
    record = parse_tarball(read_deposit(place.tarball_json, ""), str(place.tarball_json))
    if (record.storepath, record.dspath) != (place.storepath, place.dspath):
        raise DepositDamaged(place.tarball_json, "the record of this visit's archive", "another one's", "")
    return record.md5


def _derived_witnesses(place: Visit) -> Iterator[Witness]:
    study = place.of_study
    with suppress(IcfError):
        lines = parse_visit_list(read_visit_list(study) or b"[]", str(study.visit_list))
        for line in lines:
            if line.visit == place.visit:
                yield Witness("the list of visits", line.md5, is_derived=True)
    if entry := read_entry(place):
        yield Witness("the catalog", entry.version, is_derived=True)


def _keys_of_dataset(place: Visit) -> tuple[str, frozenset[tuple[int, str]]] | None:
    """The archive's MD5 and the sizes and MD5s of images, from the keys of an intact export."""
    try:
        export = read_deposit(place.export, "")
        _, heads = read_export(export)
        files = parse_dataset(refs_bytes(heads), export, place).main.files
    except (ValueError, IcfError):
        return None
    archive = place.dspath.encode("ascii")
    keys = {path: found for path, file in files.items() if (found := _KEY.search(file.content))}
    if archive not in keys:
        return None
    images = frozenset((int(key[1]), key[2].decode("ascii")) for path, key in keys.items() if path != archive)
    return keys[archive][2].decode("ascii"), images


def _images_of(place: Visit) -> tuple[ImageRecord, ...]:
    """The records of this visit's images; of a damaged file, those that can be read."""
    try:
        raw = read_deposit(place.dicoms_json, "")
    except IcfError:
        return ()
    try:
        images = parse_images(raw, "")
    except DepositDamaged:
        images = tuple(_images_by_line(raw))
    return tuple(image for image in images if image.path.startswith(f"{place.member_root}/"))


def _images_by_line(raw: bytes) -> Iterator[ImageRecord]:
    for line in raw.splitlines():
        with suppress(DepositDamaged):
            yield from parse_images(b"[" + line.rstrip(b",") + b"]", "")


def weigh_evidence(found: ArchiveDescription, said: Evidence, confirm: Confirmation = lambda _: "") -> Verdict:
    """Weigh the evidence.

    What a signer has signed decides by itself. Else the archive is proved by the dataset or by a list with an intact
    signature, or by more records than contradict it, if no record of an image contradicts it. A checksum file alone,
    which anybody can write anew, does not outweigh what is derived. What ``confirm`` finds counts where nothing else is
    left. The records of images prove the images, and not the rest.
    """
    agree, against = _sides(found, said)
    if signed := [witness for witness in said.witnesses if witness.is_signed]:
        return _judge_by_signed(found, signed[0], is_right=signed[0] in agree)
    names = [witness.name for witness in agree if not witness.is_derived]
    contradicting = [witness.name for witness in against if not witness.is_derived]
    images = _compare_images(found, said.images)
    if images is False:
        contradicting.append("the metadata of its images")
    derived = [witness for witness in (*agree, *against) if witness.is_derived]
    if not (len(names) > 1 or any(witness.is_strong for witness in agree)):
        names += [witness.name for witness in derived if witness in agree]
        contradicting += [witness.name for witness in derived if witness in against]
    if _is_proved(names, contradicting, agree, against, images):
        return Verdict(Standing.PROVED, f"its MD5 agrees with {_listed(names)}")
    if names:
        reason = f"agrees with {_listed(names)} but not with {_listed(contradicting)}: it is not clear which is damaged"
        return Verdict(Standing.UNCLEAR, reason)
    if contradicting:
        return Verdict(Standing.DAMAGED, _damage(found, contradicting))
    if confirmed := confirm(found):
        return Verdict(Standing.PROVED, f"it gives {confirmed}")
    return Verdict(Standing.UNPROVED, NOTHING_LEFT + (_ONLY_IMAGES if images else ""))


#: About an archive of which no other file records anything.
NOTHING_LEFT = "nothing is left that could prove it"
_ONLY_IMAGES = " as a whole; only its images are those that the metadata lists"


def images_unknown_to_dataset(found: ArchiveDescription, said: Evidence) -> list[str]:
    """The images of the archive that are not in the dataset, by path; none where the metadata lists images itself."""
    if said.images or not said.dataset_images:
        return []
    return [image.path for image in found.images if (image.size, image.md5) not in said.dataset_images]


def _sides(found: ArchiveDescription, said: Evidence) -> tuple[list[Witness], list[Witness]]:
    """The records that the archive agrees with, and the others."""
    agree = [witness for witness in said.witnesses if witness.is_of(found)]
    torn = [name for name, raw in said.texts.items() if _has(raw, found.sha256 if name == _SUMS else found.md5)]
    salvaged = [Witness(f"what is left of {name}", found.md5) for name in torn]
    return [*agree, *salvaged], [witness for witness in said.witnesses if witness not in agree]


def _is_proved(
    names: list[str], contradicting: list[str], agree: list[Witness], against: list[Witness], images: bool | None
) -> bool:
    if any(witness.is_strong for witness in against):
        return False
    if any(witness.is_strong for witness in agree):
        return True
    return images is not False and len(names) > len(contradicting)


def _judge_by_signed(found: ArchiveDescription, signed: Witness, *, is_right: bool) -> Verdict:
    if is_right:
        return Verdict(Standing.PROVED, f"its SHA-256 agrees with {signed.name}")
    return Verdict(Standing.DAMAGED, _REPLACED.format(found.sha256, signed.name))


_REPLACED = "is damaged or was replaced: its SHA-256 {} is not what {} say; restore it from a copy"


def _damage(found: ArchiveDescription, contradicting: list[str]) -> str:
    if contradicting == ["the metadata of its images"]:
        return f"is damaged: its images are not those that its metadata lists; {RESTORE_ADVICE}"
    says = "says" if len(contradicting) == 1 else "say"
    return f"is damaged: its MD5 {found.md5} is not what {_listed(contradicting)} {says}; {RESTORE_ADVICE}"


def is_record_of(recorded: str, md5: str) -> bool:
    """Whether a recorded MD5 is this one, perhaps with damaged digits."""
    return len(recorded) == len(md5) and sum(a != b for a, b in zip(recorded, md5, strict=True)) <= _NEAR


def _has(raw: bytes, digest: str) -> bool:
    """Whether the bytes of a damaged file contain this digest, perhaps with damaged digits."""
    text, size = raw.decode("latin-1"), len(digest)
    return any(is_record_of(text[at : at + size], digest) for at in range(min(len(text), 1 << 12) - size + 1))


def _compare_images(found: ArchiveDescription, recorded: Sequence[ImageRecord]) -> bool | None:
    """Whether the records are of the archive's images: true if all images have one, ``None`` if some do not."""
    if not recorded:
        return None
    there = {image.path: image for image in found.images}
    right = {image.path for image in recorded if image.path in there and _is_image(image, there[image.path])}
    if any(image.path not in right and not _is_torn(image, there) for image in recorded):
        return False
    return True if right == there.keys() else None


def _is_image(recorded: ImageRecord, image: ImageRecord) -> bool:
    """Whether a record is of this image; a damaged digit of a number does not make it another one's."""
    return is_record_of(recorded.md5, image.md5)


def _is_torn(recorded: ImageRecord, there: Mapping[str, ImageRecord]) -> bool:
    """Whether the record is of one of these images, with a damaged path."""
    return any(recorded.md5 == image.md5 and recorded.size == image.size for image in there.values())


def _listed(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
