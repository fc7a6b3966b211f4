"""What became of a batch in figures: by model, by run, and over time. Only reads."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from oxenbatch.jobs import JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oxenbatch.ledger.book import Ledger


@dataclass(slots=True)
class ModelTold:
    """What one model was wanted for, and what it gave."""

    model: str
    states: Counter[JobState] = field(default_factory=Counter)
    """Wanted samples by state."""
    cost: Decimal = Decimal(0)
    """Dollars charged for all of its generations, failed and rejected ones too."""
    made: int = 0
    worked_s: float = 0.0
    """Seconds that the hub worked on the `made` ones in all, without their waiting."""


def by_model(ledger: Ledger) -> list[ModelTold]:
    """Each model of the batch, the one with most samples first."""
    told: dict[str, ModelTold] = {}
    for model, state, count in ledger.conn.execute(
        "select model, state, count(*) from samples where wanted = 1 group by model, state"
    ):
        told.setdefault(model, ModelTold(model)).states[JobState(state)] += count
    for model, cost, worked in ledger.conn.execute(
        "select model, cost, completed_at - started_at from generations where cost is not null"
    ):
        one = told.setdefault(model, ModelTold(model))
        one.cost += Decimal(cost)
        if worked is not None and worked >= 0:
            one.made, one.worked_s = one.made + 1, one.worked_s + worked
    return sorted(told.values(), key=lambda one: (-one.states.total(), one.model))


@dataclass(frozen=True, slots=True)
class RunTold:
    """One run: when it was, and how it ended."""

    started_at: float
    ended_at: float
    """For a run that was killed, or is under way, when the last thing of it happened."""
    exit_code: int | None


def runs(ledger: Ledger) -> list[RunTold]:
    """Every run in which something happened, or that took at least a second, the first one first."""
    rows = ledger.conn.execute("select started_at, ended_at, exit_code from runs order by started_at, id").fetchall()
    starts = [row["started_at"] for row in rows]
    lasts = list(starts)
    happened = [False] * len(rows)
    for (at,) in ledger.conn.execute("select at from events"):
        if place := bisect_right(starts, at):
            lasts[place - 1] = max(lasts[place - 1], at)
            happened[place - 1] = True
    ended = [row["ended_at"] if row["ended_at"] is not None else last for row, last in zip(rows, lasts, strict=True)]
    return [
        RunTold(row["started_at"], max(row["started_at"], end), row["exit_code"])
        for row, end, something in zip(rows, ended, happened, strict=True)
        if something or end - row["started_at"] >= 1
    ]


def over_time(ledger: Ledger, edges: Sequence[float]) -> tuple[list[int], list[int]]:
    """(results, failures) that came between each edge and the next; what came later counts with the last."""
    came, failed = [0] * len(edges), [0] * len(edges)
    for at, became in ledger.conn.execute(
        "select at, became from events where became in ('downloaded', 'failed', 'cancelled', 'unfetchable')"
    ):
        place = max(0, bisect_right(edges, at) - 1)
        if edges:
            (came if became == "downloaded" else failed)[place] += 1
    return came, failed
