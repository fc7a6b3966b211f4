"""What a person does about it: causes, remedies, and the command to type."""

from __future__ import annotations

from typing import Any

import pytest

from oxenbatch.advice import EXITS, MEANING, Reason, Step, Trouble, Why, next_steps, troubles, why
from oxenbatch.errors import EXIT_PRECEDENCE
from oxenbatch.jobs import JobState

_S = JobState
RUN = "oxenbatch run ocean.yaml --date 2026-11-14"


@pytest.mark.parametrize(
    ("state", "error", "cause"),
    [
        (_S.FAILED, "The prompt was rejected by the content policy", Why.CONTENT),
        (_S.FAILED, "output flagged as NSFW", Why.CONTENT),
        (_S.FAILED, "duration must be 5 or 10", Why.PARAMETER),
        (_S.FAILED, "The provider is temporarily overloaded, please try again", Why.TROUBLE),
        (_S.FAILED, "something that nobody has ever read", Why.TROUBLE),
        (_S.FAILED, "", Why.TROUBLE),
        (_S.FAILED, "timed out: not made within 900 s, and cancelled", Why.TIMEOUT),
        (_S.FAILED, "Insufficient credits", Why.CREDITS),
        (_S.FAILED, "unauthenticated", Why.KEY),
        (_S.UNFETCHABLE, "the content policy of whoever", Why.FILE),
        (_S.HELD, "", Why.HELD),
        (_S.UNCERTAIN, "", Why.UNANSWERED),
        (_S.CANCELLED, "cancelled before it was sent", Why.CANCELLED),
    ],
)
def test_each_failure_has_its_cause(state: JobState, error: str, cause: Why) -> None:
    assert why(state, error) is cause


def test_every_cause_has_a_meaning_and_a_remedy() -> None:
    assert set(MEANING) == set(Why)


def test_every_exit_code_of_a_run_has_its_words() -> None:
    assert set(EXITS) == set(EXIT_PRECEDENCE) | {2, 65, 78}


def failed(error: str, count: int = 1) -> Reason:
    return Reason(_S.FAILED, error, count, "hero")


def test_reasons_are_grouped_by_cause_and_what_stands_in_moneys_way_comes_first() -> None:
    found = troubles([failed("flagged", 5), failed("overloaded", 9), failed("nsfw", 6), Reason(_S.HELD, "", 1, "a")])
    assert [(one.why, one.count) for one in found] == [(Why.HELD, 1), (Why.CONTENT, 11), (Why.TROUBLE, 9)]
    assert [reason.error for reason in found[1].reasons] == ["nsfw", "flagged"]


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        (["Upstream provider error"], "Upstream provider error"),
        (["Upstream error 31 of gpu", "Upstream error 7 of gpu"], "Upstream error"),
        (["timeout", "busy"], ""),
        (["Fehler: größer"], "Fehler: gr"),
        (["x\x1b[31m"], ""),
    ],
)
def test_the_words_for_retry_find_all_of_them(errors: list[str], words: str) -> None:
    common = Trouble(Why.TROUBLE, tuple(map(failed, errors))).common_words
    assert common == words
    assert all(common in error for error in errors)


def steps(found: list[Reason] | None = None, **more: Any) -> list[tuple[str, str]]:
    told: dict[str, Any] = {"counts": {}, "running": False, "exit_code": 0, "left": False}
    told |= more
    counts = told.pop("counts")
    return [
        (step.words, step.command)
        for step in next_steps(counts, troubles(found or []), batch="out/my loops", run=RUN, **told)
    ]


def test_a_batch_that_is_done_needs_nothing() -> None:
    assert steps() == []


def test_a_run_that_goes_on_is_to_be_watched_and_nothing_else() -> None:
    assert steps([failed("flagged")], running=True, left=True) == [
        ("a run is under way: watch it", "oxenbatch status 'out/my loops' --watch")
    ]


def test_a_batch_that_was_left_is_run_again() -> None:
    counts = {_S.PENDING: 80, _S.QUEUED: 2, _S.SUCCEEDED: 1, _S.UNCERTAIN: 4}
    assert steps(counts=counts, left=True, exit_code=75) == [
        ("go on: send 80, collect 3 that are paid, find out about 4 sent without an answer", RUN)
    ]
    assert "a limit stopped the last one" in steps(counts=counts, left=True, exit_code=5)[0][0]


def test_each_cause_has_the_command_that_helps() -> None:
    assert steps([failed("Upstream provider error", 3)]) == [
        (
            "put back what failed (the hub or the model was in trouble)",
            "oxenbatch retry 'out/my loops' --error 'Upstream provider error'",
        ),
        ("go on: make what was put back", RUN),
    ]
    assert steps([failed("Insufficient credits")])[0] == ("top up the account at the hub", "")
    assert steps([failed("timed out: not made within 900 s")]) == [
        ("put back what was too slow, and give it longer", f"{RUN} --retry-failed --timeout 2h")
    ]
    assert [command for _, command in steps([failed("flagged"), failed("must be 5")])] == [
        "oxenbatch ls 'out/my loops' --state failed"
    ]
    assert [command for _, command in steps([Reason(_S.UNFETCHABLE, "gone", 1, "a")])] == [RUN]


def test_what_is_held_is_decided_before_anything_is_sent() -> None:
    told = steps([Reason(_S.HELD, "", 1, "a")], exit_code=4, left=True, counts={_S.PENDING: 1})
    assert [command for _, command in told] == ["oxenbatch resolve 'out/my loops'", RUN]


@pytest.mark.parametrize(("code", "command"), [(77, "oxenbatch doctor"), (74, "oxenbatch doctor 'out/my loops'")])
def test_the_operator_is_sent_to_the_doctor_first(code: int, command: str) -> None:
    told = steps(counts={_S.PENDING: 1}, exit_code=code, left=True)
    assert [one for _, one in told] == [command, RUN]


def test_what_was_cancelled_stays_so_unless_somebody_wants_it() -> None:
    assert steps([Reason(_S.CANCELLED, "cancelled at the hub", 3, "a")]) == []
    assert Step("words").command == ""
