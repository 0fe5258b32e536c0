"""Which stages have to run, and why. Reads records, folders and, where these are not enough, files; writes nothing.

A stage has to run if it has no record, or if its version, its parameters or the content of its inputs or outputs differ
from the record. A planner that reads no file (``quick``) may decide that a stage has to run because a file looks
different; the run reads the file and may then find it unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from icf_utils.errors import printable
from icf_utils.formatting import format_count
from icf_utils.pipeline.catalog_state import CatalogState, read_catalog_state
from icf_utils.pipeline.fingerprints import (
    Fingerprint,
    Fingerprinter,
    SourceFingerprint,
    changed_files,
    fingerprint_source,
)
from icf_utils.pipeline.model import RunConfig, StageDecision, VisitInput, VisitPlan
from icf_utils.pipeline.stages import STAGES, Stage, stored_visit
from icf_utils.pipeline.state import StageRecord, has_error, read_records
from icf_utils.settings import Settings
from icf_utils.sources.leave_out import LeftOut
from icf_utils.store.elsewhere import find_elsewhere
from icf_utils.store.layout import Study, Visit

_NAMED_AT_MOST = 3


class Planner:
    """Decides for one visit which stages have to run. Reads each file at most once, and none if ``quick``."""

    def __init__(self, visit_input: VisitInput, config: RunConfig, quick: bool = False) -> None:
        self.visit_input, self.config = visit_input, config
        self.place = stored_visit(visit_input, config)
        self.recorded = read_records(self.place)
        self.fingerprinter = Fingerprinter(self.place.of_study.folder, _known(self.recorded), config.paranoid, quick)
        self._quick = quick
        self._inputs = {name: _names(STAGES[name].inputs(self.place)) for name in config.stage_names}
        self._outputs = {name: _names(STAGES[name].outputs(self.place)) for name in config.stage_names}
        self._is_elsewhere = is_indexed(self.place, config.settings)
        if self._is_elsewhere:
            absent = {self.place.archive.name, self.place.checksum.name}
            self._inputs = {name: tuple(n for n in names if n not in absent) for name, names in self._inputs.items()}

    def decide(self, name: str, catalog_state: CatalogState | None = None) -> tuple[StageDecision, StageRecord | None]:
        """Decide whether a stage has to run; for a stage that is up to date, also return its current record.

        The catalog stage needs the state of the study's catalog.
        """
        stage, recorded = STAGES[name], self.recorded.get(name)
        if self._is_elsewhere:
            if name in ("archive", "metadata"):  # neither can be made from an archive that is not here
                return StageDecision(name, ()), recorded or self.current_record(stage)
            recorded = recorded and replace(recorded, inputs=_only(recorded.inputs, self._inputs[name]))
        reasons = self._reasons_without_reading(stage, recorded)
        if reasons or recorded is None:
            return StageDecision(name, tuple(reasons)), None
        record = self.current_record(stage, catalog_state)
        reasons = [*_differences(recorded, record), *self._source_reasons(recorded.source, record.source)]
        if catalog_state is not None and not reasons and catalog_state.problem:
            reasons = [catalog_state.problem]
        return StageDecision(name, tuple(reasons)), None if reasons else record

    def current_record(
        self, stage: Stage, catalog_state: CatalogState | None = None, outputs: Sequence[str] = ()
    ) -> StageRecord:
        """The record of a stage as of now; ``outputs`` are those beyond the table's."""
        recorded = self.recorded.get(stage.name)
        more = outputs or (recorded.outputs if recorded else ())
        return StageRecord(
            version=stage.version,
            parameters=dict(stage.parameters(self.config)),
            inputs=self.current_inputs(stage),
            outputs=self.fingerprinter.fingerprints((*self._outputs[stage.name], *more)),
            facts=self._facts(catalog_state),
            source=self.source() if stage.name == "archive" else None,
        )

    def current_inputs(self, stage: Stage) -> dict[str, Fingerprint]:
        """The fingerprints of a stage's inputs, by name relative to the study's folder."""
        return self.fingerprinter.fingerprints(self._inputs[stage.name])

    def source(self) -> SourceFingerprint | None:
        """The input as it looks now, or as recorded if the run names none."""
        if self.visit_input.input is not None:
            return fingerprint_source(self.visit_input.input, LeftOut.of(self.config.settings.archive.leave_out))
        recorded = self.recorded.get("archive")
        return recorded.source if recorded else None

    def is_archive_unchanged(self) -> bool:
        """Whether the archive was made from, or compared with, an input before and has not changed since."""
        recorded = self.recorded.get("archive")
        if recorded is None or recorded.source is None:
            return False
        now = self.fingerprinter.fingerprint(self.place.archive.name)
        then = recorded.outputs.get(self.place.archive.name)
        return now is not None and then is not None and now.digest == then.digest

    def _facts(self, catalog_state: CatalogState | None) -> dict[str, str]:
        entry = catalog_state.entries.get(self.visit_input.visit) if catalog_state else None
        return {"entry on the study's page": entry} if entry else {}

    def _reasons_without_reading(self, stage: Stage, recorded: StageRecord | None) -> list[str]:
        """Reasons that need no file's content."""
        outputs = self._outputs[stage.name]
        if needed := self._missing(self._inputs[stage.name]):
            return [f"after {self._maker(needed)}"]
        if missing := self._missing(outputs):
            return ["not made yet" if len(missing) == len(outputs) else f"output missing: {', '.join(missing)}"]
        if recorded is None:
            return ["no record of an earlier run" if outputs else "not made yet, or no record of an earlier run"]
        return self._requested_reasons(stage)

    def _missing(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not self.fingerprinter.exists(name)]

    def _maker(self, needed: Sequence[str]) -> str:
        """The last of the stages that make the needed files."""
        return [stage for stage, names in self._outputs.items() if not set(names).isdisjoint(needed)][-1]

    def _requested_reasons(self, stage: Stage) -> list[str]:
        """Reasons that the user or the last run give. A planner that reads files judges for itself in their place."""
        if self.config.always_make:
            return ["requested (-B)"]
        if self._quick and has_error(self.place.of_study, self.visit_input.visit, stage.name):
            return ["failed in the last run"]
        return ["requested (--paranoid)"] if self._quick and self.config.paranoid else []

    def _source_reasons(self, then: SourceFingerprint | None, now: SourceFingerprint | None) -> list[str]:
        source = self.visit_input.input
        if source is None or now is None or (then == now and not self.config.paranoid):
            return []
        if then is None:
            return ["the archive has not been compared with this input yet"]
        if then.path != now.path:
            return [f"different input: {printable(now.path)}"]
        if then == now:
            return ["requested (--paranoid)"]
        return [_how_source_changed(source, then, now)]


def _how_source_changed(source: Path, then: SourceFingerprint, now: SourceFingerprint) -> str:
    names = [printable(name) for name in changed_files(source, then)]
    if names:
        more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
        return f"input changed or touched: {', '.join(names[:_NAMED_AT_MOST])}{more}"
    if now.files != then.files:
        return f"input changed: {format_count(then.files, 'file')} before, {now.files} now"
    return "input changed or touched"


def _differences(then: StageRecord, now: StageRecord) -> list[str]:
    """What differs from the time when the stage ran, in words."""
    found = [f"version {then.version} -> {now.version}"] if then.version != now.version else []
    for name, value in now.parameters.items():
        if then.parameters.get(name) != value:
            found.append(_changed_parameter(name, then.parameters.get(name, "none"), value))
    found += _changes("input", then.inputs, now.inputs)
    found += _changes("output", then.outputs, now.outputs)
    found += [f"changed: {name}" for name, digest in then.facts.items() if now.facts.get(name) != digest]
    return found


def _changed_parameter(name: str, then: str, now: str) -> str:
    return f"{name} changed" if name == "tags" else f"{name} '{printable(then)}' -> '{printable(now)}'"


def _changes(kind: str, then: Mapping[str, Fingerprint], now: Mapping[str, Fingerprint]) -> list[str]:
    found = [f"{kind} missing: {name}" for name in then if name not in now]
    for name, fingerprint in now.items():
        if name not in then or then[name].digest != fingerprint.digest:
            found.append(f"{kind} {'changed' if fingerprint.digest else 'changed or touched'}: {name}")
    return found


def is_indexed(place: Visit, settings: Settings) -> bool:
    """Whether the store has the metadata of a visit whose archive is in another store."""
    is_described = place.dicoms_json.exists() and place.tarball_json.exists()
    return is_described and bool(find_elsewhere(place, settings))


def _only(inputs: Mapping[str, Fingerprint], names: Sequence[str]) -> dict[str, Fingerprint]:
    return {name: fingerprint for name, fingerprint in inputs.items() if name in names}


def _names(paths: Iterable[Path]) -> tuple[str, ...]:
    """The names of files that are in the study's folder itself."""
    return tuple(path.name for path in paths)


def _known(states: Mapping[str, StageRecord]) -> dict[str, Fingerprint]:
    """All fingerprints in a visit's records, so that what one stage recorded of a file serves the others."""
    known: dict[str, Fingerprint] = {}
    for record in states.values():
        known.update(record.inputs)
        known.update(record.outputs)
    return known


def plan_visit(visit_input: VisitInput, config: RunConfig, catalog_state: CatalogState | None) -> VisitPlan:
    """What a run would do for a visit; ``catalog_state`` is the study's, if the run includes the catalog."""
    planner = Planner(visit_input, config, quick=True)
    decisions = [planner.decide(name, catalog_state if name == "catalog" else None)[0] for name in config.stage_names]
    return VisitPlan(visit_input, tuple(decisions))


def make_plan(visits: Iterable[VisitInput], config: RunConfig) -> list[VisitPlan]:
    """What a run would do for each visit, and why. Writes nothing, not even records, and reads no large file."""
    catalog_states: dict[str, CatalogState] = {}
    plans = []
    for visit_input in visits:
        if "catalog" in config.stage_names and visit_input.study not in catalog_states:
            study = Study(config.root, visit_input.study)
            catalog_states[visit_input.study] = read_catalog_state(study, config.settings.catalog, config.paranoid)
        plans.append(plan_visit(visit_input, config, catalog_states.get(visit_input.study)))
    return plans
