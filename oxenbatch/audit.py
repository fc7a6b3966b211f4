"""The ledger held against the hub's own history: what was made, what was charged, and what neither should hold.

The same oracle that the tests trust, for users, every morning. It reads both and changes nothing but the ledger's
knowledge of charges.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from oxenbatch.jobs import JobState
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
    held: int = 0
    """Samples whose send may have been paid for, and about which only a person can decide."""
    others: int = 0
    """Rows of the same time that are other programs' business."""

    @property
    def is_clean(self) -> bool:
        """Nothing here needs a person."""
        return not (self.missing or self.orphans or self.duplicates or self.held or self.charged != self.recorded)


async def audit(ledger: Ledger, hub: Hub, *, siblings: Sequence[Path] = ()) -> Audit:
    """Hold the ledger against every row of the hub's history since the batch began; `HubTrouble` where it cannot be."""
    return await audit_all([ledger], hub, siblings=siblings)


async def audit_all(ledgers: Sequence[Ledger], hub: Hub, *, siblings: Sequence[Path] = ()) -> Audit:
    """`audit` of a batch that is in several ledgers, as if it were in one."""
    held = sum(reads.counts(ledger)[JobState.HELD] for ledger in ledgers)
    result = Audit(known=sum(map(reads.generation_count, ledgers)), held=held)
    begun = min((at for ledger in ledgers if (at := reads.first_send_at(ledger)) is not None), default=None)
    if begun is None:
        return result
    history = await hub.history_since(begun - SLACK_S)
    # What was taken from another batch was paid for there.
    rows = [row for row in history if not any(reads.is_reused(one, row.generation_id) for one in ledgers)]
    ids = [row.generation_id for row in rows]
    owners = {found: ledger for ledger in ledgers for found in sends.owned(ledger, ids)}
    others = sends.elsewhere(siblings, ids, ()).owned
    costly: Counter[tuple[Ledger, int]] = Counter()
    for row in rows:
        if owner := owners.get(row.generation_id):
            news.apply(owner, [row], at=hub.time.now())
            result.charged += row.cost or 0
            if row.cost is not None and (job := reads.job_of(owner, row.generation_id)) is not None:
                costly[owner, job] += 1
            continue
        maker = _maker(ledgers, row, hub) if _since(row, begun) and row.generation_id not in others else None
        if maker is None:
            result.others += 1
            continue
        result.orphans.append(
            {
                "generation_id": row.generation_id,
                "job": reads.name_of(*maker),
                "status": row.status,
                "cost": None if row.cost is None else str(row.cost),
                "prompt": str(row.echo.get("prompt", "")),
            }
        )
        costly[maker] += row.cost is not None
    result.found = len(owners)
    result.missing = [i for ledger in ledgers for i in reads.generation_ids(ledger) if i not in owners]
    result.recorded = sum(map(reads.charged, ledgers), Decimal(0))
    for maker, count in costly.items():
        wanted = reads.results_allowed(*maker)
        if count > wanted:
            result.duplicates.append({"job": reads.name_of(*maker), "charged": count, "wanted": wanted})
    return result


def _since(row: Generation, begun: float) -> bool:
    return row.enqueued_at is None or row.enqueued_at >= begun - SLACK_S


def _maker(ledgers: Sequence[Ledger], row: Generation, hub: Hub) -> tuple[Ledger, int] | None:
    """The job whose request made this row, as far as the row says so, and its ledger."""
    for ledger in ledgers:
        if hub.target is not None and row.directory:
            job = reads.job_of_token(ledger, row.directory.rstrip("/").rsplit("/", 1)[-1])
        else:
            job = reads.job_that_asked(ledger, row)
        if job is not None:
            return ledger, job
    return None
