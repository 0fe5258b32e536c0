"""Long trials on real systems: ``ICF_TRIALS=1 pytest tests/processing/test_trials.py``.

Fifty visits on a real SLURM, the example that makes BIDS over a study there, and the example that de-identifies, whose
output is sent on by C-STORE to a second receiver.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from icf_utils.dataset.stage import deposit_visit_dataset
from icf_utils.pipeline.model import RunConfig, VisitInput
from icf_utils.pipeline.run import run_visits
from icf_utils.processing.execute import ProcessConfig, process_visit
from icf_utils.store.layout import Visit
from tests.conftest import VISITS
from tests.data.make_dicom import uid, write_visit
from tests.processing.conftest import shell
from tests.processing.test_examples import EXAMPLES, needs
from tests.processing.test_process import output_of
from tests.receiver.receiving import running, storescu, wait_until
from tests.slurm.conftest import Program, on_cluster, slurm

__all__ = ["on_cluster", "slurm"]

pytestmark = pytest.mark.skipif("ICF_TRIALS" not in os.environ, reason="takes minutes; ICF_TRIALS=1 runs it")


def example_settings() -> str:
    """The example's settings, with this folder's programs and this Python."""
    text = (EXAMPLES / "icf.toml").read_text(encoding="utf-8").replace("/srv/processing", str(EXAMPLES))
    folders = f"folders = [{json.dumps(str(EXAMPLES.parents[2]))}, {json.dumps(sys.prefix)}]"
    path = f'environment = {{ PATH = "{Path(sys.executable).parent}:/usr/bin:/bin" }}'
    text = text.replace('["python3",', f"[{json.dumps(sys.executable)},")
    return text.replace('version = "1"\n', f'version = "1"\n{folders}\n{path}\n')


def open_visit() -> Path:
    source = VISITS / "biolab-structural"
    if not source.is_dir():
        pytest.skip("the folder 'shared' does not lie beside the project")
    return source


def test_fifty_visits_on_slurm(tmp_path: Path, on_cluster: Program) -> None:
    names = [f"v{at:02}" for at in range(50)]
    wanted = []
    for name in names:
        write_visit(tmp_path / "in" / name, {1: ("t1", 2)}, StudyInstanceUID=uid(name))
        wanted.append(VisitInput("study", name, tmp_path / "in" / name))
    store = tmp_path / "store"
    assert not run_visits(wanted, RunConfig(store, until="metadata")).failed
    (store / "icf.toml").write_text(
        '[[processing]]\nname = "count"\nversion = "1"\non = "slurm"\nmemory = "100M"\n'
        'command = ["sh", "-c", "find $ICF_INPUT -type f | wc -l > images"]\n'
    )
    done = on_cluster.run("process", "count", "-o", str(store), "--wait")
    assert done.returncode == 0, done.stderr
    assert "50 visits: 50 done, 0 failed" in done.stdout
    assert {output_of(store, "count", name)["images"] for name in names} == {b"2\n"}
    again = on_cluster.run("process", "count", "-o", str(store), "--wait")
    assert "50 up to date" in again.stdout + again.stderr or "50 done" in again.stdout
    checked = on_cluster.run("verify", "-o", str(store))
    assert checked.returncode == 0, checked.stdout[-500:] + checked.stderr[-500:]


def test_bids_over_a_study_on_slurm(tmp_path: Path, on_cluster: Program) -> None:
    needs("dcm2niix", "dcm2bids")
    store = tmp_path / "store"
    for visit in ("v1", "v2"):
        shutil.copytree(open_visit(), tmp_path / "in" / visit)
        run_visits([VisitInput("study", visit, tmp_path / "in" / visit)], RunConfig(store, until="metadata"))
    (store / "icf.toml").write_text(example_settings())
    done = on_cluster.run("process", "bids", "-o", str(store), "study", "--slurm", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    header = pydicom.dcmread(next(open_visit().rglob("*.dcm")), stop_before_pixels=True)
    for visit in ("v1", "v2"):
        assert f"sub-{visit}/anat/sub-{visit}_T1w.nii" in output_of(store, "bids", visit)
        text = Visit(store, "study", visit).provenance("bids").read_text(encoding="utf-8")
        assert json.loads(text)["archive"]["md5"] in Visit(store, "study", visit).checksum.read_text()
        assert not any(str(header.get(key)) in text for key in ("PatientName", "StudyDate", "StudyInstanceUID"))


def test_an_output_becomes_a_dataset_with_its_source_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the script of the examples: the visit's dataset is a subdataset, and the provenance names its archive."""
    needs("datalad")
    store, url = tmp_path / "store", (tmp_path / "store").as_uri()
    write_visit(tmp_path / "in", {1: ("t1", 2)}, StudyInstanceUID=uid("d"))
    assert not run_visits([VisitInput("study", "v1", tmp_path / "in")], RunConfig(store, until="metadata")).failed
    deposit_visit_dataset(store, "study", "v1", store_url=url)
    program = shell("mkdir sub-v1; echo 1 > sub-v1/x", name="bids", isolation="none")
    assert process_visit(ProcessConfig(store, program), "study", "v1").state == "success"
    (tmp_path / ".gitconfig").write_text("[user]\n\tname = Somebody\n\temail = somebody@example.org\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    made = tmp_path / "made"
    command = ["sh", str(EXAMPLES / "derivative_dataset.sh"), url, "study", "v1", "bids", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (made / "sub-v1/x").read_text() == "1\n"
    place = Visit(store, "study", "v1")
    assert (made / "provenance.json").read_bytes() == place.provenance("bids").read_bytes()
    status = subprocess.run(["git", "-C", str(made), "submodule"], capture_output=True, text=True, check=True).stdout
    assert status.split()[0] in place.refs.read_text(encoding="ascii")
    assert status.split()[1] == "sourcedata"


def test_de_identified_images_are_sent_on(tmp_path: Path) -> None:
    needs("dicomanonymizer")
    for name in ("near", "far"):
        (tmp_path / name).mkdir()
    with running(tmp_path / "far", rule='called_ae = "PACS"\nstudy = "far"\nquiet = 1\nuntil = "metadata"') as far:
        rule = f"""\
called_ae = "STUDYA"
study = "study-a"
visit = "v1"
quiet = 1
until = "metadata"
process = ["anonymous"]
[[rule.send]]
name = "pacs"
host = "127.0.0.1"
port = {far.port}
called_ae = "PACS"
{example_settings()}
"""
        with running(tmp_path / "near", rule=rule) as near:
            sent = storescu(near, open_visit() / "dicoms")
            assert sent.returncode == 0, sent.stderr
            wait_until(lambda: any(one.is_finished for one in far.sessions()), "it is sent on")
            (session,) = near.finished(1)
            assert session.state == "success", session.failure
        (there,) = far.finished(1)
        images = [pydicom.dcmread(path) for path in (there.input).rglob("*.dcm")]
        assert len(images) == 40
        assert not any(str(image.PatientName) for image in images)
