"""Real SIGKILLs: the short version of `make chaos`, and the proof that the campaign would see a program that fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


def campaign(before: str, *options: str) -> dict[str, Any]:
    """The campaign's numbers, from a process of its own in which `before` was executed first: forks inherit it."""
    code = f"import sys; sys.path.insert(0, {str(CHAOS.parent)!r}); import chaos\n{before}\nchaos.main()"
    run = subprocess.run(
        [sys.executable, "-c", code, "--json", *options], capture_output=True, text=True, timeout=280, check=False
    )
    assert run.returncode in (0, 1), run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    assert found["ok"] is (run.returncode == 0)
    return found


@pytest.mark.slow
def test_nothing_is_paid_twice_lost_or_torn_in_50_kills() -> None:
    found = campaign("", "--kills=52", "--rows=200", "--seed=11")

    assert found["troubles"] == []
    assert found["duplicates"] == found["lost"] == found["torn"] == found["unknown"] == found["held"] == 0
    assert found["most_active"] <= 48
    assert found["kills"] >= 50, "kills that did not happen prove nothing"
    assert found["kills_that_hit_posts"] >= 40, "kills that hit nothing prove nothing"
    assert found["open_posts_landed"] >= 10
    assert found["adopted"] >= 10
    assert found["absent"] >= 10
    assert found["ok"]


@pytest.mark.slow
def test_a_program_that_sends_again_what_was_not_answered_is_found_out() -> None:
    blind = """
from oxenbatch.ledger import sends
def recover(ledger, *, now, post_timeout_s):
    with ledger.immediate():
        left = ledger.conn.execute("select id from submissions where state = 'intent'").fetchall()
        for (number,) in left:
            for sample in sends._waiting(ledger, number):
                ledger.move(sample["id"], sends.Event.UNANSWERED, at=now, submission_id=number)
            sends.declare_absent(ledger, number, at=now, note="surely not")
    return len(left)
sends.recover = recover
"""
    found = campaign(blind, "--kills=8", "--rows=60", "--seed=12")

    assert found["duplicates"] > 0
    assert not found["ok"]
