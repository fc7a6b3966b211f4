"""The commands by which a person decides: `retry`, `cancel`, `resolve`, `reject`."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from oxenbatch.cli.access import access_to, batch_argument, hub_options, the_ledgers_of
from oxenbatch.cli.completion import complete_job
from oxenbatch.cli.options import json_line, plural
from oxenbatch.errors import ConfigProblem, UsageProblem, printable
from oxenbatch.jobs import JobState
from oxenbatch.ledger import decisions
from oxenbatch.ledger.book import Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from oxenbatch.access import Access
    from oxenbatch.cli.ground import Ground

ATTEMPTS = click.option(
    "--attempts", type=click.IntRange(1, 100), default=3, show_default=True, help="Tries that each of them gets."
)
JOBS = click.option("--job", "jobs", multiple=True, shell_complete=complete_job,
                    help="Only this job: its id, key, generation_id or file.")  # fmt: skip


@click.command(short_help="Put failed samples back to pending.")
@batch_argument("batch", metavar="BATCH")
@click.option("--state", type=click.Choice(["failed", "cancelled"]), default="failed", show_default=True,
              help="Which samples.")  # fmt: skip
@JOBS
@click.option("--error", default="", metavar="TEXT", help="Only samples whose error holds this text.")
@ATTEMPTS
def retry(batch: str, *, state: str, jobs: tuple[str, ...], error: str, attempts: int) -> None:
    """Put failed samples back to pending; the next `run` sends them.

    For the morning after: the model was overloaded at night, and everything that it failed is to be tried again.

    \b
    Examples:
      oxenbatch retry out/ocean-loops
      oxenbatch retry out/ocean-loops --error overloaded
    """
    from oxenbatch.cli.ground import ground_of  # noqa: PLC0415 - not for --help

    count = 0
    with ground_of(batch) as ground:
        for path, some in ground.chosen(jobs):
            with Ledger.open(path) as ledger:
                chosen = decisions.choose(ledger, [JobState(state)], jobs=some, error=error)
                count += decisions.retry(ledger, chosen, attempts=attempts, at=time.time())
    click.echo(f"{plural(count, 'sample')} put back; `oxenbatch run` sends them" if count else "nothing to put back")


@click.command(short_help="Cancel at the hub what is active, and stop the rest being sent.")
@batch_argument("batch", metavar="BATCH")
@JOBS
@hub_options
def cancel(batch: str, *, jobs: tuple[str, ...], hub: str | None, sandbox: bool) -> None:
    """Cancel what is active at the hub, and what is not sent yet.

    For the wrong prompt, noticed a minute too late. What the hub has finished stays yours and is downloaded by the
    next `run`; `oxenbatch retry --state cancelled` takes it back.

    \b
    Examples:
      oxenbatch cancel out/ocean-loops
      oxenbatch cancel out/ocean-loops --job hero
    """
    from oxenbatch.cli.ground import ground_of  # noqa: PLC0415 - not for --help

    unsent, open_sends = 0, 0
    ended: Counter[str] = Counter()
    with ground_of(batch) as ground:
        active: dict[Path, list[int]] = {}
        for path, some in ground.chosen(jobs):
            with Ledger.open(path) as ledger:
                due = decisions.choose(ledger, [JobState.PENDING], jobs=some)
                unsent += decisions.cancel_unsent(ledger, due, at=time.time())
                active[path] = decisions.choose(ledger, [JobState.QUEUED, JobState.PROCESSING], jobs=some)
                open_sends += len(decisions.choose(ledger, [JobState.SUBMITTING, JobState.UNCERTAIN], jobs=some))
        for path, samples in active.items():
            if samples:
                with access_to(path, hub=hub, sandbox=sandbox) as access:
                    ended.update(asyncio.run(_cancel_at_hub(path, access, samples)))
    words = [f"{unsent} not sent"] if unsent else []
    words += [f"{count} {status} at the hub" for status, count in sorted(ended.items())]
    click.echo("cancelled: " + (", ".join(words) or "nothing"))
    if open_sends:
        click.echo(
            f"{plural(open_sends, 'sample')} just being sent or not accounted for: the next `run` finds out, and"
            " `oxenbatch cancel` can be called again then",
            err=True,
        )


async def _cancel_at_hub(path: Path, access: Access, samples: list[int]) -> dict[str, int]:
    from oxenbatch.hub import Hub, NotFound  # noqa: PLC0415 - not for --help
    from oxenbatch.ledger import news, reads  # noqa: PLC0415

    ended: dict[str, int] = {}
    async with Hub(access.url, access.key) as hub:
        with Ledger.open(path) as ledger:
            for generation_id in reads.generations_of(ledger, samples):
                try:
                    await hub.cancel(generation_id)
                    after = await hub.generation(generation_id)
                except NotFound:
                    ended["unknown"] = ended.get("unknown", 0) + 1
                    continue
                news.apply(ledger, [after], at=hub.time.now())
                ended[after.status] = ended.get(after.status, 0) + 1
    return ended


@click.command(short_help="Settle held sends.")
@batch_argument("batch", metavar="BATCH")
@click.option("--adopt", metavar="ID", help="This generation at the hub is the held send's.")
@click.option("--resubmit", is_flag=True, help="Send it again: the hub has not made it, or paying twice is all right.")
@click.option("--drop", is_flag=True, help="Give it up.")
@JOBS
@click.option("--json", "as_json", is_flag=True, help="List held sends as JSON, one object a line.")
@hub_options
def resolve(batch: str, **options: Any) -> None:
    """List the sends about which nobody can decide but you, or settle them.

    A send is held when it may have landed and the hub's list does not say: look at the hub's own page for a
    generation of that prompt and time. If there is one, adopt it; if not, resubmit.

    \b
    Examples:
      oxenbatch resolve out/ocean-loops
      oxenbatch resolve out/ocean-loops --job hero --adopt 0b1c2d3e-0000-4000-8000-000000000001
      oxenbatch resolve out/ocean-loops --resubmit
    """
    chosen = [name for name in ("adopt", "resubmit", "drop") if options[name]]
    if len(chosen) > 1:
        raise click.UsageError("one of --adopt, --resubmit and --drop, not several")
    from oxenbatch.cli.ground import Ground, ground_of  # noqa: PLC0415 - not for --help

    if not chosen:  # only looked at, so whoever works on it may go on
        looked_at = Ground(the_ledgers_of(batch))
        _list_held([one for _, one in _held(looked_at, options["jobs"])], as_json=options["as_json"])
        return
    with ground_of(batch) as ground:
        held = _held(ground, options["jobs"])
        if not held:
            click.echo("nothing is held")
            return
        if options["adopt"]:
            _adopt(ground.ledgers, held, options)
            return
        for path, one in held:
            with Ledger.open(path) as ledger:
                (decisions.resubmit if options["resubmit"] else decisions.drop)(ledger, one, at=time.time())
    done = "put back; `oxenbatch run` sends them" if options["resubmit"] else "given up"
    click.echo(f"{plural(len(held), 'sample')} {done}")


def _held(ground: Ground, jobs: tuple[str, ...]) -> list[tuple[Path, decisions.Held]]:
    held: list[tuple[Path, decisions.Held]] = []
    for path, some in ground.chosen(jobs):
        with Ledger.open(path) as ledger:
            held += [(path, one) for one in decisions.held(ledger, jobs=some)]
    return held


def _list_held(held: list[decisions.Held], *, as_json: bool) -> None:
    for one in held:
        if as_json:
            click.echo(json_line({name: getattr(one, name) for name in one.__slots__}))
            continue
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.intent_at))
        click.echo(f"{printable(one.job, 60)} sample {one.number}, sent {at}, {printable(one.model)}")
        click.echo(f"  {printable(one.prompt, 100)}")
        click.echo(f"  {printable(one.why)}")
    if not held and not as_json:
        click.echo("nothing is held")


def _adopt(ledgers: list[Path], held: list[tuple[Path, decisions.Held]], options: dict[str, Any]) -> None:
    from oxenbatch.echo import echoes  # noqa: PLC0415
    from oxenbatch.hub import Hub, NotFound  # noqa: PLC0415 - not for --help
    from oxenbatch.ledger import sends  # noqa: PLC0415
    from oxenbatch.wire import as_uuid  # noqa: PLC0415

    generation_id = as_uuid(options["adopt"])
    if generation_id is None:
        raise UsageProblem(f"{printable(options['adopt'])} is no generation_id")
    if len(held) > 1:
        raise UsageProblem(f"{len(held)} samples are held: say which one with --job")
    ((path, one),) = held
    for other in ledgers:
        with Ledger.open(other) as ledger:
            if one.generation_id is None and sends.owned(ledger, [generation_id]):
                raise UsageProblem(f"{generation_id} is another sample's of this batch")
    if one.generation_id not in (None, generation_id):
        raise UsageProblem(f"the hub had given {one.generation_id} for this sample; only that one can be adopted")

    async def ask(access: Access) -> Any:
        async with Hub(access.url, access.key) as hub:
            return await hub.generation(generation_id)

    with access_to(path, hub=options["hub"], sandbox=options["sandbox"]) as access:
        try:
            generation = asyncio.run(ask(access))
        except NotFound as error:
            raise UsageProblem(f"the hub knows no generation {generation_id}") from error
        _refuse_siblings(access, path, generation_id)
    with Ledger.open(path) as ledger:
        if echoes(generation, one.model, sends.sent_parameters(ledger, one.sample_id)) is False:
            raise UsageProblem(f"{generation_id} was made by another request than this sample's")
        decisions.adopt(ledger, one, generation_id, at=time.time())
    click.echo(f"{printable(one.job, 60)} sample {one.number} is {generation_id}; `oxenbatch run` fetches it")


def _refuse_siblings(access: Access, path: Path, generation_id: str) -> None:
    """A generation that another batch of this user has is not this one's: it would be counted, and fetched, twice."""
    from oxenbatch.account import Account, AccountLimits  # noqa: PLC0415 - not for --help
    from oxenbatch.ledger import sends  # noqa: PLC0415

    try:
        account = Account(access.name, path, at=time.time(), limits=AccountLimits(), runs=False)
    except ConfigProblem:
        return  # no register, so no other batch is known
    with account:
        others = account.siblings()
    for other in others:
        if sends.elsewhere([other], [generation_id], ()).owned:
            raise UsageProblem(f"{generation_id} is another batch's: {printable(other)} has it")


@click.command(short_help="Set a result aside and make it anew.")
@batch_argument("batch", metavar="BATCH")
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True, shell_complete=complete_job)
@ATTEMPTS
def reject(batch: str, *, jobs: tuple[str, ...], attempts: int) -> None:
    """Set the results of these jobs aside, and put their samples back to pending.

    For the picture with six fingers. The file is kept in the folder `set-aside`; the next `run` makes (and pays for)
    another. A row with `seed: auto` gets a new seed; a row with a seed of its own is sent as it was.

    \b
    Example:
      oxenbatch reject out/ocean-loops hero
    """
    from oxenbatch.account import folder_of  # noqa: PLC0415 - not for --help
    from oxenbatch.cli.ground import ground_of  # noqa: PLC0415 - not for --help
    from oxenbatch.folder import move_aside  # noqa: PLC0415 - not for --help

    count = 0
    with ground_of(batch, alone=True) as ground:
        files = {name: found for name in jobs if (found := ground.sample_of_file(name))}
        chosen: dict[Path, set[int]] = {}
        for path, sample in files.values():
            chosen.setdefault(path, set()).add(sample)
        if by_job := tuple(name for name in jobs if name not in files):
            for path, some in ground.chosen(by_job):
                with Ledger.open(path) as ledger:
                    results = decisions.choose(ledger, [JobState.DOWNLOADED, JobState.UNFETCHABLE], jobs=some)
                chosen.setdefault(path, set()).update(results)
        for path, samples in chosen.items():
            with Ledger.open(path) as ledger, ledger.immediate():
                moves = decisions.set_aside(ledger, sorted(samples), attempts=attempts, at=time.time())
                move_aside(folder_of(path), moves)
            count += len(samples)
    click.echo(
        f"{plural(count, 'result')} set aside; `oxenbatch run` makes them anew" if count else "nothing to reject"
    )
