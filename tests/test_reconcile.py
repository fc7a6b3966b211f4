"""A send that nobody answered is adopted, proved absent, waited for, or held: and never both adopted and paid again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxenbatch.echo import echoes
from oxenbatch.jobs import request_hash
from oxenbatch.reconcile import (
    BEGINNING_S,
    DOUBT_S,
    POSTING_S,
    SLACK_S,
    Elsewhere,
    Open,
    Rival,
    Verdict,
    judge,
    scan_due_at,
    window_start,
)
from oxenbatch.wire import Generation

T0 = 1_800_000_000.0
SETTLE_S = 120.0
SETTLED = T0 + 30.0 + SETTLE_S
CAT = {"prompt": "A cat"}


def uid(number: int) -> str:
    return str(UUID(int=number))


def made(number: int, parameters: dict[str, Any] | None = None, at: float | None = T0, **more: Any) -> Generation:
    """A row of the hub, which echoes the parameters."""
    return Generation(
        uid(number), "m", "queued", enqueued_at=at, echo=CAT if parameters is None else parameters, **more
    )


def lost(number: int, parameters: dict[str, Any] | None = None, **more: Any) -> Open:
    """A send whose answer never came."""
    parameters = CAT if parameters is None else parameters
    times = {"waiting": 1, "intent_at": T0, "ended_at": T0 + 30.0, "token": f"token{number:03}"} | more
    return Open(number, request_hash("m", parameters), "m", parameters, **times)


def ask(opens: list[Open], rows: list[Generation], *, now: float = SETTLED, **more: Any) -> dict[int, Verdict]:
    settings: dict[str, Any] = {"owned": set(), "settle_s": SETTLE_S, "by_token": False} | more
    verdicts = judge(opens, rows, now=now, **settings)
    assert sorted(v.submission_id for v in verdicts) == sorted(one.submission_id for one in opens), (
        "one verdict for each"
    )
    return {verdict.submission_id: verdict for verdict in verdicts}


def settle(opens: list[Open], rows: list[Generation], **more: Any) -> dict[int, Verdict]:
    """What two scans say, when the settle time is over and nothing changes but by our adopting."""
    first = ask(opens, rows, **more)
    owned = more.pop("owned", set()) | {i for verdict in first.values() for i in verdict.ids}
    left = [
        replace(
            one, waiting=one.waiting - len(first[one.submission_id].ids), absent_scans=first[one.submission_id].scans
        )
        for one in opens
        if one.waiting > len(first[one.submission_id].ids) and not first[one.submission_id].undecidable
    ]
    second = ask(left, rows, owned=owned, now=SETTLED + 1.0, **more) if left else {}
    merged = {}
    for number, verdict in first.items():
        then = second.get(number, verdict)
        merged[number] = replace(then, ids=tuple(dict.fromkeys(verdict.ids + then.ids)))
    return merged


# -- one send ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [T0, SETTLED - 0.1, SETTLED, SETTLED + 9_000])
def test_a_row_that_echoes_the_request_is_adopted_at_any_time(now: float) -> None:
    assert ask([lost(1)], [made(7)], now=now) == {1: Verdict(1, (uid(7),))}


def test_a_row_that_is_owned_already_is_never_adopted() -> None:
    assert ask([lost(1)], [made(7)], owned={uid(7)})[1].ids == ()
    assert ask([lost(1)], [made(7)], elsewhere=Elsewhere(owned=frozenset({uid(7)})))[1].ids == ()


def test_absence_is_never_said_before_the_settle_time_is_over() -> None:
    waited = replace(lost(1), absent_scans=1)

    assert ask([waited], [], now=SETTLED - 0.001)[1].scans == 0
    assert ask([waited], [], now=SETTLED)[1].absent


def test_absence_takes_two_scans_that_agree() -> None:
    assert not ask([lost(1)], [])[1].absent
    assert settle([lost(1)], [])[1].absent


def test_another_requests_row_proves_nothing_against_absence() -> None:
    assert settle([lost(1)], [made(7, {"prompt": "A dog"})])[1] == Verdict(1, (), 2)


@pytest.mark.parametrize(
    ("at", "ids"),
    [
        (T0 - SLACK_S - 0.1, 0),
        (T0 - SLACK_S, 1),
        (T0, 1),
        (SETTLED + SLACK_S, 1),
        (SETTLED + SLACK_S + 0.1, 0),
        (None, 1),
    ],
)
def test_the_window_has_slack_for_whole_seconds(at: float | None, ids: int) -> None:
    assert len(ask([lost(1)], [made(7, at=at)])[1].ids) == ids


@pytest.mark.parametrize("at", [T0 - SLACK_S - 1, T0 - DOUBT_S, SETTLED + SLACK_S + 1, SETTLED + DOUBT_S])
def test_a_matching_row_just_outside_the_window_is_held_and_not_paid_again(at: float) -> None:
    """A clock that is a minute wrong, or bytes that surfaced late: either way it may be ours."""
    verdict = settle([lost(1)], [made(7, at=at)])[1]

    assert verdict.ids == ()
    assert not verdict.absent
    assert "could be this send's" in verdict.undecidable


@pytest.mark.parametrize("at", [T0 - 3_600, SETTLED + 3_600])
def test_a_matching_row_of_another_hour_is_not_ours(at: float) -> None:
    assert settle([lost(1)], [made(7, at=at)])[1].absent


def test_a_scan_reaches_back_as_far_as_a_row_could_matter() -> None:
    opens = [lost(1, intent_at=T0 + 50), lost(2)]

    assert window_start(opens) == T0 - DOUBT_S
    assert scan_due_at([lost(1, ended_at=T0 + 99), lost(2)], SETTLE_S) == SETTLED


@pytest.mark.parametrize(
    "echo",
    [{}, {"seed": 5}, {"prompt": None}, {"prompt": "a  CAT"}, {"prompt": ""}],
    ids=["nothing", "other fields", "null", "rewritten", "empty"],
)
def test_a_row_that_does_not_say_what_made_it_holds_the_send(echo: dict[str, Any]) -> None:
    verdict = ask([lost(1)], [made(7, echo)])[1]

    assert (verdict.ids, verdict.scans) == ((), 0)
    assert verdict.undecidable
    assert ask([lost(1)], [made(7, echo)], now=SETTLED - 1)[1] == Verdict(1), "there is time yet for a better echo"


def test_a_silent_row_does_not_hold_what_was_found() -> None:
    assert ask([lost(1)], [made(7), made(8, {})])[1] == Verdict(1, (uid(7),))


# -- several sends of one request -----------------------------------------------------------------------------------


def test_equal_sends_adopt_as_many_as_there_are_oldest_first() -> None:
    opens = [lost(3, intent_at=T0 + 2), lost(1), lost(2, intent_at=T0 + 1)]
    rows = [made(9, at=T0 + 2), made(8, at=T0), made(7, at=T0 + 1)]

    assert {n: v.ids for n, v in ask(opens, rows).items()} == {1: (uid(8),), 2: (uid(7),), 3: (uid(9),)}
    assert {n: v.ids for n, v in ask(opens, rows[:2]).items()} == {1: (uid(8),), 2: (uid(9),), 3: ()}


def test_a_surplus_row_is_left_alone() -> None:
    assert ask([lost(1)], [made(8, at=T0 + 1), made(7)])[1].ids == (uid(7),)


def test_rows_without_a_time_come_last() -> None:
    assert ask([lost(1)], [made(1, at=None), made(9)])[1].ids == (uid(9),)


def test_a_send_of_several_is_adopted_piece_by_piece() -> None:
    four = lost(1, waiting=4)

    assert ask([four], [made(7), made(8)])[1] == Verdict(1, (uid(7), uid(8)), 1)
    assert settle([four], [made(7), made(8)])[1] == Verdict(1, (uid(7), uid(8)), 2)


def test_a_scan_that_found_a_twin_does_not_agree_with_one_that_found_none() -> None:
    """The hub's rows were still surfacing between the two: the second scan begins the proof anew."""
    opens = [replace(lost(1), absent_scans=1), replace(lost(2), absent_scans=1)]
    verdicts = ask(opens, [made(7)])

    assert verdicts == {1: Verdict(1, (uid(7),)), 2: Verdict(2, (), 1)}


def test_of_two_twins_only_the_settled_one_is_proved_absent() -> None:
    settled, fresh = lost(1), lost(2, intent_at=T0 + 90, ended_at=T0 + 120)
    verdicts = settle([settled, fresh], [])

    assert verdicts[1].absent
    assert verdicts[2] == Verdict(2, (), 0)


def test_of_two_twins_the_elder_takes_the_row_and_the_younger_goes_on_waiting() -> None:
    settled, fresh = lost(1), lost(2, intent_at=T0 + 90, ended_at=T0 + 120)
    verdicts = settle([fresh, settled], [made(7, at=T0 + 95)])

    assert verdicts == {1: Verdict(1, (uid(7),)), 2: Verdict(2, (), 0)}


# -- requests that one row may echo -----------------------------------------------------------------------------------


def test_a_row_goes_to_the_request_that_says_most_and_never_to_two() -> None:
    """`{prompt}` is met by the row of `{prompt, seed}` too; given to both, one would be paid twice."""
    bare, seeded = lost(1), lost(2, CAT | {"seed": 1})
    verdicts = settle([bare, seeded], [made(7, CAT | {"seed": 1})])

    assert verdicts[2].ids == (uid(7),)
    assert verdicts[1].ids == ()
    assert verdicts[1].absent


def test_defaults_that_the_hub_filled_in_do_not_take_a_twins_row() -> None:
    bare, seeded = lost(1), lost(2, CAT | {"seed": 1})
    rows = [made(7, CAT | {"seed": 1}), made(8, CAT | {"seed": 4711})]

    assert {n: v.ids for n, v in ask([bare, seeded], rows).items()} == {1: (uid(8),), 2: (uid(7),)}


def test_a_send_gives_a_row_up_to_one_that_has_no_other() -> None:
    long, wide = lost(1, CAT | {"duration": 5}), lost(2, CAT | {"aspect": "16:9"})
    of_wide = made(7, CAT | {"duration": 5, "aspect": "16:9"}, at=T0)
    of_long = made(8, CAT | {"duration": 5, "aspect": "1:1"}, at=T0 + 1)

    assert {n: v.ids for n, v in ask([long, wide], [of_wide, of_long]).items()} == {1: (uid(8),), 2: (uid(7),)}


def test_a_doubtful_row_that_is_clearly_another_sends_holds_nobody() -> None:
    moving = [lost(n, CAT | {"input_image": f"https://x/{n}.png"}) for n in (1, 2)]
    verdicts = settle(moving, [made(7, CAT | {"input_image": "https://x/2.png"})])

    assert verdicts[2].ids == (uid(7),)
    assert verdicts[1].absent


def test_a_picture_that_the_hub_keeps_under_its_own_address_holds_the_send() -> None:
    one = lost(1, CAT | {"input_image": "https://x/1.png"})

    assert ask([one], [made(7, CAT | {"input_image": "https://hub/files/1.png"})])[1].undecidable


def test_a_row_that_a_post_under_way_may_have_made_is_left_to_it() -> None:
    """Its answer is not recorded yet: adopted by another, it would be "already ours", and the POST paid again."""
    waited = replace(lost(1), absent_scans=1)
    posting = lost(2, CAT | {"seed": 1}, ended_at=float("inf"))

    assert ask([waited], [made(7, CAT | {"seed": 1})], under_way=[posting])[1] == Verdict(1, (), 0)
    assert ask([waited], [made(7, CAT | {"seed": 2})], under_way=[posting])[1].ids == (uid(7),)
    assert ask([waited], [], under_way=[posting])[1].absent


# -- other ledgers -----------------------------------------------------------------------------------------------------


def test_a_request_that_another_ledger_is_posting_is_not_judged_now() -> None:
    waited = replace(lost(1), absent_scans=1)
    posting = Elsewhere(posting=frozenset({waited.request_hash}))

    assert ask([waited], [made(7)], elsewhere=posting)[1] == Verdict(1, (), 1)
    assert ask([waited], [made(7)], elsewhere=posting, now=SETTLED + POSTING_S - 1)[1] == Verdict(1, (), 1)


def test_a_send_of_another_ledger_that_nobody_settles_is_not_waited_for_without_end() -> None:
    """That batch was killed in the middle of a POST, and is of last night: nobody runs it again."""
    waited = replace(lost(1), absent_scans=1)
    posting = Elsewhere(posting=frozenset({waited.request_hash}))
    verdict = ask([waited], [made(7)], elsewhere=posting, now=SETTLED + POSTING_S)[1]

    assert "run that batch again" in verdict.undecidable
    assert (verdict.ids, verdict.absent) == ((), False), "whose the row is cannot be told here"


def test_an_older_send_of_another_ledger_takes_its_row_first() -> None:
    one = lost(1)
    elder = Elsewhere(rivals=(Rival(one.request_hash, T0 - 1, 1),))

    assert ask([one], [made(7), made(8, at=T0 + 1)], elsewhere=elder)[1].ids == (uid(8),)


def test_a_row_left_to_another_ledger_is_no_proof_of_absence() -> None:
    """The other send may be of last week, and the row ours: a person decides, and nothing is bought again."""
    one = replace(lost(1), absent_scans=1)
    elder = Elsewhere(rivals=(Rival(one.request_hash, T0 - 600_000, 1),))

    assert ask([one], [made(7)], elsewhere=elder)[1] == Verdict(1), "that ledger's run may be about to take it"
    verdict = ask([one], [made(7)], elsewhere=elder, now=SETTLED + BEGINNING_S)[1]
    assert not verdict.absent
    assert "another ledger" in verdict.undecidable


def test_a_row_that_came_too_late_for_an_older_send_of_another_ledger_is_ours() -> None:
    """Each would leave it to the other else, and both be held."""
    late = T0 + 200.0
    one = lost(1, intent_at=late - 1, ended_at=late + 1)
    elder = Rival(one.request_hash, T0, 1, ended_at=T0 + 30.0)
    row = made(7, at=late)
    assert ask([one], [row], elsewhere=Elsewhere(rivals=(elder,)))[1].ids == (uid(7),)
    in_time = replace(elder, ended_at=late - SETTLE_S)
    assert ask([one], [row], elsewhere=Elsewhere(rivals=(in_time,)))[1].ids == ()


def test_a_younger_send_of_another_ledger_takes_what_is_left() -> None:
    one = lost(1)
    younger = Elsewhere(rivals=(Rival(one.request_hash, T0 + 1, 1),))

    assert ask([one], [made(7)], elsewhere=younger)[1].ids == (uid(7),)
    assert settle([one], [], elsewhere=younger)[1].absent


def test_a_row_that_may_be_another_machines_shards_is_left_to_a_person() -> None:
    """Neither adopted nor bought again; and where there is no row at all, absence is proved as ever."""
    one = replace(lost(1), absent_scans=1)
    unseen = Elsewhere(unseen=frozenset({one.request_hash}))

    later = SETTLED + BEGINNING_S
    assert ask([one], [made(7)], elsewhere=unseen, now=later - 1)[1] == Verdict(1), "it may just be beginning"
    verdict = ask([one], [made(7)], elsewhere=unseen, now=later)[1]
    assert (verdict.ids, verdict.absent) == ((), False)
    assert "another shard's" in verdict.undecidable
    assert settle([lost(1)], [], elsewhere=unseen)[1].absent
    assert ask([lost(2, {"prompt": "A dog"})], [made(7, {"prompt": "A dog"})], elsewhere=unseen)[2].ids == (uid(7),)


# -- by token ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directory", ["token001", "nightly/token001", "/a/b/token001/", "a/token001/images"])
def test_a_token_finds_its_row_whatever_its_age_and_echo(directory: str) -> None:
    row = made(7, {}, at=T0 - 90_000, directory=directory)

    assert ask([lost(1), lost(2)], [row], by_token=True) == {1: Verdict(1, (uid(7),)), 2: Verdict(2, (), 1)}


@pytest.mark.parametrize("directory", ["token002", "nightly", "xtoken001", "token001x"])
def test_another_token_is_anothers_row(directory: str) -> None:
    assert settle([lost(1)], [made(7, directory=directory)], by_token=True)[1].absent


@pytest.mark.parametrize("directory", [None, ""])
def test_a_matching_row_that_does_not_say_its_directory_holds_the_send(directory: str | None) -> None:
    verdict = settle([lost(1)], [made(7, directory=directory)], by_token=True)[1]

    assert verdict.undecidable
    assert not verdict.absent


def test_a_row_without_directory_that_cannot_be_ours_holds_nobody() -> None:
    rows = [made(7, {"prompt": "A dog"}), made(8, at=T0 - 9_000)]

    assert settle([lost(1)], rows, by_token=True)[1].absent


# -- whatever happens -------------------------------------------------------------------------------------------------

PARAMETERS = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["cat", "dog"])},
    optional={"seed": st.sampled_from([1, 2]), "duration": st.sampled_from([5, "5", 8])},
)
TIMES = st.floats(-20, 260).map(lambda s: T0 + round(s, 1))
OPENS = st.lists(
    st.tuples(PARAMETERS, st.integers(1, 3), TIMES, st.floats(0, 30), st.integers(0, 2)), min_size=1, max_size=6
).map(
    lambda rows: [
        lost(n, parameters, waiting=waiting, intent_at=at, ended_at=at + took, absent_scans=scans)
        for n, (parameters, waiting, at, took, scans) in enumerate(rows, 1)
    ]
)
ROWS = st.lists(
    st.tuples(PARAMETERS | st.just({}), st.none() | TIMES, st.sampled_from([None, "token001", "x/token002", "x"])),
    max_size=9,
).map(lambda rows: [made(n, p, at=at, directory=d) for n, (p, at, d) in enumerate(rows, 1)])


@given(opens=OPENS, rows=ROWS, owned=st.sets(st.integers(1, 9).map(uid)), now=TIMES, by_token=st.booleans(),
       under_way=st.lists(PARAMETERS, max_size=2))  # fmt: skip
def test_no_id_is_adopted_twice_nor_an_owned_one_nor_more_than_are_waited_for(
    opens: list[Open],
    rows: list[Generation],
    owned: set[str],
    now: float,
    by_token: bool,
    under_way: list[dict[str, Any]],
) -> None:
    busy = [lost(100 + n, p, ended_at=float("inf")) for n, p in enumerate(under_way)]
    verdicts = ask(opens, rows, owned=owned, now=now, by_token=by_token, under_way=busy)
    adopted = [i for verdict in verdicts.values() for i in verdict.ids]

    assert max(Counter(adopted).values(), default=0) <= 1
    assert not owned & set(adopted)
    for one in opens:
        verdict = verdicts[one.submission_id]
        short = len(verdict.ids) < one.waiting
        assert len(verdict.ids) <= one.waiting
        assert not (verdict.scans or verdict.undecidable) or (short and now >= one.ended_at + SETTLE_S)
        assert not (verdict.scans and verdict.undecidable)


@given(opens=OPENS, rows=ROWS, owned=st.sets(st.integers(1, 9).map(uid)))
def test_nothing_is_absent_while_a_row_that_could_be_its_own_is_free(
    opens: list[Open], rows: list[Generation], owned: set[str]
) -> None:
    now = T0 + 1_000
    verdicts = ask(opens, rows, owned=owned, now=now)
    adopted = {i for verdict in verdicts.values() for i in verdict.ids}
    free = [row for row in rows if row.generation_id not in owned | adopted]
    for one in opens:
        if not verdicts[one.submission_id].absent:
            continue
        for row in free:
            at = row.enqueued_at if row.enqueued_at is not None else one.intent_at
            near = one.intent_at - SLACK_S <= at <= one.ended_at + SETTLE_S + SLACK_S
            assert not (near and echoes(row, one.model, one.parameters) is not False)


@given(many=st.integers(1, 6), landed=st.integers(0, 8), settled=st.booleans())
def test_of_equal_sends_just_as_many_are_adopted_as_there_are_rows(many: int, landed: int, settled: bool) -> None:
    now = SETTLED if settled else SETTLED - 1
    verdicts = ask([lost(n) for n in range(1, many + 1)], [made(n) for n in range(1, landed + 1)], now=now)

    assert sum(len(verdict.ids) for verdict in verdicts.values()) == min(many, landed)


@given(
    sends=st.lists(
        st.tuples(PARAMETERS, st.booleans(), st.sampled_from([1, 2, 3]), st.sampled_from([5, 8])),
        min_size=1,
        max_size=8,
    ),
    order=st.randoms(use_true_random=False),
)
def test_what_landed_is_adopted_and_what_did_not_is_absent_whatever_defaults_the_hub_fills_in(
    sends: list[tuple[dict[str, Any], bool, int, int]], order: Any
) -> None:
    """The whole point: after two scans just so many are paid again as were never made."""
    opens = [lost(n, parameters) for n, (parameters, *_) in enumerate(sends, 1)]
    rows = [
        made(n, {"seed": seed, "duration": duration} | parameters)
        for n, (parameters, landed, seed, duration) in enumerate(sends, 1)
        if landed
    ]
    order.shuffle(opens)
    order.shuffle(rows)
    verdicts = settle(opens, rows)

    assert {i for verdict in verdicts.values() for i in verdict.ids} == {row.generation_id for row in rows}
    assert sum(verdict.absent for verdict in verdicts.values()) == len(opens) - len(rows)
    assert not any(verdict.undecidable for verdict in verdicts.values())


def test_a_thousand_lost_sends_are_judged_in_a_moment() -> None:
    opens = [lost(n, CAT | {"seed": n // 3}) for n in range(1_000)]
    rows = [made(n, CAT | {"seed": n // 3, "duration": 5}) for n in range(1_000)]

    assert all(len(verdict.ids) == 1 for verdict in ask(opens, rows).values())
