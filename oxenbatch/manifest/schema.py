"""The manifest's JSON Schema, for editors: what completes and what is underlined while it is written.

It knows the language, and a model's own parameters where a catalogue is given. What only the whole file can tell
(templates, identities, columns) is `check`'s. YAML's plain scalars are read as text where text is expected, so that
`id: 7` is right here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from oxenbatch.manifest.expand import LONGEST_PROMPT, MOST_SAMPLES
from oxenbatch.manifest.head import MOST_ACTIVE, MOST_VALUES, RESERVED
from oxenbatch.manifest.ids import LONGEST_ID

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oxenbatch.catalog import Catalog, Model

DIALECT: Final = "http://json-schema.org/draft-07/schema#"  # the one that YAML editors speak
_SCALAR: Final = ["string", "number", "boolean"]
"""What a YAML 1.2 parser may make of text that is not quoted: `2026`, `0.5`, `true`."""


def manifest_schema(catalog: Catalog | None = None) -> dict[str, Any]:
    """The schema; with a catalogue, its models and their parameters complete as well."""
    models = [model for model in catalog or () if not model.text_only]
    return {
        "$schema": DIALECT,
        "title": "oxenbatch manifest",
        "description": "Which files are wanted: each row becomes one request to a model, and one or more files.",
        "anyOf": [{"$ref": "#/definitions/rows"}, {"$ref": "#/definitions/head"}],
        "definitions": {
            "model": _model(models),
            "text": {"type": _SCALAR, "minLength": 1},
            "prompt": _prompt(),
            "parameters": _parameters(models),
            "row": _row(models),
            "rows": {"type": "array", "items": {"$ref": "#/definitions/row"}},
            "values": {
                "anyOf": [{"type": "array", "minItems": 1, "maxItems": MOST_VALUES}, {"type": _SCALAR}],
                "description": "A list of values.",
            },
            "head": _head(),
        },
    }


def _model(models: Iterable[Model]) -> dict[str, Any]:
    known = [{"const": model.id, "description": model.summary or model.display_name} for model in models]
    return {
        "description": "The model's id, as `oxenbatch models` lists it.",
        "anyOf": [*known, {"type": "string", "minLength": 1}],
    }


def _prompt() -> dict[str, Any]:
    return {
        "type": _SCALAR,
        "minLength": 1,
        "maxLength": LONGEST_PROMPT,
        "description": "What is to be made. With variables, a matrix or a prompt in the head, {name} is filled in, and"
        " {{ is a brace.",
    }


def _parameters(models: Iterable[Model]) -> dict[str, Any]:
    """What is sent: any name, but for those that have another place."""
    known: dict[str, Any] = {"negative_prompt": {"type": [*_SCALAR, "null"]}, "seed": _seed()}
    for model in models:
        for name, inner in (model.properties() or {}).items():
            if name not in ("prompt", "seed", *RESERVED):
                known.setdefault(name, {"description": str(inner.get("description") or inner.get("title") or "")})
    return {"properties": known | dict.fromkeys(RESERVED, False)}


def _seed() -> dict[str, Any]:
    return {
        "anyOf": [{"type": ["integer", "null"]}, {"const": "auto"}, {"type": "string", "pattern": "\\{"}],
        "description": "A whole number, or auto: a recorded seed of its own for each sample.",
    }


def _row(models: Iterable[Model]) -> dict[str, Any]:
    mapping: dict[str, Any] = {
        "type": "object",
        "allOf": [{"$ref": "#/definitions/parameters"}],
        "properties": {
            "id": {
                "type": _SCALAR,
                "maxLength": LONGEST_ID,
                "minLength": 1,
                "description": "The row's name, unique; it becomes the file's name.",
            },
            "prompt": {"anyOf": [{"$ref": "#/definitions/prompt"}, {"type": "null"}]},
            "model": {"anyOf": [{"$ref": "#/definitions/model"}, {"type": "null"}]},
            "samples": {**_samples(), "type": ["integer", "null"]},
            "metadata": {**_metadata(), "type": ["object", "null"]},
        },
    }
    mapping["allOf"] += [_of_one(model) for model in models if model.properties()]
    return {"anyOf": [{"$ref": "#/definitions/prompt"}, {"type": "null"}, mapping]}


def _of_one(model: Model) -> dict[str, Any]:
    """The model's own parameters, for rows that name it."""
    ours = ("prompt", "seed", *RESERVED)
    own = {name: inner for name, inner in (model.properties() or {}).items() if name not in ours}
    return {
        "if": {"properties": {"model": {"const": model.id}}, "required": ["model"]},
        "then": {"properties": own},
    }


def _samples() -> dict[str, Any]:
    return {
        "type": "integer",
        "minimum": 1,
        "maximum": MOST_SAMPLES,
        "description": "How many files of this row are wanted.",
    }


def _metadata() -> dict[str, Any]:
    return {"type": "object", "description": "Kept in the dataset under its own names, never sent."}


def _head() -> dict[str, Any]:
    count = {"type": ["integer", "null"], "minimum": 1, "maximum": MOST_ACTIVE}
    text = {"type": ["string", "null"]}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "name": {
                "type": [*_SCALAR, "null"],
                "maxLength": 100,
                "pattern": '^[^/\\\\:*?"<>|]+$',
                "description": "The batch's name; default: the file's name without its extension.",
            },
            "output": {**text, "description": "The output folder, relative to the manifest; knows {name} {date} {year}"
                       " {month} {day}. Default: out/{name}."},
            "concurrency": {**count, "description": "Generations active at the hub, at most. Default: 8."},
            "max_cost": {
                "anyOf": [
                    {"type": ["number", "null"], "exclusiveMinimum": 0},
                    {"type": "string", "pattern": "^\\s*[0-9]{1,9}(\\.[0-9]{1,6})?\\s*$"},
                ],
                "description": "Dollars that this batch may cost, at most.",
            },
            "model": {"$ref": "#/definitions/model"},
            "models": {
                "type": ["object", "null"],
                "additionalProperties": {
                    "type": ["object", "null"],
                    "additionalProperties": False,
                    "properties": {"concurrency": count},
                },
                "description": "Tighter limits of single models.",
            },
            "target": {
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": {"namespace": text, "repo": text, "directory": text},
                "description": "Where the hub puts a copy of its own.",
            },
            "inputs": {
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": dict.fromkeys(("namespace", "repo", "branch", "directory", "root"), text),
                "description": "Where files of yours that rows name are kept at the hub, and below which folder (root)"
                " they lie here.",
            },
            "defaults": {
                "type": ["object", "null"],
                "allOf": [{"$ref": "#/definitions/parameters"}],
                "properties": {
                    "id": False,
                    "model": {"$ref": "#/definitions/model"},
                    "samples": _samples(),
                    "metadata": _metadata(),
                },
                "description": "Parameters under every row; a row's own field wins.",
            },
            "variables": {
                "type": "object",
                "additionalProperties": {"$ref": "#/definitions/values"},
                "description": "Lists of text for templates; not sent. They multiply the rows that name them.",
            },
            "matrix": {
                "type": "object",
                "additionalProperties": {"$ref": "#/definitions/values"},
                "properties": dict.fromkeys(("id", "samples", "metadata", *RESERVED), False),
                "description": "Lists of parameter values; every combination is a row.",
            },
            "prompt": {"$ref": "#/definitions/prompt"},
            "rows": {
                "anyOf": [{"type": "string", "minLength": 1}, {"$ref": "#/definitions/rows"}, {"type": "null"}],
                "description": "The name of another file with rows, in any format; or a list.",
            },
            "prompts": {
                "anyOf": [{"$ref": "#/definitions/rows"}, {"type": "null"}],
                "description": "The rows; plain text is a prompt.",
            },
        },
    }  # fmt: skip
