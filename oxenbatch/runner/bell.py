"""The one bell: it wakes every stage when a row has moved."""

from __future__ import annotations

import asyncio


class Bell:
    """Wakes every stage when a row has moved; a ring between a look and a wait is not lost."""

    def __init__(self) -> None:
        self.mark = 0
        self._waiting: dict[asyncio.Future[None], None] = {}
        """In their order, and so woken in it: a story that is told again is the same."""

    def ring(self) -> None:
        """Everyone who waits goes on."""
        self.mark += 1
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, mark: int, timeout_s: float | None = None) -> None:
        """Return at once if it rang since `mark`, else at the next ring or after `timeout_s`."""
        if self.mark != mark:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = None if timeout_s is None else loop.call_later(max(0.0, timeout_s), _wake, waiter)
        self._waiting[waiter] = None
        try:
            await waiter
        finally:
            self._waiting.pop(waiter, None)
            if timer:
                timer.cancel()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
