"""The batch's beginning and its runs: who works on it, since when, and how it ended."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oxenbatch.ledger.book import Ledger

SIGN_S: Final = 10.0  # how often a run gives a sign of life: one small commit costs nothing
GONE_S: Final = 120.0  # a dozen signs are missing: it is not there any more, or its machine sleeps


def begin_batch(ledger: Ledger, *, name: str, hub: str, at: float, on: str) -> None:
    """The batch exists; an existing one stays as it is."""
    ledger.conn.execute(
        "insert or ignore into batch (id, name, hub, created_at, created_on) values (1, ?, ?, ?, ?)",
        (name, hub, at, on),
    )


def begin_run(ledger: Ledger, *, version: str, at: float, command: str | None = None) -> int:
    """A run is under way; its number."""
    run_id = ledger.conn.execute(
        "insert into runs (started_at, seen_at, pid, host, version, command, folder)"
        " values (?, ?, ?, ?, ?, ?, ?) returning id",
        (at, at, os.getpid(), platform.node(), version, command, str(Path.cwd()) if command else None),
    ).fetchone()[0]
    return int(run_id)


def give_sign(
    ledger: Ledger, run_id: int, *, at: float, mood: str, concurrency: int, max_cost_nanos: int | None
) -> None:
    """The run is alive, and this is how it gets on with the hub: for whoever watches it from elsewhere."""
    ledger.conn.execute(
        "update runs set seen_at = ?, mood = ?, concurrency = ?, max_cost_nanos = ? where id = ?",
        (at, mood, concurrency, max_cost_nanos, run_id),
    )


def end_run(ledger: Ledger, run_id: int, *, exit_code: int, at: float) -> None:
    """The run is over, with this exit code."""
    ledger.conn.execute("update runs set ended_at = ?, exit_code = ? where id = ?", (at, exit_code, run_id))


def goes_on(run: Mapping[str, Any] | None, *, now: float) -> bool:
    """Whether this run is under way, as far as can be told without its lock; `now` by this machine's clock."""
    if run is None or run["ended_at"] is not None:
        return False
    if run["host"] == platform.node() and not is_alive(run["pid"]):
        return False
    return now - float(run["seen_at"] or run["started_at"]) <= GONE_S


def is_alive(pid: int) -> bool:
    """Whether a process of this number is there; where that cannot be asked harmlessly, it is taken to be."""
    if os.name == "nt":
        return True  # there, os.kill would send it a Ctrl-C
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


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
