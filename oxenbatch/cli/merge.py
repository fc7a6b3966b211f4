"""`oxenbatch merge`: shards become one batch."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from oxenbatch.cli.access import ledgers_of
from oxenbatch.cli.options import dollars, json_line, plural
from oxenbatch.errors import printable

LOST_SHOWN = 20


@click.command(short_help="Make one batch of shards.")
@click.argument("batches", nargs=-1, required=True, metavar="BATCH...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The merged batch's folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def merge(batches: tuple[str, ...], *, output: Path, as_json: bool) -> None:
    """Make one batch of several: their ledgers, their files, their money.

    BATCH is an output folder, or a folder of them, such as the `shards` that `run --shard` and `run --dask` make.
    Files are linked where the disk allows it, else copied, and checked either way. Merging again brings what the
    shards have done since. Exit code 74: all is merged but for files that a shard has no longer; `oxenbatch run`
    fetches them again, for nothing.

    \b
    Example:
      oxenbatch merge out/ocean-loops/shards -o out/ocean-loops
    """
    from oxenbatch.merge import merge as merging  # noqa: PLC0415 - not for --help

    merged = merging([path for name in batches for path in ledgers_of(name)], output, at=time.time())
    if as_json:
        told = {"folder": str(output), "parts": merged.parts, "jobs": merged.jobs, "cost": str(merged.charged)}
        click.echo(json_line(told | {"files": dict(merged.files), "lost": merged.lost}))
    else:
        ways = ", ".join(f"{count} {how}" for how, count in sorted(merged.files.items()))
        click.echo(
            f"{printable(output)}: {plural(merged.parts, 'batch').replace('batchs', 'batches')} merged,"
            f" {plural(merged.jobs, 'job')}, {plural(merged.files.total(), 'file')}{f' ({ways})' if ways else ''},"
            f" ${dollars(merged.charged)}"
        )
    for path in merged.lost[:LOST_SHOWN]:
        click.echo(f"missing or damaged: {printable(path)}", err=True)
    if merged.lost:
        click.echo(f"oxenbatch: {plural(len(merged.lost), 'file')} not merged; a run fetches what is missing", err=True)
    sys.exit(74 if merged.lost else 0)
