"""A suite that lets a crippled engine pass is broken: each is the real one with one function replaced, and is caught.

The eighth, an engine whose commits do not outlive a power cut, is in `test_power`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from world import World, rows, scratch

from oxenbatch import reconcile
from oxenbatch.download import Downloads
from oxenbatch.hub import Hub
from oxenbatch.jobs import Event
from oxenbatch.ledger import sends
from oxenbatch.names import inside
from oxenbatch.plan import Limits
from oxenbatch.reconcile import Verdict
from oxenbatch.wire import Answer, Generation, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from oxenbatch.ledger.book import Ledger

LIMITS = Limits(concurrency=4, settle_s=20.0)


def _world(folder: Path, *, prompt: str = "prompt {n}", **faults: Any) -> World:
    return World(folder, rows(6, prompt=prompt), faults=[faults] if faults else [], limits=LIMITS, seed="crippled")


def _kill_at(world: World, effect: str) -> None:
    """The engine is killed as soon as this effect comes, in a run of its own."""

    original = world.point
    seen = False

    def point(name: str) -> None:
        nonlocal seen
        if name == effect and not seen:
            seen = True
            world.kill_at = 0
        original(name)

    world.point = point  # type: ignore[method-assign]
    assert world.run() is None, f"there is no {effect!r}"
    world.point = original  # type: ignore[method-assign]


# -- what the engine is put through ---------------------------------------------------------------------------------


def killed_with_an_open_post(folder: Path) -> None:
    world = _world(folder)
    _kill_at(world, "after the POST landed")
    world.run()
    world.assert_whole()


def killed_with_an_open_post_and_started_again_an_hour_later(folder: Path) -> None:
    world = _world(folder)
    _kill_at(world, "after the POST landed")
    world.now += 3600.0
    world.run()
    world.assert_whole()


def answers_are_lost(folder: Path) -> None:
    world = _world(folder, do="lose_answer", chance=0.5)
    world.run()
    world.assert_whole()


def answers_are_lost_of_equal_prompts(folder: Path) -> None:
    world = _world(folder, prompt="twins", do="lose_answer", chance=0.7)
    world.run()
    world.assert_whole()


def rows_appear_late(folder: Path) -> None:
    world = _world(folder, do="late_insertion", seconds=15.0, times=3)
    world.run()
    world.assert_whole()


def killed_within_a_file(folder: Path) -> None:
    world = _world(folder)
    _kill_at(world, "half of a file has arrived")
    world.run()
    world.assert_whole()


SCENARIOS: tuple[Callable[[Path], None], ...] = (
    killed_with_an_open_post,
    killed_with_an_open_post_and_started_again_an_hour_later,
    answers_are_lost,
    answers_are_lost_of_equal_prompts,
    rows_appear_late,
    killed_within_a_file,
)


def caught() -> dict[str, str]:
    """Which scenarios the engine fails, and what the oracle says."""
    said: dict[str, str] = {}
    for scenario in SCENARIOS:
        with scratch() as folder:
            try:
                scenario(folder)
            except AssertionError as error:
                said[scenario.__name__] = str(error).partition("\n")[0]
    return said


# -- the engines ----------------------------------------------------------------------------------------------------


def _no_intent(ledger: Ledger, *, now: float, post_timeout_s: float) -> int:
    """What a killed run had sent is not known to the next one."""
    for submission in ledger.conn.execute("select id from submissions where state = 'intent'").fetchall():
        for sample in sends._waiting(ledger, submission["id"]):
            sends._return(ledger, sample, Event.NOT_SENT, submission["id"], at=now, note=None)
        ledger.conn.execute("update submissions set state = 'not_sent' where id = ?", (submission["id"],))
    return 0


def _unknown_as(outcome: Outcome, record: Any) -> Any:
    def crippled(ledger: Ledger, submission_id: int, answer: Answer, *, at: float) -> None:
        if answer.outcome is Outcome.UNKNOWN:
            answer = replace(answer, outcome=outcome)
        record(ledger, submission_id, answer, at=at)

    crippled.__name__ = "record"
    return crippled


def _no_settle(judge: Any) -> Any:
    return lambda *args, **kwargs: judge(*args, **{**kwargs, "settle_s": 0.0})


async def _active_only(self: Hub, since: float, wanted: set[str] | None = None, **_: Any) -> list[Generation]:
    return [row for row in await self.active() if wanted is None or row.generation_id in wanted]


def _exactly_one(judge_pool: Any) -> Any:
    def crippled(pool: Any, *args: Any) -> list[Verdict]:
        if len(pool.rows) > 1:
            return [Verdict(one.submission_id, (), 0, f"{len(pool.rows)} rows could be its") for one in pool.opens]
        return judge_pool(pool, *args)

    return crippled


def _straight_to_its_name(self: Downloads, name: str) -> Path:
    return inside(self.folder, f"{name}.png")


CRIPPLED: dict[str, tuple[Any, str, Callable[[Any], Any], Callable[[Path], None]]] = {
    "no intent before the POST": (sends, "recover", lambda _: _no_intent, killed_with_an_open_post),
    "blind retry": (sends, "record", partial(_unknown_as, Outcome.NOT_SENT), answers_are_lost),
    "unknown as failed": (sends, "record", partial(_unknown_as, Outcome.REFUSED), answers_are_lost),
    "no settle": (reconcile, "judge", _no_settle, rows_appear_late),
    "active list only": (Hub, "history_since", lambda _: _active_only,
                         killed_with_an_open_post_and_started_again_an_hour_later),
    "exactly one match": (reconcile, "_judge_pool", _exactly_one, answers_are_lost_of_equal_prompts),
    "no atomic rename": (Downloads, "_part_path", lambda _: _straight_to_its_name, killed_within_a_file),
}  # fmt: skip


@pytest.mark.parametrize("cripple", CRIPPLED)
def test_an_engine_without_it_is_caught(cripple: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, change, by = CRIPPLED[cripple]
    monkeypatch.setattr(where, name, change(getattr(where, name)))

    said = caught()

    assert by.__name__ in said, f"nobody noticed: {cripple}; only {said}"


def test_the_engine_itself_passes_what_catches_the_crippled_ones() -> None:
    assert caught() == {}
