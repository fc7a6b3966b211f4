"""An error says who must act, the gravest code wins, and foreign text never steers a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxenbatch import errors
from oxenbatch.errors import (
    EXIT_PRECEDENCE,
    ConfigProblem,
    HubUnreachable,
    KeyRefused,
    MachineError,
    ManifestError,
    OxenbatchError,
    Problem,
    TryAgain,
    UsageProblem,
    gravest,
    printable,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (OxenbatchError, 1),
        (UsageProblem, 2),
        (HubUnreachable, 69),
        (MachineError, 74),
        (TryAgain, 75),
        (KeyRefused, 77),
        (ConfigProblem, 78),
    ],
)
def test_an_error_has_the_contracts_code_and_speaks_without_words(kind: type[OxenbatchError], code: int) -> None:
    assert kind.exit_code == code
    assert str(kind()) == kind.__doc__
    assert str(kind("the disk is full")) == "the disk is full"
    assert f"{kind.__name__}" in (errors.__doc__ or "")


def test_a_manifests_problems_are_told_together() -> None:
    error = ManifestError([Problem("no prompt", "a.csv:3", 2, "prompt"), Problem("no rows")], total=9)

    assert error.exit_code == 65
    assert error.total == 9
    assert str(error) == "a.csv:3: row 2, prompt: no prompt\nno rows"
    assert ManifestError([Problem("no rows")]).total == 1


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("is empty"), "is empty"),
        (Problem("is empty", "m.yaml"), "m.yaml: is empty"),
        (Problem("is empty", "m.yaml:4", 0), "m.yaml:4: row 0: is empty"),
        (
            Problem("is 'abc', expected a whole number", row=7, field="seed"),
            "row 7, seed: is 'abc', expected a whole number",
        ),
        (Problem("is odd", field="a\x1b[2Jb"), "a\\u001b[2Jb: is odd"),
    ],
)
def test_a_problem_says_the_place_and_the_thing(problem: Problem, text: str) -> None:
    assert str(problem) == text


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        (set(), 0),
        ({0}, 0),
        ({0, 3}, 3),
        ({3, 75}, 75),
        ({75, 143}, 143),
        ({143, 130}, 130),
        ({130, 69}, 69),
        ({69, 5}, 5),
        ({5, 4}, 4),
        ({4, 77}, 77),
        ({77, 74}, 74),
        ({74, 1}, 1),
        (set(EXIT_PRECEDENCE), 1),
        ({1, 65}, 1),
        ({65, 4}, 4),
        ({65, 5}, 65),
        ({0, 78}, 78),
        ({99, 98, 4}, 98),
    ],
)
def test_the_gravest_code_wins(codes: set[int], code: int) -> None:
    assert gravest(codes) == code


@given(codes=st.sets(st.integers(0, 255)))
def test_a_run_where_something_is_wrong_never_exits_with_zero(codes: set[int]) -> None:
    assert (gravest(codes) == 0) == (codes <= {0})


@given(text=st.text(max_size=400), limit=st.integers(1, 320))
def test_printable_never_emits_a_control_character_nor_more_than_it_may(text: str, limit: int) -> None:
    shown = printable(text, limit)

    assert len(shown) <= limit
    assert shown.isprintable()
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("A red cube", "A red cube"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b]0;owned\x07", "\\u001b]0;owned\\u0007"),
        ("gnp\u202eexe", "gnp\\u202eexe"),
        ("\ud800", "\\ud800"),
        ("海 🎉", "海 🎉"),
        (None, "None"),
        (12, "12"),
    ],
)
def test_printable_shows_what_it_does_not_obey(text: object, shown: str) -> None:
    assert printable(text) == shown


def test_printable_says_that_it_cut() -> None:
    assert printable("x" * 301) == "x" * 299 + "…"
    assert printable("x" * 300) == "x" * 300
