#!/bin/sh
# Check style and types, and run the tests that take less than half a second and need no server: for each edit.
# Arguments are passed to pytest.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment .venv-test "$all_extras"
bin=$PWD/.venv-test/bin
PATH=$bin:$PATH
export PATH

# many tests wait for processes that they start, so that two processors are busy with four
workers=$(getconf _NPROCESSORS_ONLN)
[ "$workers" -ge 4 ] || workers=4

echo "== style" && "$bin/ruff" check --quiet . && "$bin/ruff" format --quiet --check .
echo "== types" && "$bin/mypy"
echo "== quick tests" && "$bin/python" -m pytest --quick -n $workers --dist worksteal -q --durations=5 --durations-min=1 "$@"
