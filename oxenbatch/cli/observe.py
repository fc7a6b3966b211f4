"""Looks at batches that go on, a few times a second, and shows what it sees to everyone who wants to know."""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from oxenbatch.cli.view import Pace, View, view_of
from oxenbatch.jobs import ACTIVE
from oxenbatch.ledger.book import Ledger
from oxenbatch.ledger.follow import Follower, Seen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from oxenbatch.batch import Plan
    from oxenbatch.cli.progress import Progress, Sink
    from oxenbatch.runner import Runner
    from oxenbatch.runner.mood import Mood

LOOK_S: Final = 0.25  # four times a second looks alive and costs next to nothing
SELDOM_S: Final = 1.0  # where nobody looks at a terminal


class Eyes:
    """One ledger, looked at again and again from a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pace = Pace()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="eyes")
        self._ledger: Ledger | None = None
        self._follower: Follower | None = None

    def _look(self) -> Seen | None:
        if self._follower is None:
            self._ledger = Ledger.read(self._path)
            self._follower = Follower(self._ledger)
        return self._follower.look()

    async def look(self) -> Seen | None:
        """The batch as it is now, without making the event loop wait for a disk."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._look)

    def view(self, seen: Seen, mood: Mood, *, running: bool = True, heading: str = "") -> View:
        """What is shown of it."""
        active = sum(seen.counts[state] for state in ACTIVE)
        return view_of(
            seen,
            str(self._path.parent),
            mood,
            parallel=self._pace.feed(active, time.monotonic()),
            now=time.time(),
            running=running,
            heading=heading,
        )

    def close(self) -> None:
        """The ledger is closed, in the thread that opened it."""
        with contextlib.suppress(Exception):  # it was only looked at
            if self._ledger is not None:
                self._thread.submit(self._ledger.close).result()
        self._thread.shutdown()


class Observer:
    """Watches a run of this process."""

    def __init__(self, progress: Progress, sinks: Sequence[Sink] = ()) -> None:
        self._progress = progress
        self._sinks: list[Sink] = [progress, *sinks]
        self._every_s = LOOK_S if progress.style == "bar" else SELDOM_S

    async def watch(self, runner: Runner, plan: Plan) -> None:
        """Show the run to all sinks until this task is cancelled."""
        eyes = Eyes(plan.ledger)
        try:
            while True:
                seen = await eyes.look()
                if seen is not None:
                    view = eyes.view(seen, runner.mood)
                    for sink in self._sinks:
                        with contextlib.suppress(OSError):  # a terminal that is gone keeps nobody else from hearing
                            sink.show(view, time.monotonic())
                await asyncio.sleep(self._every_s)
        finally:
            self._progress.end()
            eyes.close()
