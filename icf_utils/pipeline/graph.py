"""A picture of visits and stages: a row for each visit, a column for each stage, coloured by the stage's state.

As SVG or as mermaid text. Writes one file.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import printable
from icf_utils.pipeline.model import RunResult, VisitPlan
from icf_utils.pipeline.report import write_text

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
    write_text(path, text)


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
