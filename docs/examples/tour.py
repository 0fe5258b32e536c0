"""From a folder with a visit's images to the pixels of one series, with the functions of icf-utils.

    python tour.py EXPORT STORE

makes a store with the visit, verifies it, and reads one series back. Nothing but icf-utils and pydicom is needed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pydicom

from icf_utils import IcfError, RunConfig, VisitInput, init_store, load_settings, run_visits, store_status, verify_store
from icf_utils.retrieve.api import Retriever, StoreSource
from icf_utils.retrieve.selection import Selection


def tour(export: Path, store: Path) -> None:
    # a store has an address, which its datasets and catalogs contain
    init_store(store, "https://data.example.org")

    # the four stages; a second run changes nothing
    config = RunConfig(store, load_settings(store))
    visits = [VisitInput("study-a", "visit-01", export)]
    for _ in range(2):
        run = run_visits(visits, config)
        print("run:", run.counts)
        for outcome in run.failed:
            if outcome.failed and outcome.failed.failure:
                raise SystemExit(f"{outcome.name}: {outcome.failed.failure.message}")

    # what is there, and whether it is what was deposited
    for visit in store_status(store):
        print(f"{visit.study}/{visit.visit}:", {stage.stage: stage.state for stage in visit.stages})
    print("verify:", verify_store(store).findings or "everything is correct")

    # which series there are, from the metadata: the archive is not read
    images = json.loads((store / "study-a" / "visit-01_metadata_dicoms.json").read_text(encoding="utf-8"))
    series = {image["SeriesNumber"]: image["ProtocolName"] for image in images}
    print("series:", series)

    # one series as plain files; from a web server, give the store's URL instead of its path
    with tempfile.TemporaryDirectory() as folder:
        source = StoreSource(store, visits=(("study-a", "visit-01"),))
        with Retriever(source, folder, selection=Selection(series=(str(min(series)),))) as retriever:
            result = retriever.job().start().result()
        files = sorted(path for path in Path(folder).rglob("*/*") if path.is_file())
        first = pydicom.dcmread(files[0])
        print("retrieved:", result.saved, "images; the first has", first.Rows, "x", first.Columns, "pixels")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python tour.py EXPORT STORE")
    try:
        tour(Path(sys.argv[1]), Path(sys.argv[2]))
    except IcfError as error:
        raise SystemExit(f"{error} (exit code {error.exit_code})") from None
