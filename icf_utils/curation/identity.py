"""Whether images are of the visit whose next version they are to be in: by StudyInstanceUID and PatientID.

Reads the first image of each folder of two archives, and the heads of the metadata of a store's visits. The checks have
the names that ``--allow`` has everywhere (:data:`~icf_utils.settings.RUN_CHECKS`).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from icf_utils.errors import InputRefused
from icf_utils.metadata.study_uids import describe_sharing, recorded_study_uids
from icf_utils.sources.study_samples import sample_patients, sample_study_uids
from icf_utils.store.layout import Visit, list_study_folders

_OTHER_UID = "the images have another StudyInstanceUID than those of the present version"
_OTHER_PATIENT = "has images of another PatientID than the visit"


def refuse_other_visit(
    input_path: str | os.PathLike[str], place: Visit, arrived: Path, refuse: Collection[str]
) -> list[str]:
    """Refuse an archive ``arrived`` of an input for a visit if it is of another visit or patient.

    Returns remarks about what is not refused. An archive of the visit that cannot be read has nothing to compare with.
    Raises :class:`~icf_utils.errors.InputRefused`.
    """
    name = f"{place.study}/{place.visit}"
    new, old = sample_study_uids(arrived), sample_study_uids(place.archive) | recorded_study_uids(place)
    others = _visits_with(new - old, place) if "shared-study" in refuse else []
    if others:
        advice = (
            "Check the input and --id. If the images are to be in both visits, or the other visit has wrong UIDs, use "
            "--allow shared-study."
        )
        raise InputRefused(input_path, [(name, f"{describe_sharing(others)}, and this visit has not")], advice)
    refuse_other_patient(input_path, place, arrived, refuse)
    return [_OTHER_UID] if old and new - old else []


def refuse_other_patient(
    input_path: str | os.PathLike[str], place: Visit, arrived: Path, refuse: Collection[str]
) -> None:
    """Refuse an archive that has a PatientID that the visit's archive has not.

    Raises :class:`~icf_utils.errors.InputRefused`.
    """
    if "several-patients" not in refuse:
        return
    old = sample_patients(place.archive)
    if old and sample_patients(arrived) - old:
        advice = "Check the input and --id. If the patient is the same, use --allow several-patients."
        raise InputRefused(input_path, [(f"{place.study}/{place.visit}", _OTHER_PATIENT)], advice)


def _visits_with(uids: frozenset[str], place: Visit) -> list[str]:
    """The other visits of the store whose first image has one of these StudyInstanceUIDs, sorted."""
    if not uids:
        return []
    studies = list_study_folders(place.root)
    visits = (Visit(place.root, study.study, name) for study in studies for name in study.visits())
    return [f"{visit.study}/{visit.visit}" for visit in visits if visit != place and recorded_study_uids(visit) & uids]
