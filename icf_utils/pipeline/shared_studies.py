"""Find visits of a run that share a DICOM study, before anything is archived. Reads some headers and records.

Only the visits of one research study are compared with each other: those that have yet to be archived, by the first
image of each of their folders, and those that are in the store, by all images of their metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from icf_utils.errors import InputRefused
from icf_utils.metadata.study_uids import describe_sharing, recorded_study_uids
from icf_utils.pipeline.model import RunConfig, VisitInput, VisitPlan
from icf_utils.pipeline.stages import stored_visit
from icf_utils.progress import Progress
from icf_utils.sources.leave_out import LeftOut
from icf_utils.sources.study_samples import find_shared_studies, sample_study_uids
from icf_utils.store.layout import Study, Visit


def refuse_shared_studies(
    plans: Iterable[VisitPlan], config: RunConfig, progress: Progress
) -> list[tuple[VisitPlan, InputRefused]]:
    """The visits that have yet to be archived and share a StudyInstanceUID with another one, each with its error."""
    todo = {plan.visit_input.name: plan for plan in plans if is_new_visit(plan.visit_input, config)}
    leave_out = LeftOut.of(config.settings.archive.leave_out)
    samples: dict[str, dict[str, frozenset[str]]] = {}
    with progress.task("looking for shared studies", len(todo), "visit") as task:
        for name, plan in todo.items():
            source = plan.visit_input.input
            of_study = samples.setdefault(plan.visit_input.study, {})
            of_study[name] = sample_study_uids(source, leave_out) if source else frozenset()
            task.advance(1)
    refused = []
    for study, of_study in samples.items():
        shared = find_shared_studies({**_stored(Study(config.root, study), of_study), **of_study})
        new = {name: others for name, others in shared.items() if name in todo}
        refused += [(todo[name], _error(todo[name].visit_input, others)) for name, others in new.items()]
    return refused


def is_new_visit(visit_input: VisitInput, config: RunConfig) -> bool:
    """Whether a run has to archive a visit, from an input that it names."""
    return visit_input.input is not None and not stored_visit(visit_input, config).archive.exists()


def _stored(study: Study, new: Iterable[str]) -> dict[str, frozenset[str]]:
    """The StudyInstanceUIDs of each visit of a study in the store."""
    known = set(new)
    visits = {f"{study.study}/{name}": Visit(study.root, study.study, name) for name in study.visits()}
    return {name: recorded_study_uids(visit) for name, visit in visits.items() if name not in known}


def _error(visit_input: VisitInput, others: Sequence[str]) -> InputRefused:
    advice = (
        "One visit may have been taken for several: check the levels of the tree, or the pattern or table. If they are "
        "visits of their own, archive them with --allow shared-study."
    )
    return InputRefused(visit_input.input or "", [(visit_input.name, describe_sharing(others))], advice)
