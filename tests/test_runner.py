"""One run: its stages look at the ledger, act, and ring one bell; nothing that happens between two looks is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from world import VIDEO, World, rows, scratch

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


def test_rows_that_are_due_and_may_not_be_sent_now_are_not_looked_at_twenty_times_a_second(folder: Path) -> None:
    broken = {"do": "fail", "words": "Upstream provider error", "between": [0.0, 2000.0]}
    world = World(
        folder, rows(8, model=VIDEO), faults=[broken], limits=Limits(concurrency=8, attempts=9, settle_s=20.0)
    )

    world.run(within_s=24 * 3600.0)

    world.assert_whole()
    assert world.asked["_authorise"] < 400


def test_a_download_under_way_does_not_make_the_others_be_looked_for_twenty_times_a_second(folder: Path) -> None:
    world = World(
        folder,
        rows(2),
        faults=[{"do": "cut_body", "times": 2}, {"do": "slow_answer", "on": "GET /files/ID", "seconds": 25.0}],
    )

    world.run()

    world.assert_whole()
    assert world.asked["fetchable"] < 60


def test_an_outage_uses_up_no_try_at_a_file(folder: Path) -> None:
    world = World(folder, rows(4), faults=[{"do": "server_error", "on": "*", "between": [10.0, 610.0]}])

    summary = world.run()

    assert summary is not None
    assert (summary.exit_code, world.states()) == (0, {"downloaded": 4})
