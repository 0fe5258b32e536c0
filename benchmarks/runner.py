"""What the runner itself costs: ``python -m benchmarks.runner [VISITS]``.

Makes a store of small visits (1,000 by default, of 3 images each), and measures whole processes: the first run, a run
that finds nothing to do, a dry run, status; and per stage what a visit costs beyond its stage functions.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from icf_utils.pipeline.execute import make_visit
from icf_utils.pipeline.model import RunConfig
from icf_utils.pipeline.stages import STAGES, StageResult
from icf_utils.pipeline.visit_table import collect_visits
from icf_utils.progress import SILENT
from tests.data.make_dicom import write_visit


def main(arguments: list[str]) -> int:
    count = int(arguments[0]) if arguments else 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = _make_inputs(folder, count)
        command = [sys.executable, "-m", "icf_utils.cli.main"]
        run = [*command, "run", "-q", "-o", str(folder / "store"), "--table", str(table)]
        print(f"{count} visits, first run: {_seconds(run):.1f} s")
        for what, arguments in (
            ("nothing to do", run),
            ("dry run", [*run, "-n"]),
            ("status", [*command, "status", "-q", "-o", str(folder / "store"), "--table", str(table)]),
        ):
            print(f"{what}: {min(_seconds(arguments) for _ in range(3)):.2f} s")
        for what, again in (("is up to date", False), ("runs", True)):
            print(f"the runner's own cost of a stage that {what}: {_per_stage(folder, table, again) * 1000:.2f} ms")
        shutil.rmtree(folder / "store" / "study" / ".icf")
        print(f"all state lost: {_seconds(run):.1f} s")
    return 0


def _make_inputs(folder: Path, count: int) -> Path:
    lines = ["study,visit,input"]
    for number in range(count):
        write_visit(folder / "in" / f"{number:04}", {1: ("t1", 3)}, StudyInstanceUID=f"1.2.{number}")
        lines.append(f"study,visit-{number:04},in/{number:04}")
    table = folder / "visits.csv"
    table.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return table


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _per_stage(folder: Path, table: Path, again: bool) -> float:
    """Seconds for deciding, locking and keeping state, of the three stages that a worker does for a visit.

    With ``again`` every stage runs, by functions that do nothing.
    """
    visits = collect_visits(folder / "store", table)[:200]
    config = RunConfig(folder / "store", always_make=again)
    idle = {name: replace(stage, function=lambda *_: StageResult()) for name, stage in STAGES.items() if stage.function}
    with patch.dict(STAGES, idle if again else {}):
        started = time.perf_counter()
        for wanted in visits:
            make_visit(wanted, config, SILENT)
        return (time.perf_counter() - started) / len(visits) / 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
