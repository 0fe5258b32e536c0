#!/bin/sh
# Build the sdist and the wheel into dist/, and print their SHA-256. The same commit gives the same bytes on every machine
# that has the same version of hatchling: times, owners and modes come from no file system.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment .venv-test "$all_extras"
rm -rf dist
env -u SOURCE_DATE_EPOCH "$python" -W ignore -m hatchling build -d dist >/dev/null
cd dist && sha256sum -- *
