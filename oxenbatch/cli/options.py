"""What several commands share: durations, dollars, and options that the environment may set."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([smhd]?)")
DOLLARS_MAX: Final = 1_000_000_000  # as in a manifest: in nanodollars it still fits SQLite's 64 bits


class Duration(click.ParamType[float]):
    """`90`, `90s`, `10m`, `2h`: seconds as a float."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        match = _DURATION.fullmatch(str(value).strip().lower())
        if not match:
            self.fail(f"{value!r} is no duration: write 90, 90s, 10m or 2h", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


class Dollars(click.ParamType[Decimal]):
    """An amount of dollars, exactly: never a float."""

    name = "dollars"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        """The amount."""
        try:
            amount = Decimal(str(value).strip().removeprefix("$"))
        except InvalidOperation:
            amount = Decimal(-1)
        if not amount.is_finite() or not 0 <= amount < DOLLARS_MAX:
            self.fail(f"{value!r} is no amount of dollars: write 25 or 12.50", param, ctx)
        return amount


class Address(click.ParamType[str]):
    """A hub's address, as `https://hub.oxen.ai`."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The address, unchanged."""
        from oxenbatch.addresses import AddressRefused, parse  # noqa: PLC0415 - not for --help

        try:
            parse(str(value))
        except AddressRefused as error:
            self.fail(f"{error}: write it as https://hub.oxen.ai", param, ctx)
        return str(value)


def option(*names: str, **kwargs: Any) -> Callable[[Any], Any]:
    """A click option that `OXENBATCH_<FLAG>` sets as well."""
    flag = max((name.split("/")[0] for name in names if name.startswith("--")), key=len)
    variable = "OXENBATCH_" + flag.removeprefix("--").upper().replace("-", "_")
    also = kwargs.pop("also_envvar", ())
    return click.option(*names, envvar=[variable, *also], **kwargs)


def dollars(amount: Decimal) -> str:
    """At least two places, and as many as the amount needs."""
    exact = amount.normalize()
    places = max(2, -int(exact.as_tuple().exponent))
    return f"{amount:.{places}f}"


def plural(count: int, noun: str) -> str:
    """`1 sample`, `2 samples`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
