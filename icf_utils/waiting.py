"""Wait for something that can only be asked about: pauses that grow, up to a limit. Sleeps; reads the monotonic clock.

Requests to web servers have a retry rule of their own (:mod:`icf_utils.fetch.http`): servers may say how long to wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from math import inf


def poll(
    first: float,
    longest: float,
    *,
    timeout: float = inf,
    factor: float = 2.0,
    sleep: Callable[[float], object] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[float]:
    """Yield again and again how long it has been waiting, all in seconds: the caller asks each time, and may leave.

    It yields 0 at once, then after pauses: ``first``, then each ``factor`` times the one before, up to ``longest``.
    The last pause ends with ``timeout``, so that the caller asks once more then; after that the loop is over.
    ``sleep`` may raise to end the wait from outside.

    >>> naps = []
    >>> list(poll(1, 3, timeout=7.5, sleep=naps.append, now=lambda: sum(naps)))
    [0, 1, 3.0, 6.0, 7.5]
    """
    started, pause = now(), first
    while True:
        waited = now() - started
        yield waited
        waited = now() - started  # asking may have taken long
        if waited >= timeout:
            return
        sleep(min(pause, timeout - waited))
        pause = min(pause * factor, longest)
