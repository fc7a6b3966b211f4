"""The listen stage: every end that the hub announces becomes a move of its row."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from oxenbatch.hub import HubTrouble
from oxenbatch.ledger import news

if TYPE_CHECKING:
    from oxenbatch.runner.desk import Desk
    from oxenbatch.wire import Generation

EARLY_S: Final = 1.0  # an event may overtake the answer to its POST; by then both have come
RECONNECT_MAX_S: Final = 30.0


class Listening:
    """Hears what the hub announces; a lost announcement makes a run slower, not wrong."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.subscribed = asyncio.Event()
        """The stream is open, or could not be opened: nothing that fires from now on is missed unawares."""

    async def run(self) -> None:
        pause = 0.5
        while True:
            began = self.desk.clock.monotonic()
            try:
                async with self.desk.hub.listen() as stream:
                    self.desk.listening = True
                    self.desk.events_missed = False
                    # Events are not buffered (API, Events): whatever fired before this connection is in the list.
                    self.desk.look_at = 0.0
                    self.subscribed.set()
                    self.desk.bell.ring()
                    async for generation in stream:
                        await self._hear(generation)
            except HubTrouble:
                pass  # a stream that is cut is normal: the list knows what was missed
            self.desk.events_trusted = self.desk.listening = False
            self.subscribed.set()
            if self.desk.clock.monotonic() - began > RECONNECT_MAX_S:
                pause = 0.5  # it had been a good stream
            await asyncio.sleep(pause * (0.5 + self.desk.jitter()))
            pause = min(RECONNECT_MAX_S, pause * 2)

    async def _hear(self, generation: Generation) -> None:
        told = await self.desk.clerk.do(news.apply, [generation], at=self.desk.hub.time.now())
        self.desk.events_trusted = self.desk.events_trusted or (bool(told.ends) and not self.desk.events_missed)
        self.desk.told(told)
        if not told.moved and self.desk.open_posts:
            # It may be of a POST whose answer is still on its way: then only the list will tell of it.
            self.desk.look_soon(EARLY_S)
            self.desk.bell.ring()
