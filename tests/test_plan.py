"""The plan never exceeds a limit, never mixes jobs, and never storms a hub that is in trouble."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxenbatch import plan
from oxenbatch.jobs import PER_POST
from oxenbatch.plan import (
    BREAK_FIRST_S,
    BREAK_MAX_S,
    LOOK_MAX_S,
    OPEN_POSTS,
    SAME_IN_A_ROW,
    Breaker,
    Due,
    Facts,
    Kind,
    Lane,
    Limits,
    Stop,
    after_answer,
    after_end,
    is_over,
    look_every_s,
    picks,
    rooms,
)
from oxenbatch.wire import Answer, Cause, Outcome

GOOD = Answer(Outcome.ACCEPTED)
REFUSED = Answer(Outcome.REFUSED)
NOT_SENT = Answer(Outcome.NOT_SENT, cause=Cause.HUB)
BROKEN = Answer(Outcome.UNKNOWN, cause=Cause.HUB, status=503)
NO_KEY = Answer(Outcome.TURNED_AWAY, cause=Cause.KEY)


def rate(retry_after_s: float | None = None, outcome: Outcome = Outcome.TURNED_AWAY) -> Answer:
    return Answer(outcome, cause=Cause.RATE, retry_after_s=retry_after_s, status=429)


# -- what to send ---------------------------------------------------------------------------------------------------


def due(*jobs: int, model: str = "m") -> list[Due]:
    return [Due(n, job, model, f"r1:{job}", None) for n, job in enumerate(jobs, 1)]


def shape(groups: list[list[Due]]) -> list[list[int]]:
    return [[sample.sample_id for sample in group] for group in groups]


@pytest.mark.parametrize(
    ("jobs", "free", "posts", "per_post", "groups"),
    [
        ([], 8, 16, {}, []),
        ([1], 8, 16, {}, [[1]]),
        ([1, 1, 1], 8, 16, {}, [[1, 2, 3]]),
        ([1, 1, 1, 1, 1, 1], 8, 16, {}, [[1, 2, 3, 4], [5, 6]]),
        ([1, 1, 2, 2], 8, 16, {}, [[1, 2], [3, 4]]),
        ([1, 2, 1, 2], 8, 16, {}, [[1], [2], [3], [4]]),
        ([1, 1, 1, 1], 8, 16, {"m": 1}, [[1], [2], [3], [4]]),
        ([1, 1, 1, 1], 8, 16, {"m": 12}, [[1, 2, 3, 4]]),
        ([1, 1, 1, 2], 2, 16, {}, [[1, 2]]),
        ([1, 2, 3], 8, 2, {}, [[1], [2]]),
        ([1, 2, 2, 3], 8, 2, {}, [[1], [2, 3]]),
        ([1, 2, 3], 0, 16, {}, []),
        ([1, 2, 3], 8, 0, {}, []),
        ([1, 2, 3], -3, -1, {}, []),
    ],
)
def test_samples_of_one_job_share_a_post(
    jobs: list[int], free: int, posts: int, per_post: dict[str, int], groups: list[list[int]]
) -> None:
    assert shape(picks(due(*jobs), {"m": 99}, free, posts, per_post)) == groups


def test_samples_with_seeds_of_their_own_never_share_a_post() -> None:
    seeded = [replace(sample, request_hash=f"r1:{sample.sample_id}") for sample in due(1, 1)]

    assert shape(picks(seeded, {"m": 9}, 9, 9, {})) == [[1], [2]]


def test_a_model_without_room_does_not_keep_another_back() -> None:
    waiting = [*due(1, 2, model="full"), *due(3, 4, model="free")]

    assert [g[0].job_id for g in picks(waiting, {"free": 1}, 9, 9, {})] == [3]


@given(
    samples=st.lists(st.tuples(st.integers(1, 3), st.sampled_from("abc"), st.integers(0, 1)), max_size=30),
    room=st.dictionaries(st.sampled_from("abc"), st.integers(-2, 12)),
    free=st.integers(-2, 20),
    posts=st.integers(-1, 10),
    per_post=st.dictionaries(st.sampled_from("abc"), st.integers(1, 12)),
)
def test_picks_exceed_nothing_and_mix_nothing(
    samples: list[tuple[int, str, int]], room: dict[str, int], free: int, posts: int, per_post: dict[str, int]
) -> None:
    waiting = [
        Due(n, 10 * job + ord(model), model, f"r1:{job}{model}{variant}", None)
        for n, (job, model, variant) in enumerate(samples)
    ]
    groups = picks(waiting, room, free, posts, per_post)
    chosen = [sample for group in groups for sample in group]

    assert len(groups) <= max(0, posts)
    assert len(chosen) <= max(0, free)
    assert all(count <= room.get(model, 0) for model, count in Counter(s.model for s in chosen).items())
    for group in groups:
        assert 1 <= len(group) <= per_post.get(group[0].model, PER_POST)
        assert len({(sample.job_id, sample.request_hash) for sample in group}) == 1
    assert [s.sample_id for s in chosen] == sorted({s.sample_id for s in chosen}), "in order, and none twice"


@pytest.mark.parametrize(
    ("models", "active", "concurrency", "tighter", "room"),
    [
        (["a"], {}, 8, {}, {"a": 8}),
        (["a", "b"], {"a": 3}, 8, {}, {"a": 5, "b": 5}),
        (["a", "b"], {"a": 3}, 8, {"a": 4}, {"a": 1, "b": 5}),
        (["a", "b"], {"a": 4}, 8, {"a": 4}, {"b": 4}),
        (["a"], {"b": 8}, 8, {}, {}),
        (["a"], {"b": 9}, 8, {"a": 99}, {}),
        (["a"], {}, 8, {"a": 99}, {"a": 8}),
        (["a"], {}, 8, {"a": 0}, {}),
        ([], {"a": 1}, 8, {}, {}),
    ],
)
def test_a_model_has_the_room_that_both_limits_leave(
    models: list[str], active: dict[str, int], concurrency: int, tighter: dict[str, int], room: dict[str, int]
) -> None:
    assert rooms(models, active, Limits(concurrency=concurrency, models=tighter)) == room


def test_a_model_on_trial_gets_one_and_a_paused_one_none() -> None:
    limits = Limits(concurrency=8)

    assert rooms(["a", "b", "c"], {}, limits, single={"a"}, paused={"b"}) == {"a": 1, "c": 8}
    assert rooms(["a"], {"a": 1}, limits, single={"a"}) == {}
    assert rooms(["a"], {}, limits, single={"a"}, paused={"a"}) == {}
    assert rooms(["a"], {}, Limits(models={"a": 0}), single={"a"}) == {}, "a trial is no way round a limit"


# -- how fast to send -------------------------------------------------------------------------------------------------

ANSWERS = st.builds(
    Answer,
    st.sampled_from(list(Outcome)),
    cause=st.none() | st.sampled_from(list(Cause)),
    retry_after_s=st.none() | st.floats(0, 900),
)


@given(answers=st.lists(st.tuples(ANSWERS, st.floats(0, 1), st.floats(0, 60)), max_size=80))
def test_the_lane_stays_between_one_and_sixteen_wide_and_never_opens_earlier(
    answers: list[tuple[Answer, float, float]],
) -> None:
    lane, now = Lane(), 1_000.0
    for answer, jitter, passed in answers:
        now += passed
        following = after_answer(lane, answer, now, jitter)
        assert 1 <= following.width <= OPEN_POSTS
        assert following.opens_at >= lane.opens_at
        assert following.opens_at <= max(lane.opens_at, now + 900 * 1.1)
        lane = following


def posts_in_an_hour(answer: Answer, jitter: float = 0.0) -> int:
    """How often a hub is asked that answers everything so, at once."""
    lane, now, posts = Lane(), 0.0, 0
    while now < 3_600 and posts < 100_000:
        for _ in range(lane.width):
            posts += 1
            lane = after_answer(lane, answer, now, jitter)
        now = max(lane.opens_at, now + 0.001)
    return posts


@pytest.mark.parametrize(
    ("answer", "most"),
    [
        (BROKEN, 140),
        (NOT_SENT, 140),
        (NO_KEY, 140),
        (rate(), 140),
        (rate(outcome=Outcome.UNKNOWN), 140),
        (rate(60.0), 90),
        (rate(900.0), 40),
        (rate(0.0), 3_640),
        (rate(0.2), 3_640),
    ],
)
def test_a_hub_that_only_answers_trouble_is_asked_at_a_bounded_rate(answer: Answer, most: int) -> None:
    assert posts_in_an_hour(answer) <= most
    assert posts_in_an_hour(answer, jitter=1.0) <= most


def test_a_week_of_trouble_is_no_overflow() -> None:
    for answer in (BROKEN, NOT_SENT, rate()):
        lane = after_answer(Lane(troubles=100_000), answer, 0.0, 1.0)
        assert 0 < lane.opens_at <= 45.0


@pytest.mark.parametrize("width", [16, 9, 2, 1])
def test_a_429_halves_the_lane_and_waits_as_told(width: int) -> None:
    lane = after_answer(Lane(width=width), rate(7.0), 100.0, 0.0)

    assert (lane.width, lane.opens_at) == (max(1, width // 2), 107.0)


def test_waiting_as_told_is_never_shorter_than_told() -> None:
    for jitter in (0.0, 0.5, 1.0):
        assert after_answer(Lane(), rate(60.0), 100.0, jitter).opens_at >= 160.0


def test_a_shorter_wait_does_not_shorten_a_longer_one() -> None:
    lane = after_answer(Lane(), rate(60.0), 100.0, 0.0)

    assert after_answer(lane, rate(1.0), 101.0, 0.0).opens_at == 160.0
    assert after_answer(lane, GOOD, 101.0, 0.0).opens_at == 160.0


def test_three_unknown_in_a_row_leave_one_probe_at_a_time() -> None:
    lane = Lane()
    widths = []
    for _ in range(4):
        lane = after_answer(lane, BROKEN, 0.0, 0.0)
        widths.append(lane.width)

    assert widths == [16, 16, 1, 1]
    assert lane.opens_at > 0


def test_a_fifth_of_the_last_twenty_unknown_leaves_one_probe_at_a_time() -> None:
    lane = Lane()
    for n in range(20):
        lane = after_answer(lane, BROKEN if n % 5 == 0 else GOOD, 0.0, 0.0)
    assert lane.width == OPEN_POSTS

    lane = after_answer(lane, BROKEN, 0.0, 0.0)

    assert lane.width == 1
    assert lane.recent == (), "it is reckoned anew after a break"


def test_a_few_unknown_among_many_break_nothing() -> None:
    lane = Lane()
    for n in range(200):
        lane = after_answer(lane, BROKEN if n % 10 == 0 else GOOD, 0.0, 0.0)

    assert (lane.width, lane.opens_at) == (OPEN_POSTS, 0.0)


def test_the_lane_widens_again_slowly() -> None:
    lane = Lane(width=1, troubles=9)
    widths = []
    for _ in range(10):
        lane = after_answer(lane, GOOD, 0.0, 0.0)
        widths.append(lane.width)

    assert widths == [2, 2, 3, 3, 3, 4, 4, 4, 4, 5]
    assert lane.troubles == 0


def test_a_refused_row_is_no_trouble_of_the_hubs() -> None:
    assert after_answer(Lane(troubles=2), REFUSED, 0.0, 0.0).troubles == 0


# -- models that are broken ----------------------------------------------------------------------------------------


def ends(breaker: Breaker, *words: str | None, now: float = 0.0) -> Breaker:
    for trouble in words:
        breaker = after_end(breaker, trouble, now)
    return breaker


def test_a_model_pauses_after_several_failures_in_the_same_words() -> None:
    almost = ends(Breaker(), *["upstream timed out after 31 s"] * (SAME_IN_A_ROW - 1))
    paused = ends(almost, "upstream timed out after 87 s")

    assert (almost.opens_at, almost.probing) == (0.0, False)
    assert (paused.opens_at, paused.probing) == (BREAK_FIRST_S, True)


def test_different_words_or_a_good_end_begin_the_count_anew() -> None:
    assert not ends(Breaker(), *["a", "b"] * 20).probing
    assert not ends(Breaker(), *["a", "a", "a", "a", None] * 5).probing
    assert ends(Breaker(), *["a"] * 5, None) == Breaker()


def test_failures_of_what_was_sent_before_the_pause_do_not_lengthen_it() -> None:
    paused = ends(Breaker(), *["a"] * SAME_IN_A_ROW)

    assert ends(paused, *["a"] * 50, now=BREAK_FIRST_S - 1) == paused


def test_each_failed_probe_doubles_the_pause_to_an_hour_at_most() -> None:
    breaker, now, pauses = ends(Breaker(), *["a"] * SAME_IN_A_ROW), 0.0, []
    for _ in range(7):
        pauses.append(breaker.pause_s)
        now = breaker.opens_at
        breaker = ends(breaker, "a", now=now)

    assert pauses == [300, 600, 1200, 2400, BREAK_MAX_S, BREAK_MAX_S, BREAK_MAX_S]
    assert breaker.opens_at == now + BREAK_MAX_S


# -- when to look, when to end -------------------------------------------------------------------------------------


def test_the_hub_is_looked_at_as_often_as_its_reference_advises() -> None:
    assert 2 <= look_every_s(images=True, events_trusted=False) <= 5
    assert 10 <= look_every_s(images=False, events_trusted=False) <= 30
    for images in (True, False):
        trusting = look_every_s(images=images, events_trusted=True)
        assert look_every_s(images=images, events_trusted=False) < trusting <= LOOK_MAX_S


NOTHING = Facts(pending=False, submitting=0, uncertain=0, at_the_hub=0, succeeded=0)
LEFT = [{"pending": True}, {"uncertain": 1}, {"at_the_hub": 1}, {"succeeded": 1}]


def over(
    facts: Facts, *stops: Stop, wait: bool = True, could_send: bool = True, fetching: int = 0, open_posts: int = 0
) -> bool:
    return is_over(facts, stops, wait=wait, could_send=could_send, fetching=fetching, open_posts=open_posts)


def test_a_run_with_nothing_left_is_over() -> None:
    assert over(NOTHING)


@pytest.mark.parametrize("left", LEFT)
def test_a_run_goes_on_while_something_is_left(left: dict[str, int]) -> None:
    assert not over(replace(NOTHING, **left))


@pytest.mark.parametrize("stop", list(Stop))
@pytest.mark.parametrize("wait", [True, False])
def test_no_run_leaves_while_a_post_is_unanswered(stop: Stop, wait: bool) -> None:
    assert not over(replace(NOTHING, submitting=1), stop, wait=wait, could_send=False, open_posts=1)


@pytest.mark.parametrize("stop", [s for s in Stop if s.at_once])
def test_what_a_killed_run_left_unanswered_does_not_keep_a_run_that_must_leave(stop: Stop) -> None:
    assert over(replace(NOTHING, submitting=1), stop)


@pytest.mark.parametrize("stop", [s for s in Stop if not s.at_once])
def test_a_run_that_may_send_no_more_still_collects_what_is_paid(stop: Stop) -> None:
    assert over(replace(NOTHING, pending=True), stop)
    for left in LEFT[1:]:
        assert not over(replace(NOTHING, **left), stop)


@pytest.mark.parametrize("stop", [s for s in Stop if s.at_once])
def test_a_run_that_cannot_go_on_leaves_what_the_hub_makes_to_the_next(stop: Stop) -> None:
    busy = replace(NOTHING, pending=True, uncertain=1, at_the_hub=3, succeeded=2)

    assert over(busy, stop)
    assert over(busy, stop, fetching=1) == (stop in (Stop.SIGINT, Stop.SIGTERM, Stop.DISK))


def test_without_waiting_a_run_leaves_when_it_can_send_no_more() -> None:
    busy = replace(NOTHING, pending=True, uncertain=1, at_the_hub=3, succeeded=2)

    assert over(busy, wait=False, could_send=False)
    assert not over(busy, wait=False, could_send=True)


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (Stop.SIGINT, 130), (Stop.SIGTERM, 143), (Stop.KEY, 77), (Stop.DISK, 74), (Stop.OUTAGE, 69),
        (Stop.DEADLINE, 75),
        (Stop.FAIL_FAST, 3), (Stop.CREDITS, 5), (Stop.COST, 5), (Stop.UNPRICED, 5), (Stop.SENDS, 5), (Stop.DAY, 5),
    ],
)  # fmt: skip
def test_a_stop_has_the_contracts_exit_code(stop: Stop, code: int) -> None:
    assert stop.exit_code == code


def test_no_stop_is_another_under_a_second_name() -> None:
    assert len(list(Stop)) == len(Stop.__members__)


# -- the longest first ------------------------------------------------------------------------------------------------


def test_what_takes_longest_goes_first_and_equals_keep_their_order() -> None:
    short, long = Kind("film", 5), Kind("film", 10)

    assert plan.ranked([short, long], {}, {"film"}) == [[long], [short]]
    assert plan.ranked([short, long], {short: 60.0, long: 66.0}, {"film"}) == [[long, short]]


def test_what_the_hub_took_of_late_is_believed_before_what_was_asked_for() -> None:
    slow, quick = Kind("slow", 5), Kind("quick", 10)

    assert plan.ranked([quick, slow], {slow: 300.0, quick: 40.0}, {"slow", "quick"}) == [[slow], [quick]]


def test_a_length_that_was_never_made_is_reckoned_from_others_of_its_model() -> None:
    paces = {Kind("film", 5): 60.0, Kind("other", 10): 1.0}

    assert plan.expected_s(Kind("film", 10), paces, video=True) == pytest.approx(120.0)
    assert plan.expected_s(Kind("film", 0), paces, video=True) == pytest.approx(60.0)
    assert plan.expected_s(Kind("new", 10), paces, video=True) > plan.expected_s(Kind("new", 5), paces, video=True)
    assert plan.expected_s(Kind("new", 0), paces, video=True) > plan.expected_s(Kind("new", 0), paces, video=False)
