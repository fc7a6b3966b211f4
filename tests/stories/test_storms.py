"""Bad nights, in virtual time and up to five hundred rows: what they cost is time, never money and never a row."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from world import IMAGE, VIDEO, World, rows, scratch

from oxenbatch.plan import Limits, Stop
from oxenbatch.runner import ModelFacts
from oxenbatch.sandbox.faults import Faults

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from oxenbatch.runner import Runner
    from oxenbatch.sandbox import Request

MANY = 500
SOME = 500 if os.environ.get("OXENBATCH_NIGHTLY") else 130  # enough to last through the storm
LIMITS = Limits(concurrency=8, settle_s=20.0)
PRICE = Decimal("0.014")
TEN_MINUTES = [20.0, 620.0]


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch() as path:
        yield path


def _world(folder: Path, count: int = MANY, *faults: dict[str, Any], limits: Limits = LIMITS, **more: Any) -> World:
    return World(folder, rows(count), faults=faults, limits=limits, seed="storm", **more)


def _untouched(world: World) -> None:
    """No row has been blamed: none failed, and no attempt was used that did not make something."""
    assert not world.states().keys() & {"failed", "cancelled", "held"}
    assert world.query("select count(*) from samples where state = 'pending' and attempts > 0") == [(0,)]
    assert world.query("select count(*) from samples where attempts > 1") == [(0,)]


def _whole(world: World, count: int = MANY) -> None:
    world.assert_whole()
    assert world.charged() == count


# -- the account ----------------------------------------------------------------------------------------------------


def test_a_key_revoked_at_row_200_of_500_blames_no_row_and_the_next_run_with_a_good_key_ends_it(folder: Path) -> None:
    world = _world(folder)
    posts_then: list[int] = []

    def revoke(request: Request) -> None:
        if request.method == "POST" and len(world.hub.posts) == 200 and not posts_then:
            posts_then.append(world.posts())
            world.hub.keys = {"another"}

    world.on_request = revoke
    summary = world.run()

    assert summary is not None
    assert summary.exit_code == 77
    assert world.posts() - posts_then[0] <= LIMITS.concurrency
    _untouched(world)
    world.key = "another"
    again = world.run()
    assert again is not None
    assert again.exit_code == 0
    _whole(world)


@pytest.mark.parametrize(
    "shape",
    [
        {"do": "no_credits", "status": 402},
        {"do": "no_credits", "status": 400},
        {"do": "no_credits", "status": 403},
        {"do": "fail", "words": "insufficient_credits"},
    ],
    ids=["402", "400 with words", "403 with words", "a failed generation"],
)
def test_credits_that_are_gone_midway_let_what_is_paid_be_collected_and_a_top_up_ends_it(
    folder: Path, shape: dict[str, Any]
) -> None:
    count, gone_at = (MANY, 200) if shape["do"] == "fail" else (SOME, 50)
    world = _world(folder, count, {**shape, "after": gone_at})

    summary = world.run()

    assert summary is not None
    assert summary.exit_code == 5
    assert world.states() == {"downloaded": gone_at, "pending": count - gone_at}
    assert world.charged() == gone_at
    assert world.posts() <= gone_at + LIMITS.concurrency
    _untouched(world)
    world.assert_files()
    world.hub.faults = Faults()
    again = world.run()
    assert again is not None
    assert again.exit_code == 0
    _whole(world, count)


def test_an_account_that_runs_dry_by_itself_stops_sending_before_anything_is_lost(folder: Path) -> None:
    world = _world(folder, 100, hub_options={"credits": Decimal("0.50")})

    summary = world.run()

    assert summary is not None
    assert summary.exit_code == 5
    assert world.hub.charged <= Decimal("0.50")
    assert world.states()["downloaded"] == world.charged()
    _untouched(world)
    world.hub.credits = None
    world.run()
    _whole(world, 100)


# -- the hub and the way there --------------------------------------------------------------------------------------


STORMS: dict[str, dict[str, Any]] = {
    "503, not landed": {"do": "server_error", "status": 503},
    "500, landed": {"do": "server_error", "status": 500, "landed": True},
    "502 pages, landed or not": {"do": "server_error", "status": 502, "html": True, "chance": 0.5, "landed": True},
    "429 with seconds": {"do": "rate_limit", "seconds": 30},
    "429 with a date": {"do": "rate_limit", "seconds": 30, "form": "date"},
    "429 without a word": {"do": "rate_limit", "form": "none"},
    "connections die": {"do": "die"},
    "answers die": {"do": "lose_answer"},
    "silence": {"do": "hang", "landed": True, "seconds": 3600.0},
}


@pytest.mark.parametrize("storm", STORMS)
def test_ten_minutes_of_it_cost_no_attempt_and_no_money_and_few_posts(folder: Path, storm: str) -> None:
    fault = STORMS[storm]
    on = "POST /ai/queue" if fault["do"] in ("rate_limit", "lose_answer", "hang") else "*"
    world = _world(folder, SOME, {**fault, "on": on, "between": TEN_MINUTES})

    summary = world.run()

    assert summary is not None
    assert summary.exit_code == 0, summary.reasons
    _whole(world, SOME)
    assert world.query("select count(*) from samples where attempts > 1") == [(0,)]
    assert world.posts() <= SOME + 120, "one probe every five seconds is plenty"


def test_ten_minutes_without_a_network_cost_only_time(folder: Path) -> None:
    world = _world(folder, SOME)

    async def outage(_runner: Runner, world: World) -> None:
        await asyncio.sleep(60.0)
        world.network = False
        await asyncio.sleep(600.0)
        world.network = True

    summary = world.run(during=outage)

    assert summary is not None
    assert summary.exit_code == 0
    _whole(world, SOME)
    assert world.query("select count(*) from samples where attempts > 1") == [(0,)]
    assert world.query("select count(*) from submissions where state = 'not_sent'")[0][0] <= 120


def test_a_network_that_stays_away_ends_the_run_with_69_and_the_next_one_ends_the_batch(folder: Path) -> None:
    world = _world(folder, SOME, limits=replace(LIMITS, max_outage_s=300.0))

    async def outage(_runner: Runner, world: World) -> None:
        await asyncio.sleep(60.0)
        world.network = False

    summary = world.run(during=outage, within_s=600.0)

    assert summary is not None
    assert summary.exit_code == 69
    _untouched(world)
    world.network = True
    world.run()
    _whole(world, SOME)


def test_a_hub_that_answers_only_errors_ends_the_run_with_69_and_sends_little(folder: Path) -> None:
    world = _world(
        folder,
        SOME,
        {"do": "server_error", "on": "*", "landed": True, "between": [30.0, 9000.0]},
        limits=replace(LIMITS, max_outage_s=900.0),
    )

    summary = world.run(within_s=3600.0)

    assert summary is not None
    assert summary.exit_code == 69
    _untouched(world)
    assert world.posts() <= len(world.hub.generations) + 120
    world.hub.faults = Faults()
    world.run()
    _whole(world, SOME)


# -- the user -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signal", "code"), [(Stop.SIGINT, 130), (Stop.SIGTERM, 143)])
def test_an_interrupt_lets_open_posts_answer_and_loses_nothing(folder: Path, signal: Stop, code: int) -> None:
    world = _world(folder, 40, latency_s=2.0)

    async def interrupt(runner: Runner, world: World) -> None:
        while world.posts() < 12:  # noqa: ASYNC110 - virtual time: a look costs nothing
            await asyncio.sleep(0.1)
        runner.interrupt(signal)

    summary = world.run(during=interrupt)

    assert summary is not None
    assert summary.exit_code == code
    assert world.query("select count(*) from samples where state in ('submitting', 'uncertain')") == [(0,)]
    world.assert_known()
    _untouched(world)
    world.run()
    _whole(world, 40)


def test_an_interrupt_does_not_wait_longer_than_a_moment_for_a_post_that_hangs(folder: Path) -> None:
    world = _world(folder, 10, {"do": "hang", "landed": True, "seconds": 3600.0, "after": 4})

    async def interrupt(runner: Runner, world: World) -> None:
        await asyncio.sleep(30.0)
        runner.interrupt(Stop.SIGINT)

    began = world.now
    summary = world.run(during=interrupt)

    assert summary is not None
    assert summary.exit_code == 130
    assert world.now - began < 30.0 + 20.0
    world.hub.faults = Faults()
    world.run()
    _whole(world, 10)


def test_a_second_interrupt_leaves_at_once_and_the_next_run_finds_what_was_open(folder: Path) -> None:
    world = _world(folder, 20, latency_s=5.0)

    async def twice(runner: Runner, world: World) -> None:
        while not world.posts():  # noqa: ASYNC110 - virtual time: a look costs nothing
            await asyncio.sleep(0.1)
        runner.interrupt(Stop.SIGINT)
        await asyncio.sleep(0.5)
        runner.interrupt(Stop.SIGINT)

    began = world.now
    summary = world.run(during=twice)

    assert summary is not None
    assert summary.exit_code == 130
    assert world.now - began < 30.0
    assert world.query("select count(*) from samples where state = 'submitting'") != [(0,)]
    world.run()
    _whole(world, 20)


def test_the_deadline_stops_sending_and_collects(folder: Path) -> None:
    world = _world(folder, SOME, limits=replace(LIMITS, deadline_s=120.0))

    summary = world.run()

    assert summary is not None
    assert summary.exit_code == 75
    done = world.states()["downloaded"]
    assert 0 < done < SOME
    assert world.states() == {"downloaded": done, "pending": SOME - done}
    assert all(post.at <= world.hub.started_at + 125.0 for post in world.hub.posts)
    world.run(limits=LIMITS)
    _whole(world, SOME)


def test_no_wait_enqueues_and_leaves(folder: Path) -> None:
    limits = replace(LIMITS, wait=False)
    world = _world(folder, 20, limits=limits)

    summary = world.run()

    assert summary is not None
    assert summary.exit_code == 75
    assert len(world.hub.posts) == LIMITS.concurrency
    assert world.states()["pending"] == 20 - LIMITS.concurrency
    world.run(limits=LIMITS)
    _whole(world, 20)


def test_fail_fast_stops_sending_at_the_first_failure_and_keeps_what_is_paid(folder: Path) -> None:
    fault = {"do": "fail", "words": "rejected by the content policy", "after": 20, "times": 1}
    world = _world(folder, 100, fault, limits=replace(LIMITS, fail_fast=True))

    summary = world.run()

    assert summary is not None
    assert summary.exit_code == 3
    assert world.states()["failed"] == 1
    assert world.states()["downloaded"] == world.charged() < 50
    assert world.states()["pending"] > 50


# -- money ----------------------------------------------------------------------------------------------------------


def test_limit_sends_is_a_number_of_posts_in_one_run(folder: Path) -> None:
    limits = replace(LIMITS, limit_sends=7)
    world = _world(folder, 20, limits=limits)

    codes = [summary.exit_code for _ in range(3) if (summary := world.run())]

    assert codes == [5, 5, 0]
    assert [world.charged(), world.posts()] == [20, 20]


@pytest.mark.parametrize(("dollars", "made"), [("0.139", 9), ("0.140", 10), ("0.141", 10), ("0", 0), ("0.014", 1)])
def test_max_cost_is_kept_to_the_last_tenth_of_a_cent(folder: Path, dollars: str, made: int) -> None:
    world = _world(folder, 20, limits=replace(LIMITS, max_cost=Decimal(dollars)))

    summary = world.run()

    assert summary is not None
    assert summary.exit_code == 5
    assert world.charged() == made
    assert summary.cost == made * PRICE


def test_max_cost_holds_over_runs_and_kills(folder: Path) -> None:
    world = _world(folder, 20, limits=replace(LIMITS, max_cost=10 * PRICE))

    for kill_at in (30, 60, 60, 90, 120, None, None):
        world.run(kill_at=kill_at)

    assert world.charged() == 10
    assert world.states() == {"downloaded": 10, "pending": 10}


def test_charges_take_the_place_of_estimates_within_max_cost(folder: Path) -> None:
    world = _world(folder, 20, limits=replace(LIMITS, max_cost=Decimal("0.28")), price=lambda _: Decimal("0.028"))

    first = world.run()
    assert first is not None
    assert (first.exit_code, world.charged()) == (5, 10)
    assert first.committed == first.cost == 10 * PRICE
    for _ in range(8):
        world.run()

    assert world.charged() == 19, "the twentieth may cost 0.028, and only 0.014 are left"


def test_a_hub_that_charges_more_than_its_prices_say_is_soon_stopped_by_max_cost(folder: Path) -> None:
    limits = Limits(concurrency=2, settle_s=20.0, max_cost=10 * PRICE)
    world = _world(folder, 200, limits=limits, price=lambda _: PRICE / 10)
    summary = world.run()

    assert summary is not None
    assert summary.exit_code == 5
    assert 10 <= world.charged() < 30, "by its estimates alone 100 would have been sent"


def test_what_a_killed_run_did_not_come_to_ask_counts_before_the_next_one_sends(folder: Path) -> None:
    world = _world(folder, 200, limits=Limits(concurrency=2, settle_s=20.0), price=lambda _: PRICE / 10)
    world.run(kill_at=800)
    made = world.charged()
    summary = world.run(limits=Limits(concurrency=2, settle_s=20.0, max_cost=PRICE))

    assert made > 1
    assert summary is not None
    assert summary.exit_code == 5
    assert len(world.hub.generations) - made <= 4, "what was on its way when it was killed, and no more"


def test_a_model_without_a_price_is_not_sent_under_a_max_cost(folder: Path) -> None:
    limits = replace(LIMITS, max_cost=Decimal(1))
    world = _world(folder, 3, limits=limits, price=lambda _: None)

    summary = world.run()

    assert summary is not None
    assert (summary.exit_code, world.posts()) == (5, 0)
    again = world.run(limits=replace(limits, allow_unpriced=True))
    assert again is not None
    assert (again.exit_code, world.charged()) == (0, 3)


def test_attempts_are_used_up_by_passing_failures_and_failing_costs_nothing(folder: Path) -> None:
    world = _world(folder, 2, {"do": "fail", "words": "Upstream provider error"})

    summary = world.run()

    assert summary is not None
    assert (summary.exit_code, summary.cost, summary.committed) == (3, Decimal(0), Decimal(0))
    assert world.states() == {"failed": 2}
    assert world.query("select attempts from samples") == [(3,), (3,)]
    assert world.posts() == 6


# -- models ---------------------------------------------------------------------------------------------------------


def test_the_first_row_of_a_model_that_nobody_knows_goes_alone(folder: Path) -> None:
    world = _world(folder, 10, models={IMAGE: ModelFacts(has_schema=False)})
    first: list[int] = []
    world.on_request = lambda request: (
        first.append(len(world.hub.clockwork.active)) if request.method == "POST" else None
    )

    summary = world.run()

    assert summary is not None
    assert summary.exit_code == 0
    first_end = next(iter(world.hub.generations.values())).completed_at
    assert first_end is not None
    assert all(post.at >= first_end for post in world.hub.posts[1:])


def test_where_a_canary_fails_the_others_are_not_sent(folder: Path) -> None:
    fault = {"do": "fail", "words": "prompt_strength must be a number"}
    world = _world(folder, 10, fault, models={IMAGE: ModelFacts(has_schema=False)})

    summary = world.run()

    assert summary is not None
    assert (summary.exit_code, world.posts()) == (3, 1)
    assert world.states() == {"failed": 1, "pending": 9}
    assert any("no-canary" in words for words in summary.reasons)


def test_five_failures_with_the_same_words_pause_their_model_and_no_other(folder: Path) -> None:
    broken = {"do": "fail", "words": "Upstream provider error 17", "model": VIDEO, "between": [0.0, 3000.0]}
    world = _world(folder, 40, broken, limits=replace(LIMITS, attempts=9))
    world.rows = [replace(row, model=VIDEO if row.number % 2 else IMAGE) for row in world.rows]

    summary = world.run(within_s=24 * 3600.0)

    assert summary is not None
    assert summary.exit_code == 0, summary.reasons
    _whole(world, 40)
    images = [g for g in world.hub.generations.values() if g.model == IMAGE]
    assert max(g.completed_at or 0.0 for g in images) - world.hub.started_at < 900.0, "images waited for videos"
    sent = sorted(g.enqueued_at - world.hub.started_at for g in world.hub.generations.values() if g.model == VIDEO)
    pauses = [after - before for before, after in pairwise(sent) if after - before > 250.0]
    assert len([at for at in sent if at < 3000.0]) <= 16, "a broken model is probed, not hammered"
    assert any(pause >= 600.0 for pause in pauses), f"the pause doubles: {pauses}"


# -- clocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [-2.0, 2.0])
def test_a_clock_two_hours_off_the_hubs_finds_what_was_not_answered(folder: Path, hours: float) -> None:
    world = _world(
        folder, 60, {"do": "lose_answer", "chance": 0.3}, {"do": "late_insertion", "chance": 0.2, "seconds": 9}
    )
    world.wall_is_off_by = hours * 3600.0

    world.run(kill_at=60)
    summary = world.run()

    assert summary is not None
    assert summary.exit_code == 0
    _whole(world, 60)


def test_a_wall_clock_that_jumps_in_the_middle_of_a_run_changes_nothing(folder: Path) -> None:
    world = _world(folder, 100, {"do": "lose_answer", "chance": 0.3})

    async def jump(_runner: Runner, world: World) -> None:
        for seconds in (7200.0, -86400.0, 0.0, 3600.0):
            await asyncio.sleep(15.0)
            world.wall_is_off_by = seconds

    summary = world.run(during=jump)

    assert summary is not None
    assert summary.exit_code == 0
    _whole(world, 100)


def test_a_machine_that_slept_for_hours_finds_everything_as_it_is(folder: Path) -> None:
    world = _world(folder, 60, {"do": "lose_answer", "chance": 0.2})

    async def sleep(_runner: Runner, world: World) -> None:
        await asyncio.sleep(20.0)
        world.now += 4 * 3600.0

    summary = world.run(during=sleep)

    assert summary is not None
    assert summary.exit_code == 0
    _whole(world, 60)


# -- equal prompts --------------------------------------------------------------------------------------------------


def test_of_400_equal_prompts_with_a_tenth_of_the_answers_lost_each_is_paid_once_and_none_is_held(folder: Path) -> None:
    world = World(
        folder,
        rows(400, prompt="the same for all"),
        faults=[{"do": "lose_answer", "chance": 0.1}],
        limits=LIMITS,
        seed="equal",
    )

    summary = world.run(within_s=24 * 3600.0)

    assert summary is not None
    assert (summary.exit_code, summary.held) == (0, 0)
    _whole(world, 400)
    assert Counter(g.status for g in world.hub.generations.values()) == {"succeeded": 400}


@pytest.mark.parametrize("on", ["GET /ai/queue/ID", "GET /ai/generations"])
def test_what_became_of_a_generation_is_found_out_by_either_of_two_calls(folder: Path, on: str) -> None:
    world = _world(folder, 20, {"do": "server_error", "on": on}, {"do": "silent_events"})

    summary = world.run(within_s=4 * 3600.0)

    assert summary is not None
    assert summary.exit_code == 0
    _whole(world, 20)


@pytest.mark.parametrize(
    ("on", "beside"),
    [
        ("POST /ai/queue", []),
        ("GET /ai/queue", [{"do": "silent_events"}]),
        ("GET /ai/generations", [{"do": "lose_answer", "times": 1}]),
    ],
    ids=["send", "list", "reconcile"],
)
def test_a_hub_of_which_one_call_only_ever_fails_ends_the_run_with_69(
    folder: Path, on: str, beside: list[dict[str, Any]]
) -> None:
    world = _world(
        folder,
        20,
        {"do": "server_error", "on": on, "after": 0 if on == "GET /ai/generations" else 3},
        *beside,
        limits=replace(LIMITS, max_outage_s=900.0),
    )

    summary = world.run(within_s=4 * 3600.0)

    assert summary is not None
    assert summary.exit_code == 69
    _untouched(world)
    world.hub.faults = Faults()
    world.run()
    _whole(world, 20)


def test_a_call_that_is_refused_while_the_key_is_good_is_asked_again_in_a_while_and_not_at_once(folder: Path) -> None:
    refused = {"do": "refuse_key", "on": "GET /ai/queue/ID", "status": 403, "between": [200.0, 300.0]}
    world = World(folder, rows(1), latency_s=0.0, faults=[refused], limits=Limits(settle_s=20.0, wait=False))
    world.run()
    world.now = 1000.0 + 210.0  # it has ended meanwhile, so the list does not have it, and it is looked up
    world.run(limits=Limits(settle_s=20.0))

    world.assert_whole()
    assert world.hub.calls["GET /ai/queue/ID"] < 60
