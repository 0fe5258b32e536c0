"""All visits that a run may work on: those that a table or pattern names, and those in the store. Reads both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from icf_utils.errors import InvalidSetting, shown
from icf_utils.pipeline.table import expand_pattern, read_table
from icf_utils.pipeline.values import VisitInput
from icf_utils.store import stored_studies


def gather(store: Path, table: Path | None = None, pattern: str = "") -> list[VisitInput]:
    """The visits, sorted by study and visit; those of the store that nothing else names have no input.

    Raises :class:`~icf_utils.errors.TableRefused` with everything that is wrong with the table or pattern.
    """
    named = read_table(table, store) if table else expand_pattern(pattern, store) if pattern else []
    known = {(wanted.study, wanted.visit): wanted for wanted in named}
    for study in stored_studies(store):
        for visit in study.visits():
            known.setdefault((study.study, visit), VisitInput(study.study, visit))
    return [known[key] for key in sorted(known)]


def select(visits: Sequence[VisitInput], targets: Sequence[str]) -> list[VisitInput]:
    """The visits that targets (``STUDY`` or ``STUDY/VISIT``) name; all where there are none.

    Raises :class:`~icf_utils.errors.InvalidSetting` with every target that names nothing.
    """
    if not targets:
        return list(visits)
    wanted = {target.rstrip("/") for target in targets}
    known = {visit.study for visit in visits} | {visit.name for visit in visits}
    if unknown := sorted(wanted - known):
        names = ", ".join(f"'{shown(name)}'" for name in unknown)
        raise InvalidSetting("TARGET", f"no visit is named {names}, neither by an input nor in the store")
    return [visit for visit in visits if visit.study in wanted or visit.name in wanted]
