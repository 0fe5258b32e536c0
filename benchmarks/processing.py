"""What a processing costs beyond its program: 200 visits of a program that writes one small file.

``python -m benchmarks.processing`` prints seconds for each visit with and without a sandbox, and those of the program
alone, started by ``subprocess`` in the same loop.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from icf_utils.pipeline.model import RunConfig, VisitInput
from icf_utils.pipeline.run import run_visits
from icf_utils.processing.execute import ProcessConfig
from icf_utils.processing.model import Processing
from icf_utils.processing.run import run_processing
from icf_utils.processing.settings import make_processings
from icf_utils.settings import ProcessingSettings
from tests.data.make_dicom import uid, write_visit

_COMMAND = ("/bin/sh", "-c", "echo 1 > x")


def _processing(isolation: str) -> Processing:
    table = ProcessingSettings(name=f"noop-{isolation}", version="1", command=_COMMAND, isolation=isolation)
    (found,) = make_processings([table], "benchmark", Path("/")).values()
    return found


def _make_store(root: Path, number: int) -> list[VisitInput]:
    visits = []
    for at in range(number):
        source = root / "input" / f"v{at:03}"
        write_visit(source, {1: ("t1", 2)}, StudyInstanceUID=uid("benchmark", at))
        visits.append(VisitInput("study", f"v{at:03}", source))
    result = run_visits(visits, RunConfig(root / "store", until="metadata"))
    if result.failed:
        raise SystemExit("the store could not be made")
    return visits


def _program_alone(folder: Path, number: int) -> float:
    started = time.monotonic()
    for _ in range(number):
        subprocess.run(_COMMAND, cwd=folder, env={"PATH": "/usr/bin:/bin"}, check=True)
    return (time.monotonic() - started) / number


def _processor_seconds() -> float:
    """Of this process and of the programs that have ended: what a busy machine does not change much."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visits", type=int, default=200)
    number = parser.parse_args(arguments).visits
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        visits = _make_store(root, number)
        alone = _program_alone(root, number)
        print(f"the program alone: {alone * 1000:.1f} ms")
        for isolation in ("none", "auto"):
            before = _processor_seconds()
            result = run_processing(visits, ProcessConfig(root / "store", _processing(isolation)))
            each, processor = result.seconds / number, (_processor_seconds() - before) / number
            print(
                f"isolation '{isolation}': {each * 1000:.1f} ms a visit, {(each - alone) * 1000:.1f} ms beyond it; "
                f"{processor * 1000:.1f} ms of processor time"
            )


if __name__ == "__main__":
    main()
