"""Checks by StudyInstanceUID and PatientID that images belong to the visit whose next version they would become.

Reads the first image of each folder of two archives, and the metadata of each visit of the store. The
checks have the names that all commands use with ``--allow`` (:data:`~icf_utils.settings.RUN_CHECKS`).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from icf_utils.errors import InputRefused
from icf_utils.metadata.study_uids import describe_sharing, recorded_study_uids
from icf_utils.sources.study_samples import sample_patients, sample_study_uids
from icf_utils.store.layout import Visit, list_study_folders

_OTHER_UID = "the images have a StudyInstanceUID that the present version does not have"
_OTHER_PATIENT = "the images have another PatientID than its present version"


def refuse_other_visit(
    input_path: str | os.PathLike[str], place: Visit, arrived: Path, refuse: Collection[str]
) -> list[str]:
    """Refuse the archive ``arrived``, made of an input, if it belongs to another visit or patient than ``place``.

    Returns remarks about what is not refused. If the visit's own archive cannot be read, nothing is compared with it.
    Raises :class:`~icf_utils.errors.InputRefused`.
    """
    name = f"{place.study}/{place.visit}"
    new, old = sample_study_uids(arrived), sample_study_uids(place.archive) | recorded_study_uids(place)
    others = _visits_with(new - old, place) if "shared-study" in refuse else []
    if others:
        advice = (
            "Check the input and --id. If the images belong to both visits, or the other visit has wrong UIDs, use "
            "--allow shared-study."
        )
        reason = f"{describe_sharing(others)}, a UID that this visit does not have"
        raise InputRefused(input_path, [(name, reason)], advice)
    refuse_other_patient(input_path, place, arrived, refuse)
    return [_OTHER_UID] if old and new - old else []


def refuse_other_patient(
    input_path: str | os.PathLike[str], place: Visit, arrived: Path, refuse: Collection[str]
) -> None:
    """Refuse an archive with a PatientID that the visit's archive does not have.

    Raises :class:`~icf_utils.errors.InputRefused`.
    """
    if "several-patients" not in refuse:
        return
    old = sample_patients(place.archive)
    if old and sample_patients(arrived) - old:
        advice = "Check the input and --id. If the patient is the same, use --allow several-patients."
        raise InputRefused(input_path, [(f"{place.study}/{place.visit}", _OTHER_PATIENT)], advice)


def _visits_with(uids: frozenset[str], place: Visit) -> list[str]:
    """The other visits of the store with images that have one of these StudyInstanceUIDs, sorted."""
    if not uids:
        return []
    studies = list_study_folders(place.root)
    visits = (Visit(place.root, study.study, name) for study in studies for name in study.visits())
    return [f"{visit.study}/{visit.visit}" for visit in visits if visit != place and recorded_study_uids(visit) & uids]
