#!/bin/sh
# Check style, types, tests and documentation, all of which must pass before a change is merged.
# Arguments are passed to pytest. As root on Debian, missing programs are installed; else their tests are skipped.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh
. scripts/programs.sh

install_programs
begin_installations
make_environment .venv-test "$all_extras"
bin=$PWD/.venv-test/bin
PATH=$bin:$PATH
export PATH

echo "== style" && "$bin/ruff" check . && "$bin/ruff" format --check .
echo "== types" && "$bin/mypy"
echo "== documentation" && "$bin/sphinx-build" -q -W --keep-going -b html docs docs/_build/html
end_installations
echo "== tests" && "$bin/python" -m pytest -n 3 --dist worksteal -q -rs "$@"
