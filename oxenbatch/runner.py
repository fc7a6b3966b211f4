"""One run over a batch: it obeys the plan, and writes down what happens.

Rules of residence: stages and nothing else. Each stage looks at the ledger's rows, acts on what is due, records what
came of it and rings the one bell; none hands a message to another. What must always hold: an intent is on disk before
its POST, the POST's outcome is recorded before anything else is awaited for that row, and nothing here posts twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import random
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from oxenbatch import plan, reconcile
from oxenbatch.addresses import AddressRefused
from oxenbatch.download import Blocking, Downloads
from oxenbatch.errors import MachineError, OxenbatchError, gravest, printable
from oxenbatch.hub import AddressExpired, FileTrouble, Hub, HubTrouble, NotFound
from oxenbatch.jobs import JobState
from oxenbatch.ledger import news, reads, runs, sends
from oxenbatch.ledger.book import to_nanos
from oxenbatch.plan import DOWNLOADS, Facts, Limits, Stop
from oxenbatch.wire import Generation, Outcome
from oxenbatch.words import Cause

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from oxenbatch.account import Account
    from oxenbatch.clock import Clock
    from oxenbatch.jobs import Intent
    from oxenbatch.ledger.book import Ledger
    from oxenbatch.ledger.clerk import Clerk
    from oxenbatch.ledger.news import Fetch
    from oxenbatch.reserve import Reserve

log = logging.getLogger(__name__)

DRAIN_S: Final = 15.0  # open POSTs may answer for so long after Ctrl-C
EARLY_S: Final = 1.0  # an event may overtake the answer to its POST; by then both have come
LIST_LAG_S: Final = 5.0  # a fresh generation may be missing from the hub's lists for a moment
MISSING_GRACE_S: Final = 120.0  # an id that the hub does not know for two minutes will not come back by itself
FETCH_TRIES: Final = 8
FETCH_PAUSE_MAX_S: Final = 30.0
RECONNECT_MAX_S: Final = 30.0
SCAN_PAUSE_MAX_S: Final = 15.0
LOOK_UP_SINGLY: Final = 3  # more than that are looked up together, in the paged history
HEARTBEAT_S: Final = 5.0
OTHERS_S: Final = 1.0
CHARGES_AT_ONCE: Final = 1000


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


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a user is told of several errors: an error with a class of its own before a bug of ours."""
    ours = group.subgroup(OxenbatchError) or group
    error: BaseException = ours
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What sending and watching need to know of a model."""

    video: bool = False
    per_post: int = 4
    has_schema: bool = True
    """The catalogue says what the model takes: without that, its first row goes alone."""


@dataclass(slots=True)
class Summary:
    """How a run ended."""

    exit_code: int
    counts: dict[JobState, int]
    cost: Decimal
    """Dollars that the hub has charged for the batch so far."""
    committed: Decimal
    """Charges where they are known, estimates where not."""
    sends: int
    reasons: list[str] = field(default_factory=list)
    """Why it stopped before all was done, in sentences."""

    @property
    def done(self) -> int:
        """Samples on disk."""
        return self.counts[JobState.DOWNLOADED]

    @property
    def active(self) -> int:
        """Samples that are paid, or may be, and not on disk yet."""
        s = JobState
        return sum(self.counts[x] for x in (s.SUBMITTING, s.UNCERTAIN, s.QUEUED, s.PROCESSING, s.SUCCEEDED))

    @property
    def pending(self) -> int:
        """Samples that are not sent yet."""
        return self.counts[JobState.PENDING]

    @property
    def held(self) -> int:
        """Samples about which a person must decide."""
        return self.counts[JobState.HELD]

    @property
    def failed(self) -> int:
        """Samples that ended without a file."""
        return sum(self.counts[x] for x in (JobState.FAILED, JobState.CANCELLED, JobState.UNFETCHABLE))


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
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.clerk = clerk
        self.hub = hub
        self.limits = limits
        self.models = models
        self.clock = clock
        self.bell = Bell()
        self.stops: dict[Stop, str] = {}
        self.facts = Facts(pending=True, submitting=0, uncertain=0, at_the_hub=0, succeeded=0)
        self.moved: Mapping[JobState, int] = {}
        """Samples that came to, or left, each state in this run: for progress."""
        self._run_id = run_id
        self._downloads = Downloads(hub, folder, clock, blocking or Blocking())
        self._jitter = jitter
        self._account = account
        self._reserve = reserve
        self._sending = sending
        self._lane = plan.Lane()
        self._breakers: dict[str, plan.Breaker] = {}
        self._proven: set[str] = set()
        """Models whose first row has been made, where that is waited for."""
        self._given_up: set[str] = set()
        """Models whose first row failed, so that their others are not sent."""
        self._open_posts = 0
        self._failing: dict[str, float] = {}
        """Since when (monotonic seconds) something that a run must be able to do has only failed."""
        self._could_send = True
        self._fetching: set[int] = set()
        self._subscribed = asyncio.Event()
        self._events_trusted = False
        self._events_missed = False
        self._in_trouble = False
        self._images = True
        """Something of ours that takes seconds, not minutes, was in the list."""
        self._look_at = 0.0
        self._scan_at = 0.0
        self._scans = 0
        self._over = False
        self._main: asyncio.Task[None] | None = None

    # -- the whole ------------------------------------------------------------------------------------------------

    async def run(self) -> Summary:
        """Everything that could be done is done; what happened, and the exit code that says so."""
        self._main = asyncio.create_task(self._work(), name="run")
        try:
            await self._main
        except asyncio.CancelledError:
            if not self.stops:
                raise
        except BaseExceptionGroup as group:
            raise _first(group) from group
        return await self.clerk.do(self._summary)

    def stop(self, why: Stop, words: str) -> None:
        """Nothing more is sent; the first sentence for a reason is the one that is told."""
        if why not in self.stops:
            self.stops[why] = words
            log.info("nothing more is sent: %s", words)
            self.bell.ring()  # once: ringing whenever it is found again would keep everyone awake

    def interrupt(self, why: Stop) -> None:
        """Stop sending and let open POSTs answer; a second time: leave at once."""
        if why in self.stops or Stop.SIGINT in self.stops or Stop.SIGTERM in self.stops:
            self.abandon()
            return
        self.stop(why, "interrupted; the next run goes on from here")
        asyncio.get_running_loop().call_later(DRAIN_S, self.abandon)

    def abandon(self) -> None:
        """Leave now: what is under way is found again by the next run."""
        if self._main:
            self._main.cancel()

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as stages:
            listening = stages.create_task(self._listen(), name="listen")
            if self.limits.deadline_s is not None:
                asyncio.get_running_loop().call_later(
                    self.limits.deadline_s, self.stop, Stop.DEADLINE, "the deadline has come"
                )
            await self._begin()
            if self._sending:
                stages.create_task(self._send(), name="send")
            fetching = stages.create_task(self._fetch(), name="fetch")
            watching = stages.create_task(self._watch(), name="watch")
            await self._conduct()
            self._over = True
            self.bell.ring()
            for stage in (listening, watching, fetching):
                stage.cancel()  # each only reads; the send stage ends by itself, when its POSTs are answered
        if not self._hub_is_lost():
            with contextlib.suppress(HubTrouble):
                await self._learn_charges()

    def _hub_is_lost(self) -> bool:
        return any(stop.at_once for stop in self.stops)

    async def _begin(self) -> None:
        """Subscribed, and the hub's time is known: only then may an old intent be judged or a new one be made."""
        await self._subscribed.wait()
        while not self.stops:
            try:
                await self._look()
                break
            except HubTrouble as trouble:
                self._went("look", well=False)
                await self._troubled(trouble)
        if self.hub.time.heard:
            await self.clerk.do(sends.recover, now=self.hub.time.now(), post_timeout_s=self.limits.post_timeout_s)

    async def _conduct(self) -> None:
        """Return when nothing is left that this run may do."""
        while True:
            mark = self.bell.mark
            self.facts, self.moved = await self.clerk.do(reads.facts_and_moves, tuple(self._given_up))
            self._check_outage()
            if plan.is_over(
                self.facts if self._sending else replace(self.facts, pending=False),
                self.stops,
                wait=self.limits.wait,
                could_send=self._could_send,
                fetching=len(self._fetching),
                open_posts=self._open_posts,
            ):
                return
            await self.bell.wait(mark, HEARTBEAT_S)

    def _check_outage(self) -> None:
        since = self.hub.unreachable_since
        if since is not None and self.clock.monotonic() - since > self.limits.max_outage_s:
            self.stop(Stop.OUTAGE, f"the hub has not answered for {self.limits.max_outage_s:.0f} s")

    def _went(self, what: str, *, well: bool) -> None:
        """What has only failed for `max_outage_s` is an outage too, although the hub answers other calls."""
        if well:
            self._failing.pop(what, None)
            return
        since = self._failing.setdefault(what, self.clock.monotonic())
        if self.clock.monotonic() - since > self.limits.max_outage_s:
            self.stop(Stop.OUTAGE, f"the hub has not let us {what} for {self.limits.max_outage_s:.0f} s")

    async def _troubled(self, trouble: HubTrouble) -> None:
        """A reading call failed: the key is probed once, anything else waits a little."""
        if trouble.cause is Cause.KEY:
            self.stop(Stop.KEY, f"the hub refuses the key ({trouble})")
            return
        self._check_outage()
        if not self._in_trouble:
            self._in_trouble = True
            log.warning("the hub cannot be read (%s); trying for up to %.0f s", trouble, self.limits.max_outage_s)
        pause = trouble.wait_s if trouble.wait_s is not None else 2.0 + 3.0 * self._jitter()
        await self.bell.wait(self.bell.mark, pause)

    # -- send -----------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        async with asyncio.TaskGroup() as posts:
            while not self._over and not self.stops:
                mark = self.bell.mark
                wait = self._lane.opens_at - self.clock.monotonic()
                if wait > 0:
                    await self.bell.wait(mark, wait)
                    continue
                allowed = min(self._lane.width, plan.OPEN_POSTS) - self._open_posts
                looked_at = self.hub.time.now()
                authorised = await self.clerk.do(self._authorise, allowed)
                could, self._could_send = self._could_send, bool(authorised.intents) or allowed <= 0
                for intent in authorised.intents:
                    self._open_posts += 1
                    posts.create_task(self._post(intent), name=f"post {intent.submission_id}")
                if authorised.blocked:
                    self.stop(authorised.blocked, authorised.blocked.words)  # collecting goes on
                elif not authorised.intents:
                    if could and not self._could_send:
                        self.bell.ring()  # with --no-wait the run may be over now
                    await self.bell.wait(mark, await self._next_send_in(looked_at))

    async def _next_send_in(self, looked_at: float) -> float | None:
        """Seconds until something may be due that was not when we looked, if nothing happens before; None: nothing."""
        due_at = await self.clerk.do(sends.next_due_at, looked_at)
        now = self.clock.monotonic()
        waits = [breaker.opens_at - now for breaker in self._breakers.values() if breaker.opens_at > now]
        if self._account and self._account.is_limited:
            waits.append(OTHERS_S)  # no bell rings here when another run gives a place back
        waits += [] if due_at is None else [max(0.05, due_at - self.hub.time.now())]
        return min(waits, default=None)

    def _authorise(self, ledger: Ledger, posts: int) -> sends.Authorised:
        """Choose what to post now, and record the intents: one look, one commit."""
        active = sends.active_by_model(ledger)
        if self._reserve and self._reserve.is_short(sum(active.values())):
            return sends.Authorised([], Stop.DISK)
        if not self._account or not self._account.is_limited:
            return self._choose(ledger, active, posts, None, None)
        day = dt.datetime.fromtimestamp(self.clock.wall()).astimezone().date().isoformat()
        committed = reads.committed_nanos(ledger)
        with self._account.reserving(sum(active.values()), committed, day) as room:
            authorised = self._choose(ledger, active, posts, room.places, room.nanos)
            room.taken = sum(intent.count for intent in authorised.intents)
            room.nanos_taken = authorised.nanos
        return authorised

    def _choose(
        self, ledger: Ledger, active: Mapping[str, int], posts: int, places: int | None, nanos: int | None
    ) -> sends.Authorised:
        """The intents of up to `posts` POSTs, within what the account leaves in places and nanodollars."""
        now = self.hub.time.now()
        free = self.limits.concurrency - sum(active.values())
        if places is not None:
            free = min(free, places)
        if posts <= 0 or free <= 0:
            return sends.Authorised([])
        models = sends.models_due(ledger)
        untried = {model for model in models if self._is_canary(ledger, model)}
        moment = self.clock.monotonic()
        paused = {model for model, breaker in self._breakers.items() if moment < breaker.opens_at} | self._given_up
        probing = {model for model, breaker in self._breakers.items() if breaker.probing}
        room = plan.rooms(models, active, self.limits, single=untried | probing, paused=paused)
        due = sends.due(ledger, room, now)
        per_post = {model: facts.per_post for model, facts in self.models.items()}
        chosen = plan.picks(due, room, free, posts, per_post)
        left = self.limits.limit_sends
        caps = sends.Caps(
            self.limits.concurrency,
            to_nanos(self.limits.max_cost),
            self.limits.allow_unpriced,
            None if left is None else left - runs.sends_of(ledger, self._run_id),
            nanos,
        )
        return sends.authorise(ledger, chosen, caps, at=now, run_id=self._run_id, target=self.hub.target)

    def _is_canary(self, ledger: Ledger, model: str) -> bool:
        """Whether the model's first row has still to show that the others are worth sending."""
        facts = self.models.get(model)
        wanted = self.limits.canary == "all" or (self.limits.canary == "unknown" and not (facts and facts.has_schema))
        if not wanted or model in self._proven:
            return False
        made = sends.canary_of(ledger, model)
        if made:
            self._proven.add(model)
        elif made is False:
            self._given_up.add(model)
        return not made

    async def _post(self, intent: Intent) -> None:
        answer = await self.hub.enqueue(intent)
        moment = self.clock.monotonic()
        before, self._lane = self._lane, plan.after_answer(self._lane, answer, moment, self._jitter())
        if self._lane.opens_at > max(before.opens_at, moment + 2.0):
            log.warning("sending waits %.0f s: %s", self._lane.opens_at - moment, printable(answer.words))
        await self.clerk.do(sends.record, intent.submission_id, answer, at=self.hub.time.now())
        self._open_posts -= 1
        self._went("send", well=answer.outcome not in (Outcome.UNKNOWN, Outcome.NOT_SENT))
        if answer.cause is Cause.CREDITS:
            self.stop(Stop.CREDITS, f"the hub says: {answer.words}")
        elif answer.cause is Cause.KEY:
            await self._probe_key(answer.words)
        elif answer.outcome is Outcome.REFUSED and self.limits.fail_fast:
            self.stop(Stop.FAIL_FAST, f"the hub refused a request: {answer.words}")
        elif answer.outcome is Outcome.UNKNOWN:
            self._scan_at = min(self._scan_at, self.clock.monotonic() + 1.0)
            self._scans = 0
        self.bell.ring()

    async def _probe_key(self, words: str) -> None:
        """One reading call tells a key that is refused from a single odd answer."""
        if Stop.KEY in self.stops:
            return
        try:
            await self.hub.active()
        except HubTrouble as trouble:
            if trouble.cause is Cause.KEY:
                self.stop(Stop.KEY, f"the hub refuses the key ({words})")
            return
        self.stop(Stop.KEY, f"the hub lets this key read, and not generate ({words})")

    # -- watch ----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while not self._over:
            mark = self.bell.mark
            facts = await self.clerk.do(reads.facts)  # its own look: what the conductor saw may be a ring old
            now = self.clock.monotonic()
            look_in = self._look_at - now if facts.at_the_hub else None
            scan_in = self._scan_at - now if facts.uncertain else None
            what = "reconcile" if scan_in is not None and scan_in <= 0 else "look"
            try:
                if what == "reconcile":
                    await self._reconcile()
                    self._went(what, well=True)
                elif look_in is not None and look_in <= 0:
                    await self._look()
                    self._went(what, well=True)
                else:
                    # The facts are learnt anew after the ring that brings us here, so what they know is a little old.
                    waits = [wait for wait in (look_in, scan_in) if wait is not None]
                    await self.bell.wait(mark, min(waits, default=HEARTBEAT_S))
            except HubTrouble as trouble:
                self._went(what, well=False)
                await self._troubled(trouble)

    async def _look(self) -> None:
        """One list call: every generation of ours is where the hub says it is; those that left it are looked up."""
        every = plan.look_every_s(images=self._images, events_trusted=self._events_trusted)
        began = self.hub.time.now()
        self._look_at = self.clock.monotonic() + every
        listed = await self.hub.active()
        if self._in_trouble:
            self._in_trouble = False
            log.warning("the hub answers again")
        watched = await self._apply(listed)
        ids = {generation.generation_id for generation in listed}
        ours = [generation for generation in listed if generation.generation_id in watched]
        # What has left the list, or is not in it yet, is looked for at the quicker pace.
        self._images = len(ours) < len(watched) or any(not self._is_video(generation) for generation in ours)
        unlisted = {i: at for i, at in watched.items() if i not in ids}
        gone = {i: at for i, at in unlisted.items() if at < began - LIST_LAG_S}
        if len(gone) < len(unlisted):  # too young to tell an end from a list that lags
            self._look_at = min(self._look_at, self.clock.monotonic() + LIST_LAG_S)
        if gone:
            await self._look_up(gone, began)
        await self._cancel_overdue(ours, watched)

    def _is_video(self, generation: Generation) -> bool:
        """By the hub's word, else by the catalogue's; what nobody knows is given a video's time."""
        kind = generation.echo.get("media_type")
        return kind == "video" if kind else self.models.get(generation.model, ModelFacts(video=True)).video

    async def _apply(self, generations: list[Generation]) -> dict[str, float]:
        """Our generations are where these rows say; what is still watched, and since when."""
        now = self.hub.time.now()
        told, watched = await self.clerk.do(news.apply_and_watch, generations, at=now)
        self._told(told)
        return watched

    def _told(self, told: news.Told) -> None:
        if told.cause is Cause.CREDITS:
            self.stop(Stop.CREDITS, "a generation failed for want of credits")
        elif told.cause is Cause.KEY:
            self.stop(Stop.KEY, "a generation failed since the key is refused")
        for end in told.ends:
            breaker = self._breakers.get(end.model, plan.Breaker())
            after = plan.after_end(breaker, end.trouble, self.clock.monotonic())
            if after.opens_at > breaker.opens_at:
                log.warning("%s pauses for %.0f s: %s", end.model, after.pause_s, printable(end.trouble))
            self._breakers[end.model] = after
        if told.failed and self.limits.fail_fast:
            self.stop(Stop.FAIL_FAST, "a generation failed")
        if told.moved:
            self.bell.ring()

    async def _look_up(self, gone: Mapping[str, float], began: float) -> None:
        """What became of generations that are not in the active list: many at once, through the paged history."""
        found: list[Generation] = []
        if len(gone) > LOOK_UP_SINGLY:
            found = await self.hub.history_since(min(gone.values()) - reconcile.SLACK_S, set(gone))
        for generation_id in sorted(gone.keys() - {g.generation_id for g in found})[: LOOK_UP_SINGLY * 4]:
            try:
                found.append(await self.hub.generation(generation_id))
            except NotFound:
                now = self.hub.time.now()
                await self.clerk.do(news.missing, generation_id, now=now, grace_s=MISSING_GRACE_S)
        ends = [g for g in found if g.status not in news.LIVE]
        if any(g.completed_at is not None and g.completed_at < began - 2.0 for g in ends):
            self._events_missed, self._events_trusted = True, False
        await self._apply(found)

    async def _cancel_overdue(self, ours: list[Generation], watched: Mapping[str, float]) -> None:
        """A generation that takes longer than the timeout is cancelled at the hub; what it became is then asked."""
        now = self.hub.time.now()
        for generation in ours:
            limit = self.limits.video_timeout_s if self._is_video(generation) else self.limits.image_timeout_s
            if now - watched[generation.generation_id] <= limit:
                continue
            with contextlib.suppress(NotFound):
                await self.hub.cancel(generation.generation_id)
                after = await self.hub.generation(generation.generation_id)
                if after.status == "cancelled":
                    after = news.timed_out(after, limit)
                await self._apply([after])

    # -- sends that nobody answered -------------------------------------------------------------------------------

    async def _reconcile(self) -> None:
        """One complete scan of the hub's rows settles what it can of the sends whose outcome is unknown."""
        self._scans += 1
        self._scan_at = self.clock.monotonic() + min(SCAN_PAUSE_MAX_S, 2.0 ** min(self._scans, 5) / 2)
        opens = await self.clerk.do(sends.unknown)
        if not opens:
            return
        if self._scans == 1:
            log.warning(
                "sends without an answer: %d; whether they landed is found out from the hub's list, in up to %.0f s",
                len(opens),
                self.limits.settle_s,
            )
        began = self.hub.time.now()
        since = reconcile.window_start(opens) if self.hub.time.told else 0.0
        rows: dict[str, Generation] = {}
        for namespace in {one.namespace for one in opens}:
            found = await self.hub.history_since(since, namespace=namespace)
            rows |= {generation.generation_id: generation for generation in found}
        rows |= {g.generation_id: g for g in await self.hub.active() if g.generation_id not in rows}
        verdicts = await self.clerk.do(self._judge, opens, rows, began)
        if any(verdict.ids for verdict in verdicts):
            self._went("send", well=True)  # it landed, whatever was answered
        # The scan that can prove absence comes when the settle time is over, and the one that agrees a second later.
        due_in = reconcile.scan_due_at(opens, self.limits.settle_s) - began
        if any(verdict.scans == 1 for verdict in verdicts):
            self._scan_at = self.clock.monotonic() + 1.0
        elif due_in > 0:
            self._scan_at = min(self._scan_at, self.clock.monotonic() + due_in + 0.1)
        self.bell.ring()

    def _judge(
        self, ledger: Ledger, opens: list[reconcile.Open], rows: Mapping[str, Generation], began: float
    ) -> list[reconcile.Verdict]:
        """Every open send is as the scan that began then shows it; the verdicts."""
        siblings = self._account.siblings() if self._account else ()
        elsewhere = sends.elsewhere(siblings, rows, {one.request_hash for one in opens})
        under_way = sends.under_way(ledger, [one.submission_id for one in opens])
        taken = sends.owned(ledger, rows)
        verdicts: list[reconcile.Verdict] = []
        for by_token in (True, False):  # what says itself whose it is goes first
            found = reconcile.judge(
                [one for one in opens if one.by_token == by_token],
                list(rows.values()),
                taken,
                now=began,
                settle_s=self.limits.settle_s,
                by_token=by_token,
                elsewhere=elsewhere,
                under_way=under_way,
                doubt_s=reconcile.DOUBT_S if self.hub.time.told else float("inf"),
            )
            taken |= {generation_id for verdict in found for generation_id in verdict.ids}
            verdicts += found
        self._settle(ledger, verdicts)
        return verdicts

    def _settle(self, ledger: Ledger, verdicts: list[reconcile.Verdict]) -> None:
        now = self.hub.time.now()
        for verdict in verdicts:
            if verdict.ids:
                log.info("found at the hub: %s", ", ".join(verdict.ids))
                self._look_at = 0.0  # its end may have been announced before it was ours
                sends.adopt(ledger, verdict.submission_id, verdict.ids, at=now)
            sends.count_absent_scans(ledger, verdict.submission_id, verdict.scans)
            if verdict.absent:
                note = f"not at the hub {self.limits.settle_s:.0f} s later, in two complete scans"
                sends.declare_absent(ledger, verdict.submission_id, at=now, note=note)
            elif verdict.undecidable and self.limits.on_unknown == "resubmit":
                sends.declare_absent(ledger, verdict.submission_id, at=now, note="--on-unknown resubmit")
            elif verdict.undecidable:
                log.warning("a send is held: %s", verdict.undecidable)
                sends.hold(ledger, verdict.submission_id, at=now, note=verdict.undecidable)

    # -- listen ---------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        pause = 0.5
        while True:
            began = self.clock.monotonic()
            try:
                async with self.hub.listen() as stream:
                    self._events_missed = False
                    # Events are not buffered (API, Events): whatever fired before this connection is in the list.
                    self._look_at = 0.0
                    self._subscribed.set()
                    self.bell.ring()
                    async for generation in stream:
                        await self._hear(generation)
            except HubTrouble:
                pass  # a stream that is cut is normal: the list knows what was missed
            self._events_trusted = False
            self._subscribed.set()
            if self.clock.monotonic() - began > RECONNECT_MAX_S:
                pause = 0.5  # it had been a good stream
            await asyncio.sleep(pause * (0.5 + self._jitter()))
            pause = min(RECONNECT_MAX_S, pause * 2)

    async def _hear(self, generation: Generation) -> None:
        told = await self.clerk.do(news.apply, [generation], at=self.hub.time.now())
        self._events_trusted = self._events_trusted or (bool(told.ends) and not self._events_missed)
        self._told(told)
        if not told.moved and self._open_posts:
            # It may be of a POST whose answer is still on its way: then only the list will tell of it.
            self._look_at = min(self._look_at, self.clock.monotonic() + EARLY_S)
            self.bell.ring()

    # -- fetch ----------------------------------------------------------------------------------------------------

    async def _fetch(self) -> None:
        async with asyncio.TaskGroup() as downloads:
            while not self._over and not self._hub_is_lost():
                mark = self.bell.mark
                room = DOWNLOADS - len(self._fetching)
                now = self.hub.time.now()
                todo: list[Fetch] = []
                if room > 0:
                    todo = await self.clerk.do(news.fetchable, room, now=now, busy=tuple(self._fetching))
                for fetch in todo:
                    self._fetching.add(fetch.sample_id)
                    downloads.create_task(self._fetch_one(fetch), name=f"fetch {fetch.generation_id}")
                if not todo:
                    due_at = await self.clerk.do(news.next_fetch_at, now) if room > 0 else None
                    await self.bell.wait(mark, None if due_at is None else max(0.05, due_at - self.hub.time.now()))

    async def _fetch_one(self, fetch: Fetch) -> None:
        try:
            url = fetch.url or await self._fresh_address(fetch)
            kept = await self._downloads.fetch(fetch, url)
        except MachineError as error:
            self.stop(Stop.DISK, str(error))
        except (FileTrouble, AddressExpired, AddressRefused, HubTrouble) as error:
            await self._fetch_failed(fetch, error)
        else:
            await self.clerk.do(news.keep, fetch, kept, at=self.hub.time.now())
        finally:
            self._fetching.discard(fetch.sample_id)
            self.bell.ring()

    async def _fresh_address(self, fetch: Fetch) -> str:
        generation = await self.hub.generation(fetch.generation_id)
        if not generation.result_url:
            raise FileTrouble("the hub has no address for this result")
        url = generation.result_url
        await self.clerk.do(news.set_address, fetch, url)
        return url

    async def _fetch_failed(self, fetch: Fetch, error: Exception) -> None:
        # Where the hub is out of reach too, the way is broken and not the file: that costs time (max_outage_s), no try.
        counts = self.hub.unreachable_since is None
        tries = fetch.tries + counts
        pause = min(FETCH_PAUSE_MAX_S, 0.5 * 2**fetch.tries if counts else FETCH_PAUSE_MAX_S) * (0.5 + self._jitter())
        if isinstance(error, AddressExpired) and fetch.tries == 0:
            pause = 0.0
        now = self.hub.time.now()
        retry_at = now + pause if tries < FETCH_TRIES else None
        expired = isinstance(error, AddressExpired | AddressRefused) or tries % 3 == 0
        why = str(error) or type(error).__name__
        await self.clerk.do(
            news.fetch_failed, fetch, at=now, why=why, retry_at=retry_at, address_expired=expired, counts=counts
        )

    # -- the end --------------------------------------------------------------------------------------------------

    async def _learn_charges(self) -> None:
        """What the hub charged takes the estimates' place, as far as it says so."""
        skipped = 0
        while pairs := await self.clerk.do(news.uncharged, CHARGES_AT_ONCE, skipped):
            oldest = min(at for _, at in pairs) - reconcile.SLACK_S
            rows = await self.hub.history_since(oldest, {i for i, _ in pairs})
            charged = [row for row in rows if row.cost is not None]
            await self.clerk.do(news.apply, charged, at=self.hub.time.now())
            skipped += len(pairs) - len(charged)  # the hub has not charged these yet: the next run asks again

    def _summary(self, ledger: Ledger) -> Summary:
        counts = reads.counts(ledger)
        batch = reads.batch(ledger)
        summary = Summary(
            0,
            counts,
            reads.charged(ledger),
            batch.committed if batch else Decimal(0),
            runs.sends_of(ledger, self._run_id),
            [words for words in self.stops.values() if words],
        )
        summary.reasons += [
            f"the first row of {model} failed, so its others were not sent; mend it, or run with --no-canary"
            for model in sorted(self._given_up)
        ]
        left = summary.active + summary.pending
        codes = {stop.exit_code for stop in self.stops if left or stop is Stop.FAIL_FAST}
        codes |= {4} if summary.held else set()
        codes |= {3} if summary.failed or self._given_up else set()
        codes |= {75} if left and not self.limits.wait else set()
        codes |= {75} if left and not codes else set()
        summary.exit_code = gravest(codes)
        return summary
