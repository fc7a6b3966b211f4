"""The figures and sentences that are shown of a batch that goes on."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from views import FLUX, KLING, MOODY, NOW, a_run, a_view, seen

from oxenbatch.cli.view import Pace, Tally, failure_words, mood_words, span, time_left
from oxenbatch.jobs import JobState
from oxenbatch.ledger.follow import ModelSeen
from oxenbatch.ledger.reads import Failure
from oxenbatch.runner.mood import Mood, Pause

_S = JobState


def test_the_line_for_a_log_or_a_screen_reader_says_it_all() -> None:
    assert a_view().line == (
        "409 of 500 done, 10 active, 78 pending, 3 failed, about 7 min left, $3.21 of $25.00;"
        " sending waits 23 s: Rate limit exceeded;"
        f" {KLING} pauses for 5 min: Upstream provider error;"
        " the hub's announcements are not heard: its list is asked instead;"
        " 2 sends without an answer: looked for at the hub"
    )


def test_a_run_that_goes_well_has_no_mood() -> None:
    calm = seen(models=(ModelSeen(FLUX, {_S.PROCESSING: 1}, None),))
    assert mood_words(Mood(listening=True), calm, now=NOW) == []
    assert mood_words(Mood(listening=None, unreachable_s=1.0), calm, now=NOW) == []


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        (Mood(unreachable_s=125.0), "the hub has not answered for 2 min"),
        (Mood(waits_s=8.0), "sending waits 8 s"),
        (Mood(stops=("max-cost is reached",)), "nothing more is sent: max-cost is reached"),
        (Mood(given_up=("m",)), "m is given up in this run: its first row failed"),
    ],
)
def test_each_thing_that_slows_a_run_has_its_sentence(mood: Mood, words: str) -> None:
    assert mood_words(mood, seen(models=()), now=NOW) == [words]


def test_what_is_held_names_the_command_that_decides() -> None:
    held = seen(models=(ModelSeen(FLUX, {_S.HELD: 2}, None),))
    assert mood_words(Mood(), held, now=NOW) == ["2 held: a person must decide (oxenbatch resolve)"]


def test_a_run_that_gives_no_sign_of_life_is_not_taken_for_a_slow_one() -> None:
    silent = seen(run=a_run(seen_at=NOW - 60), models=())
    assert mood_words(Mood(), silent, now=NOW) == ["no sign of life for 60 s"]
    assert mood_words(Mood(), seen(run=a_run(seen_at=None), models=()), now=NOW) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (172_800, "2 days"), (-3, "0 s")],
)
def test_a_length_of_time_is_told_in_the_unit_that_says_something(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_time_left_is_the_work_of_each_model_by_how_long_it_took() -> None:
    images = ModelSeen(FLUX, {_S.PENDING: 10, _S.PROCESSING: 4, _S.DOWNLOADED: 99}, 3.0)
    videos = ModelSeen(KLING, {_S.PENDING: 2, _S.QUEUED: 2}, 100.0)
    assert time_left((images, videos), parallel=4.0) == ((12 * 3.0 + 3 * 100.0) / 4, False)


def test_a_model_that_has_not_been_seen_makes_time_left_a_lower_bound() -> None:
    images = ModelSeen(FLUX, {_S.PENDING: 10}, 3.0)
    assert time_left((images, ModelSeen(KLING, {_S.PENDING: 1}, None)), 1.0) == (30.0, True)
    assert time_left((images, ModelSeen(KLING, {_S.DOWNLOADED: 1}, None)), 1.0) == (30.0, False)
    assert time_left((ModelSeen(KLING, {_S.PENDING: 1}, None),), 1.0) == (None, True)
    assert "more than" in a_view(models=(images, ModelSeen(KLING, {_S.PENDING: 1}, None))).left_words


def test_what_ended_takes_no_time() -> None:
    assert time_left((ModelSeen(FLUX, {_S.DOWNLOADED: 3, _S.FAILED: 1, _S.HELD: 1}, 3.0),), 1.0) == (None, False)


@given(st.lists(st.tuples(st.integers(0, 64), st.floats(0.01, 60)), min_size=1, max_size=40))
def test_the_pace_stays_between_what_was_seen_and_is_never_less_than_one(looks: list[tuple[int, float]]) -> None:
    pace, now = Pace(), 0.0
    for active, later in looks:
        now += later
        told = pace.feed(active, now)
        assert 1.0 <= told <= max(1, *(n for n, _ in looks))


def test_a_gap_of_a_second_does_not_change_the_pace_much() -> None:
    pace = Pace()
    pace.feed(8, 0.0)
    assert pace.feed(0, 1.0) > 7
    assert pace.feed(0, 60.0) < 1.1


def test_failures_are_the_most_frequent_and_the_rest_is_counted() -> None:
    told = tuple(Failure(_S.FAILED, f"words {'abcdef'[n]}", 9 - n, "x") for n in range(5))
    assert failure_words(told) == ("9 failed: words a", "8 failed: words b", "7 failed: words c",
                                   "11 more for other reasons")  # fmt: skip


def test_a_share_in_files_counts_what_failed_as_over() -> None:
    assert Tally(done=1, active=0, pending=1, failed=1, held=1).share == 0.75
    assert Tally(0, 0, 0, 0, 0).share == 1.0


def test_a_mood_is_the_same_after_the_ledger_kept_it() -> None:
    assert Mood.from_json(MOODY.as_json()) == MOODY


def test_a_mood_that_is_old_has_waited_since() -> None:
    later = Mood.from_json(MOODY.as_json(), age_s=100.0)
    assert later.waits_s == 0.0
    assert [pause.left_s for pause in later.pauses] == [180.0]
    assert Mood.from_json(MOODY.as_json(), age_s=300.0).pauses == ()


@pytest.mark.parametrize("text", [None, "", "nonsense", "[]", "3", '{"pauses": 3}', '{"unheard_of": 1}', "null"])
def test_a_mood_that_cannot_be_read_is_a_calm_one(text: str | None) -> None:
    assert Mood.from_json(text) == Mood()


def test_a_mood_that_somebody_has_tampered_with_is_shown_and_not_obeyed() -> None:
    evil = "\x1b[2J"
    mood = Mood(waits_s=9.0, words=evil, stops=(evil,), given_up=(evil,), pauses=(Pause(evil, 9.0, evil),))
    assert not [words for words in mood_words(mood, seen(models=()), now=NOW) if "\x1b" in words]


def test_moods_that_differ_only_in_their_seconds_tell_the_same() -> None:
    assert replace(MOODY, waits_s=1.0, fetching=0).lasting == MOODY.lasting
    assert replace(MOODY, words="other").lasting != MOODY.lasting
    assert Mood(unreachable_s=3.0).lasting != Mood().lasting


def test_without_a_limit_only_what_is_spent_is_told() -> None:
    assert a_view(run=a_run(max_cost_nanos=None)).money_words == "$3.21"
    assert a_view().cap == Decimal(25)
