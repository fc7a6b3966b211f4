"""What is known of results, and what is odd about them."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

from dataset_kit import Made, mp4, multiply, one_colour, png
from ledgers import made_by_version, row

from oxenbatch.jobs import JobState
from oxenbatch.ledger import chronicle, decisions, results
from oxenbatch.ledger.book import Ledger
from oxenbatch.ledger.results import Oddity, oddities

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_odd_is_grouped_and_the_most_frequent_comes_first(tmp_path: Path) -> None:
    asked = {"aspect_ratio": "9:16", "duration": 10}
    rows = [row(f"p{n}", id=f"p{n}", number=n, parameters=asked if n < 4 else {}) for n in range(1, 9)]
    files = [mp4(1), mp4(2, 10.0), mp4(3), png(1), png(2), png(1), png(1), one_colour()]
    made = Made(tmp_path / "b", rows, files)

    with Ledger.open(made.folder / "ledger.db") as ledger:
        assert oddities(ledger) == [
            Oddity("mismatch", "aspect_ratio: asked 9:16, got 1280×720", 3, ("p1.mp4", "p2.mp4", "p3.mp4")),
            Oddity("mismatch", "duration: asked 10, got 5 s", 2, ("p1.mp4", "p3.mp4")),
            Oddity("identical", "the same bytes", 3, ("p4.png", "p6.png", "p7.png")),
            Oddity("blank", "one colour", 1, ("p8.png",)),
        ]
        assert [record["same_as"] for record in results.on_disk(ledger)] == [
            None, None, None, "p4.png", None, "p4.png", "p4.png", None,
        ]  # fmt: skip
        (first, *_) = results.on_disk(ledger)
        assert (first["audio"], first["mismatches"][0]["got"]) == (0, "1280×720")


def test_what_was_rejected_is_not_odd_any_more(tmp_path: Path) -> None:
    made = Made(tmp_path / "b", [row("a", id="a"), row("b", id="b", number=2)], [one_colour(), one_colour()])
    with Ledger.open(made.folder / "ledger.db") as ledger:
        assert len(oddities(ledger)) == 2
        decisions.set_aside(ledger, [2], attempts=3, at=0.0)
        assert oddities(ledger) == [Oddity("blank", "one colour", 1, ("a.png",))]
        decisions.set_aside(ledger, [1], attempts=3, at=0.0)
        assert oddities(ledger) == []


def test_twins_are_found_without_reading_every_generation(tmp_path: Path) -> None:
    made = Made(tmp_path / "b", [row("a")], [png(1)])
    with Ledger.open(made.folder / "ledger.db") as ledger:
        plan = " ".join(
            str(step[3])
            for step in ledger.conn.execute(
                "explain query plan select sha256, count(*) as n from generations where state = 'downloaded'"
                " and sha256 is not null group by sha256 having n > 1"
            )
        )
    assert "COVERING INDEX generations_by_bytes" in plan


def test_ten_thousand_equal_results_are_told_at_once(tmp_path: Path) -> None:
    """A model that only makes the same picture must not make the reading quadratic: this took minutes once."""
    made = Made(tmp_path / "b", [row("a")], [png(1)])
    multiply(made.folder, 10_000)
    with Ledger.open(made.folder / "ledger.db") as ledger:
        ledger.conn.execute("update generations set sha256 = 'x'")
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 1

        ledger.conn.set_progress_handler(count, 1000)
        assert sum(1 for _ in results.on_disk(ledger)) == 10_001
        assert steps < 10_000  # thousands of the database's instructions: a few hundred for each result


def test_a_ledger_of_the_first_version_learns_to_be_measured(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with made_by_version(1):
        Ledger.open(path, create=True).close()
    with sqlite3.connect(path) as old:
        assert "blank" not in {found[1] for found in old.execute("pragma table_info(generations)")}

    with Ledger.open(path) as ledger:
        assert {"audio", "blank", "mismatches"} <= {r[1] for r in ledger.conn.execute("pragma table_info(generations)")}
        assert oddities(ledger) == []


# -- figures ------------------------------------------------------------------------------------------------------


def test_models_and_runs_are_told_in_figures(tmp_path: Path) -> None:
    rows = [row("a", id="a", samples=2), row("b", id="b", number=2, model="other")]
    made = Made(tmp_path / "b", rows, [png(1), None, png(2)])
    with Ledger.open(made.folder / "ledger.db") as ledger:
        first, second = chronicle.by_model(ledger)
        assert (first.states[JobState.DOWNLOADED], first.states[JobState.FAILED], str(first.cost)) == (1, 1, "0.04")
        assert (second.model, second.states.total(), str(second.cost)) == ("other", 1, "0.04")
        (run,) = chronicle.runs(ledger)
        assert run.exit_code is None
        assert run.ended_at > run.started_at
        came, failed = chronicle.over_time(ledger, [run.started_at, run.ended_at])
        assert (sum(came), sum(failed)) == (2, 1)
        assert chronicle.over_time(ledger, []) == ([], [])


def test_mismatches_are_json_that_a_query_can_read(tmp_path: Path) -> None:
    made = Made(tmp_path / "b", [row("a", parameters={"width": 100})], [png(1)])
    with sqlite3.connect(made.folder / "ledger.db") as db:
        (told,) = db.execute("select mismatches from generations").fetchone()
    assert json.loads(told) == [{"field": "width", "asked": 100, "got": "64"}]
