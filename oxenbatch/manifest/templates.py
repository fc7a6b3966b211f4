"""`{name}` in a text is replaced by a value, and by nothing cleverer than that.

No attributes, no indexes, no conversions, no formats: a stranger's prompt must not be able to reach into an object.
What is put in is never looked at again, so a value with braces in it stays as it is.
"""

from __future__ import annotations

import json
from functools import lru_cache
from string import Formatter
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.errors import nearest, printable

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator, Mapping

DATE_FIELDS: Final = frozenset(["date", "year", "month", "day"])
LARGEST_FILLED: Final = 1_000_000  # characters of all of a row's texts: ten times the longest prompt
_PIECES: Final = 10_000  # placeholders in one text


class TemplateFault(ValueError):
    """A template that cannot be filled in; the message is a sentence without the place."""


@lru_cache(maxsize=4096)  # a head's few texts are asked for with every row; a million rows' own are not worth keeping
def pieces(text: str) -> tuple[tuple[str, str | None], ...]:
    """The template in parts: literal text, and the name that follows it; `TemplateFault` where it is none."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError:
        raise TemplateFault(
            f"'{printable(text, 80)}' has a brace that is not part of a {{name}}; a brace itself is written twice, "
            "{{ or }}"
        ) from None
    found: list[tuple[str, str | None]] = []
    for literal, name, spec, conversion in parts:
        if name is not None and (conversion or spec or not name or any(c in name for c in ".[]{}")):
            written = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise TemplateFault(
                f"{{{printable(written, 80)}}} is not a plain name in braces; a brace itself is written twice, {{{{"
            )
        found.append((literal, name))
    if len(found) > _PIECES:
        raise TemplateFault(f"has more than {_PIECES} names in braces")
    return tuple(found)


def names(value: Any) -> Iterator[str]:
    """Every name that the texts in the value ask for, without case."""
    if isinstance(value, str):
        if "{" in value or "}" in value:
            for _, name in pieces(value):
                if name is not None:
                    yield name.casefold()
    elif isinstance(value, dict):
        for inner in value.values():
            yield from names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from names(inner)


class Room:
    """How many characters the texts of one row may still come to: a kilobyte of names must not become a gigabyte."""

    def __init__(self) -> None:
        self.left = LARGEST_FILLED

    def take(self, size: int) -> None:
        """So many fewer; `TemplateFault` where there are none left."""
        self.left -= size
        if self.left < 0:
            raise TemplateFault(f"becomes a text of more than {LARGEST_FILLED:,} characters when it is filled in")


def fill(value: Any, known: Mapping[str, str | None], others: Iterable[str] = (), room: Room | None = None) -> Any:
    """The value with every text in it filled in; `TemplateFault` for a name that is not known, or has no value.

    `known` is by casefolded name; None is a name whose value this row leaves empty. `others` are only suggested.
    """
    room = room or Room()
    if isinstance(value, str):
        if "{" not in value and "}" not in value:
            return value
        filled: list[str] = []
        for literal, name in pieces(value):
            filled += (literal, "" if name is None else _value(name, known, others))
            room.take(len(filled[-2]) + len(filled[-1]))
        return "".join(filled)
    if isinstance(value, dict):
        return {key: fill(inner, known, others, room) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, known, others, room) for inner in value]
    return value


def _value(name: str, known: Mapping[str, str | None], others: Iterable[str]) -> str:
    key = name.casefold()
    value = known.get(key)
    if value is not None:
        return value
    if key in known:
        raise TemplateFault(f"the template names {{{printable(name, 80)}}}, which this row leaves empty")
    everything = sorted({*known, *others})
    near = nearest(key, everything)
    hint = f"did you mean {{{printable(near[0], 80)}}}? " if near else ""
    raise TemplateFault(
        f"{{{printable(name, 80)}}} is not a known name; {hint}known are {printable(', '.join(everything), 300)} "
        "(a brace itself is written twice, {{)"
    )


def text_of(value: Any) -> str | None:
    """A value as it stands in a text: `true` and `3` as in JSON; None for nothing."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def calendar(date: dt.date, name: str) -> dict[str, str | None]:
    """The names that every template knows: the batch's date, and the manifest's name."""
    return {
        "date": date.isoformat(),
        "year": f"{date.year:04d}",
        "month": f"{date.month:02d}",
        "day": f"{date.day:02d}",
        "name": name,
    }
