"""One run over a batch: it obeys the plan, and writes down what happens.

Rules of residence: stages and nothing else. Each stage looks at the ledger's rows, acts on what is due, records what
came of it and rings the one bell; none hands a message to another. What must always hold: an intent is on disk before
its POST, the POST's outcome is recorded before anything else is awaited for that row, and nothing here posts twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from oxenbatch import plan
from oxenbatch.download import Blocking, Downloads
from oxenbatch.errors import OxenbatchError
from oxenbatch.hub import Hub, HubTrouble
from oxenbatch.ledger import reads, sends
from oxenbatch.plan import Facts, Limits, Stop
from oxenbatch.runner.bell import Bell, Tone
from oxenbatch.runner.desk import Desk, ModelFacts
from oxenbatch.runner.fetching import Fetching
from oxenbatch.runner.listening import Listening
from oxenbatch.runner.mood import Mood, mood_of
from oxenbatch.runner.sending import Sending
from oxenbatch.runner.storing import Storing
from oxenbatch.runner.summary import Summary, standing, summarise
from oxenbatch.runner.watching import Watching

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from oxenbatch.account import Account
    from oxenbatch.clock import Clock
    from oxenbatch.jobs import JobState
    from oxenbatch.ledger.clerk import Clerk
    from oxenbatch.reserve import Reserve

__all__ = ["Bell", "ModelFacts", "Mood", "Runner", "Summary", "standing"]

DRAIN_S: Final = 15.0  # open POSTs may answer for so long after Ctrl-C
HEARTBEAT_S: Final = 5.0
GLANCE_S: Final = 0.2  # the progress bar moves four times a second


class Runner:
    """Takes one batch as far as it can go."""

    def __init__(
        self,
        *,
        clerk: Clerk,
        hub: Hub,
        folder: Path,
        limits: Limits,
        run_id: int,
        models: Mapping[str, ModelFacts],
        clock: Clock,
        blocking: Blocking | None = None,
        account: Account | None = None,
        reserve: Reserve | None = None,
        sending: bool = True,
        inputs_root: Path | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.desk = Desk(
            clerk=clerk,
            hub=hub,
            limits=limits,
            run_id=run_id,
            models=models,
            clock=clock,
            account=account,
            reserve=reserve,
            jitter=jitter,
        )
        self._sends = sending
        self._listening = Listening(self.desk)
        self._sending = Sending(self.desk)
        self._storing = Storing(self.desk, inputs_root, blocking or Blocking())
        self._watching = Watching(self.desk)
        self._fetching = Fetching(self.desk, Downloads(hub, folder, clock, blocking or Blocking()))
        self._main: asyncio.Task[None] | None = None

    @property
    def facts(self) -> Facts:
        """What was left to do when the run last looked."""
        return self.desk.facts

    @property
    def moved(self) -> Mapping[JobState, int]:
        """Samples that came to, or left, each state in this run: for progress."""
        return self.desk.moved

    @property
    def mood(self) -> Mood:
        """How the run and the hub get on now: for progress."""
        return mood_of(self.desk)

    @property
    def stops(self) -> Mapping[Stop, str]:
        """Why nothing more is sent, and the sentence that tells it."""
        return self.desk.stops

    async def run(self) -> Summary:
        """Everything that could be done is done; what happened, and the exit code that says so."""
        self._main = asyncio.create_task(self._work(), name="run")
        try:
            await self._main
        except asyncio.CancelledError:
            if not self.desk.stops:
                raise
        except BaseExceptionGroup as group:
            raise _first(group) from group
        return await self.desk.clerk.do(summarise, self.desk)

    def interrupt(self, why: Stop, words: str = "interrupted; the next run goes on from here") -> None:
        """Stop sending and let open POSTs answer; a second time: leave at once."""
        if why in self.desk.stops or Stop.SIGINT in self.desk.stops or Stop.SIGTERM in self.desk.stops:
            self.abandon()
            return
        self.desk.stop(why, words)
        asyncio.get_running_loop().call_later(DRAIN_S, self.abandon)

    def abandon(self) -> None:
        """Leave now: what is under way is found again by the next run."""
        if self._main:
            self._main.cancel()

    async def _work(self) -> None:
        desk = self.desk
        async with asyncio.TaskGroup() as stages:
            listening = stages.create_task(self._listening.run(), name="listen")
            if desk.limits.deadline_s is not None:
                asyncio.get_running_loop().call_later(
                    desk.limits.deadline_s, desk.stop, Stop.DEADLINE, "the deadline has come"
                )
            await self._begin()
            if self._sends:
                stages.create_task(self._sending.run(), name="send")
                stages.create_task(self._storing.run(), name="store")
            fetching = stages.create_task(self._fetching.run(), name="fetch")
            watching = stages.create_task(self._watching.run(), name="watch")
            await self._conduct()
            desk.over = True
            desk.bell.ring()
            for stage in (listening, watching, fetching):
                stage.cancel()  # each only reads; the send stage ends by itself, when its POSTs are answered
        if not desk.hub_is_lost():
            with contextlib.suppress(HubTrouble):
                await self._watching.learn_charges()

    async def _begin(self) -> None:
        """Subscribed, and the hub's time is known: only then may an old intent be judged or a new one be made."""
        desk = self.desk
        await self._listening.subscribed.wait()
        while not desk.stops:
            try:
                await self._watching.look()
                break
            except HubTrouble as trouble:
                desk.went("look", well=False)
                await desk.troubled(trouble)
        if desk.hub.time.heard:
            await desk.clerk.do(sends.recover, now=desk.hub.time.now(), post_timeout_s=desk.limits.post_timeout_s)
            desk.scan_at = 0.0

    async def _conduct(self) -> None:
        """Return when nothing is left that this run may do."""
        desk = self.desk
        while True:
            mark = desk.bell.mark(Tone.LOOK)
            desk.facts, desk.moved = await desk.clerk.do(reads.facts_and_moves, tuple(desk.given_up))
            desk.check_outage()
            if plan.is_over(
                desk.facts if self._sends else replace(desk.facts, pending=False),
                desk.stops,
                wait=desk.limits.wait,
                could_send=desk.could_send,
                fetching=len(desk.fetching),
                open_posts=desk.open_posts,
            ):
                return
            # What is under way rings when it ends; before that it cannot be over, and nobody reads faster than this.
            looked_at = desk.clock.monotonic()
            await desk.bell.wait(mark, HEARTBEAT_S)
            while (desk.open_posts or desk.fetching) and not desk.stops:
                rest = looked_at + GLANCE_S - desk.clock.monotonic()
                if rest <= 0:
                    break
                await desk.bell.wait(desk.bell.mark(Tone.LOOK), rest)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a user is told of several errors: an error with a class of its own before a bug of ours."""
    ours = group.subgroup(OxenbatchError) or group
    error: BaseException = ours
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
