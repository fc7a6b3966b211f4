"""The figures of the page: totals, models, failures with what helps, what is odd, and the run over time."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from oxenbatch import advice
from oxenbatch.account import folder_of
from oxenbatch.errors import MachineError, printable
from oxenbatch.ledger import chronicle, reads, results
from oxenbatch.ledger.book import Ledger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oxenbatch.dataset.selection import Source
    from oxenbatch.jobs import JobState
    from oxenbatch.ledger.chronicle import ModelTold
    from oxenbatch.ledger.results import Oddity

BARS: Final = 120  # of the timeline: as many as can be told apart on a laptop's screen
GAP: Final = 1  # of such bars, between two runs


@dataclass(slots=True)
class Segment:
    """One run on the timeline: its bars, from the left."""

    left: int
    at: float
    until: float
    exit_code: int | None
    bars: list[tuple[int, int]]
    """(results, failures) of each."""


@dataclass(slots=True)
class Facts:
    """Everything on the page but the results themselves."""

    title: str = ""
    names: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    hubs: list[str] = field(default_factory=list)
    states: Counter[JobState] = field(default_factory=Counter)
    cost: Decimal = Decimal(0)
    committed: Decimal = Decimal(0)
    real: bool = True
    """Whether it was paid for; a stand-in hub's prices are only what it would have cost."""
    models: dict[str, ModelTold] = field(default_factory=dict)
    troubles: list[advice.Trouble] = field(default_factory=list)
    oddities: list[Oddity] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    bars: int = 0

    @property
    def total(self) -> int:
        """Wanted samples."""
        return self.states.total()

    @property
    def took_s(self) -> float:
        """How long the runs took together."""
        return sum(one.until - one.at for one in self.segments)


def gather(sources: Sequence[Source]) -> Facts:
    """The facts of all these batches together."""
    facts = Facts()
    reasons: list[advice.Reason] = []
    told: list[tuple[Source, list[chronicle.RunTold]]] = []
    for source in sources:
        with Ledger.open(source.ledger) as ledger, results.one_moment(ledger):
            batch = reads.batch(ledger)
            if batch is None:
                raise MachineError(f"{printable(source.ledger)}: no run has begun here")
            facts.names.append(batch.name)
            facts.places.append(folder_of(source.ledger).name)
            facts.hubs.append(batch.hub)
            facts.real = facts.real and "://" in batch.hub
            facts.states.update(reads.counts(ledger))
            facts.cost += reads.charged(ledger)
            facts.committed += batch.committed
            _add_models(facts, chronicle.by_model(ledger))
            reasons += [advice.Reason(f.state, f.error, f.count, f.example) for f in reads.failures(ledger)]
            _add_oddities(facts, results.oddities(ledger))
            told.append((source, chronicle.runs(ledger)))
    facts.troubles = advice.troubles(_together(reasons))
    names = list(dict.fromkeys(facts.names))
    facts.title = names[0] if len(names) == 1 else f"{len(sources)} batches"
    _draw(facts, told)
    return facts


def _add_models(facts: Facts, told: list[ModelTold]) -> None:
    for one in told:
        known = facts.models.setdefault(one.model, chronicle.ModelTold(one.model))
        known.states.update(one.states)
        known.cost += one.cost
        known.made, known.worked_s = known.made + one.made, known.worked_s + one.worked_s


def _add_oddities(facts: Facts, told: list[Oddity]) -> None:
    """What is odd in the same way in several batches is one line."""
    known = {(one.what, one.says): place for place, one in enumerate(facts.oddities)}
    for one in told:
        place = known.get((one.what, one.says)) if one.what != "identical" else None
        if place is None:
            known[one.what, one.says] = len(facts.oddities)
            facts.oddities.append(one)
        else:
            facts.oddities[place] = replace(one, count=one.count + facts.oddities[place].count)


def _together(reasons: list[advice.Reason]) -> list[advice.Reason]:
    """The same words from several batches are one reason."""
    found: dict[tuple[JobState, str], advice.Reason] = {}
    for one in reasons:
        known = found.get((one.state, one.error))
        count = one.count + (known.count if known else 0)
        found[one.state, one.error] = advice.Reason(
            one.state, one.error, count, known.example if known else one.example
        )
    return list(found.values())


def _draw(facts: Facts, told: list[tuple[Source, list[chronicle.RunTold]]]) -> None:
    """The runs side by side, each as wide as it was long; the time between them is left out."""
    every = [run for _, runs in told for run in runs]
    length = sum(run.ended_at - run.started_at for run in every) or 1.0
    for source, runs in told:
        segments = []
        edges: list[float] = []
        for run in runs:
            took = run.ended_at - run.started_at
            count = max(1, round(BARS * took / length))
            edges += [run.started_at + took * n / count for n in range(count)]
            segments.append(Segment(0, run.started_at, run.ended_at, run.exit_code, [(0, 0)] * count))
        with Ledger.open(source.ledger) as ledger:
            pairs = list(zip(*chronicle.over_time(ledger, edges), strict=True))
        for segment in segments:
            segment.bars, pairs = pairs[: len(segment.bars)], pairs[len(segment.bars) :]
        facts.segments += segments
    facts.segments.sort(key=lambda segment: (segment.at, segment.until))
    left = 0
    for segment in facts.segments:
        segment.left = left
        left += len(segment.bars) + GAP
    facts.bars = max(1, left - GAP)


def day(at: float) -> str:
    """The moment as people write it, in UTC: the same ledger gives the same page on every machine."""
    return moment(at)[:16]


def moment(at: float) -> str:
    """The same, to the second."""
    try:
        return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):  # no time that a calendar has
        return "at no known time"


def span(seconds: float) -> str:
    """`42 s`, `5 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
