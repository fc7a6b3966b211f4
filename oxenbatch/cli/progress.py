"""What a run says while it works: one live line on a terminal, a plain line every 30 s without one."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import click

from oxenbatch.errors import printable
from oxenbatch.jobs import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import Console

    from oxenbatch.batch import Plan
    from oxenbatch.runner import Runner

Style = Literal["auto", "bar", "plain", "none"]
BAR_EVERY_S: Final = 0.25  # four times a second looks alive and costs next to nothing
PLAIN_EVERY_S: Final = 30.0

_S = JobState
ACTIVE: Final = (_S.SUBMITTING, _S.UNCERTAIN, _S.QUEUED, _S.PROCESSING, _S.SUCCEEDED)
FAILED: Final = (_S.FAILED, _S.CANCELLED, _S.UNFETCHABLE)


@dataclass(frozen=True, slots=True)
class Tally:
    """Where the wanted samples stand, in the words of the live line."""

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

    def __str__(self) -> str:
        words = f"{self.done} of {self.total} done, {self.active} active, {self.pending} pending"
        words += f", {self.failed} failed" if self.failed else ""
        return words + (f", {self.held} held" if self.held else "")


def time_left(done_before: int, now: Tally, elapsed_s: float) -> str:
    """How long the rest will take at this run's own speed, or nothing before that can be told."""
    ended = now.done + now.failed - done_before
    rest = now.active + now.pending
    if ended < 2 or not rest or elapsed_s < 2:
        return ""
    seconds = rest * elapsed_s / ended
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"


class Progress:
    """Shows how a run goes on stderr, until it is cancelled."""

    def __init__(self, style: Style, *, quiet: bool) -> None:
        if style == "auto":
            style = "bar" if sys.stderr.isatty() else "plain"
        self.style: Style = "none" if quiet else style
        self._console: Console | None = None

    def say(self, words: str) -> None:
        """The words stand above the live line, or where there is none, on a line of their own."""
        if self._console is None:
            click.echo(words, err=True)
        else:
            self._console.print(words, markup=False, highlight=False)

    async def watch(self, runner: Runner, plan: Plan) -> None:
        """Show the run's progress until this task is cancelled."""
        if self.style == "none":
            return
        before = {JobState(state): count for state, count in plan.counts.items()}
        began = time.monotonic()

        first = Tally.of(before)

        def look() -> tuple[Tally, str]:
            now = Tally.of({state: count + runner.moved.get(state, 0) for state, count in before.items()})
            left = time_left(first.done + first.failed, now, time.monotonic() - began)
            return now, f"{now}{f', {left}' if left else ''}"

        if self.style == "bar":
            await self._bar(look)
            return
        while True:
            await asyncio.sleep(PLAIN_EVERY_S)
            click.echo(f"{printable(plan.folder.name)}: {look()[1]}", err=True)

    async def _bar(self, look: Callable[[], tuple[Tally, str]]) -> None:
        from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
        from rich.progress import BarColumn, TextColumn  # noqa: PLC0415
        from rich.progress import Progress as Bars  # noqa: PLC0415

        console = Console(stderr=True)
        columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
        with Bars(*columns, console=console, auto_refresh=False, transient=True) as bars:
            self._console = console
            task = bars.add_task("", total=look()[0].total)
            try:
                while True:
                    tally, text = look()
                    bars.update(task, description=text, completed=tally.done + tally.failed, refresh=True)
                    await asyncio.sleep(BAR_EVERY_S)
            finally:
                self._console = None
