"""Which files of a study's folder belong to a visit. Reads the folder.

File names begin with the visit's identifier, and so do those of visits whose identifiers begin with it: ``v1`` and
``v1_b``. Only names of known forms count, and an ambiguous one belongs to the visit with the longest identifier.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from icf_utils.errors import storage_errors
from icf_utils.store.layout import Visit

#: What follows a visit's identifier in the names of its files, as a regular expression.
FILE_FORMS = (
    r"_dicom\.tar(?:\.md5sum)?|_dicom\.v\d+\.tar|_metadata_(?:dicoms|tarball)\.json|_XDLRA--(?:refs|repo-export)"
    r"|\.annex|_history\.json|_SHA256SUMS(?:\.sig)?"
    r"|_[A-Za-z0-9-]+_(?:output(?:\.v\d+)?\.tar|provenance(?:\.v\d+)?\.json)"
)

#: The same for its files and folders.
VISIT_FORMS = re.compile(rf"{FILE_FORMS}|_annex")
_ARCHIVE = re.compile(r".+_dicom(?:\.v\d+)?\.tar")


def visit_files(place: Visit) -> list[Path]:
    """The files and folders of a visit in its study's folder, sorted."""
    study = place.of_study
    others = [visit for visit in study.visits() if visit.startswith(place.visit) and visit != place.visit]
    with storage_errors(study.folder, "read"):
        names = sorted(os.listdir(study.folder)) if study.folder.is_dir() else []
    return [study.folder / name for name in names if belongs(name, place.visit, others)]


def list_links(files: Iterable[Path]) -> list[tuple[str, Path]]:
    """List the files that are symbolic links: their names, and the files that they lead to."""
    return [(path.name, path.resolve()) for path in files if path.is_symlink()]


def first_file(place: Visit) -> Path | None:
    """A file of a visit, whose group, mode and ACL new files of the visit get; ``None`` for a new visit."""
    found = (place.archive, place.dicoms_json, place.checksum)
    return next((path for path in found if path.exists()), None)


def is_archive_name(name: str) -> bool:
    """Whether a file has the name of an archive of some visit, or of one that was kept."""
    return _ARCHIVE.fullmatch(name) is not None


def belongs(name: str, visit: str, others: Collection[str]) -> bool:
    """Whether a name is one of the visit's, and not of one of the ``others``, whose identifiers begin with its own."""
    if not (name.startswith(visit) and VISIT_FORMS.fullmatch(name[len(visit) :])):
        return False
    return not any(name.startswith(other) and VISIT_FORMS.fullmatch(name[len(other) :]) for other in others)
