"""The columns of a table: their names as they first come, and one kind of value in each.

A manifest may give `duration: 5` in one row and `duration: auto` in the next; a table that programs load may not. Where
the values of a column are of several kinds, all of them are told as text.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

MIXED: Final = "mixed"
KEYS_MAX: Final = 1000  # of one object in a column; more are data, not names, and the object is told as text
INT_MAX: Final = 2**63

Shape = Any
"""None (nothing but nulls), "bool", "int", "float", "text", "mixed", [shape of the entries], or {name: shape}."""


class Columns:
    """What is known of the columns after the lines seen so far."""

    def __init__(self) -> None:
        self.shapes: dict[str, Shape] = {}

    def see(self, line: dict[str, Any]) -> dict[str, Any]:
        """The line is counted in; the same line."""
        shapes = self.shapes
        for name, value in line.items():
            was = shapes.get(name)
            if was != MIXED or name not in shapes:
                shapes[name] = merged(was, shape_of(value))
        return line

    @property
    def mixed(self) -> set[str]:
        """Columns whose values are told as text."""
        return {name for name, shape in self.shapes.items() if shape == MIXED}

    def as_text(self, lines: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
        """The lines, their mixed values as text."""
        mixed = self.mixed
        for line in lines:
            yield {name: text_of(value) if name in mixed else value for name, value in line.items()}


def shape_of(value: Any) -> Shape:
    """The kind of one JSON value; `MIXED` where its own entries do not go together."""
    match value:
        case None:
            return None
        case bool():
            return "bool"
        case int():
            return "int" if -INT_MAX <= value < INT_MAX else MIXED
        case float():
            return "float"
        case str():
            return "text"
        case list():
            shape: Shape = None
            for entry in value:
                shape = merged(shape, shape_of(entry))
            return MIXED if shape == MIXED else [shape]
        case _:
            shapes = {str(name): shape_of(inner) for name, inner in value.items()}
            return MIXED if MIXED in shapes.values() or len(shapes) > KEYS_MAX else shapes


def merged(one: Shape, other: Shape) -> Shape:
    """The kind that holds values of both."""
    if one is None or one == other:
        return other
    if other is None:
        return one
    if isinstance(one, list) and isinstance(other, list):
        inner = merged(one[0], other[0])
        return MIXED if inner == MIXED else [inner]
    if isinstance(one, dict) and isinstance(other, dict):
        both = one | {name: merged(one.get(name), shape) for name, shape in other.items()}
        return MIXED if MIXED in both.values() or len(both) > KEYS_MAX else both
    return "float" if {str(one), str(other)} == {"int", "float"} else MIXED


def text_of(value: Any) -> str | None:
    """The value as text: text as it is, all else as JSON; None stays None."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
