"""Bars for notebooks go through every function that takes progress."""

from __future__ import annotations

from pathlib import Path

import pytest

from icf_utils import make_studyvisit_archive, verify_visit
from icf_utils.notebook import Bars
from tests.data.make_dicom import write_visit


@pytest.mark.filterwarnings("ignore:IProgress not found")  # tqdm looks for a notebook
def test_bars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_visit(tmp_path / "in", {1: ("T1w", 3)})
    make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "s", "v", progress=Bars(keep=True))
    verify_visit(tmp_path / "store", "s", "v", progress=Bars())
    bars = Bars()
    bars.message("a line")
    shown = capsys.readouterr()
    assert "100%" in shown.err
    assert "a line" in shown.out
