"""A ledger that was lost, rebuilt from the hub's own history: what was made for these rows is not bought again."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from oxenbatch.echo import echoes
from oxenbatch.jobs import Event
from oxenbatch.ledger import news, sends

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oxenbatch.ledger.book import Ledger
    from oxenbatch.wire import Generation


def rebuild(ledger: Ledger, rows: Iterable[Generation], *, at: float, run_id: int) -> int:
    """Unsent samples have the generations that the hub made of their requests, oldest first; how many were found.

    Equal requests are interchangeable. What failed or was cancelled is left out: it cost nothing.
    """
    found = 0
    with ledger.immediate():
        for row in sorted(rows, key=lambda row: (row.enqueued_at or 0.0, row.generation_id)):
            if row.status in ("failed", "cancelled") or sends.owned(ledger, [row.generation_id]):
                continue
            sample = _asker(ledger, row)
            if sample is not None:
                _give(ledger, sample, row, at=at, run_id=run_id)
                found += 1
    return found


def _asker(ledger: Ledger, row: Generation) -> int | None:
    """The first unsent sample whose request the row echoes."""
    prompt = row.echo.get("prompt")
    for sample in ledger.conn.execute(
        "select s.id from samples s join jobs j on j.id = s.job_id where s.state = 'pending' and s.wanted = 1"
        " and s.submission_id is null and s.model = ? and (? is null or j.prompt = ?) order by s.id",
        (row.model, prompt, prompt),
    ).fetchall():
        if echoes(row, row.model, sends.sent_parameters(ledger, sample["id"])):
            return int(sample["id"])
    return None


def _give(ledger: Ledger, sample_id: int, row: Generation, *, at: float, run_id: int) -> None:
    sent_at = row.enqueued_at or at
    submission_id = ledger.conn.execute(
        "insert into submissions (job_id, run_id, state, request_hash, token, count, intent_at, ended_at)"
        " select job_id, ?, 'accepted', request_hash, ?, 1, ?, ? from samples where id = ? returning id",
        (run_id, secrets.token_hex(8), sent_at, sent_at, sample_id),
    ).fetchone()[0]
    ledger.conn.execute(
        "insert into generations (generation_id, sample_id, submission_id, model, state, attempt, accepted_at,"
        " estimate_nanos) select ?, id, ?, model, 'queued', 1, ?, estimate_nanos from samples where id = ?",
        (row.generation_id, submission_id, sent_at, sample_id),
    )
    ledger.move(
        sample_id,
        Event.FOUND,
        at=at,
        note="rebuilt from the hub's history",
        submission_id=submission_id,
        generation_id=row.generation_id,
        columns={"generation_id": row.generation_id, "submission_id": submission_id, "attempts": 1},
    )
    estimate = ledger.conn.execute("select estimate_nanos from samples where id = ?", (sample_id,)).fetchone()[0]
    ledger.commit_money(estimate or 0)
    news.apply(ledger, [row], at=at)
