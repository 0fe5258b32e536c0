"""The layout of a store: identifiers, the names of all files that others read, and UUIDs. Reads; writes nothing.

An identifier of a study or visit names files, so only characters that are safe in all file systems and URLs are
allowed. Below the store's root each study has a folder, and each visit its files in it, ``<visit><suffix>``. What is
only for icf-utils (locks, unfinished files, states) is in the study's work folder ``.icf``, never between users' files.

UUIDs are of version 5 (RFC 9562), made from the store's identity, the study and the visit, so that they are the same on
every machine. The identity is the store's URL, unless the settings or ``--store-id`` give one that outlives a move.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

from icf_utils.errors import DepositMissing, InvalidIdentifier, storage_errors
from icf_utils.regular_files import read_regular
from icf_utils.settings import SETTINGS_NAME

#: The work folder below a study's folder: locks, unfinished files and the state of runs.
WORK_DIR_NAME = ".icf"

#: What follows a visit's identifier in the names of its files, in the order in which they are created.
VISIT_SUFFIXES = (
    "_dicom.tar",
    "_dicom.tar.md5sum",
    "_metadata_dicoms.json",
    "_metadata_tarball.json",
    "_XDLRA--repo-export",
    "_XDLRA--refs",
)

#: The study's visits, one line each (:mod:`icf_utils.metadata.visit_list`).
VISITS_NAME = "visits.json"

#: The dataset of the study, with a subdataset for each visit (:mod:`icf_utils.dataset.study_dataset`).
STUDY_EXPORT_NAME, STUDY_REFS_NAME = "XDLRA--repo-export", "XDLRA--refs"

#: The versions of a visit, where it has more than one (:mod:`icf_utils.metadata.history`).
HISTORY_SUFFIX = "_history.json"

#: The SHA-256s of the visit's files (:mod:`icf_utils.store.sums`), and a signature of these.
SUMS_SUFFIX, SIGNATURE_SUFFIX = "_SHA256SUMS", "_SHA256SUMS.sig"

#: What may be left of a removed visit: its identifier, and when and why it was removed.
TOMBSTONE_SUFFIX = "_removed.json"

#: The deposit for git-annex's ``annex::`` addresses, which is optional: its last file, and the folder of the others.
#: Visits are not found by these, since every visit has the six files.
ANNEX_URL_SUFFIX, ANNEX_FOLDER_SUFFIX = ".annex", "_annex"

#: What a processing made of a visit: ``<visit>_<processing><suffix>``, the output and then its provenance.
OUTPUT_SUFFIX, PROVENANCE_SUFFIX = "_output.tar", "_provenance.json"

#: A processing's name; without ``_`` and ``.``, so that the names of files are split in one way only.
_PROCESSING = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,49}", re.ASCII)

#: The name of an output's file; a number is that of an earlier output that was kept.
_OUTPUT_FILE = re.compile(
    r"(.+)_([A-Za-z0-9][A-Za-z0-9-]*)_(?:output(?:\.v(\d+))?\.tar|provenance(?:\.v(\d+))?\.json)", re.ASCII
)

#: The names that files of a visit can have. A folder's name (``_annex``) is left out: it is in no text.
_FILE_OF_A_VISIT = re.compile(
    rf".+(?:{'|'.join(map(re.escape, (*VISIT_SUFFIXES, HISTORY_SUFFIX, TOMBSTONE_SUFFIX, ANNEX_URL_SUFFIX)))}"
    rf"|_dicom\.v\d+\.tar|_SHA256SUMS(?:\.sig)?)|{_OUTPUT_FILE.pattern}",
    re.ASCII,
)

#: The folder of visits' files below the catalog's.
CATALOG_VISITS = "data/visits"

_IDENTIFIER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", re.ASCII)


def check_identifier(kind: str, value: str) -> str:
    """Return ``value`` if it is a valid identifier; ``kind`` is ``'study'`` or ``'visit'``.

    Raises :class:`~icf_utils.errors.InvalidIdentifier`, with the rule in its message.
    """
    if not is_identifier(kind, value):
        raise InvalidIdentifier(kind, value)
    return value


def is_identifier(kind: str, value: str) -> bool:
    """Whether a study or a visit (``kind``) can have this identifier.

    The settings file is in the same folder as the studies' folders, so a study cannot have its name. A visit cannot
    have the name of a file that another visit may have.
    """
    if kind == "study":
        return _IDENTIFIER.fullmatch(value) is not None and value != SETTINGS_NAME
    return _IDENTIFIER.fullmatch(value) is not None and _FILE_OF_A_VISIT.fullmatch(value) is None


def is_processing_name(value: str) -> bool:
    """Whether a processing can have this name: letters, digits and ``-``, at most 50, the first of them not ``-``."""
    return _PROCESSING.fullmatch(value) is not None


@dataclass(frozen=True)
class Study:
    """A study in the store at ``root``. Raises ``InvalidIdentifier`` on creation."""

    root: Path
    study: str

    def __post_init__(self) -> None:
        check_identifier("study", self.study)

    @cached_property
    def folder(self) -> Path:
        return self.root / self.study

    @property
    def catalog(self) -> Path:
        return self.folder / "catalog"

    @property
    def visit_list(self) -> Path:
        return self.folder / VISITS_NAME

    @property
    def refs(self) -> Path:
        """The dataset of the study: its refs, which are written last."""
        return self.folder / STUDY_REFS_NAME

    @property
    def export(self) -> Path:
        return self.folder / STUDY_EXPORT_NAME

    @cached_property
    def workdir(self) -> Path:
        return self.folder / WORK_DIR_NAME

    def visits(self) -> list[str]:
        """The identifiers of visits of which there is any file, sorted. Empty if the study does not exist."""
        with storage_errors(self.folder, "read"):
            try:
                names = os.listdir(self.folder)
            except (FileNotFoundError, NotADirectoryError):
                return []
        found = {name.removesuffix(suffix) for name in names for suffix in VISIT_SUFFIXES if name.endswith(suffix)}
        return sorted(visit for visit in found if is_identifier("visit", visit))


@dataclass(frozen=True)
class Visit:
    """A visit in the store at ``root``, with the names of all its files. Raises ``InvalidIdentifier`` on creation."""

    root: Path
    study: str
    visit: str

    def __post_init__(self) -> None:
        check_identifier("study", self.study)
        check_identifier("visit", self.visit)

    @cached_property
    def of_study(self) -> Study:
        return Study(self.root, self.study)

    @property
    def archive(self) -> Path:
        return self._file(VISIT_SUFFIXES[0])

    @property
    def checksum(self) -> Path:
        return self._file(VISIT_SUFFIXES[1])

    @property
    def tarball_json(self) -> Path:
        return self._file(VISIT_SUFFIXES[3])

    @property
    def dicoms_json(self) -> Path:
        return self._file(VISIT_SUFFIXES[2])

    @property
    def refs(self) -> Path:
        return self._file(VISIT_SUFFIXES[5])

    @property
    def export(self) -> Path:
        return self._file(VISIT_SUFFIXES[4])

    @property
    def annex_url(self) -> Path:
        return self._file(ANNEX_URL_SUFFIX)

    @property
    def annex_folder(self) -> Path:
        return self._file(ANNEX_FOLDER_SUFFIX)

    def output(self, processing: str, kept: int = 0) -> Path:
        """The TAR with what a processing made of the visit; ``kept`` is the number of an earlier one that was kept."""
        return self._file(f"_{processing}{_numbered(OUTPUT_SUFFIX, kept)}")

    def provenance(self, processing: str, kept: int = 0) -> Path:
        """What that output was made from, and with."""
        return self._file(f"_{processing}{_numbered(PROVENANCE_SUFFIX, kept)}")

    @property
    def catalog_file(self) -> Path:
        """The visit's file in its study's catalog; it exists if the catalog shows the visit."""
        return self.of_study.catalog / CATALOG_VISITS / f"{self.visit}.json"

    @property
    def history(self) -> Path:
        return self._file(HISTORY_SUFFIX)

    @property
    def sums(self) -> Path:
        """The SHA-256 sums of the visit's files; a visit of an older store has none."""
        return self._file(SUMS_SUFFIX)

    @property
    def signature(self) -> Path:
        """The signature of :attr:`sums`; it exists if the visit was signed."""
        return self._file(SIGNATURE_SUFFIX)

    @property
    def tombstone(self) -> Path:
        return self._file(TOMBSTONE_SUFFIX)

    @property
    def storepath(self) -> str:
        """The archive's path relative to the store's root, which follows the store's URL."""
        return f"{self.study}/{self.visit}_dicom.tar"

    @property
    def dspath(self) -> str:
        """The archive's path in the visit's dataset."""
        return f"icf/{self.visit}_dicom.tar"

    @property
    def member_root(self) -> str:
        """The folder of all members of the archive."""
        return f"{self.study}_{self.visit}"

    @cached_property
    def workdir(self) -> Path:
        return self.of_study.workdir

    @property
    def handover(self) -> Path:
        """What the archive stage leaves for the metadata stage."""
        return self.workdir / "handover" / f"{self.visit}.json"

    def _file(self, suffix: str) -> Path:
        return self.root / self.study / f"{self.visit}{suffix}"


def _numbered(suffix: str, kept: int) -> str:
    stem, _, extension = suffix.rpartition(".")
    return f"{stem}.v{kept}.{extension}" if kept else suffix


def is_output_file(name: str) -> bool:
    """Whether a file of a visit is one of an output, kept ones included."""
    return _OUTPUT_FILE.fullmatch(name) is not None


def list_kept_outputs(study: Study) -> list[tuple[str, str, int]]:
    """List the earlier outputs that were kept, as visit, processing and number, sorted."""
    with storage_errors(study.folder, "read"):
        try:
            names = os.listdir(study.folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
    found = {(one[1], one[2], int(one[3] or one[4] or 0)) for name in names if (one := _OUTPUT_FILE.fullmatch(name))}
    return sorted(one for one in found if one[2])


def list_outputs(study: Study, suffixes: tuple[str, ...] = (PROVENANCE_SUFFIX,)) -> list[tuple[str, str]]:
    """List the outputs of a study's processings as pairs of visit and processing, sorted: those that have provenance.

    With other ``suffixes``, those of which there is any such file.
    """
    with storage_errors(study.folder, "read"):
        try:
            names = os.listdir(study.folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
    parts = [
        name.removesuffix(suffix).rpartition("_") for suffix in suffixes for name in names if name.endswith(suffix)
    ]
    found = {(visit, processing) for visit, _, processing in parts if is_processing_name(processing)}
    return sorted(pair for pair in found if is_identifier("visit", pair[0]))


def list_studies(root: Path) -> list[Study]:
    """List the studies of a store that have a visit, sorted. Empty if the store does not exist."""
    return [study for study in list_study_folders(root) if study.visits()]


def list_study_folders(root: Path) -> list[Study]:
    """List all folders of a store that can be studies, sorted; some may have a catalog only, or nothing."""
    with storage_errors(root, "read"):
        try:
            names = sorted(os.listdir(root))
        except (FileNotFoundError, NotADirectoryError):
            return []
    return [Study(root, name) for name in names if is_identifier("study", name)]


def read_deposit(path: Path, remedy: str) -> bytes:
    """Read a file that an earlier stage has made.

    Raises :class:`~icf_utils.errors.DepositMissing` with ``remedy``, or ``StorageFailure``.
    """
    with storage_errors(path, "read"):
        try:
            return read_regular(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DepositMissing(path, remedy) from error


def find_deposit(path: Path) -> bytes | None:
    """Read a file that may not have been made; ``None`` without one. Raises ``StorageFailure``."""
    try:
        return read_deposit(path, "")
    except DepositMissing:
        return None


#: The namespace of all UUIDs. Changing it would change every dataset.
_NAMESPACE = uuid5(NAMESPACE_URL, "https://icf-utils.invalid/identity/1")


def store_identity(url: str, store_id: str) -> str:
    """The identity of a store: ``store_id`` if there is one, else the URL without trailing slashes."""
    return store_id or url.rstrip("/")


def study_uuid(identity: str, study: str, role: str) -> UUID:
    """The UUID of what belongs to a whole study; ``role`` is a fixed word such as ``catalog``."""
    return uuid5(_NAMESPACE, f"{identity}\n{study}\n\n{role}")


def visit_uuid(identity: str, study: str, visit: str, role: str) -> UUID:
    """The UUID of what belongs to one visit; ``role`` is a fixed word such as ``dataset`` or ``archivist``."""
    return uuid5(_NAMESPACE, f"{identity}\n{study}\n{visit}\n{role}")
