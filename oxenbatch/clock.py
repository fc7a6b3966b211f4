"""Three times, told apart: our monotonic one for waits, the wall's for people, the hub's for its rows."""

from __future__ import annotations

import time
from typing import Final, Protocol

JUMP_S: Final = 1.5  # `Date` is whole seconds: a smaller difference is rounding, a larger one a clock that moved

LATEST: Final = 4_102_444_800  # the year 2100: a hub that says more than that has no clock


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
        self.told = False
        """Whether it has ever said what time it is."""
        self._offset = clock.wall() - clock.monotonic()

    def now(self) -> float:
        """Unix seconds by the hub's clock, to about a second."""
        return self.clock.monotonic() + self._offset

    def hear(self, date: float | None, at: float | None = None) -> None:
        """The hub has answered, and said that it was `date` when our monotonic clock said `at` (None: now).

        Where it says nothing, this machine's time must do.
        """
        self.heard = True
        if date is None or date > LATEST:
            return
        at = self.clock.monotonic() if at is None else at
        told = date + 0.5  # a whole second stands for any moment in it: its middle is the best guess
        if not self.told or abs(told - at - self._offset) > JUMP_S:
            self._offset = told - at
        self.told = True
