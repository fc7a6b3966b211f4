"""Each column has one kind of value, so that what is strict about kinds can read the table."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow.json
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxenbatch.dataset.columns import MIXED, Columns, merged, shape_of


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        ([None], None),
        ([1, None, 2], "int"),
        ([1, 2.5], "float"),
        ([1, "auto"], MIXED),
        ([True, 1], MIXED),
        ([2**63], MIXED),
        ([[1, 2], [], None], ["int"]),
        ([[1, "a"]], MIXED),
        ([{"a": 1}, {"b": "x"}], {"a": "int", "b": "text"}),
        ([{"a": 1}, {"a": "x"}], MIXED),
        ([{"a": [1]}, {"a": [{}]}], MIXED),
        ([{str(n): 1 for n in range(1001)}], MIXED),
    ],
)
def test_the_kind_of_a_column_is_what_holds_all_its_values(values: list[Any], shape: Any) -> None:
    columns = Columns()
    for value in values:
        columns.see({"x": value})
    assert columns.shapes == {"x": shape}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e9, 1e9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("xy"), json_values, min_size=1), min_size=1, max_size=6))
def test_the_lines_of_any_values_are_read_by_arrow(lines: list[dict[str, Any]]) -> None:
    columns = Columns()
    for line in lines:
        columns.see(line)
    told = "".join(json.dumps(line) + "\n" for line in columns.as_text(lines))

    assert pyarrow.json.read_json(io.BytesIO(told.encode())).num_rows == len(lines)


@given(json_values, json_values)
def test_it_does_not_matter_which_comes_first(one: Any, other: Any) -> None:
    assert merged(shape_of(one), shape_of(other)) == merged(shape_of(other), shape_of(one))
