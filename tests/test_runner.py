"""One run: its stages look at the ledger, act, and ring one bell; nothing that happens between two looks is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from world import World, rows, scratch

from oxenbatch.plan import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch() as path:
        yield path


def test_a_cancellation_of_which_no_event_tells_does_not_leave_the_run_waiting_for_ever(folder: Path) -> None:
    world = World(
        folder,
        rows(2, samples=2),
        faults=[{"do": "cancel", "seconds": 2.0}],
        limits=Limits(concurrency=4, attempts=1, settle_s=20.0),
        latency_s=0.4,
    )

    summary = world.run(within_s=600.0)

    assert summary is not None
    assert (summary.exit_code, world.states()) == (3, {"cancelled": 4})
