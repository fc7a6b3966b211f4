"""The hub's time follows the hub, and this machine's wall clock may jump as it likes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxenbatch.clock import JUMP_S, HubClock, SystemClock

T0 = 1_800_000_000.0


class Time:
    """A clock to turn by hand."""

    def __init__(self, wall: float = T0, monotonic: float = 50.0) -> None:
        self.wall_s = wall
        self.monotonic_s = monotonic

    def wall(self) -> float:
        return self.wall_s

    def monotonic(self) -> float:
        return self.monotonic_s

    def pass_by(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds


def test_before_the_hub_has_spoken_this_machines_time_is_taken() -> None:
    time = Time()
    hub = HubClock(time)
    time.pass_by(7)

    assert hub.now() == T0 + 7
    assert not hub.heard


def test_the_first_word_of_the_hub_is_believed_to_the_half_second() -> None:
    hub = HubClock(Time())
    hub.hear(T0 + 500)

    assert (hub.now(), hub.heard) == (T0 + 500.5, True)


@pytest.mark.parametrize("jump", [-90_000.0, 90_000.0])
def test_a_jump_of_the_wall_clock_does_not_reach_the_hubs_time(jump: float) -> None:
    time = Time()
    hub = HubClock(time)
    hub.hear(T0)
    time.wall_s += jump
    time.pass_by(3)

    assert hub.now() == T0 + 3.5


def test_a_hub_that_does_not_tell_its_time_has_been_heard_and_this_machines_time_stays() -> None:
    hub = HubClock(Time())
    hub.hear(None)

    assert (hub.now(), hub.heard) == (T0, True)


def test_a_silent_answer_does_not_undo_what_was_told() -> None:
    hub = HubClock(Time())
    hub.hear(T0 + 500)
    hub.hear(None)

    assert hub.now() == T0 + 500.5


def test_rounding_does_not_make_the_time_tremble() -> None:
    hub = HubClock(Time())
    hub.hear(T0)
    for told in (T0 - 1, T0 + 1, T0):
        hub.hear(told)
        assert hub.now() == T0 + 0.5


@pytest.mark.parametrize("shift", [-3_600.0, -2.0, 2.0, 3_600.0])
def test_a_hub_whose_time_has_moved_is_followed(shift: float) -> None:
    """The laptop has slept: monotonic time stood still, and the hub's has not."""
    hub = HubClock(Time())
    hub.hear(T0)
    hub.hear(T0 + shift)

    assert hub.now() == T0 + shift + 0.5


@given(seconds=st.lists(st.floats(0.0, 100.0), max_size=40), skew=st.floats(-1e6, 1e6), delay=st.floats(0.0, 0.5))
def test_the_hubs_time_is_known_to_within_two_seconds(seconds: list[float], skew: float, delay: float) -> None:
    time = Time()
    hub = HubClock(time)
    for passed in seconds:
        time.pass_by(passed)
        at_the_hub = time.wall() + skew
        time.pass_by(delay)
        hub.hear(float(int(at_the_hub)))

        assert abs(hub.now() - (time.wall() + skew)) <= JUMP_S + 0.5 + delay + 1e-6


def test_this_machines_clocks_are_what_they_say() -> None:
    clock = SystemClock()

    assert clock.wall() > 1_700_000_000
    assert clock.monotonic() <= clock.monotonic()
