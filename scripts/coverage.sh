#!/bin/sh
# Measure which lines and branches of icf_utils the tests reach, including the processes that they start.
# Arguments are passed to pytest. Pages are written to build/coverage. Fails below the share that pyproject.toml requires.
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
end_installations

rm -rf build/coverage
mkdir -p build/coverage
COVERAGE_FILE=$PWD/build/coverage/data
export COVERAGE_FILE
status=0
"$bin/coverage" run --rcfile="$PWD/pyproject.toml" -m pytest -n 3 --dist worksteal -q -rs "$@" || status=$?
"$bin/coverage" combine --quiet --rcfile="$PWD/pyproject.toml"
"$bin/coverage" html --quiet --rcfile="$PWD/pyproject.toml" --fail-under=0
"$bin/coverage" report --rcfile="$PWD/pyproject.toml" --skip-covered || status=$?
echo "pages: build/coverage/index.html"
exit "$status"
