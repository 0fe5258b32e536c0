"""The store: identifiers, and every file name that others read. Lists folders and reads files, writes nothing.

Who a thing is, on every machine: version-5 UUIDs of a store's identity, a study and a visit. Pure.

The store's identity is its URL, unless the settings or ``--store-id`` name something that outlives a move.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

from icf_utils.errors import DepositMissing, InvalidIdentifier, storage_errors
from icf_utils.settings import SETTINGS_NAME

#: Below a study: locks, unfinished files and the state of runs. Never between the users' files.
WORK_DIR_NAME = ".icf"

#: What follows a visit's identifier in the names of its files, in the order in which they are made.
VISIT_SUFFIXES = (
    "_dicom.tar",
    "_dicom.tar.md5sum",
    "_metadata_dicoms.json",
    "_metadata_tarball.json",
    "_XDLRA--repo-export",
    "_XDLRA--refs",
)

#: The deposit for git-annex's ``annex::`` addresses, which not every visit has: its last file, and the folder of the
#: others. Not among the suffixes by which a visit is found: there is none without the six files.
ANNEX_URL_SUFFIX, ANNEX_FOLDER_SUFFIX = ".annex", "_annex"

_IDENTIFIER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", re.ASCII)


def check_identifier(kind: str, value: str) -> str:
    """``value``, if it can name files; ``kind`` is ``'study'`` or ``'visit'``.

    Raises :class:`~icf_utils.errors.InvalidIdentifier`, with the rule in its message.
    """
    if not _is_identifier(kind, value):
        raise InvalidIdentifier(kind, value)
    return value


def _is_identifier(kind: str, value: str) -> bool:
    """The settings file lies beside the studies' folders, so no study can have its name."""
    return _IDENTIFIER.fullmatch(value) is not None and (kind, value) != ("study", SETTINGS_NAME)


@dataclass(frozen=True)
class Study:
    """A study's place in a store. ``root`` is the store's directory; the identifier is checked on creation."""

    root: Path
    study: str

    def __post_init__(self) -> None:
        check_identifier("study", self.study)

    @property
    def folder(self) -> Path:
        return self.root / self.study

    @property
    def catalog(self) -> Path:
        return self.folder / "catalog"

    @property
    def workdir(self) -> Path:
        return self.folder / WORK_DIR_NAME

    def visits(self) -> list[str]:
        """Identifiers of the visits that any file speaks of, sorted. Empty where the study does not exist."""
        with storage_errors(self.folder, "read"):
            try:
                names = os.listdir(self.folder)
            except (FileNotFoundError, NotADirectoryError):
                return []
        found = {name.removesuffix(suffix) for name in names for suffix in VISIT_SUFFIXES if name.endswith(suffix)}
        return sorted(visit for visit in found if _is_identifier("visit", visit))


@dataclass(frozen=True)
class Visit:
    """A visit's place in a store: every file name that others read stands here."""

    root: Path
    study: str
    visit: str

    def __post_init__(self) -> None:
        check_identifier("study", self.study)
        check_identifier("visit", self.visit)

    @property
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

    @property
    def storepath(self) -> str:
        """The archive relative to the store's root: what follows the store's URL."""
        return f"{self.study}/{self.visit}_dicom.tar"

    @property
    def dspath(self) -> str:
        """The archive inside the visit's dataset."""
        return f"icf/{self.visit}_dicom.tar"

    @property
    def member_root(self) -> str:
        """The folder that all members of the archive lie in."""
        return f"{self.study}_{self.visit}"

    @property
    def workdir(self) -> Path:
        return self.of_study.workdir

    def _file(self, suffix: str) -> Path:
        return self.root / self.study / f"{self.visit}{suffix}"


def stored_studies(root: Path) -> list[Study]:
    """The studies in a store that have a visit, sorted. Empty where the store does not exist."""
    return [study for study in study_folders(root) if study.visits()]


def study_folders(root: Path) -> list[Study]:
    """All that can be a study in a store, sorted; there may be only a catalog left of it, or nothing at all."""
    with storage_errors(root, "read"):
        try:
            names = sorted(os.listdir(root))
        except (FileNotFoundError, NotADirectoryError):
            return []
    return [Study(root, name) for name in names if _is_identifier("study", name)]


def read_deposit(path: Path, remedy: str) -> bytes:
    """The bytes of a file that an earlier step has made.

    Raises :class:`~icf_utils.errors.DepositMissing` with ``remedy``, or ``StorageFailure``.
    """
    with storage_errors(path, "read"):
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DepositMissing(path, remedy) from error


#: Everything derived here hangs below this namespace; changing it changes every dataset.
_NAMESPACE = uuid5(NAMESPACE_URL, "https://icf-utils.invalid/identity/1")


def store_identity(url: str, store_id: str) -> str:
    """What identifies the store: ``store_id`` if there is one, else its URL without trailing slashes."""
    return store_id or url.rstrip("/")


def study_uuid(identity: str, study: str, role: str) -> UUID:
    """The UUID of something that belongs to a study as a whole; ``role`` is a fixed word such as ``catalog``."""
    return uuid5(_NAMESPACE, f"{identity}\n{study}\n\n{role}")


def visit_uuid(identity: str, study: str, visit: str, role: str) -> UUID:
    """The UUID of something that belongs to one visit, such as its ``dataset`` or its ``archivist`` remote."""
    return uuid5(_NAMESPACE, f"{identity}\n{study}\n{visit}\n{role}")
