"""What several commands share: durations, dollars, and options that the environment may set."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import sys
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oxenbatch.manifest import Overrides

MANIFESTS: Final = frozenset({".yaml", ".yml", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt"})
"""How the names of manifests end."""
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


class Switch(click.Option):
    """A flag with a `--no-` flag, which has a variable of its own: `OXENBATCH_NO_CANARY=1` is `--no-canary`."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """What the environment says, in either variable; the first one wins."""
        said = super().resolve_envvar_value(ctx)
        opposite = os.environ.get(_variable(self.secondary_opts[0]))
        if said is not None or not opposite:
            return said
        return "false" if click.BOOL.convert(opposite, self, ctx) else None


def _variable(flag: str) -> str:
    return "OXENBATCH_" + flag.removeprefix("--").upper().replace("-", "_")


def option(*names: str, **kwargs: Any) -> Callable[[Any], Any]:
    """A click option that `OXENBATCH_<FLAG>` sets as well."""
    flag = max((name.split("/")[0] for name in names if name.startswith("--")), key=len)
    also = kwargs.pop("also_envvar", ())
    if any("/" in name for name in names):
        kwargs["cls"] = Switch
    return click.option(*names, envvar=[_variable(flag), *also], **kwargs)


def manifest_options(command: Any) -> Any:
    """How a manifest is read, for `run` and for `check`."""
    from oxenbatch.cli.completion import complete_model  # noqa: PLC0415 - it imports us

    for one in reversed((
        option("--model", shell_complete=complete_model,
               help="The model for rows that name none; over the manifest's defaults."),
        option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE",
               help="A parameter for every row; a row's own wins."),
        option("-n", "--limit", type=click.IntRange(1), help="Only the first N rows."),
        option("--date", type=click.DateTime(["%Y-%m-%d"]), help="The date that {date} stands for. [today]"),
        option("--extra-columns", type=click.Choice(["error", "metadata", "ignore"]), default="error",
               show_default=True, help="Columns that are neither ours nor the model's."),
        option("--changed", type=click.Choice(["stop", "rerun", "keep"]), default="stop", show_default=True,
               help="Rows whose id stayed and whose request changed after it was sent."),
        option("--max-rows", type=click.IntRange(1), default=1_000_000, show_default=True,
               help="More rows than this are a mistake: nothing is sent."),
        option("--format", "form", type=click.Choice(["yaml", "csv", "tsv", "jsonl", "json", "txt"]),
               help="How the manifest is written, where its name does not say (`-` is standard input)."),
    )):  # fmt: skip
        command = one(command)
    return command


def overrides_of(options: Mapping[str, Any]) -> Overrides:
    """What `manifest_options` say over the manifest."""
    from oxenbatch.manifest import Overrides, parse_parameter  # noqa: PLC0415 - not for --help

    return Overrides(
        model=options["model"],
        parameters=dict(parse_parameter(text) for text in options["params"]),
        limit=options["limit"],
        extra_columns=options["extra_columns"],
        max_rows=options["max_rows"],
        format=options["form"],
    )


def date_of(options: Mapping[str, Any]) -> dt.date:
    """What {date} stands for."""
    chosen = options["date"]
    return chosen.date() if chosen else dt.datetime.now().astimezone().date()


def screen_width() -> int | None:
    """How many cells wide the terminal is that stdout goes to; None where it goes elsewhere, and nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def json_line(value: Any) -> str:
    """The value as one line of JSON that no terminal and no line reader obeys: what does not print is escaped."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def dollars(amount: Decimal) -> str:
    """At least two places, and as many as the amount needs."""
    exact = amount.normalize()
    places = max(2, -int(exact.as_tuple().exponent))
    return f"{amount:.{places}f}"


def plural(count: int, noun: str) -> str:
    """`1 sample`, `2 samples`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
