#!/bin/sh
# Build the sdist and the wheel into dist/, and print their SHA-256. The same commit gives the same bytes on every machine
# that has the same version of hatchling: times, owners and modes come from no file system.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh
python=$PWD/.venv-test/bin/python
if ! "$python" -m hatchling --version >/dev/null 2>&1; then  # a small environment: nothing of the project is needed
    need_venv
    python=$PWD/.venv-wheel/bin/python
    [ -x "$python" ] || python3 -m venv .venv-wheel
    "$python" -m pip install --quiet --disable-pip-version-check 'hatchling>=1.24'
fi
rm -rf dist
env -u SOURCE_DATE_EPOCH "$python" -W ignore -m hatchling build -d dist >/dev/null
cd dist && sha256sum -- *
