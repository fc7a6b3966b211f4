"""The ledger held against the hub's own history: what was made, what was charged, and what neither should hold.

The same oracle that the tests trust, for users, every morning. It reads both and changes nothing but the ledger's
knowledge of charges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from oxenbatch.ledger import news, reads, sends
from oxenbatch.reconcile import SLACK_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from oxenbatch.hub import Hub
    from oxenbatch.ledger.book import Ledger
    from oxenbatch.wire import Generation


@dataclass(slots=True)
class Audit:
    """What a comparison found. Dollars are exact."""

    known: int = 0
    """Generations that the ledger has."""
    found: int = 0
    """Those of them that the hub's history has as well."""
    charged: Decimal = Decimal(0)
    """What the hub says it charged for them."""
    recorded: Decimal = Decimal(0)
    """What the ledger says it cost, after this audit has written down the charges that it did not know."""
    missing: list[str] = field(default_factory=list)
    """Ids that the ledger has and the hub's history does not."""
    orphans: list[dict[str, Any]] = field(default_factory=list)
    """Rows at the hub that were made by a request of this batch, since it began, and that no ledger here has."""
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    """Jobs that were charged for more generations than were wanted."""
    others: int = 0
    """Rows of the same time that are other programs' business."""

    @property
    def is_clean(self) -> bool:
        """Nothing here needs a person."""
        return not (self.missing or self.orphans or self.duplicates or self.charged != self.recorded)


async def audit(ledger: Ledger, hub: Hub, *, siblings: Sequence[Path] = ()) -> Audit:
    """Hold the ledger against every row of the hub's history since the batch began; `HubTrouble` where it cannot be."""
    result = Audit(known=reads.generation_count(ledger))
    begun = reads.first_send_at(ledger)
    if begun is None:
        return result
    found: set[str] = set()
    costly: dict[int, int] = {}
    for row in await hub.history_since(begun - SLACK_S):
        if reads.is_reused(ledger, row.generation_id):
            continue  # paid for by the batch that it was taken from
        if sends.owned(ledger, [row.generation_id]):
            found.add(row.generation_id)
            news.apply(ledger, [row], at=hub.time.now())
            result.charged += row.cost or 0
            if row.cost is not None and (job := reads.job_of(ledger, row.generation_id)) is not None:
                costly[job] = costly.get(job, 0) + 1
            continue
        job = _maker(ledger, row, hub) if _since(row, begun) else None
        if job is None or sends.elsewhere(siblings, [row.generation_id], ()).owned:
            result.others += 1
            continue
        result.orphans.append(
            {
                "generation_id": row.generation_id,
                "job": reads.name_of(ledger, job),
                "status": row.status,
                "cost": None if row.cost is None else str(row.cost),
                "prompt": str(row.echo.get("prompt", "")),
            }
        )
        costly[job] = costly.get(job, 0) + (row.cost is not None)
    result.found = len(found)
    result.missing = [i for i in reads.generation_ids(ledger) if i not in found]
    result.recorded = reads.charged(ledger)
    for job, count in costly.items():
        wanted = reads.results_allowed(ledger, job)
        if count > wanted:
            result.duplicates.append({"job": reads.name_of(ledger, job), "charged": count, "wanted": wanted})
    return result


def _since(row: Generation, begun: float) -> bool:
    return row.enqueued_at is None or row.enqueued_at >= begun - SLACK_S


def _maker(ledger: Ledger, row: Generation, hub: Hub) -> int | None:
    """The job whose request made this row, as far as the row says so."""
    if hub.target is not None and row.directory:
        return reads.job_of_token(ledger, row.directory.rstrip("/").rsplit("/", 1)[-1])
    return reads.job_that_asked(ledger, row)
