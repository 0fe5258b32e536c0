#!/bin/sh
# Everything that must hold before a change goes in: style, types, tests, documentation.
# Arguments are passed to pytest. Real programs that are missing are installed where we may, else their tests are skipped.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh
. scripts/programs.sh

install_programs
begin_beside
make_environment .venv-test "$all_extras"
bin=$PWD/.venv-test/bin
PATH=$bin:$PATH
export PATH

echo "== style" && "$bin/ruff" check . && "$bin/ruff" format --check .
echo "== types" && "$bin/mypy"
echo "== documentation" && "$bin/sphinx-build" -q -W --keep-going -b html docs docs/_build/html
end_beside
echo "== tests" && "$bin/python" -m pytest -n 3 --dist worksteal -q -rs "$@"
