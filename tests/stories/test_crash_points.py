"""Killed before and after each effect, and again within the resume: the next run ends it, and nobody pays twice.

By day every single point and a sample of the pairs; with `OXENBATCH_NIGHTLY=1` every pair, and all weathers whole.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from world import VIDEO, World, rows, scratch

from oxenbatch.plan import Limits

if TYPE_CHECKING:
    from pathlib import Path

    from oxenbatch.jobs import Row

NIGHTLY = bool(os.environ.get("OXENBATCH_NIGHTLY"))
PAIRS_BY_DAY = 60
SLICES = 8 if NIGHTLY else 2  # what the workers share out

WEATHER: dict[str, list[dict[str, Any]]] = {
    "all is well": [],
    "answers are lost": [{"do": "lose_answer", "chance": 0.5}],
    "rows appear late": [{"do": "late_insertion", "chance": 0.5, "seconds": 9.0}],
    "files are cut": [{"do": "cut_body", "chance": 0.2}, {"do": "expired_address", "chance": 0.1}],
}
EVERY = {"rows appear late": 1 if NIGHTLY else 5, "files are cut": 1 if NIGHTLY else 5}
"""By day these skip some points; the first two weathers never do."""


def batch() -> list[Row]:
    """Six rows: one with three samples, one video, one pair that is identical, one by itself."""
    alone, threefold, video, twin, other_twin, last = rows(6)
    same = {"prompt": "twins"}
    return [
        alone,
        replace(threefold, samples=3),
        replace(video, model=VIDEO),
        replace(twin, parameters=same),
        replace(other_twin, parameters=same),
        last,
    ]


def world_of(weather: str, folder: Path) -> World:
    """A fresh world in which the batch has not been touched yet."""
    return World(folder, batch(), faults=WEATHER[weather], limits=Limits(concurrency=5, settle_s=20.0), seed="crash")


def points_of(weather: str) -> list[str]:
    """The effects of one run that nobody kills."""
    with scratch() as folder:
        world = world_of(weather, folder)
        world.run()
        world.assert_whole()
        return world.points


def kill(weather: str, *kills: int) -> list[str]:
    """The batch is finished although it was killed at these points, one run after another; the last run's effects."""
    with scratch() as folder:
        world = world_of(weather, folder)
        for point in kills:
            world.run(kill_at=point)
        summary = world.run()
        try:
            world.assert_whole()
            assert summary is not None
            assert summary.exit_code == 0
        except AssertionError as error:
            raise AssertionError(f"{weather}, killed at {kills}: {error}") from error
        return world.points


@pytest.mark.parametrize("part", range(SLICES))
@pytest.mark.parametrize("weather", WEATHER)
def test_killed_at_any_point_the_next_run_ends_with_each_sample_made_once(weather: str, part: int) -> None:
    step = SLICES * EVERY.get(weather, 1)
    for point in range(part, len(points_of(weather)), step):
        kill(weather, point)


@pytest.mark.parametrize("part", range(SLICES))
@pytest.mark.parametrize("weather", ["all is well", "answers are lost"])
def test_killed_again_within_the_resume_the_run_after_it_ends_with_each_sample_made_once(
    weather: str, part: int
) -> None:
    firsts = len(points_of(weather))
    if NIGHTLY:
        for first in range(part, firsts, SLICES):
            for second in range(len(kill(weather, first))):
                kill(weather, first, second)
        return
    dice = random.Random(f"pairs/{weather}/{part}")
    for _ in range(PAIRS_BY_DAY // SLICES):
        first = dice.randrange(firsts)
        kill(weather, first, dice.randrange(firsts))


def test_the_points_lie_before_and_after_all_that_a_run_does() -> None:
    named = set(points_of("answers are lost"))

    for effect in ("begin_batch", "stage", "begin_run", "_authorise", "_record", "keep", "_judge", "end_run"):
        assert {f"before {effect} is on disk", f"after {effect} is on disk"} <= named
    assert named >= {
        "before the ledger is opened",
        "before the POST leaves",
        "after the POST landed",
        "before the answer is read",
        "half of a file has arrived",
        "before _finish",
        "the part is sound, and not renamed yet",
        "the file is renamed, and its folder not durable yet",
        "after _finish",
        "a line of metadata.jsonl is written",
        "metadata.jsonl is renamed",
    }


def test_a_third_and_a_fourth_kill_change_nothing() -> None:
    dice = random.Random("many kills")
    for _ in range(10):
        kill("answers are lost", *(dice.randrange(100) for _ in range(4)))
