"""Each format becomes the same two things: the head's members, and a stream of entries.

The head may stand behind the rows, so YAML and JSON are gone through twice: once for the head, once for the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.catalog.faults import shown
from oxenbatch.errors import Problem, printable
from oxenbatch.manifest.source import Entry, Faulty, Include, Source, entry, names_the_date
from oxenbatch.manifest.spots import Finder, in_json
from oxenbatch.manifest.strict_json import JsonFault, after_space, decode, value_at
from oxenbatch.manifest.tables import read_table, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTS: Final = ("rows", "prompts")


@dataclass(frozen=True, slots=True)
class Member:
    """One key of the head."""

    value: Any
    line: int
    find: Finder
    """Where a part of the value stands; the empty path is the value itself."""
    name_at: tuple[int, int]
    """Line and column of the key."""

    def spot(self, *path: str | int, name: bool = False) -> tuple[int, int]:
        """The line and column of a part of the value, or of that part's name; of the member where there is none."""
        return (self.find(path, "name" if name else "value") if path or not name else None) or self.name_at


@dataclass(slots=True)
class Outline:
    """What a file holds beside its rows."""

    bare: bool = True
    """It is rows alone."""
    members: dict[str, Member] = field(default_factory=dict)
    """Without the lists of rows."""
    lists: dict[str, int] = field(default_factory=dict)
    """The lists of rows that stand in the file itself, with their lines."""
    names_the_date: bool = False
    """A template in its rows may use the date."""
    problems: list[Problem] = field(default_factory=list)
    unsure: bool = False
    """What the members say is not known for sure: the file could not be read to its end, or has references."""


def outline(source: Source) -> Outline:
    """What the file holds beside its rows; what is wrong with it is among its problems."""
    if source.form not in ("yaml", "json"):
        return Outline(names_the_date=source.scan.names_the_date)
    found = Outline(bare=False)
    if source.form == "yaml":
        from oxenbatch.manifest import yaml_file  # noqa: PLC0415 - other files do not wait for the YAML parser

        yaml_file.read_outline(source, found)
    else:
        _json_outline(source, found)
    if found.bare:
        found.names_the_date = source.scan.names_the_date
    return found


def entries(source: Source) -> Iterator[Entry | Include | Faulty | Problem]:
    """The file's rows as they are written, in its own order; a fault that ends the reading is the last one."""
    try:
        if source.form == "yaml":
            from oxenbatch.manifest import yaml_file  # noqa: PLC0415 - other files do not wait for the YAML parser

            yield from yaml_file.read_entries(source)
        elif source.form == "json":
            yield from _json_entries(source)
        elif source.form == "jsonl":
            yield from _jsonl_entries(source)
        elif source.form == "txt":
            yield from read_text(source)
        else:
            yield from read_table(source)
    except UnicodeDecodeError:  # it was UTF-8 a moment ago
        yield Problem("was changed while it was being read; run it again", where=source.shown)


def entry_of(value: Any, name: str, line: int, find: Finder, *, by_hand: bool = False) -> Entry | Faulty:
    """A row as it is written in YAML, JSON or a line of JSON."""
    if isinstance(value, dict):
        return Entry(value, name, line, by_hand=by_hand, find=find)
    if isinstance(value, str) or value is None:
        return Entry({"prompt": value}, name, line, find=find)
    words = f"the row is {shown(value)}, expected text (a prompt) or a mapping of fields"
    return Faulty([Problem(words, where=Entry({}, name, line, find=find).spot())])


def _jsonl_entries(source: Source) -> Iterator[Entry | Faulty]:
    with source.lines() as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                find = partial(in_json, line, after_space(line, 0), number)
                yield entry_of(decode(line), source.shown, number, find)
            except JsonFault as fault:
                place = f"{source.shown}:{number}"
                yield Faulty([entry(str(fault), place, None if fault.at is None else fault.at + 1)])


class _Json:
    """A whole JSON text, read member by member and row by row, so that every row has its line."""

    def __init__(self, source: Source) -> None:
        with source.lines() as lines:
            self.text = lines.read()
        self.shown = source.shown
        self._line, self._counted = 1, 0

    def line(self, at: int) -> int:
        """The line of an offset; offsets come in order, so that each line end is counted once."""
        if at < self._counted:
            return self.text.count("\n", 0, at) + 1
        self._line += self.text.count("\n", self._counted, at)
        self._counted = at
        return self._line

    def problem(self, fault: JsonFault) -> Problem:
        """The fault with its place."""
        at = fault.at or 0
        column = at - self.text.rfind("\n", 0, at)
        return Problem(str(fault), where=f"{self.shown}:{self.line(at)}:{column}")

    def sign(self, at: int, signs: str) -> tuple[str, int]:
        """The sign that must come next, and the offset of what follows it."""
        at = after_space(self.text, at)
        found = self.text[at : at + 1]
        if not found or found not in signs:
            what = "the text ends" if not found else f"found {shown(found)}"
            raise JsonFault(f"is not JSON: expected {' or '.join(signs)}, {what}", at)
        return found, after_space(self.text, at + 1)

    def items(self, at: int) -> Iterator[tuple[int, Any, int]]:
        """Each entry of the list that begins at the offset: where it is, its value, the offset behind it."""
        _, at = self.sign(at, "[")
        if self.text.startswith("]", at):
            yield at, None, at + 1
            return
        while True:
            value, end = value_at(self.text, at)
            yield at, value, end
            sign, after = self.sign(end, ",]")
            if sign == "]":
                yield after - 1, None, after
                return
            at = after

    def members(self, at: int) -> Iterator[tuple[str, int]]:
        """Each name of the object that begins at the offset and where its value is; `self.at` must be set behind it."""
        _, at = self.sign(at, "{")
        if self.text.startswith("}", at):
            self.at = at + 1
            return
        while True:
            if not self.text.startswith('"', at):
                raise JsonFault("is not JSON: expected a name in double quotes", at)
            name, end = value_at(self.text, at)
            _, self.at = self.sign(end, ":")
            yield name, self.at
            sign, at = self.sign(self.at, ",}")
            if sign == "}":
                self.at = at
                return

    def end(self, at: int) -> None:
        """Nothing follows; `JsonFault` otherwise."""
        at = after_space(self.text, at)
        if at != len(self.text):
            raise JsonFault("goes on after its value", at)


def _json_outline(source: Source, found: Outline) -> None:
    json = _Json(source)
    at = after_space(json.text, 0)
    if at == len(json.text) or json.text[at] == "[":
        found.bare = True
        return
    try:
        if json.text[at] != "{":
            value, end = value_at(json.text, at)
            json.end(end)
            words = f"is {shown(value)}, expected a list of prompts, or an object with 'prompts'"
            found.problems.append(json.problem(JsonFault(words, at)))
            return
        for name, start in json.members(at):
            line = json.line(start)
            if name in found.members or name in found.lists:
                words = f"'{printable(name, 80)}' is there twice; remove one"
                found.problems.append(json.problem(JsonFault(words, start)))
            value, json.at = value_at(json.text, start)
            written = json.text[start : json.at]
            if name in LISTS and isinstance(value, list):
                found.lists[name] = line
                found.names_the_date = found.names_the_date or names_the_date(written)
            else:
                number = name == "max_cost" and isinstance(value, int | float) and not isinstance(value, bool)
                find = partial(in_json, json.text, start, line)
                found.members[name] = Member(written if number else value, line, find, (line, 1))
        json.end(json.at)
    except JsonFault as fault:
        found.problems.append(json.problem(fault))


def _json_entries(source: Source) -> Iterator[Entry | Include | Faulty | Problem]:
    json = _Json(source)
    at = after_space(json.text, 0)
    if at == len(json.text):
        return
    try:
        if json.text[at] == "[":
            yield from _json_list(json, at)
            json.end(json.at)
        elif json.text[at] == "{":
            for name, start in json.members(at):
                if name in LISTS and json.text.startswith("[", start):
                    yield from _json_list(json, start)
                    continue
                value, json.at = value_at(json.text, start)
                if name == "rows" and isinstance(value, str) and value:
                    yield Include(value, json.line(start))
    except JsonFault as fault:
        yield json.problem(fault)


def _json_list(json: _Json, at: int) -> Iterator[Entry | Faulty]:
    last: tuple[int, Any, int] | None = None
    for item in json.items(at):
        if last is not None:
            line = json.line(last[0])
            yield entry_of(last[1], json.shown, line, partial(in_json, json.text, last[0], line))
        last = item
    json.at = last[2] if last else at
