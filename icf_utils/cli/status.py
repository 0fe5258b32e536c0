"""``icf-utils status``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_store, add_targets, targets_of
from icf_utils.cli.run import add_inputs, inputs_from
from icf_utils.formatting import format_table
from icf_utils.results import to_json_value

if TYPE_CHECKING:
    from icf_utils.pipeline.status import VisitStatus
    from icf_utils.processing.status import ProcessingStatus
    from icf_utils.store.layout import Visit

NAME = "status"
HELP = "show the progress of a store's visits"
DETAILS = """\
Counts for each study and stage, and for each processing, the visits that are done, running, queued (by
'run --slurm'), failed or not made, and says why visits failed. Uses file names
and the records of runs, and reads no deposit: 'run --dry-run' finds what is out
of date, 'verify' what is wrong."""
EXAMPLE = "icf-utils status -o /data/store --table visits.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_targets(parser, "all visits")
    add_store(parser)
    add_inputs(parser)
    parser.add_argument(
        "--fixity",
        action="store_true",
        help="show when visits were last verified ('verify --log'), and how many are unsigned",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.pipeline.status import count_states, store_status
    from icf_utils.pipeline.visit_table import collect_visits, select_visits
    from icf_utils.processing.settings import load_processings
    from icf_utils.processing.slurm import with_queue
    from icf_utils.processing.status import count_processings, processing_status
    from icf_utils.settings import load_settings
    from icf_utils.slurm.wait import add_queue_states
    from icf_utils.store.existing import refuse_no_store
    from icf_utils.store.layout import Visit

    store = Path(args.store_dir)
    refuse_no_store(store)
    table, pattern = inputs_from(args, store, load_settings(store).run)
    wanted = select_visits(collect_visits(store, table, pattern), targets_of(args))
    if args.fixity:
        return _show_fixity(args, console, [Visit(store, one.study, one.visit) for one in wanted])
    visits, problem = add_queue_states(store, store_status(store, wanted))
    if problem:
        console.message(problem)
    table_of_counts = count_states(visits)
    processings = with_queue(store, processing_status(store, visits, list(load_processings(store))))
    result = {
        "studies": _without_blanks(table_of_counts),
        "visits": to_json_value(visits),
        "processings": to_json_value(processings),
    }
    lines = [*_table(table_of_counts, count_processings(processings)), *_remarks(visits), *_problems(processings)]
    console.result(args.command, result, lines)
    return 0


def _show_fixity(args: argparse.Namespace, console: Console, visits: Sequence[Visit]) -> int:
    from icf_utils.verify.fixity import summarize_fixity

    found = summarize_fixity(visits)
    rows: list[tuple[str, ...]] = [("study", "visits", "not logged", "with problems", "unsigned", "oldest", "latest")]
    for one in found:
        counts = map(str, (one.visits, one.never, one.problems, one.unsigned))
        rows.append((one.study, *counts, one.oldest or "-", one.latest or "-"))
    console.result(args.command, {"studies": found}, format_table(rows, right=range(1, 5)) if found else ["no visits"])
    return 0


def _without_blanks(value: Mapping[str, object]) -> dict[str, object]:
    """The counts with names that every program can use as a key: ``not_made``."""
    return {
        name.replace(" ", "_"): _without_blanks(inner) if isinstance(inner, dict) else inner
        for name, inner in value.items()
    }


_Counts = Mapping[str, Mapping[str, Mapping[str, int]]]


def _table(studies: _Counts, processings: _Counts) -> list[str]:
    """The counts as the lines of a table: the stages of a study, then its processings."""
    if not studies:
        return ["no visits"]
    states = tuple(next(iter(next(iter(studies.values())).values())))
    rows = [("study", "stage", *states)]
    for study, stages in studies.items():
        rows += [(study, stage, *map(str, numbers.values())) for stage, numbers in stages.items()]
        rows += [
            (study, f"process {name}", *(str(numbers.get(state, 0)) for state in states))
            for name, numbers in processings.get(study, {}).items()
        ]
    return format_table(rows, right=range(2, len(rows[0])))


def _problems(processings: list[ProcessingStatus]) -> list[str]:
    lines = []
    for one in processings:
        if one.failure:
            lines.append(f"{one.study}/{one.visit}: process {one.processing} failed: {one.failure.message}")
        elif one.holder:
            lines.append(f"{one.study}/{one.visit}: process {one.processing} is run by {one.holder}")
    return lines


def _remarks(visits: list[VisitStatus]) -> list[str]:
    lines = []
    for visit in visits:
        for stage in visit.stages:
            if stage.failure:
                lines.append(f"{visit.study}/{visit.visit}: {stage.stage} failed: {stage.failure.message}")
            elif stage.holder:
                lines.append(f"{visit.study}/{visit.visit}: in use by {stage.holder}")
    return lines
