"""What a manifest would change in a ledger, row by row, without changing it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Self

from oxenbatch.jobs import JobState, job_key, request_hash

if TYPE_CHECKING:
    from oxenbatch.jobs import Row
    from oxenbatch.ledger.book import Ledger

NAMED: Final = 20  # rows of each kind that are named; the rest is counted


@dataclass(slots=True)
class Lot:
    """Rows of one kind."""

    rows: int = 0
    generations: int = 0
    cost: Decimal = Decimal(0)
    """Dollars, as far as prices are known: estimates for what would be sent, charges for what was."""
    unpriced: int = 0
    """Generations whose price is not known."""
    named: list[dict[str, Any]] = field(default_factory=list)

    def add(self, generations: int, each: Decimal | None) -> None:
        """One row more, with so many generations at that price."""
        self.rows += 1
        self.generations += generations
        if each is None:
            self.unpriced += generations
        else:
            self.cost += each * generations

    def name(self, **said: Any) -> None:
        """The row is named, where not too many are."""
        if len(self.named) < NAMED:
            self.named.append(said)


@dataclass(slots=True)
class Changes:
    """A manifest against a ledger. Every row is in one of the first four lots."""

    new: Lot = field(default_factory=Lot)
    """Not in the ledger."""
    changed: Lot = field(default_factory=Lot)
    """Its id stayed and its request changed after it was sent; the cost is that of making it anew."""
    unfinished: Lot = field(default_factory=Lot)
    """In the ledger, and not all of its files are there; generations and cost are of what is still to be sent."""
    done: Lot = field(default_factory=Lot)
    """All of its files are there; the cost is what was charged."""
    orphaned: Lot = field(default_factory=Lot)
    """In the ledger and not in the manifest; the cost is what was charged."""
    states: Counter[str] = field(default_factory=Counter)
    """Of the samples of unfinished rows."""


class Comparison:
    """One reading of a manifest held against a ledger, inside one transaction that is rolled back."""

    def __init__(self, ledger: Ledger) -> None:
        self._conn = ledger.conn
        self.changes = Changes()

    def __enter__(self) -> Self:
        self._conn.execute("begin")
        self._conn.execute("create temp table if not exists met (job_id integer primary key, done integer) strict")
        self._conn.execute("create temp table if not exists said (request_hash text primary key, n integer) strict")
        return self

    def __exit__(self, *_: object) -> None:
        self._conn.execute("rollback")

    def add(self, row: Row, each: Decimal | None) -> None:
        """The row is in its lot; `each` is the price of one generation."""
        hashed = request_hash(row.model, row.parameters)
        job = self._conn.execute(_JOB, (job_key(row.id, hashed, self._occurrence(row, hashed)),)).fetchone()
        if job is None:
            self.changes.new.add(row.samples, each)
            self.changes.new.name(**_named(row.id, row.prompt, row.where))
            return
        done = False
        if job["request_hash"] != hashed and job["sent"] and job["kept_hash"] != hashed:
            self.changes.changed.add(row.samples, each)
            self.changes.changed.name(**_named(row.id, row.prompt, row.where), changes=_changes(row, job))
        else:
            states = Counter(dict(self._conn.execute(_STATES, (job["id"], row.samples)).fetchall()))
            done = states[JobState.DOWNLOADED] >= row.samples
            if done:
                self.changes.done.rows += 1
                self.changes.done.generations += row.samples
            else:
                self.changes.unfinished.add(states[JobState.PENDING] + row.samples - states.total(), each)
                self.changes.states.update({str(state): count for state, count in states.items()})
        self._conn.execute("insert or ignore into met values (?, ?)", (job["id"], done))

    def _occurrence(self, row: Row, hashed: str) -> int:
        if row.id is not None:
            return 1
        return int(
            self._conn.execute(
                "insert into said values (?, 1) on conflict do update set n = n + 1 returning n", (hashed,)
            ).fetchone()[0]
        )

    def finish(self) -> Changes:
        """The rows that the manifest has no more are known too, and what was charged."""
        found = self.changes
        for job in self._conn.execute(_LEFT):
            found.orphaned.rows += 1
            found.orphaned.generations += job["made"]
            found.orphaned.name(**_named(job["row_id"], job["prompt"], job["source"]))
        for done, cost in self._conn.execute(_CHARGED):
            lot = found.orphaned if done is None else found.done if done else None
            if lot is not None:
                lot.cost += Decimal(cost)
        return found


_JOB: Final = """
select id, request_hash, kept_hash, samples, model, parameters,
       exists (select 1 from submissions where job_id = jobs.id) as sent
from jobs where key = ?
"""
_STATES: Final = "select state, count(*) from samples where job_id = ? and number <= ? group by state"
_LEFT: Final = """
select row_id, prompt, source,
       (select count(*) from samples where job_id = jobs.id and generation_id is not null) as made
from jobs where id not in (select job_id from met) and key not like 'set-aside:%' order by position
"""
_CHARGED: Final = """
select met.done, g.cost from generations g join samples s on s.id = g.sample_id join jobs j on j.id = s.job_id
left join met on met.job_id = s.job_id where g.cost is not null and j.key not like 'set-aside:%'
"""


def _named(row_id: str | None, prompt: str, where: str) -> dict[str, Any]:
    return {"id": row_id, "prompt": prompt[:200], "where": where}


def _changes(row: Row, job: Any) -> dict[str, list[Any]]:
    """What is another in the request: each name with what was and what is."""
    was: dict[str, Any] = {"model": job["model"], **json.loads(job["parameters"])}
    now: dict[str, Any] = {"model": row.model, **row.parameters}
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    return {name: [was.get(name), now.get(name)] for name in names}
