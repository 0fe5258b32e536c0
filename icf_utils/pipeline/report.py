"""The report of a run: a page or JSON with everything that it did. Writes one file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from icf_utils.errors import storage_errors
from icf_utils.pipeline.model import RunHead, RunResult, StageOutcome
from icf_utils.pipeline.report_page import html_report
from icf_utils.results import to_json_value
from icf_utils.store.files import replace_file


@dataclass(frozen=True)
class RunProcessings:
    """What the processings at the end of a run did: outcomes by the name of the visit, and the value for JSON."""

    outcomes: Mapping[str, Sequence[StageOutcome]] = field(default_factory=dict)
    value: Any = None


#: A run that ended without processings.
NO_PROCESSINGS = RunProcessings()


def write_report(path: Path, result: RunResult, head: RunHead, processings: RunProcessings = NO_PROCESSINGS) -> None:
    """Write the report as HTML, or as JSON if the name ends in ``.json``. Raises ``StorageFailure``."""
    if path.suffix == ".json":
        write_text(path, json_report(result, head, processings))
    else:
        write_text(path, html_report(_with_processings(result, processings), head))


def _with_processings(result: RunResult, processings: RunProcessings) -> RunResult:
    """The result in which the processings of a visit follow its stages."""
    visits = (
        replace(visit, stages=(*visit.stages, *processings.outcomes.get(visit.name, ()))) for visit in result.visits
    )
    return RunResult(tuple(visits), result.seconds, result.store_notices)


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step; write into what is not a file, such as ``/dev/stdout``."""
    with storage_errors(path, "write"):
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
        else:
            replace_file(path.resolve(), text.encode("utf-8"), durable=False)


def json_report(result: RunResult, head: RunHead, processings: RunProcessings = NO_PROCESSINGS) -> str:
    """The whole result as JSON, with sizes in bytes and times in seconds."""
    value = to_json_value(result)
    assert isinstance(value, dict)
    after = {} if processings.value is None else {"processings": processings.value}
    return json.dumps({"run": to_json_value(head), **value, **after}, ensure_ascii=True, indent=1) + "\n"
