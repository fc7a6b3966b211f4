"""Where a field of a row stands in its file: found when something is wrong with it, and not before.

A reader hands each row a `Finder`, which costs it nothing but a name. A path is a field and the steps into it,
`("multi_prompt", 1, "duration")`; the empty path is the row itself. Lines and columns count from 1, in characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeAlias

from oxenbatch.manifest.strict_json import JsonFault, after_space, value_at

Path: TypeAlias = tuple[str | int, ...]
Spot: TypeAlias = tuple[int, int]
Part: TypeAlias = Literal["name", "value"]
Finder: TypeAlias = Callable[[Path, Part], Spot | None]
"""The line and column of a path's value, or of its name; None where it is not written here."""


def in_json(text: str, at: int, line: int, path: Path, part: Part) -> Spot | None:
    """A Finder in the JSON value that begins at the offset, on that line."""
    begins, spot = at, at
    try:
        for step in path:
            found = next((pair for key, *pair in _members(text, at) if is_same((key,), (step,))), None)
            if found is None:
                return None
            spot = found[0 if part == "name" else 1]
            at = found[1]
    except (JsonFault, IndexError):
        return None
    return line + text.count("\n", begins, spot), spot - text.rfind("\n", 0, spot)


def in_record(  # a Finder's signature behind the first five
    raw: str, line: int, starts: Callable[[str], Iterator[int]], header: tuple[str, int], columns: Mapping[str, int],
    path: Path, part: Part,
) -> Spot | None:  # fmt: skip
    """A Finder in a table's record: a cell's own place, or its name's in the header."""
    if not path:
        return line, 1
    column = columns.get(str(path[0]).casefold())
    if column is None and path[0] == "metadata" and len(path) > 1:
        column = columns.get(f"meta.{path[1]}".casefold())
    if column is None:
        return None
    text, first = header if part == "name" else (raw, line)
    for number, at in enumerate(starts(text)):
        if number == column:
            return first + text.count("\n", 0, at), at - text.rfind("\n", 0, at)
    return None


# Possessive, so that a quote that is never closed costs one pass over the file and no memory.
_CELL = re.compile(r'"[^"]*+(?:""[^"]*+)*+"(?=[,\r\n]|\Z)|[^,"\r\n][^,\r\n]*|(?=[,\r\n]|\Z)')


def csv_starts(raw: str) -> Iterator[int]:
    """Where each cell of a CSV record begins; the last one is the first that is not strict CSV, if there is any."""
    at = 0
    while True:
        yield at
        found = _CELL.match(raw, at)
        if found is None or not raw.startswith(",", found.end()):
            return
        at = found.end() + 1


def is_same(one: Path, other: Path) -> bool:
    return [str(step).casefold() for step in one] == [str(step).casefold() for step in other]


def _members(text: str, at: int) -> Iterator[tuple[str | int, int, int]]:
    """Each name (or number) in the object (or list) at the offset, where it stands, and where its value stands."""
    kind = text[at]
    if kind not in "{[":
        return
    at, number = after_space(text, at + 1), 0
    while text[at] not in "]}":
        key: str | int = number
        begins = at
        if kind == "{":
            key, end = value_at(text, at)
            at = after_space(text, after_space(text, end) + 1)
        yield key, begins, at
        _, end = value_at(text, at)
        at, number = after_space(text, end), number + 1
        if text[at] == ",":
            at = after_space(text, at + 1)
