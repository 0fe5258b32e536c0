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

# Two programs whose many dependencies stay out of the environment that is tested: Snakemake runs one of the examples,
# cloud-optimized-dicom writes buckets that some of the tests retrieve from. They are installed meanwhile.
install_beside() {
    [ -x "$1/bin/python" ] && "$1/bin/python" -c "import $2" 2>/dev/null && return
    python3 -m venv "$1" && "$1/bin/python" -m pip install --quiet "$3" || echo "$3 cannot be installed; its tests are skipped"
}
need_venv
{
    install_beside .venv-snakemake snakemake 'snakemake>=9'
    install_beside .venv-cod cloud_optimized_dicom 'cloud-optimized-dicom>=2.2'
} &
beside=$!

make_environment .venv-test '[clone,cloud,docs,intake,previews,test,xnat]'
bin=$PWD/.venv-test/bin
PATH=$bin:$PATH
export PATH

echo "== style" && "$bin/ruff" check . && "$bin/ruff" format --check .
echo "== types" && "$bin/mypy"
echo "== documentation" && "$bin/sphinx-build" -q -W --keep-going -b html docs docs/_build/html
wait "$beside" || true
if [ -x .venv-snakemake/bin/snakemake ]; then
    SNAKEMAKE=$PWD/.venv-snakemake/bin/snakemake
    export SNAKEMAKE
fi
if .venv-cod/bin/python -c 'import cloud_optimized_dicom' 2>/dev/null; then
    COD_PYTHON=$PWD/.venv-cod/bin/python
    export COD_PYTHON
fi
echo "== tests" && "$bin/python" -m pytest -n 3 --dist worksteal -q -rs "$@"
