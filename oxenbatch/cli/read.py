"""The commands that look closely: `ls` at a batch's samples, `show` at one job."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, Final

import click

from oxenbatch.cli.access import batch_argument, jobs_named, short_name, the_ledger_of
from oxenbatch.cli.completion import complete_job, complete_model
from oxenbatch.cli.options import json_line, screen_width
from oxenbatch.cli.tables import Column, table
from oxenbatch.errors import printable
from oxenbatch.jobs import JobState
from oxenbatch.ledger import reads
from oxenbatch.ledger.book import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTED: Final = (
    Column("JOB", least=12),
    Column("SAMPLE", right=True, gives_way=3),
    Column("STATE"),
    Column("MODEL", least=12, gives_way=2),
    Column("COST", right=True, gives_way=4),
    Column("SIZE", gives_way=5),
    Column("FILE", least=16),
    Column("PROMPT", least=16, gives_way=1),
)


@click.command(short_help="The batch's samples as a table.")
@batch_argument("batch", metavar="BATCH")
@click.option("--state", type=click.Choice([str(state) for state in JobState]), help="Only samples in this state.")
@click.option("--model", help="Only samples of this model.", shell_complete=complete_model)
@click.option("--limit", type=click.IntRange(1), help="At most so many lines.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def ls(batch: str, *, state: str | None, model: str | None, limit: int | None, as_json: bool) -> None:
    """List the batch's samples in the manifest's order, one line each.

    On a terminal the table is trimmed to its width; in a pipe or a file it is whole. Where there is no file, its
    column says why. Of dated batches the newest is listed.

    \b
    Examples:
      oxenbatch ls out/ocean-loops --state failed
      oxenbatch ls out/ocean-loops --json | jq -r .file
    """
    with Ledger.read(the_ledger_of(batch)) as ledger:
        rows = reads.listing(ledger, state=state, model=model, limit=limit)
        if as_json:
            for row in rows:
                click.echo(json_line(row))
            return
        for line in table(LISTED, map(_cells, rows), screen_width()):
            click.echo(line)


def _cells(row: dict[str, Any]) -> list[str]:
    cost = f"${row['cost']}" if row["cost"] is not None else ""
    size = f"{row['width']}×{row['height']}" if row["width"] else ""
    size += f" {row['seconds']:.3g} s" if row["seconds"] else ""
    what = row["file"] or (f"({row['error']})" if row["error"] else "")
    cells = (short_name(row["job"]), row["sample"], row["state"], row["model"], cost, size.strip(), what, row["prompt"])
    return [printable(cell, 10_000) for cell in cells]


@click.command(short_help="Everything about one job.")
@batch_argument("batch", metavar="BATCH")
@click.argument("job", metavar="JOB", shell_complete=complete_job)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(batch: str, job: str, *, as_json: bool) -> None:
    """Show one job: its request, its attempts, how its states came about, its files.

    JOB is its id, the beginning of its key, a generation_id, or a file's name (or a part of it).

    \b
    Example:
      oxenbatch show out/ocean-loops hero
    """
    with Ledger.read(the_ledger_of(batch)) as ledger:
        story = reads.story(ledger, jobs_named(ledger, (job,))[0])
    if as_json:
        click.echo(json_line(vars_of(story)))
        return
    width = screen_width()
    for line in _lines(story, width):
        click.echo(line)


def vars_of(story: reads.Story) -> dict[str, Any]:
    """The story as plain JSON values."""
    return {
        "job": story.job,
        "samples": story.samples,
        "submissions": story.submissions,
        "generations": story.generations,
        "events": story.events,
    }


def _lines(story: reads.Story, width: int | None) -> Iterator[str]:
    job = story.job
    yield f"{printable(job['row_id'] or job['key'], 80)}  ({printable(job['source'])})"
    metadata = {f"meta.{name}": value for name, value in job["metadata"].items()}
    yield from _fields({"model": job["model"], **job["parameters"], **job["written"], **metadata})
    for sample in story.samples:
        yield ""
        file = f", {printable(sample['file'])}" if sample["file"] else ""
        tries = f", try {sample['attempts']} of {sample['attempts_allowed']}" if sample["attempts"] > 1 else ""
        yield f"  sample {sample['number']}: {printable(sample['state'])}{file}{tries}"
        if sample["error"]:
            yield f"    {printable(sample['error'], 1000)}"
        for one in story.generations:
            if one["sample_id"] == sample["id"]:
                yield f"  generation {printable(one['generation_id'])}: {_generation_words(one)}"
        events = [event for event in story.events if event["sample_id"] == sample["id"]]
        rows = [[_when(e["at"]), printable(f"{e['was']} -> {e['became']}"), printable(e["event"]),
                 printable(e["note"] or "", 500)] for e in events]  # fmt: skip
        lines = table(EVENTS, rows, None if width is None else max(20, width - 2))
        next(lines)  # what stands in each column is plain
        for line in lines:
            yield f"  {line}"


EVENTS: Final = (Column("", gives_way=1), Column(""), Column("", gives_way=2), Column("", least=20))


def _fields(fields: dict[str, Any]) -> Iterator[str]:
    longest = max((len(printable(name, 30)) for name in fields), default=0)
    for name, value in fields.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"  {printable(name, 30):<{longest}}  {printable(shown, 2000)}"


def _generation_words(one: dict[str, Any]) -> str:
    words = [printable(one["state"])]
    words += [f"${printable(one['cost'], 40)}"] if one["cost"] else []
    words += [f"{one['width']}×{one['height']}"] if one["width"] else []
    words += [f"{one['seconds']:.3g} s long"] if one["seconds"] else []
    if one["completed_at"] and one["accepted_at"]:
        words.append(f"took {max(0.0, one['completed_at'] - one['accepted_at']):.0f} s")
    words += [printable(one["error"], 500)] if one["error"] else []
    words += [f"taken from {printable(one['origin'])}"] if one["origin"] else []
    return ", ".join(words)


def _when(at: float) -> str:
    try:
        return dt.datetime.fromtimestamp(at).astimezone().isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):  # no time that a calendar has
        return "at no known time"
