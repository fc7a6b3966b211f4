"""What is wrong with a request's parameters, and what it costs: judged as the hub does, when the generation runs."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .models import Model

_IS: Final[dict[str, Callable[[Any], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: _IS["number"](value) and (isinstance(value, int) or value.is_integer()),
}


def complaint(schema: Mapping[str, Any] | None, parameters: Mapping[str, Any]) -> str | None:
    """The first thing that the model's schema forbids, as an error message; None where all is well.

    The part of JSON Schema that the catalogue speaks: type, enum, minimum, maximum, lengths, required.
    """
    if schema is None:
        return None
    for name in schema.get("required", ()):
        if name not in parameters:
            return f"Invalid parameters: {name} is required"
    for name, allowed in schema.get("properties", {}).items():
        if name in parameters and (wrong := _wrong(allowed, parameters[name])):
            return f"Invalid parameter {name}: {wrong}"
    return None


def _wrong(allowed: Mapping[str, Any], value: Any) -> str | None:
    kinds = allowed.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_IS[kind](value) for kind in kinds):
        return f"{value!r} is not of type {' or '.join(kinds)}"
    if "enum" in allowed and value not in allowed["enum"]:
        return f"{value!r} is not one of {', '.join(map(str, allowed['enum']))}"
    if isinstance(value, int | float):
        if value < allowed.get("minimum", value):
            return f"{value!r} is less than {allowed['minimum']}"
        if value > allowed.get("maximum", value):
            return f"{value!r} is more than {allowed['maximum']}"
    if isinstance(value, str) and len(value) > allowed.get("maxLength", len(value)):
        return f"longer than {allowed['maxLength']} characters"
    if isinstance(value, list):
        if not allowed.get("minItems", 0) <= len(value) <= allowed.get("maxItems", len(value)):
            return f"{len(value)} entries are too many or too few"
        return next((wrong for entry in value if (wrong := _wrong(allowed.get("items", {}), entry))), None)
    if isinstance(value, dict):
        return complaint(allowed, value)
    return None


def price(model: Model, parameters: Mapping[str, Any], work_s: float) -> Decimal | None:
    """What one generation of this request costs; None where the catalogue names no price that applies."""
    asked = defaults(model) | dict(parameters)
    pricing = model.pricing
    if pricing["method"] == "per_image":
        if pricing["cost_per_image"] is not None:
            return _dollars(pricing["cost_per_image"])
        grid = pricing["cost_per_image_grid"]
        row = grid.get(str(asked.get("quality"))) or next(iter(grid.values()))
        return _dollars(row.get(str(asked.get("resolution", asked.get("size")))) or next(iter(row.values())))
    if pricing["method"] == "per_video_output_second":
        return _dollars(_per_second(pricing, asked)) * seconds_asked(asked)
    if pricing["method"] == "time":
        return (_dollars(pricing["cost_per_second"]) * Decimal(str(work_s))).quantize(Decimal("0.0001"))
    return None


def defaults(model: Model) -> dict[str, Any]:
    """What the model's schema fills in for parameters that were not sent."""
    properties = (model.request_schema or {}).get("properties", {})
    return {name: asked["default"] for name, asked in properties.items() if "default" in asked}


def _per_second(pricing: Mapping[str, Any], asked: Mapping[str, Any]) -> float:
    resolution = asked.get("resolution")
    by_resolution: dict[str, float] = pricing["cost_per_second_by_resolution"] or {}
    if by_resolution:
        return by_resolution.get(str(resolution), max(by_resolution.values()))
    if asked.get("generate_audio") is True and pricing["cost_per_second_with_audio"] is not None:
        return float(pricing["cost_per_second_with_audio"])
    if resolution == "1080p" and pricing["cost_per_second_high_res"] is not None:
        return float(pricing["cost_per_second_high_res"])
    return float(pricing["cost_per_second"])


def seconds_asked(asked: Mapping[str, Any]) -> Decimal:
    """How many seconds of video a request asks for; what such a clip usually has, where it does not say."""
    parts = asked.get("multi_prompt")
    if isinstance(parts, list) and parts:
        return sum((seconds_asked(part) for part in parts if isinstance(part, dict)), Decimal(0))
    try:
        seconds = Decimal(str(asked.get("duration", asked.get("seconds"))))
    except InvalidOperation:
        return Decimal(5)  # `auto` and the like: what such a clip usually is
    return seconds if seconds.is_finite() and 0 <= seconds <= 600 else Decimal(5)


def _dollars(amount: float) -> Decimal:
    return Decimal(str(amount))
