"""The send stage: what is due becomes an intent on disk, then one POST, then its outcome on disk."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from typing import TYPE_CHECKING, Final

from oxenbatch import plan
from oxenbatch.errors import printable
from oxenbatch.ledger import news, reads, runs, sends
from oxenbatch.ledger.book import to_nanos
from oxenbatch.plan import Stop
from oxenbatch.runner.bell import Tone
from oxenbatch.wire import Outcome
from oxenbatch.words import Cause

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oxenbatch.jobs import Intent
    from oxenbatch.ledger.book import Ledger
    from oxenbatch.runner.desk import Desk
    from oxenbatch.wire import Answer

log = logging.getLogger(__name__)

LEARN_S: Final = 30.0  # half the time of the shortest videos
OTHERS_S: Final = 1.0  # no bell rings here when another run gives a place back


class Sending:
    """Posts what is due, as fast as the lane allows."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._proven: set[str] = set()
        """Models whose first row has been made, where that is waited for."""
        self._videos = {name for name, facts in desk.models.items() if facts.video}
        self._paces: dict[plan.Kind, float] = {}
        """How long each kind took of late; the clerk's thread alone uses it."""
        self._learns_at = 0.0
        self._full = True
        """As many POSTs are open as may be: an answer makes room for another."""

    async def run(self) -> None:
        desk = self.desk
        async with asyncio.TaskGroup() as posts:
            while not desk.over and not desk.stops:
                mark = desk.bell.mark(Tone.SEND)
                wait = desk.lane.opens_at - desk.clock.monotonic()
                if wait > 0:
                    await desk.bell.wait(mark, wait, Tone.SEND)
                    continue
                allowed = min(desk.lane.width, plan.OPEN_POSTS) - desk.open_posts
                looked_at = desk.hub.time.now()
                authorised, due_at = await desk.clerk.do(self._authorise, allowed, looked_at)
                self._full = len(authorised.intents) >= allowed
                could, desk.could_send = desk.could_send, self._full or authorised.waits
                if authorised.waits and not desk.wants_inputs:
                    desk.wants_inputs = True
                    desk.bell.ring(Tone.LOOK)
                for intent in authorised.intents:
                    desk.open_posts += 1
                    posts.create_task(self._post(intent), name=f"post {intent.submission_id}")
                if authorised.blocked:
                    desk.stop(authorised.blocked, authorised.blocked.words)  # collecting goes on
                    continue
                if self._full and min(desk.lane.width, plan.OPEN_POSTS) > desk.open_posts:
                    continue  # one was answered while we looked
                if could and not desk.could_send:
                    desk.bell.ring(Tone.LOOK)  # with --no-wait the run may be over now
                await desk.bell.wait(mark, self._next_send_in(due_at), Tone.SEND)

    def _next_send_in(self, due_at: float | None) -> float | None:
        """Seconds until something may be due that was not when we looked, if nothing happens before; None: nothing."""
        desk = self.desk
        now = desk.clock.monotonic()
        waits = [breaker.opens_at - now for breaker in desk.breakers.values() if breaker.opens_at > now]
        if desk.account and desk.account.is_limited:
            waits.append(OTHERS_S)  # no bell rings here when another run gives a place back
        waits += [] if due_at is None else [max(0.05, due_at - desk.hub.time.now())]
        return min(waits, default=None)

    def _authorise(self, ledger: Ledger, posts: int, now: float) -> tuple[sends.Authorised, float | None]:
        """Choose what to post now, and record the intents: one look, one commit; and when the next may be due."""
        return self._within_account(ledger, posts), sends.next_due_at(ledger, now)

    def _within_account(self, ledger: Ledger, posts: int) -> sends.Authorised:
        desk = self.desk
        active = sends.active_by_model(ledger)
        if desk.reserve and desk.reserve.is_short(sum(active.values())):
            return sends.Authorised([], Stop.DISK)
        if not desk.account or not desk.account.is_limited:
            return self._choose(ledger, active, posts, None, None)
        day = dt.datetime.fromtimestamp(desk.clock.wall()).astimezone().date().isoformat()
        committed = reads.committed_nanos(ledger)
        with desk.account.reserving(sum(active.values()), committed, day) as room:
            authorised = self._choose(ledger, active, posts, room.places, room.nanos)
            room.taken = sum(intent.count for intent in authorised.intents)
            room.nanos_taken = authorised.nanos
        return authorised

    def _choose(
        self, ledger: Ledger, active: Mapping[str, int], posts: int, places: int | None, nanos: int | None
    ) -> sends.Authorised:
        """The intents of up to `posts` POSTs, within what the account leaves in places and nanodollars."""
        desk = self.desk
        now = desk.hub.time.now()
        free = desk.limits.concurrency - sum(active.values())
        if places is not None:
            free = min(free, places)
        if posts <= 0 or free <= 0:
            return sends.Authorised([])
        kinds = sends.kinds_due(ledger)
        models = {kind.model for kind in kinds}
        untried = {model for model in models if self._is_canary(ledger, model)}
        moment = desk.clock.monotonic()
        paused = {model for model, breaker in desk.breakers.items() if moment < breaker.opens_at} | desk.given_up
        probing = {model for model, breaker in desk.breakers.items() if breaker.probing}
        room = plan.rooms(models, active, desk.limits, single=untried | probing, paused=paused)
        per_post = {model: facts.per_post for model, facts in desk.models.items()}
        left = desk.limits.limit_sends
        caps = sends.Caps(
            desk.limits.concurrency,
            to_nanos(desk.limits.max_cost),
            desk.limits.allow_unpriced,
            None if left is None else left - runs.sends_of(ledger, desk.run_id),
            nanos,
        )
        folder, target = desk.hub.store.address(), desk.hub.target
        authorised = sends.Authorised([])
        ranks = self._ranked(ledger, kinds, moment)
        # Files are stored in the manifest's order: where all of the longest wait for theirs, what has its own goes.
        for order in (ranks, [kinds]) if len(ranks) > 1 else (ranks,):
            chosen = plan.picks(sends.due(ledger, order, room, now), room, free, posts, per_post)
            authorised = sends.authorise(
                ledger, chosen, caps, at=now, run_id=desk.run_id, target=target, input_folder=folder
            )
            if authorised.intents or authorised.blocked or not authorised.waits:
                break
        return authorised

    def _ranked(self, ledger: Ledger, kinds: list[plan.Kind], moment: float) -> list[list[plan.Kind]]:
        """What is sent first: by what the hub took of late, which is learnt anew now and then."""
        if self.desk.limits.in_order or len(kinds) < 2:
            return [kinds]
        if moment >= self._learns_at:
            self._paces, self._learns_at = sends.paces(ledger), moment + LEARN_S
        return plan.ranked(kinds, self._paces, self._videos)

    def _is_canary(self, ledger: Ledger, model: str) -> bool:
        """Whether the model's first row has still to show that the others are worth sending."""
        desk = self.desk
        facts = desk.models.get(model)
        wanted = desk.limits.canary == "all" or (desk.limits.canary == "unknown" and not (facts and facts.has_schema))
        if not wanted or model in self._proven:
            return False
        made = sends.canary_of(ledger, model)
        if made:
            self._proven.add(model)
        elif made is False:
            desk.given_up.add(model)
        return not made

    def _record(self, ledger: Ledger, intent: Intent, answer: Answer) -> news.Told:
        """The outcome is written down; what was announced of it before counts now."""
        now = self.desk.hub.time.now()
        sends.record(ledger, intent.submission_id, answer, at=now)
        return self.desk.early.catch_up(ledger, answer.ids, at=now)

    async def _post(self, intent: Intent) -> None:
        desk = self.desk
        answer = await desk.hub.enqueue(intent)
        moment = desk.clock.monotonic()
        before, desk.lane = desk.lane, plan.after_answer(desk.lane, answer, moment, desk.jitter())
        if desk.lane.opens_at > before.opens_at:
            desk.lane_words = printable(answer.words)
        if desk.lane.opens_at > max(before.opens_at, moment + 2.0):
            log.warning("sending waits %.0f s: %s", desk.lane.opens_at - moment, desk.lane_words)
        told = await desk.clerk.do(self._record, intent, answer)
        if answer.outcome is not Outcome.ACCEPTED:
            said = answer.outcome.replace("_", " ")
            log.info("a request for %s: %s: %s", printable(intent.model, 80), said, printable(answer.words))
        desk.open_posts -= 1
        desk.went("send", well=answer.outcome not in (Outcome.UNKNOWN, Outcome.NOT_SENT))
        if answer.cause is Cause.CREDITS:
            desk.stop(Stop.CREDITS, f"the hub says: {answer.words}")
        elif answer.cause is Cause.KEY:
            await desk.probe_key(answer.words)
        elif answer.outcome is Outcome.REFUSED and desk.limits.fail_fast:
            desk.stop(Stop.FAIL_FAST, f"the hub refused a request: {answer.words}")
        elif answer.outcome is Outcome.UNKNOWN:
            desk.scan_at = min(desk.scan_at, desk.clock.monotonic() + 1.0)
            desk.scans = 0
        desk.told(told)
        desk.bell.ring(Tone.LOOK if answer.outcome is Outcome.ACCEPTED and not self._full else Tone.ALL)
