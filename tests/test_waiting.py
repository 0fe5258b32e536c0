"""Pauses grow up to a limit, and the last question is asked when the time is over."""

from __future__ import annotations

import pytest

from icf_utils.waiting import poll


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.time = 100.0
        self.naps: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.time += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_pauses_grow_up_to_the_longest(clock: Clock) -> None:
    for waited in poll(0.5, 3, sleep=clock.sleep, now=clock.now):
        if waited > 10:
            break
    assert clock.naps == [0.5, 1, 2, 3, 3, 3]


def test_the_first_question_is_asked_at_once(clock: Clock) -> None:
    assert next(poll(1, 1, sleep=clock.sleep, now=clock.now)) == 0
    assert clock.naps == []


def test_the_last_question_is_asked_at_the_timeout(clock: Clock) -> None:
    assert list(poll(4, 60, timeout=10, sleep=clock.sleep, now=clock.now)) == [0, 4, 10]


def test_without_time_it_is_asked_once(clock: Clock) -> None:
    assert list(poll(1, 1, timeout=0, sleep=clock.sleep, now=clock.now)) == [0]


def test_questions_that_take_long_count(clock: Clock) -> None:
    asked = 0
    for _ in poll(1, 1, timeout=10, sleep=clock.sleep, now=clock.now):
        asked += 1
        clock.time += 6
    assert asked == 2
    assert clock.naps == [1]


def test_a_sleep_that_is_cut_short_ends_the_wait() -> None:
    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(poll(1, 1, sleep=stop))
