"""The listen stage: every end that the hub announces becomes a move of its row."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from oxenbatch.hub import HubTrouble
from oxenbatch.runner.bell import Tone

if TYPE_CHECKING:
    from oxenbatch.runner.desk import Desk
    from oxenbatch.wire import Generation

RECONNECT_MAX_S: Final = 30.0
AHEAD: Final = 1000  # announcements that are not recorded yet: a hub that floods us waits


class Listening:
    """Hears what the hub announces; a lost announcement makes a run slower, not wrong."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.subscribed = asyncio.Event()
        """The stream is open, or could not be opened: nothing that fires from now on is missed unawares."""
        self._heard: asyncio.Queue[Generation] = asyncio.Queue(AHEAD)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(self._record(), name="hear")
            both.create_task(self._listen(), name="stream")

    async def _listen(self) -> None:
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
                        await self._heard.put(generation)
            except HubTrouble:
                pass  # a stream that is cut is normal: the list knows what was missed
            self.desk.events_trusted = self.desk.listening = False
            self.subscribed.set()
            if self.desk.clock.monotonic() - began > RECONNECT_MAX_S:
                pause = 0.5  # it had been a good stream
            await asyncio.sleep(pause * (0.5 + self.desk.jitter()))
            pause = min(RECONNECT_MAX_S, pause * 2)

    async def _record(self) -> None:
        """What has been heard is in the ledger; ends that came together are recorded together."""
        desk = self.desk
        while True:
            heard = [await self._heard.get()]
            while not self._heard.empty():
                heard.append(self._heard.get_nowait())
            tones = Tone.ALL
            if all(generation.status == "succeeded" for generation in heard):
                # Whoever is woken now asks the ledger behind us: one commit has the ends and the sends that follow.
                # After a failure that would be too soon: what it tells may be a reason to send nothing more.
                desk.bell.ring(Tone.SEND | Tone.FETCH)
                tones = Tone.LOOK
            told = await desk.clerk.do(desk.early.hear, heard, at=desk.hub.time.now())
            desk.events_trusted = desk.events_trusted or (bool(told.ends) and not desk.events_missed)
            desk.told(told, tones)
