"""What is done in the background lets answers go first, but not for ever."""

import time

import pytest

from phoenix_server.generations.throttle import Throttle


class Clock:
    """A clock that sleeping moves on, and a queue that is busy until some time."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.busy_until_s = 0.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds

    def is_idle(self) -> bool:
        return self.now_s >= self.busy_until_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: made.now_s)
    monkeypatch.setattr(time, "sleep", made.sleep)
    return made


def test_it_goes_on_at_once_while_nobody_waits(clock: Clock) -> None:
    give_way = Throttle(clock.is_idle)
    clock.now_s += 5
    give_way()
    assert clock.now_s == 105


def test_it_waits_until_nobody_waits(clock: Clock) -> None:
    give_way = Throttle(clock.is_idle)
    clock.now_s += 1
    clock.busy_until_s = clock.now_s + 0.5
    give_way()
    assert clock.now_s == pytest.approx(101.5, abs=0.01)


def test_it_gets_a_tenth_of_the_time_however_busy_others_are(clock: Clock) -> None:
    give_way = Throttle(clock.is_idle)
    clock.busy_until_s = 1e9
    worked_s = 0.0
    for seconds in (0.1, 0.02, 0.03):
        clock.now_s += seconds
        worked_s += seconds
        give_way()
    assert clock.now_s - 100 == pytest.approx(10 * worked_s, abs=0.02)


def test_after_something_long_it_waits_a_second(clock: Clock) -> None:
    give_way = Throttle(clock.is_idle)
    clock.busy_until_s = 1e9
    clock.now_s += 60
    give_way()
    assert clock.now_s == pytest.approx(161, abs=0.01)
