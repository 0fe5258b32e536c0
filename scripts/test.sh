#!/bin/sh
# Everything that must hold before a change goes in: style, types, tests, documentation.
# Arguments are passed to pytest. Real programs that are missing are installed where we may, else their tests are skipped.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh

missing=
for pair in nginx:nginx-light htpasswd:apache2-utils chromium:chromium chromedriver:chromium-driver \
    localedef:locales zip:zip unzip:unzip strace:strace sbatch:slurm-wlm munged:munge debootstrap:debootstrap \
    storescu:dcmtk Orthanc:orthanc psql:postgresql apache2:apache2 jq:jq; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
if [ -n "$missing" ]; then
    echo "Installing Debian packages for the tests:$missing"
    # shellcheck disable=SC2086 - one word a package
    install_debian_packages $missing || echo "not possible here; the tests that need them are skipped"
fi

make_environment .venv-test '[clone,cloud,docs,intake,previews,test,xnat]'
bin=$PWD/.venv-test/bin
PATH=$bin:$PATH
export PATH

# Snakemake runs one of the examples; its many dependencies stay out of the environment that is tested.
if [ ! -x .venv-snakemake/bin/snakemake ]; then
    python3 -m venv .venv-snakemake && .venv-snakemake/bin/python -m pip install --quiet 'snakemake>=9' ||
        echo "Snakemake cannot be installed; the test of its example is skipped"
fi
if [ -x .venv-snakemake/bin/snakemake ]; then
    SNAKEMAKE=$PWD/.venv-snakemake/bin/snakemake
    export SNAKEMAKE
fi

# So does the writer of COD buckets, which some of the tests retrieve from.
if [ ! -x .venv-cod/bin/python ] || ! .venv-cod/bin/python -c 'import cloud_optimized_dicom' 2>/dev/null; then
    python3 -m venv .venv-cod && .venv-cod/bin/python -m pip install --quiet 'cloud-optimized-dicom>=2.2' ||
        echo "cloud-optimized-dicom cannot be installed; the tests of buckets that it writes are skipped"
fi
if .venv-cod/bin/python -c 'import cloud_optimized_dicom' 2>/dev/null; then
    COD_PYTHON=$PWD/.venv-cod/bin/python
    export COD_PYTHON
fi

echo "== style" && "$bin/ruff" check . && "$bin/ruff" format --check .
echo "== types" && "$bin/mypy"
echo "== documentation" && "$bin/sphinx-build" -q -W --keep-going -b html docs docs/_build/html
echo "== tests" && "$bin/python" -m pytest -n 3 --dist worksteal -q -rs "$@"
