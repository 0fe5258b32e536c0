"""The report of a run as a page: one HTML file that loads nothing, with failures first and one row for each visit.

Reads the style and the script of the page from the package, nothing else. Without scripts, the page lacks only the text
field of its filter. UIDs are left out, since such a page is shown around; the JSON report has every name in full.
"""

from __future__ import annotations

import html
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from icf_utils.catalog.privacy import remove_uids
from icf_utils.durations import format_seconds
from icf_utils.errors import printable
from icf_utils.formatting import format_count, format_size
from icf_utils.page_style import shared_style
from icf_utils.pipeline.model import RunHead, RunResult, StageOutcome, VisitOutcome, visit_state
from icf_utils.results import Notice


@dataclass(frozen=True)
class _Kind:
    """A kind of visits: its class in the page, its label, and the class of the label's colour."""

    name: str
    label: str
    colour: str = ""


#: The kinds of visits, in the order in which they are listed.
_KINDS = (
    _Kind("failed", "failed", "failed"),
    _Kind("waiting", "not settled", "partial"),
    _Kind("open", "not reached"),
    _Kind("made", "made", "success"),
    _Kind("same", "up to date"),
)
#: The last class of a bar's colours: stages have the first four, processings the others.
_COLOURS = 7
_BY_STATE = {"failed": "failed", "not reached": "open", "done": "made", "up to date": "same"}
_STATE_LABELS = {"done": ("made", "success"), "failed": ("failed", "failed")}


def html_report(result: RunResult, head: RunHead) -> str:
    """The result as an HTML page."""
    style = shared_style() + _read("report.css")
    visits = sorted(result.visits, key=lambda visit: [kind.name for kind in _KINDS].index(_kind(visit).name))
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Run of {_text(_day(head.began))}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<header><span class="home">icf-utils run</span><span class="clock">{_moment(head.began)}</span></header>
<main>
<h1>{_summary(result)}</h1>
{_facts(result, head)}
{_times(result)}
<h2>Visits</h2>
{_warnings(result)}
{_choices(result)}
<div class="visits">
{"".join(_visit(visit) for visit in visits)}</div>
</main>
<script>
{_read("report.js")}</script>
</body>
</html>
"""


def _read(name: str) -> str:
    return (files(__package__) / "web" / name).read_text(encoding="utf-8")


def _kind(visit: VisitOutcome) -> _Kind:
    name = "waiting" if visit.is_unsettled else _BY_STATE[visit_state(visit)]
    return next(kind for kind in _KINDS if kind.name == name)


def _counts(result: RunResult) -> dict[str, int]:
    found = {kind.name: 0 for kind in _KINDS}
    for visit in result.visits:
        found[_kind(visit).name] += 1
    return found


def _summary(result: RunResult) -> str:
    counts = _counts(result)
    words = [f"{counts[kind.name]} {kind.label}" for kind in _KINDS if counts[kind.name]]
    return f"{format_count(len(result.visits), 'visit')}: {', '.join(words)}"


def _facts(result: RunResult, head: RunHead) -> str:
    facts = {
        "Started": _moment(head.began),
        "Took": format_seconds(result.seconds),
        "Store": _text(head.store),
        "icf-utils": _text(head.version),
        "Command": f"<code>{_text(head.command)}</code>",
    }
    items = "".join(
        f"<div{' class=wide' if name == 'Command' else ''}><dt>{name}</dt><dd>{text}</dd></div>\n"
        for name, text in facts.items()
    )
    return f"<dl>\n{items}</dl>"


def _times(result: RunResult) -> str:
    """How long each stage and processing took, summed over the visits: a bar, and the same in words."""
    seconds: dict[str, float] = defaultdict(float)
    for visit in result.visits:
        for stage in visit.stages:
            if stage.state in ("done", "failed"):
                seconds[stage.stage] += stage.seconds
    total = sum(seconds.values())
    if not total:
        return ""
    bars, x = "", 0.0
    for at, name in enumerate(seconds):
        width = 1000 * seconds[name] / total
        bars += f'<rect class="s{min(at, _COLOURS)}" x="{x:.1f}" width="{width:.1f}" height="10"/>'
        x += width
    items = "".join(
        f'<li><i class="s{min(at, _COLOURS)}"></i>{name} <b>{format_seconds(seconds[name])}</b></li>\n'
        for at, name in enumerate(seconds)
    )
    return f"""<h2>Time by stage</h2>
<div class="card times">
<svg aria-hidden="true" viewBox="0 0 1000 10" preserveAspectRatio="none">{bars}</svg>
<ul>
{items}<li class="empty">summed over the visits, several of which can run at the same time</li>
</ul>
</div>"""


@dataclass(frozen=True)
class _Place:
    """Where a notice applies: a visit and a file or value."""

    visit: str
    subject: str


def _warnings(result: RunResult) -> str:
    """The notices of all visits, those with the same text together."""
    groups: dict[tuple[str, str], list[_Place]] = defaultdict(list)
    for visit in result.visits:
        for stage in visit.stages:
            for notice in (*stage.notices, *stage.skipped):
                groups[notice.code, notice.message].append(_Place(visit.name, notice.subject))
    if not groups:
        return ""
    items = "".join(_group(code, message, places) for (code, message), places in sorted(groups.items()))
    number = format_count(sum(map(len, groups.values())), "notice")
    return f'<details class="card notices"><summary><h2>{number}</h2></summary>\n{items}</details>'


def _group(code: str, message: str, places: Sequence[_Place]) -> str:
    visits = len({place.visit for place in places})
    where = "".join(f"<li>{_text(place.visit)}: {_text(place.subject)}</li>\n" for place in places)
    return (
        f'<details class="card"><summary><span class="state partial">{_text(code)}</span> {_text(message)} '
        f'<span class="empty">{len(places)} in {format_count(visits, "visit")}</span></summary>\n'
        f'<ul class="places">\n{where}</ul></details>\n'
    )


def _choices(result: RunResult) -> str:
    """The filter: which visits are listed. Radio buttons without a script, followed by a field for words."""
    counts = _counts(result)
    noted = sum(_has_notices(visit) for visit in result.visits)
    kinds = [_Kind("all", "all"), *(kind for kind in _KINDS if counts[kind.name])]
    kinds += [_Kind("noted", "with notices", "partial")] if noted else []
    numbers = {**counts, "all": len(result.visits), "noted": noted}
    radios = "".join(
        f'<input type="radio" class="show" name="show" id="show-{kind.name}" aria-label="Show {kind.label}"'
        f"{' checked' if kind.name == 'all' else ''}>"
        for kind in kinds
    )
    labels = "".join(
        f'<label class="chip {kind.colour}" for="show-{kind.name}">{kind.label} <b>{numbers[kind.name]}</b></label>\n'
        for kind in kinds
    )
    return (
        f'{radios}\n<div class="chips">\n{labels}'
        '<label class="words" hidden>Filter <input type="search" placeholder="visit, stage, message"></label>\n'
        '<span class="count empty" role="status"></span></div>'
    )


def _has_notices(visit: VisitOutcome) -> bool:
    return any(stage.notices or stage.skipped for stage in visit.stages)


def _visit(visit: VisitOutcome) -> str:
    kind = _kind(visit)
    classes = f"card visit is-{kind.name}{' is-noted' if _has_notices(visit) else ''}"
    size = sum(stage.size for stage in visit.stages if stage.state == "done")
    seconds = sum(stage.seconds for stage in visit.stages)
    return f"""<details class="{classes}">
<summary><span><span class="state {kind.colour}">{kind.label}</span></span> <b>{_text(visit.name)}</b> \
<span class="what">{_what(visit)}</span> <span class="number">{format_seconds(seconds) if seconds else ""}</span> \
<span class="number">{format_size(size) if size else ""}</span></summary>
{_failure(visit)}<table>
<thead><tr><th scope="col">Stage</th><th scope="col">State</th><th scope="col">Why</th>\
<th scope="col" class="number">Time</th><th scope="col" class="number">Size</th></tr></thead>
<tbody>
{"".join(_stage(stage) for stage in visit.stages)}</tbody>
</table>
{_notices([notice for stage in visit.stages for notice in (*stage.notices, *stage.skipped)])}</details>
"""


def _what(visit: VisitOutcome) -> str:
    """A visit's outcome in a few words."""
    if visit.failed:
        message = visit.failed.failure.message if visit.failed.failure else ""
        first, _, rest = message.partition("\n")
        return f"{visit.failed.stage}: {_text(first)}{' …' if rest else ''}"
    done = [stage.stage for stage in visit.stages if stage.state == "done"]
    notices = sum(len(stage.notices) + len(stage.skipped) for stage in visit.stages)
    return ", ".join([*done, *([format_count(notices, "notice")] if notices else [])])


def _failure(visit: VisitOutcome) -> str:
    """The whole message of a failure, if it has several lines."""
    failure = visit.failed.failure if visit.failed else None
    if failure is None or "\n" not in failure.message:
        return ""
    return f"<pre>{_lines(failure.message)}</pre>\n"


def _stage(stage: StageOutcome) -> str:
    label, colour = _STATE_LABELS.get(stage.state, (stage.state, ""))
    return (
        f'<tr><th scope="row">{stage.stage}</th><td><span class="state {colour}">{label}</span></td>'
        f"<td>{'; '.join(map(_text, stage.reasons))}</td>"
        f'<td class="number">{format_seconds(stage.seconds) if stage.seconds else ""}</td>'
        f'<td class="number">{format_size(stage.size) if stage.size else ""}</td></tr>\n'
    )


def _notices(notices: Sequence[Notice]) -> str:
    items = "".join(f"<li>{text}</li>\n" for text in _notice_texts(notices))
    return f'<ul class="places">\n{items}</ul>\n' if items else ""


def _notice_texts(notices: Sequence[Notice]) -> Iterator[str]:
    for notice in notices:
        yield _text(f"{notice.code}: {notice.subject}: {notice.message}")


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


def _moment(moment: float) -> str:
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))
    return f'<time datetime="{shown.replace(" ", "T")}Z">{shown} UTC</time>'


def _text(text: str) -> str:
    """Escape any text for the page, without UIDs."""
    return html.escape(printable(remove_uids(text)).replace("\\\\", "\\"))


def _lines(text: str) -> str:
    return "\n".join(map(_text, text.split("\n")))
