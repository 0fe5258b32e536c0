"""Find inputs of a run that name a visit as it was called before a rename or a merge. Reads histories and some headers.

A table that still has the old identifiers would archive the visit a second time. The old name may be used again for
another visit: after a rename, for one with another StudyInstanceUID; after a merge, for one with other images.
"""

from __future__ import annotations

from collections.abc import Sequence

from icf_utils.curation.successors import Successor, list_successors
from icf_utils.dicom.constants import SOP_INSTANCE_UID
from icf_utils.errors import DepositDamaged, DepositMissing, InputRefused
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.metadata.study_uids import recorded_study_uids
from icf_utils.pipeline.model import RunConfig, VisitInput, VisitPlan
from icf_utils.pipeline.shared_studies import is_new_visit
from icf_utils.sources.leave_out import LeftOut
from icf_utils.sources.study_samples import sample_study_uids, sample_uids

_ADVICE = (
    "Write the new identifiers into the table, or leave the visit out of it. To archive it under the old name all the "
    "same, use 'icf-utils make_studyvisit_archive'."
)


def refuse_renamed_visits(plans: Sequence[VisitPlan], config: RunConfig) -> list[tuple[VisitPlan, InputRefused]]:
    """The visits that have yet to be archived and were renamed or merged before, each with its error."""
    new = [plan for plan in plans if is_new_visit(plan.visit_input, config)]
    known = list_successors(config.root) if new else {}
    refused = []
    for plan in new:
        visit_input = plan.visit_input
        for successor in known.get((visit_input.study, visit_input.visit), []):
            if _may_be(visit_input, successor, config):
                refused.append((plan, _error(visit_input, successor)))
                break
    return refused


def _may_be(visit_input: VisitInput, successor: Successor, config: RunConfig) -> bool:
    """Whether the input may be that visit: their UIDs do not show that it is another one."""
    if visit_input.input is None:
        return False
    left_out = LeftOut.of(config.settings.archive.leave_out)
    if successor.is_merged:
        return not _recorded_images(successor).isdisjoint(sample_uids(visit_input.input, SOP_INSTANCE_UID, left_out))
    uids = sample_study_uids(visit_input.input, left_out)
    recorded = recorded_study_uids(successor.place)
    return not (uids and recorded) or not uids.isdisjoint(recorded)


def _recorded_images(successor: Successor) -> set[str]:
    """The SOPInstanceUIDs of a visit; empty without metadata."""
    try:
        return {image.uids.get("SOPInstanceUID", "") for image in read_visit_metadata(successor.place).images} - {""}
    except (DepositDamaged, DepositMissing):
        return set()


def _error(visit_input: VisitInput, successor: Successor) -> InputRefused:
    reason = f"{successor}; the store has its images under that name"
    return InputRefused(visit_input.input or "", [(visit_input.name, reason)], _ADVICE)
