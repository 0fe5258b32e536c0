"""The kept inputs of the coverage-guided fuzzing, each of which reaches other code: nothing but refusals."""

from __future__ import annotations

import pytest

from tests.trust.coverage_fuzz import CORPUS, READERS, attempt


@pytest.mark.parametrize("reader", READERS)
def test_the_kept_inputs(reader: str) -> None:
    paths = sorted((CORPUS / reader).iterdir())
    assert paths
    for path in paths:
        data = path.read_bytes()
        for cut in (len(data), len(data) // 2, max(len(data) - 1, 0)):
            attempt(reader, data[:cut])
