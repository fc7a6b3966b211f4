"""JSON that says everything once, holds only what can be sent, and tells where it does not."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

from oxenbatch.errors import printable

DEEPEST: Final = 64  # levels; parameters of models have three or four, and the parser's time grows with the square
LARGEST_NUMBER: Final = 2**64  # seeds have 64 bits; what is longer was meant as text
CROWD_FROM: Final = 2**20  # characters: below that no count of values hurts
MOST_VALUES: Final = 400_000  # commas and brackets of one text

_SPACE = re.compile(r"[ \t\n\r]*")
_ESCAPED: Final = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
"""Only an escape can bring in half a surrogate pair or a NUL: the bytes were checked."""


class JsonFault(ValueError):
    """The text is not JSON of ours; `at` is the offset, where it is known."""

    def __init__(self, message: str, at: int | None = None) -> None:
        super().__init__(message)
        self.at = at


def decode(text: str) -> Any:
    """The one value that the text is; `JsonFault` with a sentence otherwise."""
    # Of a text that is nothing but brackets each byte takes thirty of memory.
    if len(text) > CROWD_FROM and text.count(",") + text.count("[") + text.count("{") > MOST_VALUES:
        raise JsonFault(f"holds more than {MOST_VALUES:,} values")
    value, end = value_at(text, after_space(text, 0))
    end = after_space(text, end)
    if end != len(text):
        raise JsonFault("goes on after its value", end)
    return value


def value_at(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at the offset, and the offset behind it."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except JsonFault as fault:
        raise JsonFault(str(fault), at if fault.at is None else fault.at) from None
    except json.JSONDecodeError as error:
        raise JsonFault(f"is not JSON: {error.msg}", error.pos) from None
    except RecursionError:
        raise JsonFault(f"is nested deeper than {DEEPEST} levels", at) from None
    except ValueError as error:
        raise JsonFault(printable(error), at) from None
    if isinstance(value, dict | list):
        escaped = _ESCAPED.search(text, at, end) is not None
        if escaped or any(isinstance(v, dict | list) for v in (value.values() if isinstance(value, dict) else value)):
            _sound(value, at, 1)
    elif isinstance(value, str):
        _sound(value, at, 1)
    return value, end


def after_space(text: str, at: int) -> int:
    """The offset of the next character that is not white space."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _sound(value: Any, at: int, depth: int) -> None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise JsonFault("holds half a surrogate pair (\\ud800 to \\udfff), which cannot be sent as UTF-8", at)
        if "\0" in value:
            raise JsonFault("holds a NUL character (\\u0000), which no text has", at)
    elif isinstance(value, dict):
        if depth > DEEPEST:
            raise JsonFault(f"is nested deeper than {DEEPEST} levels", at)
        for name, inner in value.items():
            _sound(name, at, depth)
            _sound(inner, at, depth + 1)
    elif isinstance(value, list):
        if depth > DEEPEST:
            raise JsonFault(f"is nested deeper than {DEEPEST} levels", at)
        for inner in value:
            _sound(inner, at, depth + 1)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = ""
        for name, _ in pairs:
            twice = name if name in seen else twice
            seen.add(name)
        raise JsonFault(f"'{printable(twice, 80)}' is there twice in one object; remove one")
    return found


def _whole(digits: str) -> int:
    number = int(digits) if len(digits) < 100 else LARGEST_NUMBER
    if abs(number) >= LARGEST_NUMBER:
        raise JsonFault(f"{printable(digits, 40)} is too large a number; quote it if it is text")
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise JsonFault(f"{printable(digits, 40)} is too large a number; quote it if it is text")
    return number


def _constant(name: str) -> NoReturn:
    raise JsonFault(f"{name} is not JSON; quote it if it is text")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=_whole, parse_float=_float, parse_constant=_constant)
