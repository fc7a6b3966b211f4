"""Asking again: which calls it may help, and how long to wait before. Never near the call that costs money."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from oxenbatch.hub.trouble import HubTrouble
from oxenbatch.words import Cause

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import tenacity

TRIES: Final = 3
WAIT_MAX_S: Final = 60.0  # whatever `Retry-After` says: a run has other things to do meanwhile

T = TypeVar("T")


async def asked_again(call: Callable[[], Awaitable[T]], tries: int = TRIES) -> T:
    """What the call gives, after up to so many tries; the last one's `HubTrouble` where all of them met trouble."""
    try:
        return await call()
    except HubTrouble as trouble:
        if not is_passing(trouble):
            raise
        first = trouble
    return await _further(call, tries, first)


def is_passing(error: BaseException) -> bool:
    """Whether the same call may well be answered a moment later."""
    return isinstance(error, HubTrouble) and error.cause in (Cause.HUB, Cause.RATE)


async def _further(call: Callable[[], Awaitable[T]], tries: int, first: HubTrouble) -> T:
    """The tries after the first, which met passing trouble."""
    import tenacity  # noqa: PLC0415 - nearly every call succeeds at once, and this takes 20 ms

    met: list[HubTrouble] = [first]
    usual = tenacity.wait_random_exponential(multiplier=0.5, max=5)

    def wait(state: tenacity.RetryCallState) -> float:
        """As long as `Retry-After` says, else with jitter."""
        error = state.outcome.exception() if state.outcome else None
        told = error.wait_s if isinstance(error, HubTrouble) else None
        return float(usual(state)) if told is None else min(told, WAIT_MAX_S)

    async def go_on() -> T:
        if met:
            raise met.pop()
        return await call()

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(is_passing),
        wait=wait,
        stop=tenacity.stop_after_attempt(tries),
        sleep=asyncio.sleep,
        reraise=True,
    )
    return await retrying(go_on)
