"""Batches as they are seen while they go on, for the tests of what is shown."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from oxenbatch.cli.view import View, view_of
from oxenbatch.jobs import JobState
from oxenbatch.ledger.follow import ModelSeen, Seen
from oxenbatch.ledger.reads import Batch, Failure
from oxenbatch.runner.mood import Mood, Pause

NOW = 1_800_000_000.0
_S = JobState
FLUX = "black-forest-labs-flux-2-klein-4b"
KLING = "kling-video-v2-6-pro-text-to-video"


def a_run(**more: Any) -> dict[str, Any]:
    run = {"id": 3, "started_at": NOW - 600, "ended_at": None, "pid": 4123, "host": "here", "exit_code": None,
           "sends": 412, "seen_at": NOW, "mood": None, "max_cost_nanos": 25_000_000_000, "version": "0.1.0",
           "command": "oxenbatch run ocean.yaml", "folder": "/somewhere"}  # fmt: skip
    return run | more


def seen(**more: Any) -> Seen:
    """A night in its middle: images nearly done, videos slow, a few that failed."""
    told: dict[str, Any] = {
        "batch": Batch("ocean-loops", "https://hub.oxen.ai:443", NOW - 900, "2027-01-15", "f", Decimal("3.21")),
        "run": a_run(),
        "models": (
            ModelSeen(FLUX, {_S.DOWNLOADED: 400, _S.PROCESSING: 6, _S.PENDING: 44}, 3.2),
            ModelSeen(KLING, {_S.DOWNLOADED: 9, _S.QUEUED: 2, _S.PENDING: 34, _S.FAILED: 3, _S.UNCERTAIN: 2}, 95.0),
        ),
        "committed": Decimal("3.21"),
        "failures": (
            Failure(_S.FAILED, "The prompt was rejected by the content policy", 2, "hero"),
            Failure(_S.UNCERTAIN, "", 2, "a"),
            Failure(_S.FAILED, "Upstream\x1b[31m provider error", 1, "b"),
        ),
    }
    return Seen(**(told | more))


MOODY = Mood(
    listening=False,
    waits_s=23.4,
    words="Rate limit exceeded",
    pauses=(Pause(KLING, 280.0, "Upstream provider error"),),
    fetching=2,
)


def a_view(mood: Mood = MOODY, *, parallel: float = 8.0, heading: str = "", **more: Any) -> View:
    return view_of(seen(**more), "out/ocean-loops", mood, parallel=parallel, now=NOW, running=True, heading=heading)
