#!/bin/sh
# Build a release, and check it as a package index and its users would. Uploads nothing.
set -eu
cd "$(dirname "$0")/.."
sh scripts/wheel.sh
. scripts/environment.sh
make_environment .venv-release '[release]'
PATH=$PWD/.venv-release/bin:$PATH
export PATH
echo "== twine" && twine check --strict dist/*
echo "== check-wheel-contents" && check-wheel-contents dist/*.whl
echo "== pyroma" && pyroma --min 10 dist/*.tar.gz
echo "== reuse" && reuse lint --quiet && echo "every file has a licence"
if grep -n 'example\.org' pyproject.toml CITATION.cff; then
    echo "These addresses are placeholders: set them before the first release (docs/release.md)." >&2
    exit 1
fi
