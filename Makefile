# The two commands of the README, and what developers want in between.

.PHONY: demo test docs clean

demo:
	@sh scripts/demo.sh

test:
	@sh scripts/test.sh

docs:
	@.venv-test/bin/sphinx-build -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf .venv .venv-test .venv-snakemake demo-store demo-input docs/_build
