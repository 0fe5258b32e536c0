"""Files of others that say who may use a folder, such as ``.htaccess``. Reads the store; writes nothing."""

from __future__ import annotations

import os

from icf_utils.errors import storage_errors
from icf_utils.store.layout import WORK_DIR_NAME, Study


def list_access_files(study: Study) -> list[str]:
    """The names of hidden files in a study's folder, sorted: web servers read their rules from such files.

    Raises :class:`~icf_utils.errors.StorageFailure`.
    """
    with storage_errors(study.folder, "read"):
        try:
            entries = list(os.scandir(study.folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
    return sorted(one.name for one in entries if one.name.startswith(".") and one.name != WORK_DIR_NAME)
