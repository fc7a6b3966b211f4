"""Every move is in the table, none buys twice, and a request's identity does not depend on its spelling."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxenbatch.jobs import (
    ACTIVE,
    AT_THE_HUB,
    MOVES,
    SETTLED,
    Event,
    IllegalMove,
    Intent,
    JobState,
    Row,
    after,
    auto_seed,
    canonical,
    job_key,
    prompt_of,
    request_hash,
    sealed,
    short_key,
)

S, E = JobState, Event
NEWS = [e for e in Event if e.startswith("seen_")]
TERMINAL = [S.SUCCEEDED, S.FAILED, S.CANCELLED, S.DOWNLOADED, S.UNFETCHABLE]
MAY_HAVE_COST = [S.SUBMITTING, S.UNCERTAIN, S.HELD, S.QUEUED, S.PROCESSING]
SAFE_WAYS_BACK = {E.NOT_SENT, E.TURNED_AWAY, E.ABSENT, E.SEEN_FAILED_IN_PASSING}
PAID = [S.SUCCEEDED, S.DOWNLOADED, S.UNFETCHABLE]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


# -- the table ----------------------------------------------------------------------------------------------------


def test_every_state_has_its_row_and_every_move_ends_in_a_state() -> None:
    assert set(MOVES) == set(JobState)
    for moves in MOVES.values():
        assert all(isinstance(event, Event) and isinstance(target, JobState) for event, target in moves.items())


def test_every_event_moves_something() -> None:
    assert {event for moves in MOVES.values() for event in moves} == set(Event)


def test_every_state_can_be_reached_and_left() -> None:
    assert {target for moves in MOVES.values() for target in moves.values()} == set(JobState)
    for state, moves in MOVES.items():
        assert set(moves.values()) - {state}, f"{state} is a dead end"


@pytest.mark.parametrize("state", MAY_HAVE_COST)
def test_what_may_have_cost_money_becomes_pending_only_where_that_is_known_to_be_safe(state: JobState) -> None:
    ways_back = {event for event, target in MOVES[state].items() if target is S.PENDING}

    assert ways_back <= SAFE_WAYS_BACK


@pytest.mark.parametrize("state", PAID)
def test_what_was_paid_becomes_pending_only_by_the_users_own_word(state: JobState) -> None:
    assert {event for event, target in MOVES[state].items() if target is S.PENDING} <= {E.SET_ASIDE, E.RETRIED}


def test_only_an_authorised_sample_is_sent() -> None:
    into = {
        (state, event) for state, moves in MOVES.items() for event, target in moves.items() if target is S.SUBMITTING
    }

    assert into == {(S.PENDING, E.AUTHORISED)}


def test_an_unanswered_send_can_only_become_uncertain() -> None:
    assert [moves[E.UNANSWERED] for moves in MOVES.values() if E.UNANSWERED in moves] == [S.UNCERTAIN]
    assert S.PENDING not in {target for event, target in MOVES[S.UNCERTAIN].items() if event is not E.ABSENT}


def test_an_id_that_the_hub_lost_is_held_and_never_bought_again() -> None:
    assert {moves[E.VANISHED] for moves in MOVES.values() if E.VANISHED in moves} == {S.HELD}


@pytest.mark.parametrize("state", TERMINAL)
@given(news=st.lists(st.sampled_from(NEWS), max_size=12))
def test_late_and_repeated_news_change_nothing(state: JobState, news: list[Event]) -> None:
    now = state
    for event in news:
        now = after(now, event)

    assert now is state


@given(
    news=st.lists(st.sampled_from([E.SEEN_QUEUED, E.SEEN_PROCESSING]), max_size=12), start=st.sampled_from(AT_THE_HUB)
)
def test_progress_never_goes_back(news: list[Event], start: JobState) -> None:
    now = start
    for event in news:
        following = after(now, event)
        assert (now, following) != (S.PROCESSING, S.QUEUED)
        now = following


@pytest.mark.parametrize("state", AT_THE_HUB)
@pytest.mark.parametrize("event", NEWS)
def test_the_hub_may_say_anything_of_what_it_is_making(state: JobState, event: Event) -> None:
    assert after(state, event) in JobState


@given(events=st.lists(st.sampled_from(list(Event)), max_size=40))
def test_a_second_send_needs_a_reason_after_the_first(events: list[Event]) -> None:
    """Whatever happens in whatever order: between two sends lies an event that makes the second one right."""
    reasons = SAFE_WAYS_BACK | {E.RETRIED, E.SET_ASIDE}
    state, sent, reason = S.PENDING, False, True
    for event in events:
        try:
            state = after(state, event)
        except IllegalMove:
            continue
        if event is E.AUTHORISED:
            assert not sent or reason
            sent, reason = True, False
        reason = reason or event in reasons


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (S.PENDING, E.ACCEPTED),
        (S.UNCERTAIN, E.AUTHORISED),
        (S.UNCERTAIN, E.RETRIED),
        (S.HELD, E.AUTHORISED),
        (S.HELD, E.RETRIED),
        (S.QUEUED, E.AUTHORISED),
        (S.SUBMITTING, E.ABSENT),
        (S.DOWNLOADED, E.RETRIED),
        (S.SUCCEEDED, E.AUTHORISED),
    ],
)
def test_an_illegal_move_says_what_cannot_be(state: JobState, event: Event) -> None:
    with pytest.raises(IllegalMove, match=f"a sample that is {state} cannot be {event}"):
        after(state, event)


def test_what_may_hold_a_place_at_the_hub_is_counted() -> None:
    assert set(ACTIVE) == {S.SUBMITTING, S.UNCERTAIN, S.QUEUED, S.PROCESSING}
    assert set(AT_THE_HUB) < set(ACTIVE)
    assert not set(SETTLED) & set(ACTIVE)


def test_the_public_states_are_the_contracts_words() -> None:
    words = "pending submitting uncertain held queued processing succeeded failed cancelled downloaded unfetchable"

    assert set(JobState) == set(words.split())


# -- identity -----------------------------------------------------------------------------------------------------


@given(value=st.dictionaries(st.text(max_size=6), JSON, max_size=6), seed=st.randoms(use_true_random=False))
def test_the_order_of_fields_does_not_change_the_canonical_text(value: dict[str, object], seed: object) -> None:
    names = list(value)
    seed.shuffle(names)  # type: ignore[attr-defined] - hypothesis hands out a random.Random

    assert canonical({name: value[name] for name in names}) == canonical(value)


@given(value=JSON)
def test_the_canonical_text_is_json_of_the_same_value(value: object) -> None:
    assert json.loads(canonical(value)) == value
    assert canonical(json.loads(canonical(value))) == canonical(value)


@pytest.mark.parametrize(
    ("one", "other"),
    [(5, 5.0), ([1.0], [1]), ((1, 2), [1, 2]), (-0.0, 0), ({"b": 1, "a": 2}, {"a": 2.0, "b": 1})],
)
def test_spellings_of_one_value_are_one_text(one: object, other: object) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(5, "5"), (True, 1), (False, 0), (None, ""), (None, "null"), ([], {}), (0.1, 0.2), ("a", "a "), ([1, 2], [2, 1])],
)
def test_different_values_are_different_texts(one: object, other: object) -> None:
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_has_no_canonical_text(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical({"seed": number})


def test_equal_requests_share_a_tagged_hash_and_others_do_not() -> None:
    hashed = request_hash("m", {"prompt": "x", "duration": 5})

    assert hashed == request_hash("m", {"duration": 5.0, "prompt": "x"})
    assert hashed.startswith("r1:")
    assert len(hashed) == 3 + 64
    assert hashed not in {
        request_hash("n", {"prompt": "x", "duration": 5}),
        request_hash("m", {"prompt": "x", "duration": "5"}),
        request_hash("m", {"prompt": "x"}),
    }


def test_this_way_of_hashing_never_changes_under_its_tag() -> None:
    """A ledger of last year is resumed by this year's program: a new way needs a new tag."""
    text = '{"model":"m","parameters":{"n":[1,null,true],"prompt":"é"}}'

    assert request_hash("m", {"prompt": "é", "n": [1.0, None, True]}) == "r1:" + sha256(text.encode()).hexdigest()


def test_half_a_surrogate_pair_is_hashed_and_not_a_crash() -> None:
    assert request_hash("m", {"prompt": "\ud800"}) != request_hash("m", {"prompt": "\ud801"})
    assert len(short_key("\udfff")) == 8


def test_a_row_is_its_id_or_its_request_and_occurrence() -> None:
    assert job_key("hero", "r1:ab", 7) == "id:hero"
    assert job_key(None, "r1:ab", 7) == "r1:ab#7"
    assert job_key("r1:ab#7", "r1:ab", 1) != job_key(None, "r1:ab", 7)


@given(key=st.text(max_size=20), sample=st.integers(1, 10_000))
def test_a_recorded_seed_is_the_same_every_time_and_within_31_bits(key: str, sample: int) -> None:
    seed = auto_seed(key, sample)

    assert seed == auto_seed(key, sample)
    assert 0 <= seed < 2**31


def test_each_sample_has_a_seed_of_its_own() -> None:
    assert len({auto_seed(f"id:{row}", sample) for row in range(50) for sample in range(1, 5)}) == 200


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"prompt": "a cat"}, "a cat"),
        ({"multi_prompt": [{"prompt": "dawn", "duration": 5}, {"prompt": "noon"}]}, "dawn / noon"),
        ({"multi_prompt": [{"duration": 5}, "odd", {"prompt": 3}]}, " / 3"),
        ({"prompt": 5}, ""),
        ({"prompt": None, "multi_prompt": [{"prompt": "dawn"}]}, "dawn"),
        ({"multi_prompt": "dawn"}, ""),
        ({}, ""),
    ],
)
def test_a_prompt_is_found_whole_or_in_parts(parameters: dict[str, object], text: str) -> None:
    assert prompt_of(parameters) == text
    assert Row("m", parameters).prompt == text


# -- the seal -----------------------------------------------------------------------------------------------------


def test_nobody_makes_an_intent_in_passing() -> None:
    with pytest.raises(RuntimeError, match=r"made by ledger\.sends\.authorise"):
        Intent(1, "m", {}, 1, "t", object())


def test_an_intent_cannot_be_changed_and_does_not_show_its_seal() -> None:
    intent = sealed(1, "m", {"prompt": "x"}, 2, "t")

    assert "seal" not in repr(intent)
    with pytest.raises(FrozenInstanceError):
        intent.count = 3  # type: ignore[misc] - that is what must fail
