"""Reports of a run: a page or JSON with everything it did, and a picture of visits and stages. Writes one file each.

The page is self-contained HTML without scripts. The picture has a row for each visit and a column for each stage,
coloured by the stage's state, as SVG or as mermaid text.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import printable, storage_errors
from icf_utils.formatting import format_count
from icf_utils.pipeline.model import RunResult, StageOutcome, VisitOutcome, VisitPlan
from icf_utils.results import to_json_value
from icf_utils.store.files import replace_file

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
    """Write the report as HTML, or as JSON if the name ends in ``.json``. Raises ``StorageFailure``."""
    text = json_report(result) if path.suffix == ".json" else html_report(result)
    _write_text(path, text)


def _write_text(path: Path, text: str) -> None:
    """Replace a file in one step; write into what is not a file, such as ``/dev/stdout``."""
    with storage_errors(path, "write"):
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
        else:
            replace_file(path.resolve(), text.encode("utf-8"), durable=False)


def json_report(result: RunResult) -> str:
    """The whole result as JSON, with sizes in bytes and times in seconds."""
    return json.dumps(to_json_value(result), ensure_ascii=True, indent=1) + "\n"


def html_report(result: RunResult) -> str:
    """The result as an HTML page that loads nothing."""
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
<p>{format_count(len(result.visits), "visit")}: {counts}. Finished in {result.seconds:.1f} s.</p>
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
        yield f"{format_count(len(stage.skipped), 'file')} without a record"


def _text(text: str, keep_lines: bool = False) -> str:
    """Escape any text for the page."""
    lines = text.split("\n") if keep_lines else [text]
    return "\n".join(html.escape(printable(line).replace("\\\\", "\\")) for line in lines)


#: How each state is drawn: a colour, and a word for readers who do not see colours.
_LOOKS = {
    "done": ("#2e7d32", "made"),
    "up to date": ("#a5d6a7", "ok"),
    "to do": ("#90caf9", "to do"),
    "failed": ("#c62828", "failed"),
    "not reached": ("#e0e0e0", "-"),
}
_LIGHT = ("up to date", "to do", "not reached")
_ROW, _COLUMN, _TOP, _GAP = 26, 110, 40, 26


@dataclass(frozen=True)
class GraphCell:
    """One stage of one visit; ``note`` says why it has its state."""

    visit: str
    stage: str
    state: str
    note: str = ""


def plan_cells(plans: Sequence[VisitPlan]) -> list[GraphCell]:
    """The cells of a dry run."""
    return [
        GraphCell(plan.visit_input.name, item.stage, "to do" if item.runs else "up to date", "; ".join(item.reasons))
        for plan in plans
        for item in plan.decisions
    ]


def outcome_cells(result: RunResult) -> list[GraphCell]:
    """The cells of a run."""
    return [
        GraphCell(
            visit.name, stage.stage, stage.state, stage.failure.message if stage.failure else "; ".join(stage.reasons)
        )
        for visit in result.visits
        for stage in visit.stages
    ]


def write_graph(path: Path, cells: Sequence[GraphCell], stages: Sequence[str]) -> None:
    """Write the picture as SVG, or as mermaid text if the name ends in ``.mmd``. Raises ``StorageFailure``."""
    text = mermaid_graph(cells) if path.suffix == ".mmd" else svg_graph(cells, stages)
    _write_text(path, text)


def svg_graph(cells: Sequence[GraphCell], stages: Sequence[str]) -> str:
    """Draw the picture as SVG."""
    visits = list(dict.fromkeys(cell.visit for cell in cells))
    left = 24 + 8 * max((len(visit) for visit in visits), default=0)
    width, height = left + _COLUMN * len(stages) + 8, _TOP + _ROW * len(visits) + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="13" role="img" aria-label="The stages of each visit">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    columns = {stage: left + _COLUMN * number for number, stage in enumerate(stages)}
    lines += [f'<text x="{x + 4}" y="{_TOP - 14}" fill="#222222">{stage}</text>' for stage, x in columns.items()]
    rows = {visit: _TOP + _ROW * number for number, visit in enumerate(visits)}
    for visit, y in rows.items():
        name = html.escape(printable(visit))
        lines.append(f'<text x="{left - 12}" y="{y + 16}" text-anchor="end" fill="#222222">{name}</text>')
    lines += [_box(cell, columns[cell.stage], rows[cell.visit], cell.stage == stages[-1]) for cell in cells]
    return "\n".join([*lines, "</svg>", ""])


def _box(cell: GraphCell, x: int, y: int, is_last: bool) -> str:
    colour, mark = _LOOKS[cell.state]
    ink = "#222222" if cell.state in _LIGHT else "#ffffff"
    width = _COLUMN - _GAP
    title = html.escape(printable(f"{cell.visit} {cell.stage}: {cell.state}{'; ' if cell.note else ''}{cell.note}"))
    arrow = (
        ""
        if is_last
        else (f'<path d="M{x + width + 3} {y + 11}h{_GAP - 9}m-5 -4l5 4l-5 4" fill="none" stroke="#888888"/>')
    )
    return (
        f'<g><title>{title}</title><rect x="{x}" y="{y}" width="{width}" height="{_ROW - 4}" rx="4" fill="{colour}"/>'
        f'<text x="{x + width // 2}" y="{y + 15}" text-anchor="middle" font-size="11" fill="{ink}">{mark}</text>'
        f"{arrow}</g>"
    )


def mermaid_graph(cells: Sequence[GraphCell]) -> str:
    """Write the picture as text in mermaid's language."""
    lines = ["flowchart LR"]
    lines += [f"  classDef {_word(state)} fill:{colour},color:{_ink(state)}" for state, (colour, _) in _LOOKS.items()]
    numbers = {visit: number for number, visit in enumerate(dict.fromkeys(cell.visit for cell in cells))}
    before: GraphCell | None = None
    for cell in cells:
        node = f"v{numbers[cell.visit]}_{cell.stage}"
        label = f"{cell.visit}<br/>{cell.stage}: {cell.state}"
        arrow = f"v{numbers[before.visit]}_{before.stage} --> " if before and before.visit == cell.visit else ""
        lines.append(f'  {arrow}{node}["{label}"]:::{_word(cell.state)}')
        before = cell
    return "\n".join([*lines, ""])


def _word(state: str) -> str:
    return re.sub(r"\W", "_", state)


def _ink(state: str) -> str:
    return "#222222" if state in _LIGHT else "#ffffff"
