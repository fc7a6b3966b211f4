"""The commands that only read: `status`, `ls`, `show`."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from oxenbatch.cli.access import jobs_named, ledgers_of, the_ledger_of
from oxenbatch.cli.options import dollars
from oxenbatch.cli.progress import Tally
from oxenbatch.errors import MachineError, printable
from oxenbatch.jobs import JobState
from oxenbatch.ledger import reads
from oxenbatch.ledger.book import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@click.command(short_help="Counts by state, cost so far, and why things failed.")
@click.argument("batches", nargs=-1, required=True, metavar="BATCH...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def status(batches: tuple[str, ...], *, as_json: bool) -> None:
    """Where each batch stands: counts by state, what it has cost, and why samples failed, grouped.

    BATCH is an output folder, a folder of them, or a manifest.

    \b
    Example:
      oxenbatch status out/ocean-loops
    """
    told = [_status_of(path) for name in batches for path in ledgers_of(name)]
    total = {state: sum(one["states"][state] for one in told) for state in map(str, JobState)}
    if as_json:
        click.echo(json.dumps({"batches": told, "states": total, "cost": str(sum_dollars(told))}, ensure_ascii=False))
        return
    for one in told:
        _print_status(one)
    if len(told) > 1:
        tally = Tally.of({JobState(state): count for state, count in total.items()})
        click.echo(f"all {len(told)} batches: {tally}; ${dollars(sum_dollars(told))} charged")


def why_not(state: str) -> str:
    """What is said of a sample that has no words of its own."""
    return "being looked for at the hub" if state == JobState.UNCERTAIN else "no reason given"


def sum_dollars(told: list[dict[str, Any]]) -> Decimal:
    """The exact sum of what the batches cost."""
    return sum((Decimal(one["cost"]) for one in told), Decimal(0))


def _status_of(path: Path) -> dict[str, Any]:
    with Ledger.open(path) as ledger:
        batch = reads.batch(ledger)
        if batch is None:
            raise MachineError(f"{printable(path)}: no run has begun here")
        run = reads.last_run(ledger)
        return {
            "folder": str(path.parent),
            "name": batch.name,
            "hub": batch.hub,
            "created_on": batch.created_on,
            "states": {str(state): count for state, count in reads.counts(ledger).items()},
            "cost": str(reads.charged(ledger)),
            "committed": str(batch.committed),
            "failures": [
                {"state": f.state, "error": f.error, "count": f.count, "example": f.example}
                for f in reads.failures(ledger)
            ],
            "last_run": run and {name: run[name] for name in ("started_at", "ended_at", "exit_code", "sends", "pid")},
        }


def _print_status(one: dict[str, Any]) -> None:
    click.echo(f"{printable(one['folder'])} ({printable(one['name'])}, on {printable(one['hub'])})")
    for state, count in one["states"].items():
        if count:
            click.echo(f"  {state:<12}{count:>9}")
    cost, committed = Decimal(one["cost"]), Decimal(one["committed"])
    more = f", ${dollars(committed)} with what is under way" if committed != cost else ""
    click.echo(f"  {'charged' if '://' in one['hub'] else 'would cost':<12} ${dollars(cost)}{more}")
    for failure in one["failures"]:
        click.echo(
            f"  {failure['state']}: {failure['count']} × {printable(failure['error'] or why_not(failure['state']))}"
            f"  (for instance {printable(failure['example'], 60)})"
        )


def failure_lines(ledger_path: Path, folder: Path) -> Iterator[str]:
    """Why samples are not on disk, a line a reason, for the end of a run."""
    with Ledger.open(ledger_path) as ledger:
        found = reads.failures(ledger, 10)
    for failure in found:
        example = printable(failure.example, 40)
        yield (
            f"{failure.count} {failure.state}: {printable(failure.error or why_not(failure.state))}"
            f"  (oxenbatch show {printable(folder)} {example})"
        )


@click.command(short_help="The batch's samples as a table.")
@click.argument("batch", metavar="BATCH")
@click.option("--state", type=click.Choice([str(state) for state in JobState]), help="Only samples in this state.")
@click.option("--model", help="Only samples of this model.")
@click.option("--limit", type=click.IntRange(1), help="At most so many lines.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def ls(batch: str, *, state: str | None, model: str | None, limit: int | None, as_json: bool) -> None:
    """List the batch's samples in the manifest's order, one line each.

    \b
    Example:
      oxenbatch ls out/ocean-loops --state failed
      oxenbatch ls out/ocean-loops --json | jq -r .file
    """
    with Ledger.open(the_ledger_of(batch)) as ledger:
        for row in reads.listing(ledger, state=state, model=model, limit=limit):
            if as_json:
                click.echo(json.dumps(row, ensure_ascii=False))
                continue
            what = row["file"] or row["error"] or ""
            click.echo(
                f"{row['state']:<11} {printable(row['job'], 24):<24} {row['sample']:>3}"
                f"  {printable(row['model'], 32):<32}  {printable(what or row['prompt'], 60)}"
            )


@click.command(short_help="Everything about one job.")
@click.argument("batch", metavar="BATCH")
@click.argument("job", metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(batch: str, job: str, *, as_json: bool) -> None:
    """Show one job: its request, its attempts, how its states came about, its files.

    JOB is its id, the beginning of its key, a generation_id, or a file's name (or a part of it).

    \b
    Example:
      oxenbatch show out/ocean-loops hero
    """
    with Ledger.open(the_ledger_of(batch)) as ledger:
        story = reads.story(ledger, jobs_named(ledger, (job,))[0])
    if as_json:
        click.echo(json.dumps(vars_of(story), ensure_ascii=False))
        return
    _print_story(story)


def vars_of(story: reads.Story) -> dict[str, Any]:
    """The story as plain JSON values."""
    return {
        "job": story.job,
        "samples": story.samples,
        "submissions": story.submissions,
        "generations": story.generations,
        "events": story.events,
    }


def _print_story(story: reads.Story) -> None:
    job = story.job
    click.echo(f"{printable(job['row_id'] or job['key'], 80)}  ({printable(job['source'])})")
    click.echo(f"  model       {printable(job['model'])}")
    for name, value in job["parameters"].items():
        click.echo(f"  {printable(name):<11} {printable(value if isinstance(value, str) else json.dumps(value), 2000)}")
    for sample in story.samples:
        click.echo(
            f"  sample {sample['number']}: {sample['state']}" + (f", {sample['file']}" if sample["file"] else "")
        )
        if sample["error"]:
            click.echo(f"    {printable(sample['error'], 1000)}")
    for generation in story.generations:
        cost = f", ${generation['cost']}" if generation["cost"] else ""
        taken = f", taken from {printable(generation['origin'])}" if generation["origin"] else ""
        click.echo(f"  generation {generation['generation_id']}: {generation['state']}{cost}{taken}")
    for event in story.events:
        note = f"  {printable(event['note'], 200)}" if event["note"] else ""
        click.echo(f"  {_when(event['at'])}  {event['was']} -> {event['became']} ({event['event']}){note}")


def _when(at: float) -> str:
    return dt.datetime.fromtimestamp(at).astimezone().isoformat(" ", "seconds")
