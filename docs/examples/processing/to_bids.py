#!/usr/bin/env python3
"""A processing: DICOM to BIDS with dcm2bids and dcm2niix. Call: to_bids.py CONFIG.json

Reads ICF_INPUT and writes ICF_OUTPUT. The participant's label is the visit's identifier without signs. dcm2bids works
in TMPDIR, as it keeps a log with times; what is deposited is the participant's folder and a description of the
dataset, which names the archive by its MD5.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path


def main() -> None:
    output, work = Path(os.environ["ICF_OUTPUT"]), Path(os.environ["TMPDIR"]) / "bids"
    task = json.loads(Path(os.environ["ICF_TASK"]).read_text(encoding="utf-8"))
    label = re.sub(r"[^A-Za-z0-9]", "", task["visit"])
    command = ["dcm2bids", "-d", os.environ["ICF_INPUT"], "-p", label, "-c", sys.argv[1], "-o", str(work)]
    work.mkdir()
    subprocess.run([*command, "--auto_extract_entities"], check=True)  # noqa: S603 - no shell
    made = work / f"sub-{label}"
    if not any(made.rglob("*.nii*")):
        (output / "proc.json").write_text(json.dumps({"success": "failed", "message": "no series matches the table"}))
        return
    shutil.copytree(made, output / made.name)
    description = {
        "Name": task["study"],
        "BIDSVersion": "1.9.0",
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": task["processing"], "Version": task["version"]}],
        "SourceDatasets": [{"Version": f"MD5 {task['archive_md5']}", "URL": "sourcedata"}],
    }
    (output / "dataset_description.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


main()
