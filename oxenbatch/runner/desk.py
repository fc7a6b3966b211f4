"""What all stages share: the ledger's clerk, the hub, the limits, the bell, and what stops a run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oxenbatch import plan
from oxenbatch.errors import printable
from oxenbatch.hub import Hub, HubTrouble
from oxenbatch.ledger import news
from oxenbatch.plan import Facts, Limits, Stop
from oxenbatch.runner.bell import Bell, Tone
from oxenbatch.words import Cause

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oxenbatch.account import Account
    from oxenbatch.clock import Clock
    from oxenbatch.jobs import JobState
    from oxenbatch.ledger.clerk import Clerk
    from oxenbatch.reserve import Reserve

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What sending and watching need to know of a model."""

    video: bool = False
    per_post: int = 4
    has_schema: bool = True
    """The catalogue says what the model takes: without that, its first row goes alone."""


class Desk:
    """One run's own state; the rows are the ledger's."""

    def __init__(
        self,
        *,
        clerk: Clerk,
        hub: Hub,
        limits: Limits,
        run_id: int,
        models: Mapping[str, ModelFacts],
        clock: Clock,
        account: Account | None,
        reserve: Reserve | None,
        jitter: Callable[[], float],
    ) -> None:
        self.clerk = clerk
        self.hub = hub
        self.limits = limits
        self.run_id = run_id
        self.models = models
        self.clock = clock
        self.account = account
        self.reserve = reserve
        self.jitter = jitter
        """A random number, 0 to 1, at each call."""
        self.bell = Bell()
        self.stops: dict[Stop, str] = {}
        self.facts = Facts(pending=True, submitting=0, uncertain=0, at_the_hub=0, succeeded=0)
        self.moved: Mapping[JobState, int] = {}
        """Samples that came to, or left, each state in this run: for progress."""
        self.over = False
        """Nothing is left that this run may do: the stages end."""
        self.open_posts = 0
        self.could_send = True
        """The send stage found something to post when it last looked."""
        self.wants_inputs = hub.store.place is not None
        """Something that is due waits for files that the hub has to keep first."""
        self.fetching: set[int] = set()
        """Samples whose files are on their way."""
        self.lane = plan.Lane()
        """The way to the hub, for all sends."""
        self.lane_words = ""
        """What the hub last said that made sending wait."""
        self.listening: bool | None = None
        """Whether the hub's announcements are heard; None before that was tried."""
        self.breakers: dict[str, plan.Breaker] = {}
        self.given_up: set[str] = set()
        """Models whose first row failed, so that their others are not sent."""
        self.look_at = 0.0
        """When (monotonic seconds) the hub's list is asked next."""
        self.scan_at = float("inf")
        """When its history is searched next for sends that nobody answered; never, while there are none."""
        self.scans = 0
        """How often it was, since the last such send."""
        self.longest_s = 0.0
        """The longest that a generation was at the hub, in this run."""
        self.early = news.Early()
        self.events_trusted = False
        self.events_missed = False
        self.in_trouble = False
        self.failing: dict[str, float] = {}
        """Since when (monotonic seconds) something that a run must be able to do has only failed."""

    def stop(self, why: Stop, words: str) -> None:
        """Nothing more is sent; the first sentence for a reason is the one that is told."""
        if why not in self.stops:
            self.stops[why] = words
            log.info("nothing more is sent: %s", words)
            self.bell.ring()  # once: ringing whenever it is found again would keep everyone awake

    def hub_is_lost(self) -> bool:
        """Whether the run leaves without waiting for what the hub still makes."""
        return any(stop.at_once for stop in self.stops)

    def look_soon(self, in_s: float) -> None:
        """The hub's list is asked in so many seconds, if not before."""
        self.look_at = min(self.look_at, self.clock.monotonic() + in_s)

    def told(self, told: news.Told, tones: Tone = Tone.ALL) -> None:
        """What some news changed is acted on; `tones`: who has not been woken for it yet."""
        if told.cause is Cause.CREDITS:
            self.stop(Stop.CREDITS, "a generation failed for want of credits")
        elif told.cause is Cause.KEY:
            self.stop(Stop.KEY, "a generation failed since the key is refused")
        for end in told.ends:
            breaker = self.breakers.get(end.model, plan.Breaker())
            after = plan.after_end(breaker, end.trouble, self.clock.monotonic())
            if after.opens_at > breaker.opens_at:
                log.warning("%s pauses for %.0f s: %s", end.model, after.pause_s, printable(end.trouble))
            self.breakers[end.model] = after
            self.longest_s = max(self.longest_s, end.took_s)
        if told.failed and self.limits.fail_fast:
            self.stop(Stop.FAIL_FAST, "a generation failed")
        if told.moved:
            self.bell.ring(tones)

    def check_outage(self) -> None:
        since = self.hub.unreachable_since
        if since is not None and self.clock.monotonic() - since > self.limits.max_outage_s:
            self.stop(Stop.OUTAGE, f"the hub has not answered for {self.limits.max_outage_s:.0f} s")

    def went(self, what: str, *, well: bool) -> None:
        """What has only failed for `max_outage_s` is an outage too, although the hub answers other calls."""
        if well:
            self.failing.pop(what, None)
            return
        since = self.failing.setdefault(what, self.clock.monotonic())
        if self.clock.monotonic() - since > self.limits.max_outage_s:
            self.stop(Stop.OUTAGE, f"the hub has not let us {what} for {self.limits.max_outage_s:.0f} s")

    async def troubled(self, trouble: HubTrouble) -> None:
        """A reading call failed: the key is probed once, anything else waits a little."""
        if trouble.cause is Cause.KEY and await self.key_is_refused():
            self.stop(Stop.KEY, f"the hub refuses the key ({trouble})")
            return
        self.check_outage()
        if not self.in_trouble:
            self.in_trouble = True
            log.warning("the hub cannot be read (%s); trying for up to %.0f s", trouble, self.limits.max_outage_s)
        pause = trouble.wait_s if trouble.wait_s is not None else 2.0 + 3.0 * self.jitter()
        await self.bell.wait(self.bell.mark(Tone.LOOK), pause)

    async def key_is_refused(self) -> bool:
        """Whether one more reading call is refused too: a single odd answer stops no run."""
        try:
            await self.hub.active()
        except HubTrouble as trouble:
            return trouble.cause is Cause.KEY
        return False

    async def probe_key(self, words: str) -> None:
        """A POST was refused for its key: nothing more is sent, and one reading call tells what is to be said."""
        if Stop.KEY not in self.stops:
            refused = await self.key_is_refused()
            what = "refuses the key" if refused else "lets this key read, and not generate"
            self.stop(Stop.KEY, f"the hub {what} ({words})")
