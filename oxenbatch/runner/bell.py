"""The one bell: it wakes the stages that have something to look at when a row has moved."""

from __future__ import annotations

import asyncio
from enum import Flag, auto


class Tone(Flag):
    """Whom a ring is for."""

    SEND = auto()
    """A place is free, something is due, or the lane is open again."""
    FETCH = auto()
    """A file is to be had, or there is room for another."""
    LOOK = auto()
    """Something has moved: it may be over now, and times may have changed."""
    ALL = SEND | FETCH | LOOK


class Bell:
    """Wakes the stages that a ring is for; a ring between a look and a wait is not lost."""

    def __init__(self) -> None:
        self._marks = dict.fromkeys(Tone, 0)
        self._waiting: dict[asyncio.Future[None], Tone] = {}
        """In their order, and so woken in it: a story that is told again is the same."""

    def mark(self, tone: Tone) -> int:
        """How often it rang for them; what `wait` wants to know."""
        return self._marks[tone]

    def ring(self, tones: Tone = Tone.ALL) -> None:
        """Whoever it is for goes on."""
        for tone in tones:
            self._marks[tone] += 1
        for waiter, tone in self._waiting.items():
            if tone in tones and not waiter.done():
                waiter.set_result(None)

    async def wait(self, mark: int, timeout_s: float | None = None, tone: Tone = Tone.LOOK) -> None:
        """Return at once if it rang since `mark`, else at the next ring or after `timeout_s`."""
        if self._marks[tone] != mark:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = None if timeout_s is None else loop.call_later(max(0.0, timeout_s), _wake, waiter)
        self._waiting[waiter] = tone
        try:
            await waiter
        finally:
            self._waiting.pop(waiter, None)
            if timer:
                timer.cancel()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
