"""What a model's schema has against a row, in words: the thing, what was expected, and what was meant."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from oxenbatch.errors import nearest, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    import jsonschema_rs


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that a model's schema has against a row."""

    path: tuple[str | int, ...]
    """The parameter, and the steps into it."""
    message: str
    kind: Literal["value", "missing", "stranger"] = "value"

    @property
    def field(self) -> str:
        """The path as a person would write it: `multi_prompt[1].duration`."""
        return written(self.path)

    def __str__(self) -> str:
        return f"{self.field or 'the request'} {'is ' if self.kind == 'value' else ''}{self.message}"


_TYPES: Final = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


def kinds(names: Iterable[str]) -> str:
    """JSON Schema's type names in words: `a whole number or text`."""
    return " or ".join(_TYPES.get(name, name) for name in names)


def shown(value: Any, limit: int = 60) -> str:
    """A value as a person would write it: text in quotes, the rest as JSON."""
    if isinstance(value, str):
        return f"'{printable(value, limit)}'"
    try:
        return printable(json.dumps(value, ensure_ascii=False), limit)
    except (TypeError, ValueError, RecursionError):
        return printable(repr(value), limit)


def written(path: Iterable[str | int]) -> str:
    """A path as a person would write it: `multi_prompt[1].duration`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return printable(text.lstrip("."), 80)


def faults_of(error: jsonschema_rs.ValidationError, model_id: str, known: Collection[str]) -> list[Fault]:
    """What the error says, a fault for each name; `known` are the model's parameters."""
    kind: Any = error.kind
    path = tuple(error.instance_path)
    if kind.name in {"additionalProperties", "unevaluatedProperties"}:
        return [_stranger((*path, str(name)), model_id, known) for name in kind.unexpected]
    if kind.name == "required":
        return [Fault((*path, str(kind.property)), "is missing, and the model needs it", "missing")]
    return [Fault(path, f"{shown(error.instance)}, expected {_expected(error)}{_meant(error)}")]


def _meant(error: jsonschema_rs.ValidationError) -> str:
    """`; did you mean 16:9?` where the text is nearly one of the values that are taken."""
    kind: Any = error.kind
    if kind.name != "enum" or not isinstance(error.instance, str):
        return ""
    by_key = {str(option).casefold(): option for option in kind.options}
    said = error.instance.casefold()[:200]
    near = nearest(said, by_key, 5)
    if not near or by_key[near[0]] == error.instance:
        return ""
    meant = by_key[max(near, key=lambda one: _alike(one, said))]  # 16:10 is 16:9, and not 1:1
    return f"; did you mean {printable(meant, 80) if isinstance(meant, str) else shown(meant)}?"


def _alike(one: str, other: str) -> int:
    """How many characters both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _stranger(path: tuple[str | int, ...], model_id: str, known: Collection[str]) -> Fault:
    near = nearest(str(path[-1]), known) if len(path) == 1 else []
    hint = f"; did you mean {printable(near[0], 80)}?" if near else ""
    return Fault(path, f"is not a parameter of {printable(model_id, 80)}{hint}", "stranger")


_LIMITS: Final = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
    "multipleOf": "a multiple of {}",
    "pattern": "text that matches {}",
    "format": "text in the format {}",
    "const": "{}",
}


def _expected(error: jsonschema_rs.ValidationError, depth: int = 0) -> str:
    kind: Any = error.kind
    if kind.name == "type":
        return kinds(kind.types)
    if kind.name == "enum":
        plain = isinstance(error.instance, str)  # else the quotes are what is missing: 5 where '5' is expected
        options = [o if plain and isinstance(o, str) else shown(o) for o in kind.options]
        more = f" or {len(options) - 30} others" if len(options) > 30 else ""
        return "one of " + printable(", ".join(options[:30]), 600) + more
    if kind.name in _LIMITS:
        return _LIMITS[kind.name].format(printable(kind.value, 120))
    if kind.name == "uniqueItems":
        return "no entry twice"
    if kind.name in ("anyOf", "oneOf") and depth < 3 and hasattr(kind, "context"):
        choices = [_expected(branch[0], depth + 1) for branch in kind.context if branch]
        return ", or ".join(dict.fromkeys(choices)) or "what one of the schema's variants allows"
    return f"what the model's schema allows ({printable(error.message, 200)})"
