"""What one generation is estimated to cost, from the hub's price list.

Dollars are Decimals, never floats. Where the parameters leave a choice of prices open, it is the dearest that could
apply: `--max-cost` holds only if an estimate is never too low.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_AUDIO: Final = ("generate_audio", "audio", "with_audio", "enable_audio", "sound")
_SECONDS: Final = ("duration", "seconds")


def estimate(
    pricing: Mapping[str, Any], properties: Mapping[str, dict[str, Any]], parameters: Mapping[str, Any]
) -> Decimal | None:
    """The estimated dollars of ONE generation, None where it cannot be told.

    `pricing`: the model's, as the catalogue has it; `properties`: its parameters' schemas by name, whose defaults
    count where a parameter is not sent; `parameters`: what is sent.
    """
    return _Bill(pricing, properties, parameters).total()


FREE: Final = frozenset({"prompt", "negative_prompt", "seed"})
"""Parameters that no price hangs on."""
KEPT: Final = 1000  # a manifest has a few different requests in price; a hostile one as many as rows


class Prices:
    """Estimates, each reckoned once for all requests that differ in nothing that has a price."""

    def __init__(self, price: Callable[[str, Mapping[str, Any]], Decimal | None]) -> None:
        self._price = price
        self._known: dict[tuple[Any, ...], Decimal | None] = {}

    def of(self, model: str, parameters: Mapping[str, Any]) -> Decimal | None:
        """The estimated dollars of one generation of this request, None where it cannot be told."""
        # With its kind, since True equals 1, and no price must follow from that.
        key = (model, *((name, value, value.__class__) for name, value in parameters.items() if name not in FREE))
        try:
            return self._known[key]
        except TypeError:  # a list is among them
            return self._price(model, parameters)
        except KeyError:
            if len(self._known) >= KEPT:
                self._known.clear()
            return self._known.setdefault(key, self._price(model, parameters))


@dataclass(frozen=True, slots=True)
class _Bill:
    pricing: Mapping[str, Any]
    properties: Mapping[str, dict[str, Any]]
    parameters: Mapping[str, Any]

    def total(self) -> Decimal | None:
        """Dollars of one generation, or None."""
        method = self.pricing.get("method")
        if method == "per_image":
            each = self._image_price()
            count = max(
                (n for n in map(_whole, (self.parameters.get("num_images"), self.parameters.get("n"))) if n), default=1
            )
            return None if each is None else each * count
        if method == "per_video_output_second":
            rate, seconds = self._second_price(), self._seconds()
            return None if rate is None or seconds is None else rate * seconds
        return None

    def _default(self, name: str) -> Any:
        """What the hub fills in where the parameter is not sent."""
        return self.properties.get(name, {}).get("default")

    def _given(self, *names: str) -> Any:
        for name in names:
            value = self.parameters.get(name)
            if value is None:
                value = self._default(name)
            if value is not None:
                return value
        return None

    def _image_price(self) -> Decimal | None:
        grid = self.pricing.get("cost_per_image_grid")
        flat = _dollars(self.pricing.get("cost_per_image"))
        if not isinstance(grid, dict) or not grid:
            return flat
        rows = _matching(grid, self._given("quality"))
        prices: list[Decimal | None] = []
        for row in rows:
            if isinstance(row, dict):
                prices += map(_dollars, _matching(row, self._given("resolution", "image_size", "size")))
            else:
                prices.append(_dollars(row))
        if len(prices) != 1:
            prices.append(flat)
        return max((price for price in prices if price is not None), default=flat)

    def _second_price(self) -> Decimal | None:
        resolution = self._given("resolution", "size")
        grid = self.pricing.get("cost_per_second_by_resolution")
        rates: list[Decimal | None] = []
        if isinstance(grid, dict) and grid:
            rates += map(_dollars, _matching(grid, resolution))
        if len(rates) != 1:
            rates.append(_dollars(self.pricing.get("cost_per_second")))
            if _lines(resolution) > 720:  # the common meaning of "high": more than 720 lines, or nobody knows
                rates.append(_dollars(self.pricing.get("cost_per_second_high_res")))
        if self._audio():
            rates.append(_dollars(self.pricing.get("cost_per_second_with_audio")))
        return max((rate for rate in rates if rate is not None), default=None)

    def _audio(self) -> bool:
        """Whether there may be sound: only a word against it, sent or the schema's default, rules it out."""
        said = [value for name in _AUDIO if (value := self._given(name)) is not None]
        return not said or any(value is not False and str(value).casefold() not in ("false", "off") for value in said)

    def _seconds(self) -> Decimal | None:
        parts = self.parameters.get("multi_prompt")
        listed = [part.get("duration") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        known = [seconds for seconds in map(_number, listed) if seconds is not None]
        summed = sum(known, Decimal(0)) if listed and len(known) == len(listed) else None
        for name in _SECONDS:
            sent = self.parameters.get(name)
            if sent is None and name not in self.properties:
                continue
            value = _number(sent if sent is not None else self._default(name))
            if value is None:  # a word such as `auto`, or silence: as long as it can be
                value = _longest(self.properties.get(name, {}))
            if value is not None and summed is not None:
                return max(value, summed) if sent is not None else summed
            return value if value is not None else summed
        return summed


def _dollars(value: Any) -> Decimal | None:
    """A price as it was printed, never through binary fractions; None for what cannot be a price."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    return _number(value)


def _number(value: Any) -> Decimal | None:
    """`8`, `8.5`, `"8"` and `"8s"` as a Decimal, at least 0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    found = re.fullmatch(r"\s*([0-9]{1,12}(?:\.[0-9]{1,12})?(?:[eE]-?[0-9]{1,2})?)\s*(?:s|sec|seconds)?\s*", str(value))
    return Decimal(found[1]) if found else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 1000 else None


def _matching(prices: dict[str, Any], wanted: Any) -> list[Any]:
    """The entry of that name, without case; every entry where the name is not known."""
    if wanted is not None:
        for name, price in prices.items():
            if str(name).casefold() == str(wanted).casefold():
                return [price]
    return list(prices.values())


def _lines(resolution: Any) -> float:
    """The lines of `720p`, `4K` or `1280x720`; without end where it cannot be told."""
    text = str(resolution or "").casefold()
    if found := re.fullmatch(r"\s*(\d{2,5})\s*[x*×]\s*(\d{2,5})\s*", text):
        return min(int(found[1]), int(found[2]))
    found = re.fullmatch(r"\s*(\d{3,5})p?\s*", text)
    return int(found[1]) if found else float("inf")


def _longest(schema: dict[str, Any]) -> Decimal | None:
    """The most that a parameter can be by its schema."""
    options = schema.get("enum")
    found = [_number(option) for option in options] if isinstance(options, list) else []
    found.append(_number(schema.get("maximum")))
    for word in ("anyOf", "oneOf"):
        several = schema.get(word)
        found += [_longest(part) for part in several if isinstance(part, dict)] if isinstance(several, list) else []
    return max((number for number in found if number is not None), default=None)
