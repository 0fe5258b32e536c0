"""What a verification has proved of a visit, so that the same bytes need not be analysed again.

Reads the visit; reads and writes ``STUDY/.icf/proofs``.

A visit whose files all agreed is recorded: the digests of its archive, and the SHA-256 of its list of SHA-256s, which
covers every other file of it. While the archive has this MD5 and all other files have the SHA-256s of this list,
images, metadata and dataset agree as they did. Another version of icf-utils checks everything again. Anybody who
can write to the store can write a record; where a signature is required, the archive's SHA-256 is compared instead of
its MD5.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from icf_utils import __version__
from icf_utils.dataset.store_address import StoreAddress
from icf_utils.errors import IcfError, storage_errors
from icf_utils.metadata.visit_list import VisitLine
from icf_utils.regular_files import open_regular, read_regular
from icf_utils.store.files import make_folders, replace_bytes
from icf_utils.store.layout import Visit, find_deposit
from icf_utils.store.sums import file_sha256, list_summed, parse_sums_of

PROOF_FOLDER = "proofs"
_CHUNK = 1 << 20
_FORMAT = 1


@dataclass(frozen=True)
class Proof:
    """What was proved of a visit: ``md5`` and ``sha256`` of its archive, ``sums``, the SHA-256 of its list of SHA-256s.

    ``images`` is their number, ``absent`` the stages that had not been made, ``address`` the store that the dataset
    names, ``line`` the visit's line in the list of visits.
    """

    md5: str
    sha256: str
    sums: str
    images: int
    absent: tuple[str, ...]
    address: StoreAddress
    line: VisitLine


def proof_path(place: Visit) -> Path:
    """The file of a visit's record."""
    return place.workdir / PROOF_FOLDER / f"{place.visit}.json"


def write_proof(place: Visit, proof: Proof) -> None:
    """Record what was proved. Raises :class:`~icf_utils.errors.StorageFailure`."""
    value = {"format": _FORMAT, "icf-utils": __version__, **asdict(proof)}
    path = proof_path(place)
    data = json.dumps(value, sort_keys=True).encode("ascii") + b"\n"
    with storage_errors(path, "write"):
        make_folders(place.root, path.parent)
        replace_bytes(place.of_study, path, data)


def read_proof(place: Visit) -> Proof | None:
    """Read a visit's record; ``None`` without one of this version of icf-utils."""
    with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        value: dict[str, Any] = json.loads(read_regular(proof_path(place)))
        if (value.pop("format"), value.pop("icf-utils")) != (_FORMAT, __version__):
            return None
        line = VisitLine(**value.pop("line"))
        line = replace(line, modalities=tuple(line.modalities))
        address = StoreAddress(**value.pop("address"))
        return Proof(**{**value, "absent": tuple(value["absent"])}, line=line, address=address)
    return None


@contextmanager
def proved_files(place: Visit, proof: Proof, *, sha256: bool) -> Iterator[ArchiveDigest | None]:
    """Compare a visit's files other than the archive with a record; yields ``None`` if one differs.

    The archive is read meanwhile, in a thread of its own. ``sha256``: compute its SHA-256 and not its MD5.
    """
    raw = None
    with suppress(IcfError):
        raw = find_deposit(place.sums)
    if raw is None or hashlib.sha256(raw).hexdigest() != proof.sums:
        yield None
        return
    archive = ArchiveDigest(place.archive, proof, "sha256" if sha256 else "md5", raw)
    try:
        yield archive if _have_sums(place, raw) else None
    finally:
        archive.close()


def _have_sums(place: Visit, raw: bytes) -> bool:
    """Whether the files other than the archive are those of the list."""
    folder = place.of_study.folder
    try:
        sums = parse_sums_of(place, raw)
        return list_summed(place) == sorted(sums) and all(
            file_sha256(folder / name) == digest for name, digest in sums.items() if name != place.archive.name
        )
    except IcfError:  # found again, and reported, by the whole check
        return False


class ArchiveDigest:
    """Computes the digest of an archive in a thread; ``sums`` are the bytes of the list that was compared."""

    def __init__(self, path: Path, proof: Proof, algorithm: str, sums: bytes) -> None:
        self.sums = sums
        self._path, self._algorithm = path, algorithm
        self._expected = proof.md5 if algorithm == "md5" else proof.sha256
        self._found, self._is_stopped = "", False
        self._thread = threading.Thread(target=self._run, name=algorithm, daemon=True)
        self._thread.start()

    def is_as_proved(self) -> bool:
        """Wait until the archive was read; whether it has the digest of the record."""
        self._thread.join()
        return self._found == self._expected

    def close(self) -> None:
        """End the thread, which may still read."""
        self._is_stopped = True
        self._thread.join()

    def _run(self) -> None:
        digest = hashlib.new(self._algorithm, usedforsecurity=False)
        with suppress(OSError), open_regular(self._path) as handle:
            while not self._is_stopped and (block := handle.read(_CHUNK)):
                digest.update(block)
            self._found = digest.hexdigest()
