"""A row on its way: what is known of it, and what is wrong with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.catalog.faults import shown, written
from oxenbatch.errors import Problem
from oxenbatch.manifest import templates
from oxenbatch.manifest.head import OURS, Overrides
from oxenbatch.manifest.strict_json import JsonFault, decode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oxenbatch.jobs import InputFile
    from oxenbatch.manifest.source import Entry


class Draft:
    """A row on its way: what is known of it, and what is wrong with it."""

    __slots__ = (
        "axes",
        "entry",
        "extra",
        "id",
        "inputs",
        "known",
        "metadata",
        "number",
        "parameters",
        "problems",
        "refused",
        "room",
        "samples",
        "variables",
        "written",
    )

    def __init__(
        self, entry: Entry, number: int, known: Mapping[str, str | None] | None, variables: Mapping[str, Any]
    ) -> None:
        self.entry, self.number, self.known, self.variables = entry, number, known, variables
        self.problems: list[Problem] = []
        self.refused = False
        """Something is wrong with it, whether that was told for this row or for an earlier one."""
        self.axes: Mapping[str, Any] = {}
        """What the matrix gives it."""
        self.parameters: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}
        self.inputs: list[InputFile] = []
        self.written: dict[str, Any] = {}
        self.samples: Any = 1
        self.room = templates.Room()
        self.id: str | None = None

    def wrong(self, message: str, *path: str | int, name: bool = False) -> None:
        """The problem is noted at the field, or at its name; without a path at the row."""
        place = self.entry.spot(*path, name=name)
        self.refused = True
        self.problems.append(Problem(message, where=place, row=self.number, field=written(path) or None))

    def says(self, name: str) -> bool:
        """Whether the row itself has the field, however its name is spelt."""
        return any(own.casefold() == name.casefold() for own in self.entry.fields)

    def blamed(self, field: str) -> bool:
        """Whether a problem of this field is noted already."""
        return any(problem.field == field for problem in self.problems)

    def set(self, name: str, value: Any) -> None:
        """The parameter has this value; nothing means that it is not sent, whatever the defaults say."""
        if value is None:
            self.parameters.pop(name, None)
        else:
            self.parameters[name] = value

    def filled(self, value: Any, *path: str | int) -> Any:
        """The value with its templates filled in, where this manifest has templates."""
        if self.known is None:
            return value
        try:
            return templates.fill(value, self.known, self.variables, self.room)
        except templates.TemplateFault as fault:
            self.wrong(str(fault), *path)
            return value

    def take_ours(self, name: str, value: Any) -> None:
        """One of the row's own fields is read: `id`, `samples` or `metadata`; the model is known by now."""
        cells = self.entry.columns is not None
        if value is None or name == "model":
            return
        if name == "id":
            if isinstance(value, str):
                self.id = self.filled(value, name)
            else:
                self.wrong(f"{shown(value)}, expected text", name)
        elif name == "samples":
            digits = value.strip() if cells else ""
            self.samples = int(digits) if re.fullmatch(r"[0-9]{1,9}", digits) else value
        else:
            if cells:
                try:
                    value = decode(value)
                except JsonFault:
                    value = shown(value)
            if isinstance(value, dict):
                self.metadata.update({n: self.filled(v, "metadata", n) for n, v in value.items()})
            else:
                self.wrong(f"{shown(value)}, expected a mapping; in a table each has its own column, meta.NAME", name)


LARGEST: Final = 8 * 2**20
"""Bytes of one request: the hub's answers repeat it, and an answer that is too large to be read is a result lost."""
MOST_VALUES: Final = 50_000  # of one request


def weight(value: Any) -> tuple[int, int]:
    """The bytes that the value takes in the hub's answer, at most, and how many values it holds."""
    if isinstance(value, str):
        return len(value) if value.isascii() else 12 * len(value), 1  # `\ud83d\ude00` is the longest of them
    if not isinstance(value, dict | list):
        return 20, 1
    size, count = (sum(map(len, value)) * 12, 1) if isinstance(value, dict) else (0, 1)
    for inner in value.values() if isinstance(value, dict) else value:
        inner_size, inner_count = weight(inner)
        size, count = size + inner_size, count + inner_count
    return size, count


def own_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with our own names in small letters, `Prompt` as `prompt`; where both stand they stay two."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        key = name.casefold()
        if key in OURS and (key == name or key not in fields):
            found[key] = value
        else:
            found[name] = value
    return found


def merged(defaults: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
    """The defaults with the command line's values over them, by name without case."""
    base = dict(defaults)
    for name, value in overrides.parameters.items():
        key = name.casefold() if name.casefold() in OURS else name
        for old in [old for old in base if old.casefold() == key.casefold()]:
            del base[old]
        base[key] = value
    if overrides.model is not None:
        base["model"] = overrides.model
    return base
