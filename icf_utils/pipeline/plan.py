"""Which stages have to run, and why. Reads state, listings and, where these do not settle it, files; writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import shown
from icf_utils.pipeline.catalog_state import Shelf, look
from icf_utils.pipeline.fingerprints import Mark, Marker, SourceMark, changed_names, mark_source
from icf_utils.pipeline.model import Chain, Decision, VisitInput, VisitPlan
from icf_utils.pipeline.stages import STAGES, Stage, place_of
from icf_utils.pipeline.state import State, has_error, read_states
from icf_utils.store.layout import Study

_NAMED_AT_MOST = 3


@dataclass(frozen=True)
class Finding:
    """A decision; where nothing has to run, ``state`` is what should be remembered from now on."""

    decision: Decision
    state: State | None = None


class Judge:
    """Decides about one visit. Marks are kept from stage to stage, so that a file is read once at most.

    A ``quick`` judge reads no file: what looks different has to run, and may then turn out to be the same.
    """

    def __init__(self, wanted: VisitInput, chain: Chain, quick: bool = False) -> None:
        self.wanted, self.chain = wanted, chain
        self.place = place_of(wanted, chain)
        self.remembered = read_states(self.place)
        self.marker = Marker(self.place.of_study.folder, _known(self.remembered), chain.paranoid, quick)
        self._quick = quick
        self._inputs = {name: _names(STAGES[name].inputs(self.place)) for name in chain.stage_names}
        self._outputs = {name: _names(STAGES[name].outputs(self.place)) for name in chain.stage_names}

    def find(self, name: str, shelf: Shelf | None = None) -> Finding:
        """Decide about a stage; the catalog stage needs the study's ``shelf``."""
        stage, remembered = STAGES[name], self.remembered.get(name)
        reasons = self._plain_reasons(stage, remembered)
        if reasons or remembered is None:
            return Finding(Decision(name, tuple(reasons)))
        state = self.state_now(stage, shelf)
        reasons = [*_differences(remembered, state), *self._source_reasons(remembered.source, state.source)]
        if shelf is not None and not reasons and shelf.problem:
            reasons = [shelf.problem]
        return Finding(Decision(name, tuple(reasons)), None if reasons else state)

    def state_now(self, stage: Stage, shelf: Shelf | None = None, outputs: Sequence[str] = ()) -> State:
        """What there is to remember of a stage at this moment; ``outputs`` are those beyond the table's."""
        remembered = self.remembered.get(stage.name)
        more = outputs or (remembered.outputs if remembered else ())
        return State(
            version=stage.version,
            parameters=dict(stage.parameters(self.chain)),
            inputs=self.inputs_now(stage),
            outputs=self.marker.marks((*self._outputs[stage.name], *more)),
            facts=self._facts(shelf),
            source=self.source() if stage.name == "archive" else None,
        )

    def inputs_now(self, stage: Stage) -> dict[str, Mark]:
        """The marks of a stage's inputs, by name relative to the study's folder."""
        return self.marker.marks(self._inputs[stage.name])

    def source(self) -> SourceMark | None:
        """The input as it looks now; as it was remembered where a run names none."""
        if self.wanted.input is not None:
            return mark_source(self.wanted.input)
        remembered = self.remembered.get("archive")
        return remembered.source if remembered else None

    def archive_is_as_remembered(self) -> bool:
        """Whether the archive was made, or found right, from an input before, and has not changed since."""
        remembered = self.remembered.get("archive")
        if remembered is None or remembered.source is None:
            return False
        now = self.marker.mark(self.place.archive.name)
        then = remembered.outputs.get(self.place.archive.name)
        return now is not None and then is not None and now.digest == then.digest

    def _facts(self, shelf: Shelf | None) -> dict[str, str]:
        entry = shelf.entries.get(self.wanted.visit) if shelf else None
        return {"entry on the study's page": entry} if entry else {}

    def _plain_reasons(self, stage: Stage, remembered: State | None) -> list[str]:
        """What needs no look into the files."""
        outputs = self._outputs[stage.name]
        if needed := self._missing(self._inputs[stage.name]):
            return [f"after {self._maker(needed)}"]
        if missing := self._missing(outputs):
            return ["not made yet" if len(missing) == len(outputs) else f"output missing: {', '.join(missing)}"]
        if remembered is None:
            return ["no record of an earlier run" if outputs else "not made yet, or no record of an earlier run"]
        return self._wishes(stage)

    def _missing(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not self.marker.is_there(name)]

    def _maker(self, needed: Sequence[str]) -> str:
        """The last of the stages that make files of these names."""
        return [stage for stage, names in self._outputs.items() if not set(names).isdisjoint(needed)][-1]

    def _wishes(self, stage: Stage) -> list[str]:
        """What the user, or the last run, asks for. A judge who reads files comes to an opinion of its own instead."""
        if self.chain.again:
            return ["asked for (-B)"]
        if self._quick and has_error(self.place.of_study, self.wanted.visit, stage.name):
            return ["failed the last time"]
        return ["asked to trust nothing (--paranoid)"] if self._quick and self.chain.paranoid else []

    def _source_reasons(self, then: SourceMark | None, now: SourceMark | None) -> list[str]:
        source = self.wanted.input
        if source is None or now is None or (then == now and not self.chain.paranoid):
            return []
        if then is None:
            return ["the archive was not compared with this input yet"]
        if then.path != now.path:
            return [f"another input: {shown(now.path)}"]
        if then == now:
            return ["asked to trust nothing (--paranoid)"]
        return [_how_source_changed(source, then, now)]


def _how_source_changed(source: Path, then: SourceMark, now: SourceMark) -> str:
    names = [shown(name) for name in changed_names(source, then)]
    if names:
        more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
        return f"input changed or touched: {', '.join(names[:_NAMED_AT_MOST])}{more}"
    if now.files != then.files:
        return f"input changed: {then.files} files before, {now.files} now"
    return "input changed or touched"


def _differences(then: State, now: State) -> list[str]:
    """What is not as it was when the stage ran, in words."""
    found = [f"version {then.version} -> {now.version}"] if then.version != now.version else []
    for name, value in now.parameters.items():
        if then.parameters.get(name) != value:
            found.append(_changed_parameter(name, then.parameters.get(name, "none"), value))
    found += _changes("input", then.inputs, now.inputs)
    found += _changes("output", then.outputs, now.outputs)
    found += [f"not as it was: {name}" for name, digest in then.facts.items() if now.facts.get(name) != digest]
    return found


def _changed_parameter(name: str, then: str, now: str) -> str:
    return f"{name} changed" if name == "tags" else f"{name} '{shown(then)}' -> '{shown(now)}'"


def _changes(kind: str, then: Mapping[str, Mark], now: Mapping[str, Mark]) -> list[str]:
    found = [f"{kind} missing: {name}" for name in then if name not in now]
    for name, mark in now.items():
        if name not in then or then[name].digest != mark.digest:
            found.append(f"{kind} {'changed' if mark.digest else 'changed or touched'}: {name}")
    return found


def _names(paths: Iterable[Path]) -> tuple[str, ...]:
    """The stages' files lie in the study's folder itself."""
    return tuple(path.name for path in paths)


def _known(states: Mapping[str, State]) -> dict[str, Mark]:
    """Every mark that the visit's states hold, so that what one stage knows of a file serves the others."""
    known: dict[str, Mark] = {}
    for state in states.values():
        known.update(state.inputs)
        known.update(state.outputs)
    return known


def plan_visit(wanted: VisitInput, chain: Chain, shelf: Shelf | None) -> VisitPlan:
    """What a run would do about a visit; ``shelf`` is the study's, if the chain goes up to the catalog."""
    judge = Judge(wanted, chain, quick=True)
    findings = [judge.find(name, shelf if name == "catalog" else None) for name in chain.stage_names]
    return VisitPlan(wanted, tuple(finding.decision for finding in findings))


def make_plan(visits: Iterable[VisitInput], chain: Chain) -> list[VisitPlan]:
    """What a run would do about each visit, and why. Changes nothing, not even the state, and reads no large file."""
    shelves: dict[str, Shelf] = {}
    plans = []
    for wanted in visits:
        if "catalog" in chain.stage_names and wanted.study not in shelves:
            study = Study(chain.root, wanted.study)
            shelves[wanted.study] = look(study, chain.settings.catalog, chain.paranoid)
        plans.append(plan_visit(wanted, chain, shelves.get(wanted.study)))
    return plans
