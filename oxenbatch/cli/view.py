"""What is shown of a batch that goes on: figures and sentences. Pure: data in, data out, no terminal, no clock.

`run` and `status --watch` show the same view; the metrics file and the notices are made of it too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.cli.options import dollars, plural
from oxenbatch.errors import printable
from oxenbatch.jobs import JobState
from oxenbatch.ledger.book import to_dollars

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from oxenbatch.ledger.follow import ModelSeen, Seen
    from oxenbatch.ledger.reads import Failure
    from oxenbatch.runner.mood import Mood

_S = JobState
ACTIVE: Final = (_S.SUBMITTING, _S.UNCERTAIN, _S.QUEUED, _S.PROCESSING, _S.SUCCEEDED)
FAILED: Final = (_S.FAILED, _S.CANCELLED, _S.UNFETCHABLE)
FAILURES_SHOWN: Final = 3
SILENT_S: Final = 30.0  # three signs of life are missing
UNREACHABLE_S: Final = 3.0  # a call that fails once is tried again at once, and nobody needs to know
STEADY_S: Final = 10.0  # how fast the pace follows what is seen


@dataclass(frozen=True, slots=True)
class Tally:
    """Where the wanted samples stand, in few words."""

    done: int
    active: int
    pending: int
    failed: int
    held: int

    @classmethod
    def of(cls, counts: Mapping[JobState, int]) -> Tally:
        """The tally of counts by state."""
        return cls(
            counts.get(_S.DOWNLOADED, 0),
            sum(counts.get(state, 0) for state in ACTIVE),
            counts.get(_S.PENDING, 0),
            sum(counts.get(state, 0) for state in FAILED),
            counts.get(_S.HELD, 0),
        )

    @property
    def total(self) -> int:
        """All of them."""
        return self.done + self.active + self.pending + self.failed + self.held

    @property
    def share(self) -> float:
        """How much of it is over, 0 to 1, in files: what failed is over too."""
        return (self.done + self.failed + self.held) / self.total if self.total else 1.0

    def __str__(self) -> str:
        words = f"{self.done} of {self.total} done, {self.active} active, {self.pending} pending"
        words += f", {self.failed} failed" if self.failed else ""
        return words + (f", {self.held} held" if self.held else "")


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One model's line."""

    model: str
    tally: Tally
    seconds: float | None
    """How long one takes at the hub, as seen."""


@dataclass(frozen=True, slots=True)
class View:
    """What is shown of a batch at one moment."""

    folder: str
    name: str
    tally: Tally
    models: tuple[ModelLine, ...]
    spent: Decimal
    """Dollars that are charged, or may yet be: what `cap` is held against."""
    cap: Decimal | None
    left_s: float | None
    """Seconds until all is done, or None before that can be told."""
    left_at_least: bool
    """A model that is still to come has not been seen yet."""
    failures: tuple[str, ...]
    counts: dict[JobState, int]
    mood: Mood
    moods: tuple[str, ...]
    """What slows or stops the run, a sentence each; none while all goes well."""
    running: bool
    heading: str
    """Which run it is, and since when."""

    @property
    def line(self) -> str:
        """All of it in one line, for a log or a screen reader."""
        parts = [str(self.tally)]
        if left := self.left_words:
            parts.append(left)
        parts.append(self.money_words)
        return "; ".join([", ".join(parts), *self.moods])

    @property
    def left_words(self) -> str:
        """`about 4 min left`, or nothing."""
        if self.left_s is None:
            return ""
        return f"{'more than' if self.left_at_least else 'about'} {span(self.left_s)} left"

    @property
    def money_words(self) -> str:
        """`$3.21 of $25.00`."""
        return f"${dollars(self.spent)}" + (f" of ${dollars(self.cap)}" if self.cap is not None else "")


def span(seconds: float) -> str:
    """A length of time in the largest unit that still says something: `40 s`, `12 min`, `3.5 h`, `4 days`."""
    if seconds < 90:
        return f"{max(0, seconds):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:.0f} days"


class Pace:
    """How many generations are really under way at once: the mean of the last seconds, so that no gap shows."""

    def __init__(self) -> None:
        self._parallel: float | None = None
        self._at = 0.0

    def feed(self, active: int, now: float) -> float:
        """The pace after one more look, at least 1."""
        if self._parallel is None:
            self._parallel = float(active) if active else None
        else:
            weight = 1 - math.exp(-(now - self._at) / STEADY_S)
            self._parallel += weight * (active - self._parallel)
        self._at = now
        return max(1.0, self._parallel or 1.0)


def time_left(models: tuple[ModelSeen, ...], parallel: float) -> tuple[float | None, bool]:
    """Seconds until all is made at this pace, by how long each model took so far; whether it is only a lower bound."""
    work, unknown = 0.0, False
    for model in models:
        waiting = model.counts.get(_S.PENDING, 0)
        making = sum(model.counts.get(state, 0) for state in (_S.SUBMITTING, _S.UNCERTAIN, _S.QUEUED, _S.PROCESSING))
        if waiting + making and model.seconds is None:
            unknown = True
        work += (waiting + making / 2) * (model.seconds or 0.0)  # what is being made is half done, on the average
    return (work / parallel if work else None), unknown


def view_of(
    seen: Seen,
    folder: str,
    mood: Mood,
    *,
    parallel: float,
    now: float,
    running: bool,
    heading: str = "",
) -> View:
    """The view of a batch that was seen at `now` (Unix seconds)."""
    tally = Tally.of(seen.counts)
    left, at_least = time_left(seen.models, parallel) if running else (None, False)
    return View(
        folder=printable(folder),
        name=seen.batch.name,
        tally=tally,
        models=tuple(ModelLine(printable(one.model), Tally.of(one.counts), one.seconds) for one in seen.models),
        spent=seen.committed,
        cap=cap_of_run(seen.run),
        left_s=left,
        left_at_least=at_least,
        failures=failure_words(seen.failures),
        counts=dict(seen.counts),
        mood=mood,
        moods=tuple(mood_words(mood, seen, now=now)) if running else (),
        running=running,
        heading=heading,
    )


def failure_words(failures: tuple[Failure, ...]) -> tuple[str, ...]:
    """The most frequent reasons for what is not on disk, a line each; open sends are the mood's."""
    told = [one for one in failures if one.state is not _S.UNCERTAIN]
    lines = [f"{one.count} {one.state}: {printable(one.error or 'no reason given')}" for one in told[:FAILURES_SHOWN]]
    more = sum(one.count for one in told[FAILURES_SHOWN:])
    return (*lines, *([f"{more} more for other reasons"] if more else []))


def mood_words(mood: Mood, seen: Seen, *, now: float) -> list[str]:
    """What slows or stops the run, in sentences."""
    words = [f"nothing more is sent: {printable(stop)}" for stop in mood.stops]
    if mood.unreachable_s > UNREACHABLE_S:
        words.append(f"the hub has not answered for {span(mood.unreachable_s)}")
    if mood.waits_s > 1:
        words.append(f"sending waits {span(mood.waits_s)}" + (f": {printable(mood.words)}" if mood.words else ""))
    words += [f"{printable(one.model)} pauses for {span(one.left_s)}: {printable(one.words)}" for one in mood.pauses]
    words += [f"{printable(model)} is given up in this run: its first row failed" for model in mood.given_up]
    if mood.listening is False:
        words.append("the hub's announcements are not heard: its list is asked instead")
    counts = seen.counts
    if counts[_S.UNCERTAIN]:
        words.append(f"{plural(counts[_S.UNCERTAIN], 'send')} without an answer: looked for at the hub")
    if counts[_S.HELD]:
        words.append(f"{counts[_S.HELD]} held: a person must decide (oxenbatch resolve)")
    signed = seen.run["seen_at"] if seen.run else None
    if signed is not None and now - signed > SILENT_S:
        words.append(f"no sign of life for {span(now - signed)}")
    return words


def cap_of_run(run: Mapping[str, Any] | None) -> Decimal | None:
    """What this run allows the batch to cost."""
    nanos = run["max_cost_nanos"] if run else None
    return None if nanos is None else to_dollars(nanos)
