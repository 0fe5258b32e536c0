"""What a run did, as one page for people (HTML, complete in itself) or for scripts (JSON). Writes one file."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path

from icf_utils.errors import shown, storage_errors
from icf_utils.pipeline.values import RunResult, StageOutcome, VisitOutcome
from icf_utils.results import plain

_STYLE = """\
body { font: 15px/1.45 sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem; border-bottom: 1px solid #ddd; }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.failed { color: #b71c1c; font-weight: bold; } .done { color: #1b5e20; } .idle { color: #616161; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: 13px; }
"""

_CLASSES = {"failed": "failed", "done": "done"}


def write_report(path: Path, result: RunResult) -> None:
    """Write the report: HTML, or JSON for a name that ends in ``.json``. Raises ``StorageFailure``."""
    text = json_report(result) if path.suffix == ".json" else html_report(result)
    with storage_errors(path, "write"):
        path.write_text(text, encoding="utf-8")


def json_report(result: RunResult) -> str:
    """Everything, with sizes in bytes and times in seconds."""
    return json.dumps(plain(result), ensure_ascii=True, indent=1) + "\n"


def html_report(result: RunResult) -> str:
    """A page without scripts that needs nothing from elsewhere."""
    counts = ", ".join(f"{number} {state}" for state, number in result.counts.items())
    rows = "\n".join(row for visit in result.visits for row in _rows(visit))
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>icf-utils run</title>
<style>
{_STYLE}</style>
</head>
<body>
<h1>icf-utils run</h1>
<p>{len(result.visits)} visits: {counts}. It took {result.seconds:.1f} s.</p>
{_failures(result)}<table>
<thead><tr><th>Visit</th><th>Stage</th><th>State</th><th>Why</th><th>Seconds</th><th>Bytes</th><th>Notices</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""


def _failures(result: RunResult) -> str:
    items = [_failure(visit.name, stage) for visit in result.failed if (stage := visit.failed)]
    return "<h2>Failed</h2>\n<dl>\n" + "\n".join(items) + "\n</dl>\n" if items else ""


def _failure(name: str, stage: StageOutcome) -> str:
    message = stage.failure.message if stage.failure else ""
    return f"<dt>{_text(name)}: {stage.stage}</dt><dd><pre>{_text(message, True)}</pre></dd>"


def _rows(visit: VisitOutcome) -> Iterator[str]:
    for number, stage in enumerate(visit.stages):
        name = _text(visit.name) if number == 0 else ""
        cells = [name, stage.stage, _state(stage), "; ".join(map(_text, stage.reasons))]
        numbers = [f"{stage.seconds:.2f}" if stage.seconds else "", f"{stage.size:,}" if stage.size else ""]
        yield "<tr>{}{}<td>{}</td></tr>".format(
            "".join(f"<td>{cell}</td>" for cell in cells),
            "".join(f'<td class="number">{cell}</td>' for cell in numbers),
            "<br>".join(_notices(stage)),
        )


def _state(stage: StageOutcome) -> str:
    return f'<span class="{_CLASSES.get(stage.state, "idle")}">{stage.state}</span>'


def _notices(stage: StageOutcome) -> Iterator[str]:
    for notice in stage.notices:
        yield _text(f"{notice.code}: {notice.subject}: {notice.message}")
    if stage.skipped:
        yield f"{len(stage.skipped)} files without a record"


def _text(text: str, keep_lines: bool = False) -> str:
    """Text for the page, whatever is in it."""
    lines = text.split("\n") if keep_lines else [text]
    return "\n".join(html.escape(shown(line).replace("\\\\", "\\")) for line in lines)
