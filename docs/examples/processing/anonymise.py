#!/usr/bin/env python3
"""A processing: de-identified DICOM files by the basic profile of PS3.15, with the package dicom-anonymizer.

Reads ICF_INPUT and writes ICF_OUTPUT. UIDs are replaced by ones that are computed from the old ones, so that the same
visit gives the same files, so a holder of the original images can recognise them. Files are named by number.
Names that are burned into pixels stay: keep modalities that show them (US, SC, ES, ...) out of the input.
"""

import json
import os
from pathlib import Path

import pydicom
from dicomanonymizer import simpledicomanonymizer
from pydicom.uid import generate_uid

#: Modalities whose pixels often show names.
_BURNED_IN = {"US", "SC", "ES", "XC", "OP", "GM", "OT", "DOC"}


def main() -> None:
    source, target = Path(os.environ["ICF_INPUT"]), Path(os.environ["ICF_OUTPUT"])
    simpledicomanonymizer.get_UID = lambda old: generate_uid(entropy_srcs=[str(old)])
    left_out = 0
    for series in sorted(path for path in source.iterdir() if path.is_dir()):
        for number, path in enumerate(sorted(series.iterdir()), 1):
            header = pydicom.dcmread(path, stop_before_pixels=True)
            if header.get("Modality", "") in _BURNED_IN or header.get("BurnedInAnnotation", "NO") == "YES":
                left_out += 1
                continue
            folder = target / series.name[:4]
            folder.mkdir(exist_ok=True)
            simpledicomanonymizer.anonymize_dicom_file(str(path), str(folder / f"{number:05}.dcm"))
    state = {"success": "partial" if left_out else "success", "message": f"{left_out} files were left out"}
    (target / "proc.json").write_text(json.dumps(state) + "\n", encoding="utf-8")


main()
