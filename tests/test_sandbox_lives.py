"""The stand-in takes the times and the sizes that it is told, so that a rehearsal is as long and as large as wanted."""

from __future__ import annotations

from math import log
from statistics import median, stdev
from typing import TYPE_CHECKING

import pytest
from sandbox_kit import IMAGE, VIDEO, Bench

from oxenbatch.media import inspect
from oxenbatch.sandbox.lives import Life

if TYPE_CHECKING:
    from pathlib import Path


def _lives(bench: Bench, model: str, count: int, **parameters: object) -> list[float]:
    for _ in range(count):
        bench.enqueue(model, **parameters)
    return [one.wait_s + one.work_s for one in bench.hub.generations.values()]


def test_a_life_of_two_seconds_is_two_seconds_at_any_speed() -> None:
    assert _lives(Bench(life=Life.parse("2")), IMAGE, 5) == pytest.approx([2.0] * 5)
    assert _lives(Bench(life=Life.parse("2"), speed=10), IMAGE, 5) == pytest.approx([0.2] * 5)


def test_a_spread_life_is_lognormal_about_its_median() -> None:
    lives = _lives(Bench(life=Life.parse("2~0.5")), IMAGE, 400)

    assert median(lives) == pytest.approx(2.0, rel=0.15)
    assert stdev(map(log, lives)) == pytest.approx(0.5, rel=0.15)


def test_a_life_may_be_so_many_times_the_duration_that_was_asked_for() -> None:
    bench = Bench(life=Life.parse("12x"))

    assert _lives(bench, VIDEO, 1, duration=10) == pytest.approx([120.0])


@pytest.mark.parametrize("text", ["", "0", "-1", "fast", "2~", "x", "2s", "1e400"])
def test_what_is_no_life_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="expected seconds such as"):
        Life.parse(text)


@pytest.mark.parametrize("model", [IMAGE, VIDEO])
@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_a_result_that_is_filled_up_has_that_size_and_is_whole(model: str, size: int, tmp_path: Path) -> None:
    bench = Bench(file_bytes=size)
    bodies = [bench.fetch(bench.finished(model)["result_url"]).body for _ in range(2)]
    path = tmp_path / "result"
    path.write_bytes(bodies[0])

    assert [len(body) for body in bodies] == [size, size]
    assert bodies[0] != bodies[1]
    assert inspect(path).kind == ("video" if model == VIDEO else "image")
