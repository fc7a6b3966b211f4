"""The clockwork: generations wait, are worked on and end when the clock says so, and nobody has to poll for it.

Rules of residence: no clock of its own (times are arguments), no JSON, no HTTP. Everything that is to happen lies in
one heap, and `advance` lets it happen at its own time, however late it is called: two hubs that were given the same
requests at the same times tell the same story, whoever asked in between.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

Status = Literal["queued", "processing", "succeeded", "failed", "cancelled"]
Place = Literal["files", "hub", "nested"]


@dataclass(slots=True, eq=False)
class Generation:
    """One thing that the hub makes, and how that is going to end."""

    id: str
    model: str
    media_type: Literal["image", "video"]
    parameters: dict[str, Any]
    """Every other parameter of the request, as it was sent: echoed in each row."""
    target_namespace: str | None
    target_repo: str | None
    target_directory: str | None
    enqueued_at: float
    wait_s: float
    """How long it waits, at least: longer where all workers are busy."""
    work_s: float
    error: str | None
    """What it will fail with; None: it will succeed."""
    price: Decimal | None
    """What is charged if it succeeds."""
    place: Place = "files"
    """Where its file will be: the other origin, the hub's own host, or the other origin with `result_url` null."""
    status: Status = "queued"
    started_at: float | None = None
    completed_at: float | None = None

    @property
    def active(self) -> bool:
        """It holds one of the hub's places."""
        return self.status in {"queued", "processing"}

    @property
    def cost(self) -> Decimal | None:
        """What was charged: only what succeeded is."""
        return self.price if self.status == "succeeded" else None


class Clockwork:
    """All generations, and what happens to them next."""

    def __init__(self, *, workers: int, on_end: Callable[[Generation], None]) -> None:
        self.workers = workers
        self.generations: dict[str, Generation] = {}
        """Every generation there ever was, oldest first."""
        self.active: dict[str, Generation] = {}
        self.peak_active = 0
        self._on_end = on_end
        self._working = 0
        self._line: deque[Generation] = deque()
        self._due: list[tuple[float, int, Callable[[float], None]]] = []
        self._ties = count()

    def schedule(self, at: float, action: Callable[[float], None]) -> None:
        """`action` happens at that time; what is due at the same time happens in the order of asking."""
        heapq.heappush(self._due, (at, next(self._ties), action))

    def next_change_at(self) -> float | None:
        """When something is due next; it may turn out to be nothing, where a generation was cancelled meanwhile."""
        return self._due[0][0] if self._due else None

    def advance(self, now: float) -> None:
        """Everything that was due has happened, in order and at its own time."""
        while self._due and self._due[0][0] <= now:
            at, _, action = heapq.heappop(self._due)
            action(at)

    def employ(self, workers: int, at: float) -> None:
        """So many work from now on; whoever is at work already ends it."""
        self.workers = workers
        self._call_next(at)

    def admit(self, generation: Generation) -> None:
        """The generation is queued."""
        self.generations[generation.id] = generation
        self.active[generation.id] = generation
        self.peak_active = max(self.peak_active, len(self.active))
        self.schedule(generation.enqueued_at + generation.wait_s, partial(self._ripen, generation))

    def cancel(self, generation: Generation, at: float) -> None:
        """The generation is cancelled, unless it has ended already."""
        if generation.active:
            self._end(generation, "cancelled", at)

    def _ripen(self, generation: Generation, at: float) -> None:
        if generation.status != "queued":
            return
        if self._working < self.workers:
            self._start(generation, at)
        else:
            self._line.append(generation)

    def _start(self, generation: Generation, at: float) -> None:
        self._working += 1
        generation.status, generation.started_at = "processing", at
        self.schedule(at + generation.work_s, partial(self._finish, generation))

    def _finish(self, generation: Generation, at: float) -> None:
        if generation.status == "processing":
            self._end(generation, "failed" if generation.error else "succeeded", at)

    def _end(self, generation: Generation, status: Status, at: float) -> None:
        was_working = generation.status == "processing"
        generation.status, generation.completed_at = status, at
        del self.active[generation.id]
        if was_working:
            self._working -= 1
            self._call_next(at)
        self._on_end(generation)

    def _call_next(self, at: float) -> None:
        while self._line and self._working < self.workers:
            generation = self._line.popleft()
            if generation.status == "queued":  # it may have been cancelled while it stood in line
                self._start(generation, at)
