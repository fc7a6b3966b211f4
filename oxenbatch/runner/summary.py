"""How a run ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from oxenbatch.errors import gravest
from oxenbatch.jobs import JobState
from oxenbatch.ledger import reads, runs
from oxenbatch.plan import Stop

if TYPE_CHECKING:
    from oxenbatch.ledger.book import Ledger
    from oxenbatch.runner.desk import Desk


@dataclass(slots=True)
class Summary:
    """How a run ended."""

    exit_code: int
    counts: dict[JobState, int]
    cost: Decimal
    """Dollars that the hub has charged for the batch so far."""
    committed: Decimal
    """Charges where they are known, estimates where not."""
    sends: int
    reasons: list[str] = field(default_factory=list)
    """Why it stopped before all was done, in sentences."""

    @property
    def done(self) -> int:
        """Samples on disk."""
        return self.counts[JobState.DOWNLOADED]

    @property
    def active(self) -> int:
        """Samples that are paid, or may be, and not on disk yet."""
        s = JobState
        return sum(self.counts[x] for x in (s.SUBMITTING, s.UNCERTAIN, s.QUEUED, s.PROCESSING, s.SUCCEEDED))

    @property
    def pending(self) -> int:
        """Samples that are not sent yet."""
        return self.counts[JobState.PENDING]

    @property
    def held(self) -> int:
        """Samples about which a person must decide."""
        return self.counts[JobState.HELD]

    @property
    def failed(self) -> int:
        """Samples that ended without a file."""
        return sum(self.counts[x] for x in (JobState.FAILED, JobState.CANCELLED, JobState.UNFETCHABLE))


def standing(ledger: Ledger, code: int, reason: str) -> Summary:
    """How the batch stands where nothing was tried: `code` is why, where anything is left to do."""
    counts = reads.counts(ledger)
    batch = reads.batch(ledger)
    summary = Summary(0, counts, reads.charged(ledger), batch.committed if batch else Decimal(0), 0)
    codes = {4} if summary.held else set()
    codes |= {3} if summary.failed else set()
    if summary.active + summary.pending:
        codes.add(code)
        summary.reasons.append(reason)
    summary.exit_code = gravest(codes)
    return summary


def summarise(ledger: Ledger, desk: Desk) -> Summary:
    """How the run ended: the ledger's counts, the reasons, and the exit code that says who has to act."""
    counts = reads.counts(ledger)
    batch = reads.batch(ledger)
    summary = Summary(
        0,
        counts,
        reads.charged(ledger),
        batch.committed if batch else Decimal(0),
        runs.sends_of(ledger, desk.run_id),
        [words for words in desk.stops.values() if words],
    )
    summary.reasons += [
        f"the first row of {model} failed, so its others were not sent; mend it, or run with --no-canary"
        for model in sorted(desk.given_up)
    ]
    left = summary.active + summary.pending
    codes = {stop.exit_code for stop in desk.stops if left or stop is Stop.FAIL_FAST}
    codes |= {4} if summary.held else set()
    codes |= {3} if summary.failed or desk.given_up else set()
    codes |= {75} if left and not desk.limits.wait else set()
    codes |= {75} if left and not codes else set()
    summary.exit_code = gravest(codes)
    return summary
