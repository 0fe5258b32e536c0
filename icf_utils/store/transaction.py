"""A change of several files of a study as one transaction: all of it, or nothing. Writes to the store.

The new files are prepared in a folder of the study's work folder (:class:`Change`), where nobody sees them. Then a
journal is written that lists every step: a prepared file takes its name, or a name goes. From then on the change is
certain: each step can be repeated, and whoever takes a lock of the study after a process was killed finishes the steps
first (:func:`finish_changes`). A folder without a journal is a change that was never decided, and is removed.

The steps are made under the lock of the study's catalog, which belongs to all visits. Readers without a lock, such as a
web server's clients, may see the files between two steps; the order of steps is the caller's, and the list of visits
comes last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icf_utils.errors import DepositDamaged, StorageFailure, storage_errors
from icf_utils.interrupts import note_leftovers, noted_leftovers
from icf_utils.store.files import (
    keep_access,
    limit_access,
    make_folders,
    make_workdir,
    replace_file,
    share_file,
    sync_all,
    sync_folder,
)
from icf_utils.store.layout import Study
from icf_utils.store.permitted import refuse_fixed

#: No visit has files of these names: identifiers contain no ``+``.
_PREFIX, _UNDECIDED, _JOURNAL, _DONE, _NEW = "+change.", "undecided.json", "journal.json", "done.json", "new"

_UNFINISHED = "the change is decided but not finished; the next command for this study finishes it"
_MADE = "the change had been made and is complete"
_REMEDY = "restore the study's folder from a copy"


@dataclass(frozen=True)
class Step:
    """One step: ``target`` gets the prepared file ``new``, or is removed where that is empty.

    Both are relative, with ``/``: ``target`` to the study's folder, ``new`` to the folder of prepared files.
    """

    target: str
    new: str = ""


class Change:
    """A change of the study that is being prepared, named after the visit that it is about.

    ``root`` is a store of its own for the new files, on the same file system: the study's folder in it has the names
    that the files will have. A new file gets the access of the file that it replaces; one with a new name that of the
    file in ``renamed`` (names in the study's folder and files), and another file of the visit that of ``like``, if
    there is one. ``limits`` has files, by such names, whose access a new file must not exceed. The caller holds the
    visit's lock until :meth:`close`.
    """

    def __init__(
        self,
        study: Study,
        name: str,
        renamed: Mapping[str, Path] | None = None,
        *,
        like: Path | None = None,
        limits: Mapping[str, Path] | None = None,
    ) -> None:
        self._study, self._folder = study, study.workdir / f"{_PREFIX}{name}"
        self._name, self._like, self._limits = name, like, dict(limits or {})
        self._renamed, self._is_made = dict(renamed or {}), False
        self.root = self._folder / _NEW
        make_workdir(study)
        _remove(self._folder)
        with storage_errors(self.root, "create"):
            make_folders(study.root, self.root)

    def __enter__(self) -> Change:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and self._is_made and not noted_leftovers(error):
            note_leftovers(error, _MADE)
        self.close()

    def path_of(self, path: Path) -> str:
        """A prepared file's path, as steps name it."""
        return path.relative_to(self.root).as_posix()

    def prepare(self, name: str, data: bytes) -> Step:
        """Prepare a file that is to be ``name`` below the study's folder; :meth:`commit` makes it durable."""
        path = self.root / "+catalog" / name
        with storage_errors(path, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return Step(name, self.path_of(path))

    def close(self) -> None:
        """Drop what was prepared, unless the change was decided: then it is finished already, or will be."""
        if not self._is_decided():
            _remove(self._folder)

    def commit(self, steps: Sequence[Step]) -> None:
        """Decide the change and make its steps in their order; the caller holds the lock of the study's catalog.

        Raises :class:`~icf_utils.errors.StorageFailure`, before anything is decided if a step is known to be
        impossible. Once this has decided, an interrupt or a failure leaves the
        journal to the next command.
        """
        for step in steps:
            refuse_fixed(self._study.folder / step.target)
        new = [step for step in steps if step.new]
        for step in new:
            self._adopt(step)
        data = json.dumps({"format": 1, "steps": [vars(step) for step in steps]}, ensure_ascii=True).encode("ascii")
        undecided, was_decided = self._folder / _UNDECIDED, False
        replace_file(undecided, data + b"\n", root=self._study.root, durable=False)
        files = dict.fromkeys(self.root / step.new for step in new)
        sync_all([*files, undecided], [*dict.fromkeys(path.parent for path in files), self._study.workdir])
        try:
            with storage_errors(undecided, "rename"):
                os.rename(undecided, self._folder / _JOURNAL)
            was_decided = True
            sync_folder(self._folder)
            _finish(self._study, self._folder)
        except BaseException as error:
            was_decided = was_decided or self._is_decided()
            if not (self._is_decided() and self._finish_interrupted(error) and isinstance(error, StorageFailure)):
                raise
        finally:
            self._is_made = was_decided and not self._is_decided()

    def _is_decided(self) -> bool:
        return (self._folder / _JOURNAL).exists()

    def _finish_interrupted(self, error: BaseException) -> bool:
        """Make the steps of a decided change once more, as what interrupted them may be over; false if that fails.

        What is true then is noted with the error.
        """
        note_leftovers(error, _UNFINISHED)
        try:
            _finish(self._study, self._folder)
        except StorageFailure:
            return False
        note_leftovers(error, _MADE)
        return True

    def _adopt(self, step: Step) -> None:
        """Give a prepared file the owner, group, mode and ACL of the file that it replaces."""
        path, target = self.root / step.new, self._study.folder / step.target
        if not os.path.lexists(target):
            is_of_visit = step.target.startswith((f"{self._name}_", f"{self._name}."))
            target = self._renamed.get(step.target, (self._like if is_of_visit else None) or target)
        with storage_errors(path, "set the mode of"):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if not keep_access(target, descriptor):
                    share_file(self._study.root, descriptor)
                if limit := self._limits.get(step.target):
                    limit_access(limit, descriptor)
            finally:
                os.close(descriptor)


def discard_change(study: Study, name: str) -> bool:
    """Remove what a killed process has prepared for the visit ``name``; false if it had decided the change.

    The caller holds the visit's lock.
    """
    folder = study.workdir / f"{_PREFIX}{name}"
    if (folder / _JOURNAL).exists():
        return False
    _remove(folder)
    return True


def has_decided_changes(study: Study) -> bool:
    """Whether a change of the study was decided and is not finished."""
    return any((folder / _JOURNAL).exists() for folder in _folders(study))


def finish_changes(study: Study) -> None:
    """Finish all changes that killed processes have decided; the caller holds the lock of the study's catalog.

    Raises :class:`~icf_utils.errors.StorageFailure` and :class:`~icf_utils.errors.DepositDamaged`.
    """
    for folder in _folders(study):
        if (folder / _JOURNAL).exists():
            try:
                _finish(study, folder)
            except BaseException as error:
                note_leftovers(error, _UNFINISHED)
                raise
        elif (folder / _DONE).exists():
            _remove(folder)


def list_undecided_changes(study: Study) -> list[str]:
    """The visits of which a change is being prepared, or was when a process was killed."""
    found = (folder for folder in _folders(study) if not (folder / _JOURNAL).exists())
    return [folder.name.removeprefix(_PREFIX) for folder in found]


def _folders(study: Study) -> list[Path]:
    """The folders of all changes of a study, sorted."""
    with storage_errors(study.workdir, "read"):
        try:
            names = sorted(os.listdir(study.workdir))
        except (FileNotFoundError, NotADirectoryError):
            return []
    return [study.workdir / name for name in names if name.startswith(_PREFIX)]


def _finish(study: Study, folder: Path) -> None:
    touched: set[Path] = set()
    for step in _read_journal(folder / _JOURNAL):
        target = study.folder / step.target
        if step.new:
            _put(study, folder / _NEW / step.new, target)
        else:
            _take_away(study, target)
        touched.add(target.parent)
    for parent in sorted(touched):
        if parent.is_dir():
            sync_folder(parent)
    with storage_errors(folder, "remove"):
        os.rename(folder / _JOURNAL, folder / _DONE)
    sync_folder(folder)
    _remove(folder)


def _read_journal(path: Path) -> list[Step]:
    with storage_errors(path, "read"):
        raw = path.read_bytes()
    try:
        value: Any = json.loads(raw)
        return [Step(str(item["target"]), str(item["new"])) for item in value["steps"]]
    except (ValueError, LookupError, TypeError) as error:
        raise DepositDamaged(path, "the journal of a change", "something else", _REMEDY) from error


def _put(study: Study, new: Path, target: Path) -> None:
    """Give a prepared file its name, unless that was done before."""
    with storage_errors(target, "replace"):
        if not target.parent.is_dir():
            make_folders(study.root, target.parent)
        try:
            os.replace(new, target)
        except FileNotFoundError as error:
            if not target.exists():
                raise DepositDamaged(target, "the file of an interrupted change", "no file", _REMEDY) from error


def _take_away(study: Study, target: Path) -> None:
    """Remove a file or a folder, unless that was done before, and the folders above it that are empty then."""
    with storage_errors(target, "remove"):
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            with suppress(FileNotFoundError, NotADirectoryError):
                target.unlink()
    with suppress(OSError):  # one that has other files
        for parent in target.parents:
            if parent in (study.folder, study.workdir, study.catalog):
                break
            with suppress(FileNotFoundError):  # removed before, by a process that was killed then
                parent.rmdir()


def _remove(folder: Path) -> None:
    with storage_errors(folder, "remove"):
        if folder.exists():
            shutil.rmtree(folder)
