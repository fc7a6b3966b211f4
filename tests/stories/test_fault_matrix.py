"""Every operation meets every fault that applies to it: how it ends, what it costs, and what the run says.

One batch of four rows (one of them with two samples, so five files), one run. A fault strikes twice unless its cell
says otherwise. The columns: how the samples end · POSTs at the hub · attempts used, the most of any row · exit code.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from world import World, rows, scratch

from oxenbatch.plan import Limits
from oxenbatch.sandbox.mishaps import KINDS

POST, LIST, ONE, HISTORY, EVENTS, FILE = (
    "POST /ai/queue",
    "GET /ai/queue",
    "GET /ai/queue/ID",
    "GET /ai/generations",
    "GET /events",
    "GET /files/ID",
)
OPERATIONS = {"post": POST, "list": LIST, "get": ONE, "history": HISTORY, "events": EVENTS, "file": FILE}
Cell = tuple[dict[str, int], int, int, int]


def read(words: str) -> dict[str, Any]:
    """The fault that a cell's words describe: its name, and `option=value` as JSON, else as text."""
    do, *options = words.split("  ")[0].split(" ")
    fault: dict[str, Any] = {"do": do, "times": 2}
    for option in options:
        name, _, value = option.partition("=")
        try:
            fault[name] = json.loads(value)
        except ValueError:
            fault[name] = value.replace("_", " ")
    return fault


def play(operation: str, words: str) -> Cell:
    """What one run makes of it, by the ledger and by the hub's own record; nothing is ever paid twice."""
    fault = read(words)
    fault |= {"on": OPERATIONS[operation]} if operation in OPERATIONS else {}
    # Where events are heard, the lists have little to say; and one lost answer has the history looked through.
    beside = [{"do": "silent_events"}, {"do": "lose_answer", "times": 1}] if operation in ("list", "get", "history") else []
    batch = [replace(row, samples=2 if row.number == 2 else 1) for row in rows(4)]
    limits = Limits(concurrency=4, settle_s=20.0, max_outage_s=600.0)
    with scratch() as folder:
        world = World(folder, batch, faults=[fault, *beside], limits=limits, seed="matrix")
        summary = world.run(within_s=4 * 3600.0)
        assert summary is not None
        assert not world.paid() - world.wanted(), "paid twice"
        world.assert_limits(beside=summary.held)
        world.assert_files()
        if not summary.held:
            world.assert_known()
        attempts = world.query("select max(attempts) from samples")[0][0]
        return dict(world.states()), world.posts(), attempts, summary.exit_code
