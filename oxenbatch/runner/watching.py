"""The watch stage: one list call tells of everything; what left the list is looked up."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

from oxenbatch import plan, reconcile
from oxenbatch.hub import HubTrouble, NotFound
from oxenbatch.ledger import news, reads
from oxenbatch.runner.bell import Tone
from oxenbatch.runner.desk import ModelFacts
from oxenbatch.runner.settling import Settling
from oxenbatch.words import Cause

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from oxenbatch.runner.desk import Desk
    from oxenbatch.wire import Generation

log = logging.getLogger(__name__)

LIST_LAG_S: Final = 5.0  # a fresh generation may be missing from the hub's lists for a moment
MISSING_GRACE_S: Final = 120.0  # an id that the hub does not know for two minutes will not come back by itself
SINGLY: Final = 12  # ids that the history does not know are asked for one by one, so many at a time
FEW: Final = 3  # ends of so few are worth a second call, which most looks then do not need
HEARTBEAT_S: Final = 5.0
CHARGES_AT_ONCE: Final = 1000
CHARGES_EVERY_S: Final = 30.0  # under a limit of money: what is charged beyond its estimate is soon held against it
CHARGES_MAX_S: Final = 600.0  # a hub that charges later, or never, is asked ever more seldom


class Watching:
    """Asks where our generations are, and settles sends that nobody answered."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._settling = Settling(desk)
        self._images = True
        """Something of ours that takes seconds, not minutes, was in the list."""
        limited = desk.limits.max_cost is not None or (desk.account is not None and desk.account.is_limited)
        self._charges_at = 0.0 if limited else float("inf")
        self._charges_every = CHARGES_EVERY_S
        self._history_tells = True
        """The hub's history could be had when it was last asked for."""

    async def run(self) -> None:
        desk = self.desk
        while not desk.over:
            mark = desk.bell.mark(Tone.LOOK)
            wait = min(desk.look_at, desk.scan_at, self._charges_at) - desk.clock.monotonic()
            if wait > 0:
                await desk.bell.wait(mark, wait)
                continue
            await self._keep_to_the_money()  # at its own pace: while events tell all, minutes may lie between two looks
            facts = await desk.clerk.do(reads.facts)  # its own look: what the conductor saw may be a ring old
            scans = desk.scan_at <= desk.clock.monotonic()
            if scans and not facts.uncertain:
                desk.scan_at = float("inf")
            what = "reconcile" if scans and facts.uncertain else "look"
            try:
                if what == "reconcile":
                    await self._settling.scan()
                    desk.went(what, well=True)
                elif desk.look_at <= desk.clock.monotonic() and facts.at_the_hub:
                    await self.look(facts.at_the_hub)
                    desk.went(what, well=True)
                else:
                    await desk.bell.wait(mark, HEARTBEAT_S)
            except HubTrouble as trouble:
                desk.went(what, well=False)
                await desk.troubled(trouble)

    async def look(self, at_the_hub: int = 0) -> None:
        """Every generation of ours is where the hub says it is: by one list call, or one page of its history.

        `at_the_hub`: how many of ours are there, as far as we know.
        """
        desk = self.desk
        every = plan.look_every_s(images=self._images, events_trusted=desk.events_trusted, longest_s=desk.longest_s)
        began = desk.hub.time.now()
        desk.look_at = desk.clock.monotonic() + every
        asked: list[Generation] = []
        if not desk.events_trusted and at_the_hub > FEW and self._history_tells:
            # Ends that nobody announces have left the list: the history tells of them too, and in one call.
            found = asked = await self._pages(await desk.clerk.do(news.watched))
            self._note_missed(found, began)
        if not asked:
            found = await desk.hub.active()
        if desk.in_trouble:
            desk.in_trouble = False
            log.warning("the hub answers again")
        watched = await self._apply(found)
        ids = {generation.generation_id for generation in found}
        ours = [generation for generation in found if generation.generation_id in watched]
        # What has left the list, or is not in it yet, is looked for at the quicker pace.
        if ours or watched or asked:
            known = len(ours) == len(watched) and all(map(self._is_video, asked or ours))
            self._images = not known
        unlisted = {i: at for i, at in watched.items() if i not in ids}
        gone = {i: at for i, at in unlisted.items() if at < began - LIST_LAG_S}
        if len(gone) < len(unlisted):  # too young to tell an end from a list that lags
            desk.look_soon(LIST_LAG_S)
        if gone:
            await self._look_up(gone, began)
        await self._cancel_overdue(ours, watched)
        await self._keep_to_the_money()

    async def _pages(self, wanted: Mapping[str, float]) -> list[Generation]:
        """What the paged history has of these; nothing where it cannot be had, and there are other ways."""
        try:
            oldest = min(wanted.values(), default=self.desk.hub.time.now())
            found = await self.desk.hub.history_since(oldest - reconcile.SLACK_S, set(wanted))
        except HubTrouble as trouble:
            if trouble.cause is Cause.KEY:
                raise
            self._history_tells = False
            return []
        self._history_tells = True
        return found

    def _note_missed(self, found: Iterable[Generation], began: float) -> None:
        """An end that lies back, and that no event has told: they are not to be trusted."""
        ends = (g.completed_at for g in found if g.status not in news.LIVE)
        if any(at is not None and at < began - 2.0 for at in ends):
            self.desk.events_missed, self.desk.events_trusted = True, False

    def _is_video(self, generation: Generation) -> bool:
        """By the hub's word, else by the catalogue's; what nobody knows is given a video's time."""
        kind = generation.echo.get("media_type")
        return kind == "video" if kind else self.desk.models.get(generation.model, ModelFacts(video=True)).video

    async def _apply(self, generations: list[Generation]) -> dict[str, float]:
        """Our generations are where these rows say; what is still watched, and since when."""
        now = self.desk.hub.time.now()
        told, watched = await self.desk.clerk.do(news.apply_and_watch, generations, at=now)
        self.desk.told(told)
        return watched

    async def _look_up(self, gone: Mapping[str, float], began: float) -> None:
        """What became of generations that are not in the active list: all at once, through the paged history."""
        found = await self._pages(gone)
        for generation_id in sorted(gone.keys() - {g.generation_id for g in found})[:SINGLY]:
            try:
                found.append(await self.desk.hub.generation(generation_id))
            except NotFound:
                now = self.desk.hub.time.now()
                await self.desk.clerk.do(news.missing, generation_id, now=now, grace_s=MISSING_GRACE_S)
        self._note_missed(found, began)
        await self._apply(found)

    async def _cancel_overdue(self, ours: list[Generation], watched: Mapping[str, float]) -> None:
        """A generation that takes longer than the timeout is cancelled at the hub; what it became is then asked."""
        now = self.desk.hub.time.now()
        for generation in ours:
            limit = self.desk.limits.video_timeout_s if self._is_video(generation) else self.desk.limits.image_timeout_s
            if now - watched[generation.generation_id] <= limit:
                continue
            with contextlib.suppress(NotFound):
                await self.desk.hub.cancel(generation.generation_id)
                after = await self.desk.hub.generation(generation.generation_id)
                if after.status == "cancelled":
                    after = news.timed_out(after, limit)
                await self._apply([after])

    async def _keep_to_the_money(self) -> None:
        """Where money is limited, charges are learnt while there is still something to stop: estimates may be too low.

        The first look, before anything is sent, learns what a killed run did not come to ask.
        """
        desk = self.desk
        if desk.clock.monotonic() < self._charges_at:
            return
        told = False
        with contextlib.suppress(HubTrouble):  # the estimates stand until it is asked again
            told = await self.learn_charges()
        self._charges_every = CHARGES_EVERY_S if told else min(CHARGES_MAX_S, 2 * self._charges_every)
        self._charges_at = desk.clock.monotonic() + self._charges_every

    async def learn_charges(self) -> bool:
        """What the hub charged takes the estimates' place, as far as it says so; False where it was asked in vain."""
        desk = self.desk
        skipped = learnt = 0
        while pairs := await desk.clerk.do(news.uncharged, CHARGES_AT_ONCE, skipped):
            oldest = min(at for _, at in pairs) - reconcile.SLACK_S
            rows = await desk.hub.history_since(oldest, {i for i, _ in pairs})
            charged = [row for row in rows if row.cost is not None]
            await desk.clerk.do(news.apply, charged, at=desk.hub.time.now())
            skipped += len(pairs) - len(charged)  # the hub has not charged these yet: the next run asks again
            learnt += len(charged)
        return learnt > 0 or not skipped
