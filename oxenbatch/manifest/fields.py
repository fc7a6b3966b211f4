"""What a field of a row is to a model: a parameter and its type, metadata, or a stranger."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.catalog.faults import kinds, shown
from oxenbatch.errors import nearest, printable
from oxenbatch.manifest.head import OURS, RESERVED
from oxenbatch.manifest.ids import CONTROL
from oxenbatch.manifest.inputs import Marks, marks
from oxenbatch.manifest.strict_json import JsonFault, decode

if TYPE_CHECKING:
    from oxenbatch.catalog import Catalog, Model

TEXTS: Final = frozenset(["id", "prompt", "negative_prompt"])
"""Always text: a cell of theirs is its own characters."""
OUTPUT_COLUMNS: Final = frozenset(
    ["file_name", "prompt", "model", "generation_id", "sha256", "bytes",
     "width", "height", "seconds", "fps", "reused_from", "cost", "created_at"]
)  # fmt: skip
"""Columns of the dataset that are ours to fill in."""
LONGEST_NAME: Final = 200  # characters of a metadata name: it becomes a column's name

MOST_NAMES: Final = 10_000  # fields that are remembered; a stranger's file may have any number of names

_ORDER: Final = ("integer", "number", "boolean", "null", "array", "object", "string")
_WHOLE = re.compile(r"([-+]?[0-9]{1,20})(?:\.0+)?\Z")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z")


SLIP: Final = (
    0.8  # how like a listed name another must be to be taken for a slip: `durration`, and not `mood` for `model`
)


class CellFault(ValueError):
    """The cell's text is not of the type that the model takes."""


@dataclass(frozen=True, slots=True)
class Field:
    """What one field is."""

    kind: str
    """parameter, metadata, reserved, extra, or nameless where it cannot be a name at all."""
    name: str
    """By the schema's own spelling; without `meta.`."""
    types: tuple[str, ...] | None = None
    """JSON Schema's words in the order in which a cell is tried; None where the schema does not say."""

    def value(self, cell: str) -> Any:
        """The cell's value; `CellFault` with a sentence where it has none."""
        if self.kind != "parameter" or self.name in TEXTS or self.types == ("string",):
            return cell
        if self.name == "seed" and cell.strip().casefold() == "auto":
            return "auto"
        if self.types is None:
            return untyped(cell)
        return typed(cell, self.types)


def untyped(text: str) -> Any:
    """JSON where it parses, else the text."""
    try:
        return decode(text)
    except JsonFault:
        return text


def typed(text: str, types: tuple[str, ...]) -> Any:
    """The text's value as the first of the types that it can be; `CellFault` where it can be none."""
    cell = text.strip()
    for kind in types:
        if kind == "integer" and (found := _WHOLE.match(cell)):
            return int(found[1])
        if kind == "number" and _NUMBER.match(cell) and math.isfinite(number := float(cell)):
            return int(cell) if _WHOLE.match(cell) and "." not in cell else number
        if kind == "boolean" and cell.casefold() in ("true", "false"):
            return cell.casefold() == "true"
        if kind == "null" and cell in ("", "null"):
            return None
        if kind in ("array", "object") and cell[:1] == ("[" if kind == "array" else "{"):
            try:
                return decode(cell)
            except JsonFault as fault:
                raise CellFault(f"{shown(text)}, expected {kinds(types)} as JSON; it {fault}") from None
        if kind == "string":
            return text
    if not cell:
        return None
    words = " as JSON" if set(types) <= {"array", "object"} else ""
    raise CellFault(f"{shown(text)}, expected {kinds(types)}{words}")


def types_of(schema: dict[str, Any]) -> tuple[str, ...] | None:
    """The types that a property's schema allows, in the order of trying; None where it does not say."""
    said = schema.get("type")
    found = (
        {said}
        if isinstance(said, str)
        else {t for t in said if isinstance(t, str)}
        if isinstance(said, list)
        else set()
    )
    if not found:
        for word in ("anyOf", "oneOf"):
            several = schema.get(word)
            for part in several if isinstance(several, list) else ():
                inner = types_of(part) if isinstance(part, dict) else None
                if inner is None:
                    return None
                found.update(inner)
    if not found and isinstance(options := schema.get("enum"), list):
        found = {_type(option) for option in options}
    if not found <= set(_ORDER):
        return None
    return tuple(kind for kind in _ORDER if kind in found) or None


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    for kind, name in ((int, "integer"), (float, "number"), (str, "string"), (list, "array"), (dict, "object")):
        if isinstance(value, kind):
            return name
    return "null"


class Plan:
    """One model as rows meet it: its fields by any spelling, and why it cannot be used, if it cannot."""

    def __init__(self, model_id: str, catalog: Catalog | None) -> None:
        self.model_id = model_id
        self.model: Model | None = catalog.get(model_id) if catalog is not None else None
        self.refusal: str | None = None
        if catalog is not None and self.model is None:
            near = catalog.suggest(model_id)
            hint = f"; did you mean {' or '.join(printable(one, 100) for one in near)}?" if near else ""
            self.refusal = f"model '{printable(model_id, 100)}' is not in the hub's catalogue{hint}"
        elif self.model is not None and self.model.text_only:
            self.refusal = f"model '{printable(model_id, 100)}' makes neither images nor video; name one that does"
        self.properties = (self.model.properties() if self.model else None) or {}
        self.media: dict[str, Marks] = {}
        """Parameters in which files may stand."""
        for name, schema in self.properties.items():
            self._mark(name, schema)
        self._spelt = {name.casefold(): name for name in self.properties}
        self.fields: dict[str, Field] = {}
        """Fields that were seen; see `learn`."""
        self.base: dict[str, Any] | None = None
        """What stands under its rows; the expansion's."""
        self.base_metadata: dict[str, Any] = {}
        self.reported = 0
        """Rows for which the refusal was told."""

    @property
    def asks_for_prompt(self) -> bool:
        """Whether a row must have a prompt: unless the schema lists parameters and it is not among them."""
        return not self.properties or "prompt" in self.properties

    def learn(self, name: str) -> Field:
        """What the field is, remembered for the next row."""
        field = self._field(name)
        if len(self.fields) < MOST_NAMES:
            self.fields[name] = field
            if field.name not in self.properties:
                self._mark(field.name, {})
        return field

    def _mark(self, name: str, schema: dict[str, Any]) -> None:
        found = marks(name, schema) if name not in TEXTS else None
        if found is not None:
            self.media[name] = found

    def _field(self, name: str) -> Field:
        folded = name.casefold()
        if folded.startswith("meta."):
            return Field("metadata", name[5:].strip())
        if not name.strip() or len(name) > LONGEST_NAME or CONTROL.search(name):
            return Field("nameless", name)
        if folded in RESERVED:
            return Field("reserved", folded)
        if folded in OURS:
            return Field("parameter", folded)
        real = name if name in self.properties else self._spelt.get(folded, folded if folded in TEXTS else name)
        if real in self.properties:
            return Field("parameter", real, types_of(self.properties[real]))
        if self.model is not None and self.model.takes(real) is False:
            return Field("extra", name)
        return Field("parameter", real)

    def is_sent(self, name: str) -> bool:
        """Whether a field that the schema does not list is sent all the same, where it was written by hand.

        As it is, says the contract; but not where the schema says that there are no others, nor where the name is so
        near to a listed one that it is a slip of the finger.
        """
        closed = self.model is not None and (self.model.schema or {}).get("additionalProperties") is False
        return not closed and not self._near(name, SLIP)

    def suggestion(self, name: str) -> str:
        """`; did you mean …?` where something known is near."""
        near = self._near(name, 0.6)
        return f"; did you mean {printable(near, 80)}?" if near else ""

    def _near(self, name: str, likeness: float) -> str | None:
        known = {one.casefold(): one for one in [*self.properties, *OURS]}
        near = nearest(name.casefold(), known, likeness=likeness)
        return known[near[0]] if near else None


def metadata_fault(name: str, parameters: dict[str, Any], plan: Plan) -> str | None:
    """Why the metadata cannot have this name, if it cannot."""
    if name in parameters or name in plan.properties:
        return f"is metadata, and also the name of a parameter of {printable(plan.model_id, 80)}; rename it"
    if name in OUTPUT_COLUMNS:
        return "is metadata, and also a column that every dataset has; rename it"
    if not name.strip() or len(name) > LONGEST_NAME or CONTROL.search(name):
        return f"is no name for metadata, expected 1 to {LONGEST_NAME} characters, no control characters among them"
    return None
