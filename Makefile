# The two commands of the README, and what developers want in between.

.PHONY: demo test quick matrix coverage docs wheel release clean

demo:
	@sh scripts/demo.sh

test:
	@sh scripts/test.sh

# style, types and the fast tests: for the loop of a developer
quick:
	@sh scripts/quick.sh

# the quick tests on every declared Python that is installed, with newest and with lowest versions
matrix: .venv-test/bin/uv
	@.venv-test/bin/python scripts/matrix.py

# which lines and branches all tests reach
coverage:
	@sh scripts/coverage.sh

docs: .venv-test/bin/sphinx-build
	@.venv-test/bin/sphinx-build -W --keep-going -b html docs docs/_build/html

.venv-test/bin/sphinx-build .venv-test/bin/uv:
	@sh -c '. scripts/environment.sh && make_environment .venv-test "$$all_extras"'

# the sdist and the wheel, with their hashes
wheel:
	@sh scripts/wheel.sh

# the same, and what a maintainer checks before a release
release:
	@sh scripts/release.sh

clean:
	rm -rf .venv .venv-test .venv-snakemake .venv-cod .venv-matrix .venv-release .venv-wheel demo-store demo-input build dist docs/_build
