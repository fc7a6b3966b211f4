"""A manifest in YAML: its head and its rows, from the parser's events."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from yaml.events import MappingEndEvent, MappingStartEvent, ScalarEvent, SequenceEndEvent, SequenceStartEvent

from oxenbatch.catalog.faults import shown
from oxenbatch.errors import Problem
from oxenbatch.manifest.read import LISTS, Member, Outline, entry_of
from oxenbatch.manifest.source import Entry, Faulty, Include, Source, entry, names_the_date
from oxenbatch.manifest.yaml12 import Composer, Marks, YamlFault, in_yaml, is_last, place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PARTS: Final = {"prompt": "text", "negative_prompt": "text"}
ROW_SHAPE: Final[Mapping[str, Any]] = {
    "id": "text",
    "prompt": "text",
    "negative_prompt": "text",
    "model": "text",
    "multi_prompt": _PARTS,
}
"""Where a row's text is expected, so that YAML's `prompt: 2026` is the text 2026."""
_HEAD_SHAPES: Final[Mapping[str, Any]] = {
    "name": "text",
    "output": "text",
    "max_cost": "text",  # money is read from its own characters, never through binary fractions
    "model": "text",
    "prompt": "text",
    "rows": "text",
    "prompts": "text",
    "target": "text",
    "inputs": "text",
    "defaults": ROW_SHAPE,
    "variables": "text",
    "matrix": ROW_SHAPE,
}


def read_outline(source: Source, found: Outline) -> None:
    """What the file holds beside its rows is in the outline, and what is wrong with it."""
    try:
        _outline(source, found)
    except YamlFault as fault:
        found.problems.append(_problem(source, fault))
        found.unsure = True


def read_entries(source: Source) -> Iterator[Entry | Include | Faulty | Problem]:
    """The file's rows as they are written; a fault that ends the reading is the last one."""
    try:
        yield from _entries(source)
    except YamlFault as fault:
        yield _problem(source, fault)


def _problem(source: Source, fault: YamlFault) -> Problem:
    return Problem(fault.message, where=f"{source.shown}:{fault.line}:{fault.column}")


def _outline(source: Source, found: Outline) -> None:
    with source.open() as stream:
        composer = Composer(stream, source.shown)
        root = composer.root()
        if root is None or isinstance(root, SequenceStartEvent):
            found.bare = True
            return
        if not isinstance(root, MappingStartEvent):
            _no_manifest(composer, root, found)
            return
        if root.anchor is not None or root.tag is not None:
            composer.wrong("has an anchor or a tag, which are not supported; remove it", root)
        keys: dict[str, Any] = {}
        while not isinstance(event := composer.next(), MappingEndEvent):
            key = composer.key(event)
            value = composer.next()
            at = place(event)
            if key in keys:
                composer.twice(str(key), keys[str(key)], event)
            if key is None or key in keys:
                for _ in composer.skip(value):
                    pass
                continue
            keys[key] = event
            if key in LISTS and isinstance(value, SequenceStartEvent):
                found.lists[key] = at[0]
                if at[1] == 1 and not value.flow_style and is_last(source, at[0]):
                    break
                for text in composer.skip(value):
                    if "{" in text and names_the_date(text):
                        found.names_the_date = True
            else:
                marks: Marks = {}
                composer.marks = marks
                read = composer.node(value, _HEAD_SHAPES.get(key))
                found.members[key] = Member(read, at[0], partial(in_yaml, marks, value), at)
        else:
            composer.finish()
        found.problems += composer.problems
        found.unsure = composer.references > 0


def _no_manifest(composer: Composer, root: Any, found: Outline) -> None:
    value = composer.node(root)
    composer.finish()
    found.problems += composer.problems
    if value is None and not composer.problems:
        found.bare = True
        return
    found.problems.append(
        entry(
            f"is {shown(value)}, expected a list of prompts, or a mapping such as 'prompts:' with a list",
            composer.shown,
            place(root)[0],
        )
    )


def _entries(source: Source) -> Iterator[Entry | Include | Faulty | Problem]:
    with source.open() as stream:
        composer = Composer(stream, source.shown)
        root = composer.root()
        if isinstance(root, SequenceStartEvent):
            if root.anchor is not None or root.tag is not None:
                yield entry("has an anchor or a tag, which are not supported; remove it", source.shown, 1)
            yield from _list(composer)
            composer.finish()
            return
        if not isinstance(root, MappingStartEvent):
            return
        while not isinstance(event := composer.next(), MappingEndEvent):
            key = composer.key(event)
            value = composer.next()
            composer.problems.clear()  # the head's problems are the outline's
            if key in LISTS and isinstance(value, SequenceStartEvent):
                yield from _list(composer)
            elif key == "rows" and isinstance(value, ScalarEvent) and value.value:
                yield Include(value.value, place(event)[0])
            else:
                for _ in composer.skip(value):
                    pass


def _list(composer: Composer) -> Iterator[Entry | Faulty]:
    name = composer.shown
    while not isinstance(event := composer.next(), SequenceEndEvent):
        line = place(event)[0]
        marks: Marks = {}
        composer.marks = marks
        references = composer.references
        value = composer.node(event, "text" if isinstance(event, ScalarEvent) else ROW_SHAPE)
        if composer.problems or composer.references != references:
            yield Faulty(composer.problems)
            composer.problems = []
        else:
            yield entry_of(value, name, line, partial(in_yaml, marks, event), by_hand=True)
