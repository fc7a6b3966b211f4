"""What an older batch has bought already is this batch's too: found by its request, and recorded as not paid here.

A request is the model, its parameters and the seed, as the hash of a sample has them. Each file is taken once: two
equal rows want two files.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oxenbatch.jobs import Event

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from oxenbatch.ledger.book import Ledger


@dataclass(frozen=True, slots=True)
class Match:
    """An unsent sample, and a file that an older batch has of the same request."""

    sample_id: int
    name: str
    """What the sample's file is called here, without extension."""
    generation_id: str
    file: str
    """Relative to the older batch's folder."""
    sha256: str


def forget(ledger: Ledger) -> None:
    """No match is known; call before the first `find`."""
    ledger.conn.execute(
        "create temp table if not exists reusable (id integer primary key, sample_id integer unique,"
        " generation_id text unique, file text, sha256 text, older integer) strict"
    )
    ledger.conn.execute("delete from reusable")


def find(ledger: Ledger, older: Path, number: int) -> int:
    """The unsent samples that the older ledger has files for are in the table `reusable`; how many there are.

    `number` tells the older ledgers apart. The older ledger is only read.
    """
    conn = ledger.conn
    conn.execute("attach database ? as older", (str(older),))
    try:
        return conn.execute(
            """
            with have as (
              select o.request_hash, g.generation_id, g.file, g.sha256,
                     row_number() over (partition by o.request_hash order by o.id) as n
              from older.samples o join older.generations g on g.generation_id = o.generation_id
              where o.state = 'downloaded' and g.sha256 is not null
                and g.generation_id not in (select generation_id from main.generations)
                and g.generation_id not in (select generation_id from temp.reusable)
            ), want as (
              select id, request_hash, row_number() over (partition by request_hash order by id) as n
              from main.samples
              where state = 'pending' and wanted = 1 and id not in (select sample_id from temp.reusable)
            )
            insert into temp.reusable (sample_id, generation_id, file, sha256, older)
            select want.id, have.generation_id, have.file, have.sha256, ?
            from want join have on have.request_hash = want.request_hash and have.n = want.n
            """,
            (number,),
        ).rowcount
    finally:
        conn.execute("detach database older")


def page(ledger: Ledger, number: int, after: int, limit: int) -> list[tuple[int, Match]]:
    """Matches with that older ledger, and their places, from the place after `after`."""
    rows = ledger.conn.execute(
        "select r.id, r.sample_id, s.name, r.generation_id, r.file, r.sha256 from temp.reusable r"
        " join main.samples s on s.id = r.sample_id where r.older = ? and r.id > ? order by r.id limit ?",
        (number, after, limit),
    ).fetchall()
    return [(row[0], Match(*tuple(row)[1:])) for row in rows]


def take(
    ledger: Ledger, older: Path, taken: Iterable[tuple[Match, str]], *, at: float, run_id: int, origin: str
) -> None:
    """The samples have these files, which lie in place already: downloaded, and nothing was sent or paid for them.

    Each has a submission that never left, which says so, and the generation as the older batch knows it, at no cost.
    """
    conn = ledger.conn
    conn.execute("attach database ? as older", (str(older),))
    try:
        with ledger.immediate():
            for match, file in taken:
                submission_id = conn.execute(
                    "insert into submissions (job_id, run_id, state, request_hash, token, count, intent_at, ended_at,"
                    " error)"
                    " select job_id, ?, 'not_sent', request_hash, ?, 1, ?, ?, ? from main.samples where id = ?"
                    " returning id",
                    (run_id, secrets.token_hex(8), at, at, f"taken from {origin}: nothing was sent", match.sample_id),
                ).fetchone()[0]
                conn.execute(
                    "insert into main.generations (generation_id, sample_id, submission_id, model, state, attempt,"
                    " accepted_at, enqueued_at, started_at, completed_at, estimate_nanos, cost, file, sha256, bytes,"
                    " media_type, width, height, seconds, fps, downloaded_at, origin)"
                    " select generation_id, ?, ?, model, 'downloaded', 0, accepted_at, enqueued_at, started_at,"
                    " completed_at, 0, '0', ?, sha256, bytes, media_type, width, height, seconds, fps, ?, ?"
                    " from older.generations where generation_id = ?",
                    (match.sample_id, submission_id, file, at, origin, match.generation_id),
                )
                ledger.move(
                    match.sample_id,
                    Event.REUSED,
                    at=at,
                    note=f"taken from {origin}",
                    submission_id=submission_id,
                    generation_id=match.generation_id,
                    columns={"generation_id": match.generation_id, "submission_id": submission_id, "file": file,
                             "not_before": None, "error": None},
                )  # fmt: skip
    finally:
        conn.execute("detach database older")
