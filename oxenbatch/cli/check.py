"""The commands that hold a batch against the truth: `audit` (the hub's) and `verify` (the disk's)."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from oxenbatch.cli.access import access_to, batch_argument, hub_options, the_ledger_of, the_ledgers_of
from oxenbatch.cli.options import dollars, json_line, plural
from oxenbatch.errors import printable
from oxenbatch.ledger import reads
from oxenbatch.ledger.book import Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from oxenbatch.access import Access
    from oxenbatch.audit import Audit


@click.command(short_help="Hold the ledger against the hub's own history.")
@batch_argument("batch", metavar="BATCH")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@hub_options
def audit(batch: str, *, as_json: bool, hub: str | None, sandbox: bool) -> None:
    """Hold the ledger against everything that the hub has made since the batch began.

    For the morning: was anything paid twice, is anything at the hub that the ledger does not know, does the hub know
    all that the ledger has, do the charges agree, and is no send held? Exit code 0: yes; 4: a person should look.

    \b
    Example:
      oxenbatch audit out/ocean-loops
    """
    paths = the_ledgers_of(batch)
    with access_to(paths[0], hub=hub, sandbox=sandbox) as access:
        found = asyncio.run(_audit(paths, access))
    if as_json:
        click.echo(json_line(asdict(found) | {"clean": found.is_clean}))
    else:
        _print_audit(found)
    sys.exit(0 if found.is_clean else 4)


async def _audit(paths: list[Path], access: Access) -> Audit:
    import contextlib  # noqa: PLC0415
    import time  # noqa: PLC0415

    from oxenbatch import audit as auditing  # noqa: PLC0415 - not for --help
    from oxenbatch.account import Account, read_limits  # noqa: PLC0415
    from oxenbatch.hub import Hub  # noqa: PLC0415

    async with Hub(access.url, access.key) as hub:
        with contextlib.ExitStack() as opened:
            ledgers = [opened.enter_context(Ledger.open(path)) for path in paths]
            account = opened.enter_context(
                Account(access.name, paths[0], at=time.time(), limits=read_limits(), runs=False)
            )
            return await auditing.audit_all(ledgers, hub, siblings=account.siblings())


def _print_audit(found: Audit) -> None:
    click.echo(f"generations   {found.known} in the ledger, {found.found} of them in the hub's history")
    click.echo(f"charged       ${dollars(found.charged)} by the hub, ${dollars(found.recorded)} in the ledger")
    for one in found.duplicates:
        click.echo(f"duplicate     {printable(one['job'])}: {one['charged']} charged for {one['wanted']} wanted")
    for one in found.orphans:
        click.echo(f"orphan        {one['generation_id']} ({printable(one['status'])}): {printable(one['prompt'], 60)}")
    for generation_id in found.missing:
        click.echo(f"missing       {printable(generation_id)}: in the ledger, and not in the hub's history")
    if found.held:
        click.echo(f"held          {plural(found.held, 'sample')}: `oxenbatch resolve` lists them, and settles them")
    if found.others:
        click.echo(f"others        {plural(found.others, 'generation')} of other programs in the same time")
    click.echo("all is well: nothing paid twice, nothing lost" if found.is_clean else "a person should look at this")


@click.command(short_help="Hash the files anew and compare.")
@batch_argument("batch", metavar="BATCH")
@click.option("--repair", is_flag=True, help="Fetch missing and damaged files again, for nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@hub_options
def verify(batch: str, *, repair: bool, as_json: bool, hub: str | None, sandbox: bool) -> None:
    """Hash every file of the batch anew and compare it with the ledger.

    For the disk that made a noise, and before a dataset is published. Exit code 0: every file is as it was; 74: some
    are not, and could not be repaired.

    \b
    Examples:
      oxenbatch verify out/ocean-loops
      oxenbatch verify out/ocean-loops --repair
    """
    from oxenbatch.account import folder_of  # noqa: PLC0415 - not for --help
    from oxenbatch.batch import fetch_lost  # noqa: PLC0415
    from oxenbatch.folder import check_files  # noqa: PLC0415

    path = the_ledger_of(batch)
    with Ledger.open(path) as ledger:
        files = sum(1 for _ in reads.hashes(ledger))
        absent = sum(reads.counts(ledger).values()) - files
        damage = check_files(ledger, folder_of(path))
    left = damage
    if damage and repair:
        with access_to(path, hub=hub, sandbox=sandbox) as access:
            fetch_lost(path, damage, access)
        with Ledger.open(path) as ledger:
            left = check_files(ledger, folder_of(path))
    _tell(damage, left, files, absent, as_json=as_json, repair=repair)
    sys.exit(74 if left else 0)


def _tell(damage: Any, left: Any, files: int, absent: int, *, as_json: bool, repair: bool) -> None:
    if as_json:
        told = {"files": files, "damaged": [asdict(one) for one in damage], "left": len(left)}
        click.echo(json_line(told))
        return
    for one in damage:
        click.echo(f"{one.what:<9} {printable(one.file)}")
    if repair and damage:
        click.echo(f"{plural(len(damage) - len(left), 'file')} repaired")
    are = "is" if files == 1 else "are"
    more = f"; {absent} more are not on disk yet" if absent > 0 else ""
    click.echo(f"{files - len(left)} of {plural(files, 'file')} {are} as the ledger says{more}")
    if left and not repair:
        click.echo("`oxenbatch verify --repair` fetches them again, for nothing", err=True)
