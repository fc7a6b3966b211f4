"""A batch in parts, as its ledgers tell it: which shard this is, what it was merged from, and which batch took it over.

What must always hold: of a shard and the batch that it was merged into, only one sends.
"""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oxenbatch.errors import ConfigProblem, OxenbatchError, printable
from oxenbatch.jobs import request_hash
from oxenbatch.ledger import reads
from oxenbatch.ledger.book import Ledger
from oxenbatch.shards import LEASE, Shard, all_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from oxenbatch.jobs import Row


# -- a shard ------------------------------------------------------------------------------------------------------


def shard_of(ledger: Ledger) -> Shard | None:
    """The shard whose ledger this is; None: a whole batch's."""
    row = ledger.conn.execute("select number, total from shard").fetchone()
    return Shard(*row) if row else None


def begin(ledger: Ledger, shard: Shard | None) -> None:
    """The ledger is this shard's (None: a whole batch's), and nobody else has taken it over; else `ConfigProblem`."""
    if successor := superseded_by(ledger):
        raise ConfigProblem(
            f"{printable(ledger.path.parent)} was merged into {printable(successor)}, which has gone on with its rows:"
            " run that one"
        )
    known = shard_of(ledger)
    begun = ledger.conn.execute("select exists (select 1 from jobs)").fetchone()[0]
    if known != shard and (known or begun):
        was, asked = (f"shard {one}" if one else "a whole batch" for one in (known, shard))
        raise ConfigProblem(f"{printable(ledger.path.parent)} is {was}, and this run is for {asked}: choose another -o")
    if shard and not known:
        ledger.conn.execute("insert into shard values (1, ?, ?)", (shard.number, shard.total))


class Neighbours:
    """While a manifest is read: which requests of this shard could be mistaken for another shard's.

    A send without an answer is looked for by what it said, and a row at the hub echoes every request that says no more
    than its own did. So two requests may be mistaken for each other where they are equal, or where they have the same
    model and prompt and do not name the same parameters.
    """

    def __init__(self, ledger: Ledger, shard: Shard) -> None:
        self._conn = ledger.conn
        self._shard = shard
        for table in ("mine", "others"):
            self._conn.execute(
                f"create temp table if not exists {table} (look text, names text, request_hash text,"
                " primary key (look, names, request_hash)) without rowid"
            )
            self._conn.execute(f"delete from {table}")

    def is_mine(self, row: Row) -> bool:
        """Whether the row is this shard's; it is kept in mind either way."""
        mine = self._shard.owns(row)
        look = request_hash(row.model, {"prompt": row.prompt})
        hashed = request_hash(row.model, row.parameters)
        self._conn.execute(
            f"insert or ignore into {'mine' if mine else 'others'} values (?, ?, ?)",
            (look, " ".join(sorted(row.parameters)), hashed),
        )
        return mine

    def record(self) -> None:
        """`shared_requests` has every such request."""
        self._conn.execute(
            "insert or ignore into shared_requests select request_hash from mine m where exists (select 1 from others o"
            " where o.look = m.look and (o.names <> m.names or o.request_hash = m.request_hash))"
        )
        for table in ("mine", "others"):
            self._conn.execute(f"delete from {table}")


def unseen(ledger: Ledger, siblings: Iterable[Path], hashes: Collection[str]) -> frozenset[str]:
    """Those of the requests that other shards may have made too, unless each of these is among the readable siblings.

    Whose a row at the hub is that such a request has made cannot be told here, while their ledgers are elsewhere.
    """
    rows = ledger.conn.execute(
        "select request_hash from shared_requests where request_hash in (select value from json_each(?))",
        (json.dumps(list(hashes)),),
    ).fetchall()
    mine = shard_of(ledger)
    if not rows or mine is None:
        return frozenset()
    home = ledger.path.resolve().parent.parent
    # A folder that was made for a shard, on the disk that all share, and has no ledger yet: it has sent nothing.
    folders = ((shard.number, home / shard.folder) for shard in all_of(mine.total))
    idle = {number for number, path in folders if (path / LEASE).exists() and not (path / ledger.path.name).exists()}
    seen = {mine.number} | idle
    for path in siblings:
        if path.resolve().parent.parent == home:
            try:
                with Ledger.open(path) as other:
                    theirs = shard_of(other)
            except (OxenbatchError, sqlite3.Error):
                continue
            if theirs and theirs.total == mine.total:
                seen.add(theirs.number)
    return frozenset() if len(seen) == mine.total else frozenset(row[0] for row in rows)


def refuse_rebuild(ledger: Ledger, siblings: Iterable[Path]) -> None:
    """`ConfigProblem` where rows at the hub that fit this shard's requests may be other shards'."""
    shared = [row[0] for row in ledger.conn.execute("select request_hash from shared_requests")]
    if unseen(ledger, siblings, shared):
        raise ConfigProblem(
            f"{printable(ledger.path.parent)} has rows with the same requests as other shards: whose results are whose"
            " cannot be told, so they are not taken over from the hub's history. Put the ledger back from a backup"
        )


# -- a batch that was merged --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """One batch that another was merged from, as it was then."""

    ledger: Path
    newest_event: int
    samples: int

    def is_as_it_was(self, ledger: Ledger) -> bool:
        """Whether nothing has happened to it, or to its rows, since then."""
        now = ledger.conn.execute("select count(*) from samples").fetchone()[0]
        return (reads.newest_event(ledger), now) == (self.newest_event, self.samples)


def parts_of(ledger: Ledger) -> list[Part]:
    """What this batch was merged from; nothing where it was not."""
    home = ledger.path.parent
    return [
        Part(Path(os.path.normpath(home / row[0])), row[1], row[2])
        for row in ledger.conn.execute("select ledger, newest_event, samples from parts order by id")
    ]


def is_view(ledger: Ledger) -> bool:
    """Whether this is what its parts were merged into and nothing more: they may go on, and be merged anew."""
    row = ledger.conn.execute("select newest_event, taken_over_at from merge").fetchone()
    return row is not None and row[1] is None and row[0] == reads.newest_event(ledger)


def is_merged(ledger: Ledger) -> bool:
    """Whether it was merged, and has not taken its parts' rows over yet."""
    row = ledger.conn.execute("select taken_over_at from merge").fetchone()
    return row is not None and row[0] is None


def superseded_by(ledger: Ledger) -> str | None:
    """The folder of the batch that has gone on with the rows of this one; None: nobody has."""
    row = ledger.conn.execute("select folder from successor").fetchone()
    return os.path.normpath(ledger.path.parent / row[0]) if row else None


def supersede(ledger: Ledger, by: Path) -> None:
    """No run goes on here: the batch in the folder `by` does."""
    ledger.conn.execute("insert or replace into successor values (1, ?)", (os.path.relpath(by, ledger.path.parent),))


def take_over(ledger: Ledger, *, at: float) -> None:
    """From here on this batch alone goes on with what it was merged from."""
    ledger.conn.execute("update merge set taken_over_at = ?", (at,))
