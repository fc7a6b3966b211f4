"""A batch as it goes on, for whoever watches: counted once, then followed through its events. Nothing here writes.

Four looks a second must cost next to nothing, at a million rows too: after the first look, only what happened since
the last one is read.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.jobs import JobState
from oxenbatch.ledger import reads

if TYPE_CHECKING:
    from decimal import Decimal

    from oxenbatch.ledger.book import Ledger

SAMPLED: Final = 50  # generations of a model whose mean is taken: enough to be steady, few enough to follow the hub
FAILURES_SHARE: Final = 0.1  # of the time may go into counting why things failed
AT_REST: Final = (JobState.FAILED, JobState.CANCELLED, JobState.UNFETCHABLE, JobState.HELD, JobState.UNCERTAIN)


@dataclass(frozen=True, slots=True)
class ModelSeen:
    """Where the wanted samples of one model stand."""

    model: str
    counts: dict[JobState, int]
    seconds: float | None
    """How long the hub took for one of them lately, waiting and making; None before one was made."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A batch at one moment."""

    batch: reads.Batch
    run: dict[str, Any] | None
    """The newest row of `runs`."""
    models: tuple[ModelSeen, ...]
    committed: Decimal
    """Dollars that are charged, or may yet be."""
    failures: tuple[reads.Failure, ...]

    @property
    def counts(self) -> Counter[JobState]:
        """Wanted samples by state, over all models."""
        total: Counter[JobState] = Counter()
        for model in self.models:
            total.update(model.counts)
        return total


class Follower:
    """Looks at one ledger again and again. Bound to the thread of its ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._run_id: int | None = None
        self._event = -1
        self._counts: Counter[tuple[str, JobState]] = Counter()
        self._seconds: dict[str, tuple[int, float | None]] = {}
        """By model: how many were made when it was reckoned, and the mean."""
        self._failures: tuple[reads.Failure, ...] = ()
        self._at_rest: tuple[int, ...] = ()
        self._count_failures_at = 0.0

    def look(self) -> Seen | None:
        """The batch as it is now; None where no run has begun it."""
        conn = self._ledger.conn
        conn.execute("begin")  # one moment for all that is read
        try:
            batch, run = reads.batch(self._ledger), reads.last_run(self._ledger)
            if batch is None:
                return None
            self._follow(run["id"] if run else 0)
            self._count_failures()
            names = sorted({model for model, _ in self._counts})
            models = tuple(ModelSeen(name, self._states(name), self._seconds_of(name)) for name in names)
            return Seen(batch, run, models, batch.committed, self._failures)
        finally:
            conn.execute("rollback")

    def _follow(self, run_id: int) -> None:
        conn = self._ledger.conn
        newest = reads.newest_event(self._ledger)
        if run_id != self._run_id or newest < self._event:  # a new run may have added rows, which are no events
            self._counts = Counter(
                {
                    (model, JobState(state)): count
                    for model, state, count in conn.execute(
                        "select model, state, count(*) from samples where wanted = 1 group by model, state"
                    )
                }
            )
        elif newest > self._event:
            for model, was, became in conn.execute(
                "select s.model, e.was, e.became from events e join samples s on s.id = e.sample_id"
                " where e.id > ? and s.wanted = 1",
                (self._event,),
            ):
                self._counts[model, JobState(was)] -= 1
                self._counts[model, JobState(became)] += 1
        self._run_id, self._event = run_id, newest

    def _states(self, model: str) -> dict[JobState, int]:
        return {state: count for state in JobState if (count := self._counts[model, state]) > 0}

    def _seconds_of(self, model: str) -> float | None:
        made = self._counts[model, JobState.DOWNLOADED] + self._counts[model, JobState.SUCCEEDED]
        known = self._seconds.get(model)
        if known is None or known[0] != made:
            mean = self._ledger.conn.execute(
                "select avg(max(0, completed_at - accepted_at)) from (select completed_at, accepted_at from generations"
                " where model = ? and state in ('succeeded', 'downloaded', 'unfetchable')"
                " order by rowid desc limit ?)",
                (model, SAMPLED),
            ).fetchone()[0]
            known = self._seconds[model] = (made, mean)
        return known[1]

    def _count_failures(self) -> None:
        """Why samples are at rest: counted again when their number changed, and seldom where counting takes long."""
        at_rest = tuple(sum(n for (_, state), n in self._counts.items() if state is one) for one in AT_REST)
        began = time.perf_counter()
        if at_rest == self._at_rest or began < self._count_failures_at:
            return
        self._at_rest = at_rest
        self._failures = tuple(reads.failures(self._ledger)) if any(at_rest) else ()
        self._count_failures_at = began + (time.perf_counter() - began) / FAILURES_SHARE
