"""The page's example in Python runs; its commands are run with those of the other pages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.data.make_cod import CodSeries
from tests.pages import blocks
from tests.retrieve.conftest import expected, files


def test_the_python_example_runs(two: tuple[CodSeries, CodSeries], tmp_path: Path) -> None:
    for series in two:
        for name, data in series.objects().items():
            path = tmp_path / "bucket" / "dicomweb" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    (example,) = blocks("retrieve.md", "python")
    script = example.replace("/data/bucket", f"{tmp_path}/bucket")
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    images = expected(two[0])
    lines = done.stdout.splitlines()
    assert lines[0] == str(sum(map(len, images.values())))
    assert sorted(lines[1:-1]) == sorted(images)
    assert lines[-1] == "3 0 0"
    assert files(tmp_path / "images") == images
