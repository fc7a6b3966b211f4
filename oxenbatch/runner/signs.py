"""Signs of life: a run tells the ledger how it gets on, so that it can be watched from elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.errors import printable
from oxenbatch.ledger import runs
from oxenbatch.ledger.book import to_nanos
from oxenbatch.runner.mood import mood_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from oxenbatch.runner.desk import Desk

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0


async def give_signs(desk: Desk) -> None:
    """Until it is cancelled: the ledger knows that the run is alive, and how it and the hub get on."""
    last, given_at = None, -runs.SIGN_S
    while True:
        mood, now = mood_of(desk), desk.clock.monotonic()
        if mood.lasting != last or now - given_at >= runs.SIGN_S:
            last, given_at = mood.lasting, now
            await desk.clerk.do(
                runs.give_sign,
                desk.run_id,
                at=desk.clock.wall(),
                mood=mood.as_json(),
                concurrency=desk.limits.concurrency,
                max_cost_nanos=to_nanos(desk.limits.max_cost),
            )
        await asyncio.sleep(LOOK_S)


@contextlib.asynccontextmanager
async def accompanied(*tellers: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Meanwhile these tell how the run goes on; none of them can end it or make it fail."""
    tasks = [asyncio.create_task(teller, name="telling") for teller in tellers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                log.warning("how the run went on could not be told: %s", printable(ended))
