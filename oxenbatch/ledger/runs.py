"""The batch's beginning and its runs: who works on it, since when, and how it ended."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oxenbatch.ledger.book import Ledger


def begin_batch(ledger: Ledger, *, name: str, hub: str, at: float, on: str) -> None:
    """The batch exists; an existing one stays as it is."""
    ledger.conn.execute(
        "insert or ignore into batch (id, name, hub, created_at, created_on) values (1, ?, ?, ?, ?)",
        (name, hub, at, on),
    )


def begin_run(ledger: Ledger, *, version: str, at: float) -> int:
    """A run is under way; its number."""
    run_id = ledger.conn.execute(
        "insert into runs (started_at, pid, host, version) values (?, ?, ?, ?) returning id",
        (at, os.getpid(), platform.node(), version),
    ).fetchone()[0]
    return int(run_id)


def end_run(ledger: Ledger, run_id: int, *, exit_code: int, at: float) -> None:
    """The run is over, with this exit code."""
    ledger.conn.execute("update runs set ended_at = ?, exit_code = ? where id = ?", (at, exit_code, run_id))


def sends_of(ledger: Ledger, run_id: int) -> int:
    """How many POSTs the run has authorised."""
    return int(ledger.conn.execute("select sends from runs where id = ?", (run_id,)).fetchone()[0])


def all_sends(ledger: Ledger) -> int:
    """How many POSTs all runs have authorised."""
    return int(ledger.conn.execute("select coalesce(sum(sends), 0) from runs").fetchone()[0])


def mark_viewed(ledger: Ledger, event: int) -> None:
    """`metadata.jsonl` shows the ledger as it was at this event."""
    ledger.conn.execute("update batch set viewed_event = ?", (event,))


def viewed(ledger: Ledger) -> int:
    """The event up to which `metadata.jsonl` is true."""
    return int(ledger.conn.execute("select viewed_event from batch").fetchone()[0])
