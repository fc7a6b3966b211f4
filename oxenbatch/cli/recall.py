"""The command that goes on with a run, as the ledger remembers it: for the morning, and for ten days later."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from oxenbatch.cli.access import origin_named
from oxenbatch.cli.options import Dollars, Duration

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator

SECRET: Final = frozenset({"notify", "heartbeat"})
"""Addresses that work like a key: they are never written down."""
ONCE: Final = frozenset({
    "quiet", "verbose", "progress", "log_format", "log_file", "as_json", "metrics_file",  # how it talked
    "date", "rebuild", "retry_failed", "changed", "limit_sends", "deadline", "no_wait", "fail_fast", "dry_run",
    "on_unknown", "yes", "confirm_above", "offline",  # meant for that one time
})  # fmt: skip


def command_of(ctx: click.Context, manifest: str, date: dt.date | None) -> str:
    """What to type to go on with the batch of this manifest, of this date where it has one."""
    words = ["oxenbatch", "run", manifest]
    for parameter in ctx.command.params:
        name = parameter.name or ""
        said = ctx.get_parameter_source(name) in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
        if isinstance(parameter, click.Option) and said and name not in ONCE | SECRET:
            value = ctx.params[name]
            words += _words_of(parameter, origin_named(value) if name == "hub" else value)  # no password in it
    if date is not None:
        words += ["--date", date.isoformat()]
    return shlex.join(words)


def _words_of(option: click.Option, value: Any) -> Iterator[str]:
    if value is None:
        return
    flag = max(option.opts, key=len)
    if option.is_flag:
        yield flag if value else (max(option.secondary_opts, key=len) if option.secondary_opts else flag)
        return
    for one in value if option.multiple else (value,):
        yield flag
        yield (
            f"{one:g}s"
            if isinstance(option.type, Duration)
            else (f"{one:f}" if isinstance(option.type, Dollars) else str(one))
        )
