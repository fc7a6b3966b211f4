"""Tables for eyes: aligned, trimmed to the terminal, whole in a pipe."""

from __future__ import annotations

from itertools import count, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from oxenbatch.cli.tables import Column, fit, fold, packed, table, width_of

COLUMNS = (Column("JOB", least=8), Column("N", right=True), Column("NOTE", gives_way=1), Column("PROMPT", least=10))
ROWS = [["hero", "1", "seen", "A red cube"], ["a-very-long-name-of-a-row", "12", "", "海" * 30]]


def test_in_a_pipe_nothing_is_cut_and_columns_stand_under_each_other() -> None:
    assert list(table(COLUMNS, ROWS, None)) == [
        "JOB                         N  NOTE  PROMPT",
        "hero                        1  seen  A red cube",
        "a-very-long-name-of-a-row  12        " + "海" * 30,
    ]


def test_on_a_narrow_terminal_what_may_leave_leaves_and_what_is_long_is_trimmed() -> None:
    assert list(table(COLUMNS, ROWS, 40)) == [
        "JOB          N  PROMPT",
        "hero         1  A red cube",
        "a-very-lo…  12  海海海海海海海海海海海…",
    ]


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["C"])), min_size=4, max_size=4)), st.integers(1, 90))
def test_no_line_is_wider_than_the_terminal(rows: list[list[str]], width: int) -> None:
    for line in table(COLUMNS, rows, width):
        assert width_of(line) <= width


def test_a_million_rows_stream() -> None:
    endless = ([f"row {n}", str(n), "", "prompt"] for n in count())
    assert len(list(islice(table(COLUMNS, endless, 80), 2000))) == 2000


@given(st.text(st.characters(exclude_categories=["C"])), st.integers(1, 60))
def test_a_text_that_is_fitted_is_no_wider(text: str, width: int) -> None:
    assert cell_len(fit(text, width)) <= width


@given(st.text(st.characters(exclude_categories=["C"])), st.integers(1, 60), st.integers(1, 4))
def test_a_text_that_is_folded_is_no_wider_and_no_taller(text: str, width: int, rows: int) -> None:
    lines = fold(text, width, rows)
    assert len(lines) <= rows
    assert all(cell_len(line) <= width for line in lines)


def test_a_text_is_folded_between_words() -> None:
    assert fold("one two three seven", 9, 2) == ["one two", "three se…"]
    assert fold("one two three", 9, 3) == ["one two", "three"]
    assert fold("short", 9, 2) == ["short"]


@pytest.mark.parametrize(("width", "lines"), [(20, ["a  bb  ccc"]), (6, ["a  bb", "ccc"]), (1, ["a", "bb", "ccc"])])
def test_parts_are_packed_whole(width: int, lines: list[str]) -> None:
    assert packed(["a", "bb", "ccc"], width) == lines
