"""`oxenbatch status`: where batches stand, why things failed, and what to do next."""

from __future__ import annotations

import datetime as dt
import shlex
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click

from oxenbatch import advice
from oxenbatch.account import folder_of
from oxenbatch.cli.access import batch_argument, ledgers_of, short_name
from oxenbatch.cli.oddities import oddities_of, oddity_lines
from oxenbatch.cli.options import dollars, json_line, option, plural, screen_width
from oxenbatch.cli.tables import Column, fold, table
from oxenbatch.cli.view import Tally, cap_of_run, span
from oxenbatch.errors import MachineError, OxenbatchError, printable
from oxenbatch.jobs import JobState
from oxenbatch.ledger import reads, runs
from oxenbatch.ledger.book import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from oxenbatch.cli.progress import Style

RUN_TOLD: Final = ("id", "started_at", "ended_at", "exit_code", "sends", "pid", "host", "version", "command")
FOLDED: Final = 6  # lines that a sentence may take on a narrow terminal
REASONS_SHOWN: Final = 3
NEXT_SAID: Final = 3
STEPS_SHOWN: Final = 8


@click.command(short_help="Counts by state, cost so far, why things failed, and what to do next.")
@batch_argument("batches", nargs=-1, required=True, metavar="BATCH...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; with --watch, one a line.")
@click.option("--watch", "-w", is_flag=True, help="Show the run that is under way, until it ends.")
@option("--progress", type=click.Choice(["auto", "bar", "plain", "none"]), default="auto", show_default=True,
        help="How --watch shows it; plain: a line at most every 30 s, for screen readers and logs.")  # fmt: skip
def status(batches: tuple[str, ...], *, as_json: bool, watch: bool, progress: str) -> None:
    """Where each batch stands: counts by state, what it has cost, why samples failed, and what to do next.

    BATCH is an output folder, a folder of them, a manifest or a ledger file. It only reads: a run that is under way
    is not disturbed.

    \b
    Examples:
      oxenbatch status out/ocean-loops
      oxenbatch status out/nightly --watch
    """
    paths = [path for name in batches for path in ledgers_of(name)]
    if watch:
        from oxenbatch.cli.watch import watch as follow  # noqa: PLC0415 - not for --help

        went_on = follow(paths, style=cast("Style", progress), as_json=as_json)
        if went_on and as_json:
            return
        if not went_on:
            click.echo("no run is under way", err=True)
    told = list(_told(paths))
    total = {state: sum(one["states"][state] for one in told) for state in map(str, JobState)}
    if as_json:
        click.echo(json_line({"batches": told, "states": total, "cost": str(_sum(told))}))
        return
    width = screen_width()
    lines = _one(told[0], width) if len(told) == 1 else _several(told, width)
    for line in lines:
        click.echo(line)


def _told(paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        try:
            yield status_of(path, now=time.time())
        except OxenbatchError as error:
            if len(paths) == 1:
                raise
            click.echo(f"left out: {error}", err=True)  # one damaged night does not hide the others


def _sum(told: Iterable[dict[str, Any]]) -> Decimal:
    return sum((Decimal(one["cost"]) for one in told), Decimal(0))


def status_of(path: Path, *, now: float) -> dict[str, Any]:
    """Where the batch of this ledger stands, as plain JSON values: docs/json.md."""
    with Ledger.read(path) as ledger:
        batch = reads.batch(ledger)
        if batch is None:
            raise MachineError(f"{printable(path)}: no run has begun here")
        run = reads.last_run(ledger)
        counts = reads.counts(ledger)
        found = reads.failures(ledger, 100)
        left, source = reads.is_unfinished(ledger), reads.source(ledger)
        charged = reads.charged(ledger)
        odd = oddities_of(ledger)
    running = runs.goes_on(run, now=now)
    reasons = [advice.Reason(f.state, f.error, f.count, f.example) for f in found]
    folder = str(folder_of(path))
    steps = advice.next_steps(
        counts,
        advice.troubles(reasons),
        batch=folder if path.name == "ledger.db" else str(path),
        run=_run_command(run, source),
        running=running,
        exit_code=run["exit_code"] if run else None,
        left=left,
    )
    cap = cap_of_run(run)
    return {
        "folder": folder,
        "name": batch.name,
        "hub": batch.hub,
        "created_at": batch.created_at,
        "created_on": batch.created_on,
        "states": {str(state): count for state, count in counts.items()},
        "cost": str(charged),
        "committed": str(batch.committed),
        "max_cost": None if cap is None else str(cap),
        "failures": [
            {"state": str(r.state), "cause": str(advice.why(r.state, r.error)), "error": r.error, "count": r.count,
             "example": r.example} for r in reasons
        ],
        "oddities": odd,
        "running": running,
        "last_run": run and {name: run[name] for name in RUN_TOLD},
        "next": [{"why": step.words, "command": step.command} for step in steps],
    }  # fmt: skip


def _run_command(run: dict[str, Any] | None, source: str) -> str:
    """What goes on with the batch: the newest run's own command, from where it was typed."""
    command = run["command"] if run else None
    if not command:
        return f"oxenbatch run {shlex.quote(source)}"
    there = run["folder"] if run else None
    if there and Path(there) != Path.cwd():
        return f"cd {shlex.quote(there)} && {command}"
    return str(command)


# -- for eyes -----------------------------------------------------------------------------------------------------


def _one(one: dict[str, Any], width: int | None) -> Iterator[str]:
    now = time.time()
    begun = f"begun {one['created_on']}{_ago(one['created_at'], now)}"
    yield from _folded(
        f"{printable(one['folder'])}  ({printable(one['name'])}, {begun}, on {printable(one['hub'])})", width
    )
    for state, count in one["states"].items():
        if count:
            yield f"  {state:<12}{count:>9}"
    cost, committed = Decimal(one["cost"]), Decimal(one["committed"])
    money = f"  {'charged' if '://' in one['hub'] else 'would cost':<12} ${dollars(cost)}"
    money += f", ${dollars(committed)} with what is under way" if committed != cost else ""
    money += f"; at most ${dollars(Decimal(one['max_cost']))}" if one["max_cost"] is not None else ""
    yield from _folded(money, width)
    if one["last_run"]:
        yield from _folded(f"  {'last run':<12} {run_words(one['last_run'], running=one['running'], now=now)}", width)
    if one["failures"]:
        yield ""
    yield from trouble_lines(advice.troubles(_reasons([one])), one["folder"], width)
    for line in oddity_lines(one["oddities"], one["folder"]):
        yield from _folded(f"  {line}", width)
    yield from _next(one["next"], width, done=one["states"]["downloaded"] > 0)


def run_words(run: dict[str, Any], *, running: bool, now: float) -> str:
    """How the newest run ended, or that it goes on."""
    at = dt.datetime.fromtimestamp(run["started_at"]).astimezone()
    words = f"{at:%Y-%m-%d %H:%M}{_ago(run['started_at'], now)}"
    if running:
        return f"{words}, process {run['pid']}: under way"
    if run["ended_at"] is None:
        return f"{words}: killed, or its machine went down"
    code = run["exit_code"]
    took = span(run["ended_at"] - run["started_at"])
    return f"{words}, took {took}: exit {code}, {advice.EXITS.get(code, 'a failure')}"


def _ago(at: float, now: float) -> str:
    days = (dt.datetime.fromtimestamp(now).date() - dt.datetime.fromtimestamp(at).date()).days  # noqa: DTZ006 - local days
    return f" ({plural(days, 'day')} ago)" if days > 0 else ""


def trouble_lines(troubles: list[advice.Trouble], folder: str, width: int | None) -> Iterator[str]:
    """Why samples are not on disk, by cause: how many, what it means, the words, what helps."""
    for trouble in troubles:
        yield from _folded(f"  {trouble.count} {_states(trouble)}: {trouble.meaning}; {trouble.remedy}", width)
        for reason in trouble.reasons[:REASONS_SHOWN]:
            words = printable(reason.error) if reason.error else "no reason given"
            yield from _folded(f"    {reason.count} × {words}", width)
            yield f"        oxenbatch show {shlex.quote(folder)} {shlex.quote(short_name(reason.example))}"
        more = trouble.reasons[REASONS_SHOWN:]
        if more:
            yield from _folded(f"    {sum(reason.count for reason in more)} × in {len(more)} other words", width)


def why_not_done(path: Path) -> Iterator[str]:
    """Why samples of this batch are not on disk, for the end of a run."""
    with Ledger.read(path) as ledger:
        found = reads.failures(ledger, 100)
    reasons = [advice.Reason(f.state, f.error, f.count, f.example) for f in found]
    return (line.removeprefix("  ") for line in trouble_lines(advice.troubles(reasons), str(folder_of(path)), None))


def next_lines(path: Path) -> Iterator[str]:
    """What to do next about this batch, for the end of a run that has left something."""
    for step in status_of(path, now=time.time())["next"][:NEXT_SAID]:
        yield f"next: {step['why']}" + (f": {step['command']}" if step["command"] else "")


def _states(trouble: advice.Trouble) -> str:
    return " or ".join(sorted({str(reason.state) for reason in trouble.reasons}))


def _reasons(told: list[dict[str, Any]]) -> list[advice.Reason]:
    return [
        advice.Reason(JobState(f["state"]), f["error"], f["count"], f["example"])
        for one in told
        for f in one["failures"]
    ]


def _next(steps: list[dict[str, str]], width: int | None, *, done: bool) -> Iterator[str]:
    yield ""
    if not steps:
        yield from _folded("nothing is left to do" + (": every wanted file is on disk" if done else ""), width)
        return
    yield "next:"
    for step in steps[:STEPS_SHOWN]:
        yield from _folded(f"  {step['why']}", width)
        if step["command"]:
            yield f"    {printable(step['command'], 1000)}"  # whole: it is there to be copied
    if len(steps) > STEPS_SHOWN:
        yield from _folded(f"  and {len(steps) - STEPS_SHOWN} more: `oxenbatch status` of a single batch tells", width)


def _folded(text: str, width: int | None) -> list[str]:
    """The text in lines that the terminal holds, each as far from the left as the first."""
    if width is None:
        return [text]
    indent = " " * (len(text) - len(text.lstrip()))
    return [indent + line for line in fold(text.lstrip(), max(1, width - len(indent)), FOLDED)]


_BATCHES: Final = (
    Column("BATCH", least=10),
    Column("FILES", right=True),
    Column("FAILED", right=True),
    Column("HELD", right=True),
    Column("ACTIVE", right=True, gives_way=2),
    Column("PENDING", right=True),
    Column("COST", right=True, gives_way=1),
    Column("LAST RUN", least=16, gives_way=3),
)


def _several(told: list[dict[str, Any]], width: int | None) -> Iterator[str]:
    """A line a batch, the sum, why anything failed, and what to do about those that need it."""
    now = time.time()
    rows = [_cells(one, now) for one in told]
    tallies = [Tally.of({JobState(state): n for state, n in one["states"].items()}) for one in told]
    done, total = sum(one.done for one in tallies), sum(one.total for one in tallies)
    sums = [str(sum(getattr(one, name) for one in tallies)) for name in ("failed", "held", "active", "pending")]
    rows.append([f"all {len(told)} batches", f"{done} of {total}", *sums, f"${dollars(_sum(told))}", ""])
    yield from table(_BATCHES, rows, width)
    merged: dict[tuple[str, str], advice.Reason] = {}
    for reason in _reasons(told):
        key = (str(reason.state), reason.error)
        known = merged.get(key)
        merged[key] = reason if known is None else advice.Reason(reason.state, reason.error,
                                                                 known.count + reason.count, known.example)  # fmt: skip
    for trouble in advice.troubles(merged.values()):
        yield from _folded(f"  {trouble.count} {_states(trouble)}: {trouble.meaning}; {trouble.remedy}", width)
        for reason in trouble.reasons[:REASONS_SHOWN]:
            yield from _folded(f"    {reason.count} × {printable(reason.error or 'no reason given')}", width)
    yield from _next(_distinct(step for one in told for step in one["next"]), width, done=done > 0)


def _distinct(steps: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    return list({step["command"] or step["why"]: step for step in steps}.values())


def _cells(one: dict[str, Any], now: float) -> list[str]:
    tally = Tally.of({JobState(state): n for state, n in one["states"].items()})
    run = run_words(one["last_run"], running=one["running"], now=now) if one["last_run"] else ""
    counts = [str(n) if n else "" for n in (tally.failed, tally.held, tally.active, tally.pending)]
    return [
        printable(one["folder"]),
        f"{tally.done} of {tally.total}",
        *counts,
        f"${dollars(Decimal(one['cost']))}",
        run,
    ]
