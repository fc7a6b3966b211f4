"""How a run of one batch begins and ends, in words and as data."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from oxenbatch.cli.options import dollars, plural
from oxenbatch.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from oxenbatch.batch import Plan
    from oxenbatch.reuse import Rehearsal
    from oxenbatch.runner import Summary


def beginning(plan: Plan) -> str:
    """What is wanted, and what there is already."""
    total, done = sum(plan.counts.values()), plan.counts["downloaded"]
    added = plan.staged.samples_added if plan.staged and done else 0
    new = f", {added} of them new" if added else ""
    there = f", {done} there already" if done else ""
    return f"{printable(plan.folder)}: {plural(total, 'file')} wanted{new}{there}"


def report(plan: Plan, summary: Summary, *, rehearsal: bool) -> Iterator[str]:
    """Why it stopped, what failed, what there is now, and what to type next."""
    from oxenbatch.cli.status import next_lines, why_not_done  # noqa: PLC0415 - not for --help

    yield from (f"stopped: {printable(reason)}" for reason in summary.reasons)
    has_ledger = plan.ledger.is_file()  # a batch over a cluster may have ended before it had one
    if has_ledger:
        yield from why_not_done(plan.ledger)
    nothing = not summary.sends and not summary.exit_code and summary.done == plan.counts["downloaded"]
    money = f"would cost ${dollars(summary.cost)}" if rehearsal else f"${dollars(summary.cost)} charged"
    yield (
        f"{printable(plan.folder)}: {'nothing to do: all there, ' if nothing else ''}{plural(summary.done, 'file')},"
        f" {money}, {plural(summary.sends, 'request')} sent in this run"
    )
    if summary.exit_code and has_ledger:
        yield from next_lines(plan.ledger)


def machines_line(code: int, summaries: Iterable[Summary]) -> str:
    """The last line on stderr, over all batches of the run: the contract, section 3."""
    all_of_them = list(summaries)
    counts = " ".join(
        f"{name}={sum(getattr(summary, name) for summary in all_of_them)}"
        for name in ("done", "active", "pending", "held", "failed")
    )
    return f"exit={code} {counts} cost={dollars(sum((summary.cost for summary in all_of_them), start=Decimal(0)))}"


def in_words(due: Rehearsal) -> str:
    """`3 generations, for about $0.12`."""
    words = f"{plural(due.samples, 'generation')}, for about ${dollars(due.cost)}"
    return words + (f" and {due.unpriced} whose price is not known" if due.unpriced else "")


def as_json(plan: Plan, summary: Summary) -> dict[str, Any]:
    """The batch's part of `run --json`: docs/json.md."""
    return {
        "folder": str(plan.folder),
        "ledger": str(plan.ledger),
        "exit_code": summary.exit_code,
        "done": summary.done,
        "active": summary.active,
        "pending": summary.pending,
        "held": summary.held,
        "failed": summary.failed,
        "states": {str(state): count for state, count in summary.counts.items()},
        "cost": str(summary.cost),
        "committed": str(summary.committed),
        "sends": summary.sends,
        "reasons": summary.reasons,
    }
