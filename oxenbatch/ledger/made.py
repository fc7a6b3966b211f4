"""What a batch has made, summed up for the data card of its data set."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oxenbatch.ledger.book import Ledger


@contextmanager
def one_look(ledger: Ledger) -> Iterator[None]:
    """Whatever is read inside belongs together, although a run may be writing meanwhile."""
    ledger.conn.execute("begin")
    try:
        yield
    finally:
        ledger.conn.execute("rollback")


@dataclass(slots=True)
class OfModel:
    """What one model has made of a data set."""

    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    """Of video, together."""
    cost: Decimal = Decimal(0)
    """Dollars that the hub charged for these files."""
    uncharged: int = 0
    """Files whose charge is not known (yet)."""

    def add(self, other: OfModel) -> None:
        """The other's are here as well."""
        self.files += other.files
        self.bytes += other.bytes
        self.seconds += other.seconds
        self.cost += other.cost
        self.uncharged += other.uncharged


@dataclass(slots=True)
class Made:
    """What one batch has made."""

    name: str
    hub: str
    models: dict[str, OfModel] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    """`image`, `video`."""
    prompts: int = 0
    inputs: int = 0
    """Files that its rows sent along."""
    first_at: float | None = None
    last_at: float | None = None
    """Unix seconds at which the first and the last of its files were made."""
    charged: Decimal = Decimal(0)
    """Dollars for everything that it made, also for what is not in the data set."""
    versions: list[str] = field(default_factory=list)
    """Of oxenbatch, in the order of use."""
    missing: int = 0
    """Wanted files that are not on disk."""

    @property
    def total(self) -> OfModel:
        """Over all models."""
        total = OfModel()
        for one in self.models.values():
            total.add(one)
        return total


_ON_DISK: Final = (
    " from samples s join jobs j on j.id = s.job_id join generations g on g.generation_id = s.generation_id"
    " where s.state = 'downloaded' and j.key not like 'set-aside:%'"
)


def made(ledger: Ledger) -> Made | None:
    """What the batch has made so far; None where no run has begun it."""
    conn = ledger.conn
    batch = conn.execute("select name, hub from batch").fetchone()
    if batch is None:
        return None
    found = Made(batch["name"], batch["hub"])
    for row in conn.execute(f"select j.model, g.bytes, g.seconds, g.cost, g.media_type{_ON_DISK}"):
        one = found.models.setdefault(row["model"], OfModel())
        one.files += 1
        one.bytes += row["bytes"] or 0
        one.seconds += row["seconds"] or 0.0
        one.cost += Decimal(row["cost"] or 0)
        one.uncharged += row["cost"] is None
        found.kinds.add((row["media_type"] or "").partition("/")[0])
    found.prompts, found.first_at, found.last_at = conn.execute(
        "select count(distinct j.prompt), min(coalesce(g.completed_at, g.downloaded_at)),"
        f" max(coalesce(g.completed_at, g.downloaded_at)){_ON_DISK}"
    ).fetchone()
    found.inputs = conn.execute(
        "select count(*) from inputs i where exists (select 1 from job_inputs u cross join samples s"
        " on s.job_id = u.job_id where u.input_id = i.id and s.state = 'downloaded')"
    ).fetchone()[0]
    found.charged = sum(
        (Decimal(row[0]) for row in conn.execute("select cost from generations where cost is not null")), Decimal(0)
    )
    found.versions = [row[0] for row in conn.execute("select version from runs group by version order by min(id)")]
    found.missing = conn.execute("select count(*) from samples where wanted = 1 and state <> 'downloaded'").fetchone()[
        0
    ]
    return found
