"""The processings that come with icf-utils: understood, run on open data, and the same twice."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from icf_utils.outputs.provenance import encode_provenance
from icf_utils.pipeline.model import RunConfig, VisitInput
from icf_utils.pipeline.run import run_visits
from icf_utils.processing.execute import ProcessConfig, process_visit
from icf_utils.processing.model import Processing
from icf_utils.processing.settings import make_processings
from icf_utils.settings import parse_settings
from icf_utils.store.layout import Visit
from tests.cli.program import ROOT
from tests.conftest import VISITS
from tests.processing.test_process import log_of, output_of

EXAMPLES = ROOT / "docs" / "examples" / "processing"


def example(name: str) -> Processing:
    """A processing of the example's settings, with this folder's programs and this Python."""
    text = (EXAMPLES / "icf.toml").read_text(encoding="utf-8").replace("/srv/processing", str(EXAMPLES))
    tables = parse_settings(text.encode(), "icf.toml").processing
    found = make_processings(tables, "icf.toml", Path("/"))[name]
    words = tuple(sys.executable if word == "python3" else word for word in found.command)
    return replace(found, command=words, folders=(ROOT, Path(sys.prefix)))


@pytest.fixture
def visit(tmp_path: Path) -> Visit:
    """An open visit with a T1-weighted series, which names a person."""
    source = VISITS / "biolab-structural"
    if not source.is_dir():
        pytest.skip("the folder 'shared' does not lie beside the project")
    run_visits([VisitInput("study", "v1", source)], RunConfig(tmp_path / "open", until="metadata"))
    return Visit(tmp_path / "open", "study", "v1")


def needs(*names: str) -> None:
    for name in names:
        if not shutil.which(name) and importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


def process(visit: Visit, processing: Processing, always: bool = False) -> None:
    result = process_visit(ProcessConfig(visit.root, processing, always=always), "study", "v1")
    assert result.state == "success", f"{result.message}\n{log_of(visit.root, processing.name)}"


def test_settings_are_understood() -> None:
    assert [example(name).name for name in ("dcm2niix", "bids", "anonymous")] == ["dcm2niix", "bids", "anonymous"]


def test_dcm2niix(visit: Visit) -> None:
    needs("dcm2niix")
    process(visit, example("dcm2niix"))
    before = visit.output("dcm2niix").read_bytes()
    assert {Path(name).suffix for name in output_of(visit.root, "dcm2niix")} == {".nii", ".json"}
    process(visit, example("dcm2niix"), always=True)
    assert visit.output("dcm2niix").read_bytes() == before


def test_bids(visit: Visit) -> None:
    needs("dcm2niix", "dcm2bids")
    process(visit, example("bids"))
    files = output_of(visit.root, "bids")
    assert "sub-v1/anat/sub-v1_T1w.nii" in files
    description = json.loads(files["dataset_description.json"])
    archive = json.loads(visit.provenance("bids").read_bytes())["archive"]
    assert description["SourceDatasets"][0]["Version"] == f"MD5 {archive['md5']}"


def test_anonymous(visit: Visit) -> None:
    needs("dicomanonymizer")
    process(visit, example("anonymous"))
    before = visit.output("anonymous").read_bytes()
    images = [raw for name, raw in output_of(visit.root, "anonymous").items() if name.endswith(".dcm")]
    assert len(images) == 40
    for raw in images:
        found = pydicom.dcmread(BytesIO(raw))
        assert not str(found.PatientName)
        assert found.StudyDate == "00010101"
    process(visit, example("anonymous"), always=True)
    assert visit.output("anonymous").read_bytes() == before


def test_provenance_has_no_names_and_no_dates(visit: Visit) -> None:
    needs("dcm2niix")
    from icf_utils.outputs.provenance import read_provenance

    process(visit, example("dcm2niix"))
    found = read_provenance(visit, "dcm2niix")
    assert found is not None
    text = encode_provenance(found).decode()
    image = pydicom.dcmread(next((VISITS / "biolab-structural").rglob("*.dcm")), stop_before_pixels=True)
    for keyword in ("PatientName", "PatientID", "StudyDate", "StudyInstanceUID"):
        value = str(image.get(keyword, ""))
        assert len(value) < 4 or value not in text, keyword  # a short one may be part of a digest
