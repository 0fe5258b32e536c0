"""Every shell block of the cluster guide runs, with a real SLURM; Apptainer's place is taken by a script."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from icf_utils import init_store
from tests.data.make_dicom import uid, write_visit
from tests.pages import blocks
from tests.slurm.conftest import write_inputs
from tests.slurm.daemons import Cluster

#: Runs what the image would run, with this environment's programs; the recipe itself is tried by tests/singularity.
_STAND_IN = """#!/bin/sh
set -e
action=$1
shift
case "$action" in
    build) : > "$1"; exit ;;
    test) test -e "$1"; exit ;;
esac
while case "$1" in *.sif) false ;; *) true ;; esac; do shift; done
test -e "$1"
shift
command -v "$1" > /dev/null && exec "$@"
exec icf-utils "$@"
"""


def test_the_shell_blocks_of_the_guide_run(slurm: Cluster, tmp_path: Path) -> None:
    write_inputs(tmp_path, ("study-a",), 3)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "apptainer").write_text(_STAND_IN)
    (programs / "apptainer").chmod(0o755)
    (programs / "icf-utils").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m icf_utils.cli.main "$@"\n')
    (programs / "icf-utils").chmod(0o755)
    places = {"/data/store": tmp_path / "store", "/data/icf.sif": tmp_path / "icf.sif", "/scanner": tmp_path / "input"}
    tools = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, **slurm.environment, "PATH": tools, "TMPDIR": str(tmp_path)}
    write_visit_of_the_guide(tmp_path)
    init_store(tmp_path / "store", "https://data.example.org")
    ran = [block for block in blocks("cluster.md", "sh") if not block.startswith("#!")]
    for block in ran:
        script = re.sub(r"(?m)^apptainer run .*datalad wtf\n", "", block)  # takes long, and is not ours
        for there, here in places.items():
            script = script.replace(there, str(here))
        done = subprocess.run(
            ["sh", "-ec", script],
            cwd=tmp_path,
            env=environment,
            text=True,
            capture_output=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert len(ran) == 5
    assert len(list((tmp_path / "store/study-a").glob("*_XDLRA--refs"))) == 4


def write_visit_of_the_guide(folder: Path) -> None:
    """The visit that the guide archives by hand lies where it says."""
    write_visit(folder / "input" / "0815", {1: ("t1", 2)}, StudyInstanceUID=uid("0815"))
