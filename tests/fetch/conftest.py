from __future__ import annotations

from collections.abc import Iterator

import pytest

from icf_utils.fetch.http import HttpClient, RetryPolicy
from tests.fetch.server import FaultyServer, serving

#: Enough attempts for the faults of these tests, without waiting for them.
QUICK = RetryPolicy(attempts=3, first_pause=0.01, longest_pause=0.02, longest_wait=2, connect=5, read=5)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    state = FaultyServer()
    with serving(state):
        yield state


@pytest.fixture
def client() -> Iterator[HttpClient]:
    with HttpClient(connections=2, retry=QUICK) as made:
        yield made
