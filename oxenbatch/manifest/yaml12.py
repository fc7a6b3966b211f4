"""YAML by its 1.2 core schema, composed from the parser's events, with the line of everything that is wrong.

The parser (libyaml) speaks YAML 1.1 only in what its loaders do with plain scalars and tags; none of them is used.
What would build objects or grow by reference, tags, anchors, aliases and merge keys, is refused.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, TypeAlias

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from oxenbatch.errors import Problem, printable
from oxenbatch.manifest.source import names_the_date
from oxenbatch.manifest.spots import is_same
from oxenbatch.manifest.strict_json import DEEPEST, LARGEST_NUMBER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from oxenbatch.manifest.source import Source
    from oxenbatch.manifest.spots import Part, Path, Spot

Marks: TypeAlias = "dict[tuple[str | int, ...], tuple[Event, Event]]"
"""The events of each path's name, and of its value."""
LONGEST_VALUE: Final = 8 * 2**20  # bytes: a picture as a data: address
MOST_NODES: Final = 200_000  # in one row or one field of the head: an axis may have half as many values
Shape: TypeAlias = "Mapping[str, Any] | Literal['text'] | None"
"""Where text is expected: `text` means that every plain scalar is its own characters, a mapping says it by key."""

MARKED: Final = 1_000  # entries of a list or mapping whose places are kept: an axis may have 100,000, at 1 kB an event

_CONSTANTS: Final[dict[str, Any]] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INT = re.compile(r"[-+]?[0-9]+\Z")
_OCTAL = re.compile(r"0o[0-7]+\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_JSON = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
_STR = "tag:yaml.org,2002:str"
_PLAIN_TAGS = frozenset([None, "!", _STR, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"])


class YamlFault(Exception):
    """The text cannot be read past this place."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.message, self.line, self.column = message, line, column


def scalar(text: str) -> Any:
    """The value of a plain scalar; ValueError with a sentence where JSON could not hold it."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _INT.match(text):
        return _bounded(text, 10)
    if _FLOAT.match(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"{printable(text, 40)} is too large a number")
        return number
    if _OCTAL.match(text):
        return _bounded(text[2:], 8)
    if _HEX.match(text):
        return _bounded(text[2:], 16)
    if _NOT_JSON.match(text):
        raise ValueError(f"{text} is not a number that JSON can hold; quote it if it is text")
    return text


def _bounded(digits: str, base: int) -> int:
    number = int(digits, base) if len(digits) < 100 else LARGEST_NUMBER
    if abs(number) >= LARGEST_NUMBER:
        raise ValueError(f"{printable(digits, 40)} is too large a number; quote it if it is text")
    return number


def place(event: Event) -> tuple[int, int]:
    """The line and column where the event begins, counted from 1."""
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def in_yaml(marks: Marks, root: Any, path: Path, part: Part) -> Spot | None:
    """A Finder over the events of one value."""
    if not path:
        return place(root)
    if (found := marks.get(path)) is None:
        same = [known for known in marks if is_same(known, path)]
        if not same:
            return None
        found = marks[same[0]]
    return place(found[0 if part == "name" else 1])


class _TooLong(Exception):
    """The parser reads on and on and makes nothing of it."""


class _Fed:
    """The parser's file; it counts what is read for one event, since a value's end is known to nobody before."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.since = 0

    def read(self, size: int = -1, /) -> bytes:
        self.since += size
        if self.since > LONGEST_VALUE:
            raise _TooLong
        return self._stream.read(size)


class Composer:
    """The events of one document, and the values that they make."""

    def __init__(self, stream: BinaryIO, shown: str) -> None:
        self.shown = shown
        self.problems: list[Problem] = []
        """What is wrong and could be read past; the caller takes them out."""
        self.references = 0
        """Anchors and aliases that were met; the first of them is among the problems."""
        self.marks: Marks = {}
        """Where the fields of the mappings that were read stand; the caller puts in a new one for each row."""
        self._fed = _Fed(stream)
        self._events: Iterator[Event] = yaml.parse(self._fed, Loader=yaml.CSafeLoader)
        self._room = MOST_NODES

    def next(self) -> Event:
        """The next event; `YamlFault` where there cannot be one."""
        self._fed.since = 0
        try:
            return next(self._events)
        except _TooLong:
            raise YamlFault(f"holds a value of more than {LONGEST_VALUE >> 20} MB", 1, 1) from None
        except StopIteration:
            raise YamlFault("ends too early", 1, 1) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            words = ": ".join(str(part) for part in (error.context, error.problem) if part)
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise YamlFault(f"is not YAML: {printable(words)}", line, column) from None
        except (yaml.YAMLError, ValueError) as error:
            raise YamlFault(f"is not YAML: {printable(error)}", 1, 1) from None

    def root(self) -> Event | None:
        """The event that opens the only document's root; None where the stream is empty."""
        self.next()  # the stream's start
        if isinstance(self.next(), yaml.StreamEndEvent):
            return None
        return self.next()

    def finish(self) -> None:
        """Nothing follows the document; `YamlFault` where something does."""
        self.next()  # the document's end
        event = self.next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise self.fault("holds more than one document, expected one; split the file", event)

    def fault(self, message: str, event: Event) -> YamlFault:
        """That this cannot be read past."""
        return YamlFault(message, *place(event))

    def wrong(self, message: str, event: Event) -> None:
        """That this is wrong is noted."""
        line, column = place(event)
        self.problems.append(Problem(message, where=f"{self.shown}:{line}:{column}"))

    def _reference(self, message: str, event: Event) -> None:
        """That there are anchors or aliases is noted once: a file that is full of them has one fault."""
        if not self.references:
            self.wrong(message, event)
        self.references += 1

    def skip(self, event: Event) -> Iterator[str]:
        """The node that begins here is behind us; the text of its scalars, for who wants to look at it."""
        depth = 0
        while True:
            if isinstance(event, ScalarEvent):
                yield event.value
            elif isinstance(event, CollectionStartEvent):
                depth += 1
                if depth > DEEPEST:
                    raise self.fault(f"is nested deeper than {DEEPEST} levels", event)
            elif isinstance(event, CollectionEndEvent):
                depth -= 1
            if depth == 0:
                return
            event = self.next()

    def key(self, event: Event) -> str | None:
        """A mapping's key as text, or None after noting what is wrong with it."""
        if isinstance(event, ScalarEvent):
            if event.anchor is not None:
                self._reference("has an anchor (&); write the value out where it is needed", event)
            if event.value == "<<" and event.implicit[0]:
                self.wrong("is a merge key (<<), which is not supported; write the fields out", event)
            elif event.value == "" and event.implicit[0]:
                self.wrong("is a field without a name; a text with ': ' in it is written in quotes", event)
            elif event.tag not in _PLAIN_TAGS:
                self.wrong(f"has the tag {printable(event.tag, 80)}, which is not supported; remove it", event)
            else:
                return str(event.value)
            return None
        if isinstance(event, AliasEvent):
            self._reference("is an alias (*), which is not supported; write the name out", event)
            return None
        self.wrong("a field's name is a list or a mapping, expected text; quote a text that begins with { or [", event)
        for _ in self.skip(event):
            pass
        return None

    def node(self, event: Any, shape: Shape = None, path: tuple[str | int, ...] = ()) -> Any:
        """The value of the node that begins with the event; what is wrong inside it is noted and reads as None.

        `path` leads to it from the value that `marks` are about.
        """
        kind = type(event)
        if kind is ScalarEvent:
            if event.anchor is not None or event.tag is not None:
                self._mind(event)
            text: str = event.value
            if event.implicit[0] and event.tag != "!":
                if shape == "text":
                    return text or None
                try:
                    return scalar(text)
                except ValueError as error:
                    self.wrong(str(error), event)
                    return None
            if "\0" in text:
                self.wrong("holds a NUL character, which no text has", event)
            return text
        if kind is AliasEvent:
            self._reference("is an alias (*), which is not supported; write the value out", event)
            return None
        if len(path) >= DEEPEST:
            raise self.fault(f"is nested deeper than {DEEPEST} levels", event)
        if not path:
            self._room = MOST_NODES
        if event.anchor is not None or event.tag is not None:
            self._mind(event)
        if kind is MappingStartEvent:
            return self._mapping(shape, path)
        if kind is SequenceStartEvent:
            entries: list[Any] = []
            while type(event := self.next()) is not SequenceEndEvent:
                self._take(event)
                inside = (*path, len(entries))
                if len(entries) < MARKED:
                    self.marks[inside] = event, event
                entries.append(self.node(event, shape, inside))
            return entries
        raise self.fault("is not a value", event)

    def _take(self, event: Event) -> None:
        """One more value of this node; `YamlFault` where it has more than any."""
        self._room -= 1
        if self._room < 0:
            raise self.fault(f"is one of more than {MOST_NODES:,} values in one row or field", event)

    def _mapping(self, shape: Shape, path: tuple[str | int, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        keys: dict[str, Event] = {}
        marks = self.marks
        while type(event := self.next()) is not MappingEndEvent:
            self._take(event)
            key = self.key(event)
            inner = shape if key is None or not shape or shape == "text" else shape.get(key.casefold())
            first = self.next()
            inside = (*path, key or "")
            value = self.node(first, inner, inside)
            if key is None:
                continue
            if key in keys:
                self.twice(key, keys[key], event)
            else:
                values[key], keys[key] = value, event
                if len(keys) <= MARKED:
                    marks[inside] = event, first
        return values

    def twice(self, key: str, first: Event, second: Event) -> None:
        """That a key stands twice is noted, with both lines."""
        lines = f"lines {place(first)[0]} and {place(second)[0]}"
        self.wrong(f"'{printable(key, 80)}' is there twice, on {lines}; remove one", second)

    def _mind(self, event: Any) -> None:
        if event.anchor is not None:
            self._reference("has an anchor (&), which is not supported; write the value out where it is needed", event)
        if event.tag not in _PLAIN_TAGS:
            name = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.wrong(f"has the tag {printable(name, 80)}, which is not supported; remove it", event)


# -- without reading it ---------------------------------------------------------------------------------------------

_CHUNK: Final = 2**20
_NO_LINE_END: Final = re.compile(rb"\r(?!\n|\Z)")
"""A lone CR, which ends a line for YAML alone."""
_NO_ENTRY: Final = re.compile(rb"\n(?![ \r\n#]|-[ \r\n]|-?\Z)")
"""A line that is no part of a block list: what begins it is no space, no hyphen with a space, and no comment."""


def is_last(source: Source, line: int) -> bool:
    """Whether nothing but a block list's entries follows, from its key in the first column on, and no date.

    A key of the head would begin in the first column too; a look at where lines begin is forty times as fast as to read
    a million entries. Whatever is unusual there is no answer: it is read.
    """
    with source.open() as stream:
        if any(_NO_LINE_END.search(stream.readline()) for _ in range(line)):
            return False
        kept = b"\n"
        while chunk := stream.read(_CHUNK):
            text = kept + chunk
            if _NO_LINE_END.search(text) or _NO_ENTRY.search(text) or names_the_date(text.decode("utf-8", "replace")):
                return False
            kept = text[-16:]
    return True
