"""Whether a folder is a store, and what is said where it is not. Reads; writes nothing.

A folder is a store if it has an ``icf.toml``; or a deposit of a visit, as the stores of the original tools have; or the
work folder of a study, whose first visits may be in the making. Writing into any other folder would make a second store
that nobody wanted: the path is mistyped, or a file system is not mounted.
"""

from __future__ import annotations

import os
from pathlib import Path

from icf_utils.errors import InvalidSetting, printable
from icf_utils.settings import SETTINGS_NAME
from icf_utils.store.layout import list_study_folders

#: The environment variable that answers ``--new`` for scripts and containers.
NEW_STORE_VARIABLE = "ICF_NEW_STORE"


def is_store(root: Path) -> bool:
    """Whether ``root`` is a store. Raises :class:`~icf_utils.errors.StorageFailure`."""
    if os.path.lexists(root / SETTINGS_NAME):
        return True
    return any(study.workdir.is_dir() or study.visits() for study in list_study_folders(root))


def refuse_no_store(root: Path) -> None:
    """Raise :class:`~icf_utils.errors.InvalidSetting` unless ``root`` is a store, for commands that read one."""
    if not is_store(root):
        problem = f"'{printable(root)}' is not a store: {_why(root)}. Name another folder with -o/--store-dir"
        raise InvalidSetting("store", problem)


def refuse_unintended_store(root: Path, new: bool) -> bool:
    """Say whether writing to ``root`` makes a new store; ``new`` allows that, and so does :data:`NEW_STORE_VARIABLE`.

    Raises :class:`~icf_utils.errors.InvalidSetting` where it is not allowed.
    """
    if is_store(root):
        return False
    if not new and os.environ.get(NEW_STORE_VARIABLE, "") not in ("1", "yes"):
        problem = (
            f"'{printable(root)}' is not a store: {_why(root)}. To make a new store there, run 'icf-utils init "
            f"{printable(root)} --url URL' first, or use --new"
        )
        raise InvalidSetting("store", problem)
    return True


def _why(root: Path) -> str:
    if not root.exists():
        return "the folder does not exist"
    return f"it has no {SETTINGS_NAME} and no visits"
