from __future__ import annotations

from collections.abc import Iterator

import pytest

from icf_utils.fetch.http import Patience, Web
from tests.fetch.server import FaultyServer, serving

#: Enough attempts for the faults of these tests, without waiting for them.
QUICK = Patience(attempts=3, first_pause=0.01, longest_pause=0.02, longest_wait=2, connect=5, read=5)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    state = FaultyServer()
    with serving(state):
        yield state


@pytest.fixture
def web() -> Iterator[Web]:
    with Web(connections=2, patience=QUICK) as made:
        yield made
