"""The fetch stage: paid results become files on disk."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from oxenbatch.addresses import AddressRefused
from oxenbatch.errors import MachineError
from oxenbatch.hub import AddressExpired, FileTrouble, HubTrouble
from oxenbatch.ledger import news
from oxenbatch.plan import DOWNLOADS, Stop
from oxenbatch.runner.bell import Tone

if TYPE_CHECKING:
    from oxenbatch.download import Downloads
    from oxenbatch.ledger.news import Fetch, Kept
    from oxenbatch.runner.desk import Desk

log = logging.getLogger(__name__)

FETCH_TRIES: Final = 8
FETCH_PAUSE_MAX_S: Final = 30.0
TOGETHER_S: Final = 0.02  # a file that is in its place may wait for others, to be recorded in one commit


class Fetching:
    """Downloads what the hub has made, a bounded number at once."""

    def __init__(self, desk: Desk, downloads: Downloads) -> None:
        self.desk = desk
        self._downloads = downloads
        self._open = 0
        """Files that are on their way."""
        self._kept: list[tuple[Fetch, Kept]] = []
        """Files that are in their places, and wait to be recorded."""
        self._more = True
        """There may be more to be had than there was room for when we last looked."""

    async def run(self) -> None:
        desk = self.desk
        async with asyncio.TaskGroup() as downloads:
            while not desk.over and not desk.hub_is_lost():
                mark = desk.bell.mark(Tone.FETCH)
                room = DOWNLOADS - self._open
                due_at = None
                if room > 0:
                    now, busy = desk.hub.time.now(), tuple(desk.fetching)
                    todo, due_at = await desk.clerk.do(news.fetchable, room, now=now, busy=busy)
                    for fetch in todo:
                        desk.fetching.add(fetch.sample_id)
                        self._open += 1
                        downloads.create_task(self._fetch_one(fetch), name=f"fetch {fetch.generation_id}")
                    self._more = len(todo) == room
                    if self._more and self._open < DOWNLOADS:
                        continue  # one ended while we looked
                wait = None if due_at is None else max(0.05, due_at - desk.hub.time.now())
                await desk.bell.wait(mark, wait, Tone.FETCH)

    async def _fetch_one(self, fetch: Fetch) -> None:
        kept = None
        try:
            url = fetch.url or await self._fresh_address(fetch)
            kept = await self._downloads.fetch(fetch, url)
        except MachineError as error:
            self.desk.stop(Stop.DISK, str(error))
        except (FileTrouble, AddressExpired, AddressRefused, HubTrouble) as error:
            await self._fetch_failed(fetch, error)
        finally:
            self._open -= 1
            if kept is None:
                self.desk.fetching.discard(fetch.sample_id)
                self.desk.bell.ring()
            elif self._more:
                self.desk.bell.ring(Tone.FETCH)
        if kept is not None:
            await self._keep(fetch, kept)

    async def _keep(self, fetch: Fetch, kept: Kept) -> None:
        """The file is recorded, with those that come into their places soon after it.

        That takes no time: nobody waits for the record while other files are on their way. Whoever is killed meanwhile
        finds the file in its place, as if he had been killed before.
        """
        self._kept.append((fetch, kept))
        if self._open and len(self._kept) > 1:
            return  # the first of them records it
        try:
            if self._open:
                await asyncio.sleep(TOGETHER_S)
        finally:  # and at once, where this is cancelled
            await self._record()

    async def _record(self) -> None:
        """All files that are in their places are in the ledger."""
        desk = self.desk
        together, self._kept = self._kept, []
        if together:  # else the last of them came before the first had waited long enough
            await desk.clerk.do(news.keep, together, at=desk.hub.time.now())
            desk.fetching.difference_update(fetch.sample_id for fetch, _ in together)
            desk.bell.ring(Tone.LOOK)

    async def _fresh_address(self, fetch: Fetch) -> str:
        generation = await self.desk.hub.generation(fetch.generation_id)
        if not generation.result_url:
            raise FileTrouble("the hub has no address for this result")
        url = generation.result_url
        await self.desk.clerk.do(news.set_address, fetch, url)
        return url

    async def _fetch_failed(self, fetch: Fetch, error: Exception) -> None:
        desk = self.desk
        # Where the hub is out of reach too, the way is broken and not the file: that costs time (max_outage_s), no try.
        counts = desk.hub.unreachable_since is None
        tries = fetch.tries + counts
        pause = min(FETCH_PAUSE_MAX_S, 0.5 * 2**fetch.tries if counts else FETCH_PAUSE_MAX_S) * (0.5 + desk.jitter())
        if isinstance(error, AddressExpired) and fetch.tries == 0:
            pause = 0.0
        now = desk.hub.time.now()
        retry_at = now + pause if tries < FETCH_TRIES else None
        expired = isinstance(error, AddressExpired | AddressRefused) or tries % 3 == 0
        why = str(error) or type(error).__name__
        log.info("the file of %s could not be had, try %d of %d: %s", fetch.generation_id, tries, FETCH_TRIES, why)
        await desk.clerk.do(
            news.fetch_failed, fetch, at=now, why=why, retry_at=retry_at, address_expired=expired, counts=counts
        )
