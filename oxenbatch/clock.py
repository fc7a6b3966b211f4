"""Three times, told apart: our monotonic one for waits, the wall's for people, the hub's for its rows."""

from __future__ import annotations

import time
from typing import Final, Protocol

JUMP_S: Final = 1.5  # `Date` is whole seconds: a smaller difference is rounding, a larger one a clock that moved


class Clock(Protocol):
    """Where the time comes from; tests hand in one of their own."""

    def wall(self) -> float:
        """Unix seconds by this machine."""

    def monotonic(self) -> float:
        """Seconds that only ever grow."""


class SystemClock:
    """This machine's clocks."""

    def wall(self) -> float:
        """Unix seconds by this machine."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that only ever grow."""
        return time.monotonic()


class HubClock:
    """The hub's time, from its answers' `Date` and our monotonic clock: jumps of the wall clock do not reach it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.heard = False
        """Whether the hub has answered yet; before that, this machine's time is all there is."""
        self._offset = clock.wall() - clock.monotonic()

    def now(self) -> float:
        """Unix seconds by the hub's clock, to about a second."""
        return self.clock.monotonic() + self._offset

    def hear(self, date: float | None) -> None:
        """The hub has just answered, and said that it is `date`; where it said nothing, this machine's time must do."""
        if date is None:
            self.heard = True
            return
        # A whole second stands for any moment in it: its middle is the best guess.
        told = date + 0.5
        if not self.heard or abs(told - self.now()) > JUMP_S:
            self._offset = told - self.clock.monotonic()
        self.heard = True
