"""The hub's models as data: what each takes, and what one generation is estimated to cost.

No socket is opened here: the hub's answer, or the copy of it that was kept, comes in as data, so that a manifest
can be checked without the network. The answer is foreign: entries that cannot be used become warnings, a schema
that cannot be compiled is not held against anybody's row, and no schema can make us read a file or an address.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

import jsonschema_rs

from oxenbatch.catalog.faults import Fault, faults_of
from oxenbatch.errors import nearest, printable
from oxenbatch.jobs import PER_POST
from oxenbatch.prices import DECIDING, estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from decimal import Decimal

RESERVED: Final = ("model", "num_generations", "target_namespace", "target_repo", "target_directory")
"""Fields of the request that are ours to fill in, so a schema that lists them asks nothing of a row."""

_DECIDING: Final = frozenset(DECIDING)
_PRICES_KEPT: Final = 1_000  # a list has a few dozen; a stranger's values may be any number
_SHOWN_ERRORS: Final = 20  # a row with more than that is wrong as a whole; the rest would only scroll by
_BACKTRACKS: Final = 20_000  # a pattern of the hub's may not take longer than a millisecond or so over a row


@dataclass(frozen=True)
class Model:
    """One model of the catalogue."""

    id: str
    media_type: Literal["image", "video"] | None
    """None where the catalogue does not say."""
    schema: dict[str, Any] | None
    """JSON Schema of the model's own parameters."""
    pricing: dict[str, Any] = field(default_factory=dict)
    """The hub's price list for it, in dollars."""
    max_generations: int = PER_POST
    """How many generations one POST may ask for."""
    display_name: str = ""
    summary: str = ""
    text_only: bool = False
    """It is known to make neither images nor video, so the queue would refuse it."""

    def properties(self) -> dict[str, dict[str, Any]] | None:
        """The parameters' own schemas by name; None where the hub does not list them."""
        return self._properties

    @cached_property
    def _properties(self) -> dict[str, dict[str, Any]] | None:
        if self.schema is None:
            return None
        found: dict[str, dict[str, Any]] = {}
        parts = [self.schema]
        for word in ("allOf", "anyOf", "oneOf"):
            several = self.schema.get(word)
            parts += [part for part in several if isinstance(part, dict)] if isinstance(several, list) else []
        for part in parts:
            listed = part.get("properties")
            for name, inner in listed.items() if isinstance(listed, dict) else ():
                found.setdefault(str(name), inner if isinstance(inner, dict) else {})
        return found or None

    def takes(self, name: str) -> bool | None:
        """Whether the model knows the parameter; None where that cannot be told.

        A schema that lists its properties is taken at its word, unless it says outright that others are welcome:
        JSON Schema's own rule (silence welcomes all) would let every misspelt name through to a paid failure.
        """
        known = self._properties
        if known is None or self.schema is None:
            return None
        if name in known:
            return True
        others = self.schema.get("additionalProperties")
        if others is True or isinstance(others, dict) or "patternProperties" in self.schema or "$ref" in self.schema:
            return None
        return False

    def default(self, name: str) -> Any:
        """What the hub fills in where the parameter is not sent; None where the schema does not say."""
        return (self._properties or {}).get(name, {}).get("default")

    def as_data(self) -> dict[str, Any]:
        """The model as the hub would have said it."""
        output = [self.media_type] if self.media_type else ["text"] if self.text_only else []
        return {
            "id": self.id,
            "display_name": self.display_name,
            "summary": self.summary,
            "capabilities": {"output": output},
            "pricing": self.pricing,
            "request_schema": self.schema,
        }

    def price(self, parameters: Mapping[str, Any]) -> Decimal | None:
        """The estimated dollars of ONE generation, None where it cannot be told; see `prices.estimate`."""
        values = () if _DECIDING.isdisjoint(parameters) else tuple(map(parameters.get, DECIDING))
        key = (values, tuple(map(type, values)))  # True is 1 to a dict, and not to a price
        try:
            return self._prices[key]
        except KeyError:
            found = estimate(self.pricing, self._properties or {}, parameters)
            if len(self._prices) < _PRICES_KEPT:
                self._prices[key] = found
            return found
        except TypeError:  # a list among them: it cannot be a key
            return estimate(self.pricing, self._properties or {}, parameters)

    @cached_property
    def _prices(self) -> dict[tuple[Any, ...], Decimal | None]:
        return {}


class Catalog:
    """The models by id, and what each has against a row."""

    def __init__(self, models: Iterable[Model], warnings: Iterable[str] = (), fetched_at: float | None = None) -> None:
        self._models = {model.id: model for model in models}
        self._validators: dict[str, jsonschema_rs.Validator | None] = {}
        self.warnings: list[str] = list(warnings)
        self.fetched_at = fetched_at
        """Unix seconds, where the answer comes from a copy that was kept."""
        self.missed: set[str] = set()
        """Ids that were asked for and are not here; the hub may know models that it does not list."""

    def __repr__(self) -> str:
        return f"<Catalog of {len(self._models)} models>"

    @classmethod
    def from_answer(cls, payload: Any, *, fetched_at: float | None = None) -> Catalog:
        """The catalogue in the hub's answer; entries that cannot be used become warnings."""
        data = payload.get("data") if isinstance(payload, dict) else payload
        if not isinstance(data, list):
            return cls((), ["the hub's catalogue holds no list of models"], fetched_at)
        models: list[Model] = []
        warnings: list[str] = []
        for place, entry in enumerate(data, 1):
            model_id = entry.get("id") if isinstance(entry, dict) else None
            if not isinstance(model_id, str) or not model_id:
                warnings.append(f"entry {place} of the hub's catalogue has no id; it is left out")
                continue
            schema = entry.get("request_schema")
            if schema is not None and not isinstance(schema, dict):
                warnings.append(f"the request_schema of {printable(model_id)} is not an object; rows are not checked")
            models.append(_model(model_id, entry))
        return cls(models, warnings, fetched_at)

    @property
    def models(self) -> list[Model]:
        """All of them, in the hub's order."""
        return list(self._models.values())

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def get(self, model_id: str) -> Model | None:
        """The model of that id."""
        found = self._models.get(model_id)
        if found is None:
            self.missed.add(model_id)
        return found

    def learn(self, payload: Any) -> bool:
        """The one model in the hub's answer is here as well; whether there was one."""
        found = Catalog.from_answer([payload]).models
        self._models.update({model.id: model for model in found})
        self.missed.difference_update(model.id for model in found)
        return bool(found)

    def suggest(self, model_id: str) -> list[str]:
        """Up to three ids that look like it, the nearest first."""
        by_key = {known.casefold(): known for known in self._models}
        return [by_key[key] for key in nearest(model_id.casefold()[:200], by_key, 3)]

    def search(self, text: str) -> list[Model]:
        """Models whose id, name, summary or medium holds every word of the text, without case."""
        words = text.casefold().split()
        told = ((m, f"{m.id} {m.display_name} {m.summary} {m.media_type or ''}".casefold()) for m in self)
        return [model for model, about in told if all(word in about for word in words)]

    def digest(self, models: Iterable[str] | None = None) -> str:
        """The tagged hash of these models' schemas (None: all): it changes when a row could be read differently."""
        chosen = self._models if models is None else set(models)
        known = {
            name: [m.schema, m.text_only] if (m := self._models.get(name)) is not None else None for name in chosen
        }
        text = json.dumps(known, sort_keys=True, separators=(",", ":"))
        return "c1:" + hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> str:
        """The catalogue as the hub would have sent it, for `from_json`."""
        return json.dumps({"fetched_at": self.fetched_at, "data": [model.as_data() for model in self]})

    @classmethod
    def from_json(cls, text: str) -> Catalog:
        """The catalogue that `to_json` wrote; ValueError where the text is no JSON."""
        payload = json.loads(text)
        at = payload.get("fetched_at") if isinstance(payload, dict) else None
        return cls.from_answer(payload, fetched_at=at if isinstance(at, int | float) else None)

    def check(self, model_id: str, parameters: Mapping[str, Any]) -> list[Fault]:
        """What the model's schema has against the parameters, each a sentence: `duration is 7, expected one of 5, 10`.

        Empty where the model, or its schema, is not known. A seed of `auto` is ours and is not held against it.
        """
        if model_id in self._validators:
            validator = self._validators[model_id]
        else:
            validator = self._validators[model_id] = self._compiled(model_id)
        if validator is None:
            return []
        if parameters.get("seed") == "auto":
            parameters = {name: value for name, value in parameters.items() if name != "seed"}
        try:
            if validator.is_valid(parameters):
                return []
            faults: list[Fault] = []
            known = self._models[model_id].properties() or {}
            for error in validator.iter_errors(parameters):
                faults += faults_of(error, model_id, known)
                if len(faults) >= _SHOWN_ERRORS:
                    break
            return faults
        except (ValueError, TypeError) as error:
            return [Fault((), f"more than can be checked: {printable(error, 200)}")]

    def _compiled(self, model_id: str) -> jsonschema_rs.Validator | None:
        model = self._models.get(model_id)
        if model is None or model.schema is None:
            return None
        try:
            return jsonschema_rs.validator_for(
                _of_a_row(model.schema),
                offline=True,  # a `$ref` to an address or a file must not be followed
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACKS),
            )
        except (ValueError, TypeError, RecursionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.warnings.append(
                f"the schema of {printable(model_id)} cannot be used, rows are not checked: {printable(reason, 200)}"
            )
            return None


def _model(model_id: str, entry: dict[str, Any]) -> Model:
    schema = entry.get("request_schema")
    schema = schema if isinstance(schema, dict) else None
    pricing = entry.get("pricing")
    pricing = pricing if isinstance(pricing, dict) else {}
    media_type, text_only = _media(entry, pricing)
    return Model(
        id=model_id,
        media_type=media_type,
        schema=schema,
        pricing=pricing,
        max_generations=_most_at_once(schema),
        display_name=str(entry.get("display_name") or ""),
        summary=str(entry.get("summary") or entry.get("description") or ""),
        text_only=text_only,
    )


def _media(entry: dict[str, Any], pricing: dict[str, Any]) -> tuple[Literal["image", "video"] | None, bool]:
    """What it makes, and whether it is known to make neither; price list and endpoint speak where it is silent."""
    capabilities = entry.get("capabilities")
    output = capabilities.get("output") if isinstance(capabilities, dict) else None
    words = [word for word in output if isinstance(word, str)] if isinstance(output, list) else []
    endpoint, method = str(entry.get("endpoint") or ""), pricing.get("method")
    if "video" in words:
        return "video", False
    if "image" in words:
        return "image", False
    if words:
        return None, True
    if method == "per_video_output_second" or "/videos/" in endpoint:
        return "video", False
    if method == "per_image" or "/images/" in endpoint:
        return "image", False
    return None, "/chat/" in endpoint


def _most_at_once(schema: dict[str, Any] | None) -> int:
    listed = schema.get("properties") if schema else None
    inner = listed.get("num_generations") if isinstance(listed, dict) else None
    most = inner.get("maximum") if isinstance(inner, dict) else None
    return max(1, min(PER_POST, most)) if isinstance(most, int) else PER_POST


def _of_a_row(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without what a row does not say itself: the prompt is checked by its own rule, the rest is ours."""
    adjusted = dict(schema)
    required = schema.get("required")
    if isinstance(required, list):
        ours = (*RESERVED, "prompt", "seed")  # a seed may be `auto`, which is taken out before the check
        adjusted["required"] = [name for name in required if name not in ours]
    listed = schema.get("properties")
    if isinstance(listed, dict) and "prompt" not in listed:
        adjusted["properties"] = {**listed, "prompt": True}
    return adjusted
