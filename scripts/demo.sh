#!/bin/sh
# Make a store with a catalog from a small real visit, which consists of DICOM files that pydicom ships.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment .venv ''

input=demo-input/visit-01
store=$PWD/demo-store
mkdir -p "$input"
"$python" - "$input" <<'PYTHON'
"""Copy one study of three series out of pydicom's test files, a folder for each series."""
import shutil
import sys
from pathlib import Path

import pydicom.data

files = Path(pydicom.data.__file__).parent / "test_files" / "dicomdirtests" / "98892003"
for series, pattern in (("MR1", "5641"), ("MR2", "6*"), ("MR700", "4*")):
    for image in sorted((files / series).glob(pattern)):
        target = Path(sys.argv[1], series, f"{image.name}.dcm")
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(image, target)
PYTHON

step() {
    echo
    echo "\$ icf-utils $*"
    .venv/bin/icf-utils "$@"
}
printf 'study,visit,input\ndemo,visit-01,visit-01\n' > demo-input/visits.csv
step init "$store" --url "file://$store"
step run -o "$store" --table demo-input/visits.csv --report demo-input/report.html
step run -o "$store" --table demo-input/visits.csv --dry-run
step status -o "$store"
step verify -o "$store" --id demo visit-01 --rebuild "$input"

cat <<TEXT

What the run did, stage by stage: $PWD/demo-input/report.html

Look at the catalog:
  .venv/bin/icf-utils catalog serve -o $store

Clone the visit's dataset (needs: .venv/bin/pip install -e '.[clone]', and .venv/bin first on the PATH):
  datalad clone 'datalad-annex::?type=external&externaltype=uncurl&encryption=none&url=file://$store/demo/visit-01_{{annex_key}}' visit-01
TEXT
