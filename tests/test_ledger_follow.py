"""A batch that is followed is seen as it is, without its lock, at next to no cost."""

from __future__ import annotations

import random
import sqlite3
from typing import TYPE_CHECKING

import pytest
from ledgers import Book, made_by_version, row

from oxenbatch.errors import ConfigProblem, MachineError
from oxenbatch.jobs import JobState
from oxenbatch.ledger import follow as following
from oxenbatch.ledger import reads, runs, schema
from oxenbatch.ledger.book import Ledger
from oxenbatch.ledger.follow import Follower

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

S = JobState


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    found = Book(tmp_path / "ledger.db")
    yield found
    found.close()


@pytest.fixture
def eyes(book: Book) -> Iterator[Ledger]:
    with Ledger.read(book.path) as ledger:
        yield ledger


def test_what_is_followed_is_what_would_be_counted_whatever_happens(book: Book, eyes: Ledger) -> None:
    chance = random.Random(7)
    book.stage(*(row(f"prompt {n}", number=n, model=f"model-{n % 3}") for n in range(1, 121)))
    follower = Follower(eyes)
    states = [state for state in S if state is not S.PENDING]
    for _ in range(100):
        book.bring(chance.choice(states))
        if chance.random() < 0.1:
            failed = [n for n, state in enumerate(book.states(), 1) if state == "failed"]
            book.retry(*failed[:1])
        if chance.random() < 0.5:
            told = follower.look()
            assert told is not None
            counted = {state: n for state, n in reads.counts(book.ledger).items() if n}
            assert {state: n for state, n in told.counts.items() if n} == counted
            assert told.committed == reads.batch(book.ledger).committed  # type: ignore[union-attr]  # it has begun


def test_only_what_happened_since_the_last_look_is_read(book: Book, eyes: Ledger) -> None:
    book.stage(*(row(f"prompt {n}", number=n) for n in range(1, 20)))
    follower = Follower(eyes)
    follower.look()
    asked: list[str] = []
    eyes.conn.set_trace_callback(asked.append)
    for _ in range(3):
        book.accept()
        follower.look()
    assert not [query for query in asked if "group by" in query and "samples" in query]


def test_rows_that_a_new_run_adds_are_seen(book: Book, eyes: Ledger) -> None:
    follower = Follower(eyes)
    book.stage(row("one"))
    assert follower.look().counts[S.PENDING] == 1  # type: ignore[union-attr]  # it has begun
    book.stage(row("one"), row("two", number=2), fingerprint="g")
    runs.begin_run(book.ledger, version="0", at=book.tick())
    assert follower.look().counts[S.PENDING] == 2  # type: ignore[union-attr]  # it has begun


def test_how_long_a_model_takes_is_what_was_seen(book: Book, eyes: Ledger) -> None:
    book.stage(*(row(f"prompt {n}", number=n) for n in range(1, 4)))
    follower = Follower(eyes)
    assert follower.look().models[0].seconds is None  # type: ignore[union-attr]  # it has begun
    for took in (4.0, 8.0):
        (generation_id,) = book.accept()
        began = book.generation(generation_id)["accepted_at"]
        book.hear(generation_id, "succeeded", completed_at=began + took)
    assert follower.look().models[0].seconds == 6.0  # type: ignore[union-attr]  # it has begun


def test_failures_are_counted_again_only_when_there_are_others(
    book: Book, eyes: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    real = reads.failures
    monkeypatch.setattr(following.reads, "failures", lambda ledger: counted.append(1) or real(ledger))
    monkeypatch.setattr(following, "FAILURES_SHARE", 1e9)
    book.stage(*(row(f"prompt {n}", number=n) for n in range(1, 4)))
    follower = Follower(eyes)
    follower.look()
    assert counted == []
    book.bring(S.FAILED)
    for _ in range(3):
        assert [one.error for one in follower.look().failures] == ["content policy"]  # type: ignore[union-attr]  # it has begun
    assert counted == [1]


def test_before_a_run_there_is_nothing_to_see(tmp_path: Path) -> None:
    Ledger.open(tmp_path / "ledger.db", create=True).close()
    with Ledger.read(tmp_path / "ledger.db") as ledger:
        assert Follower(ledger).look() is None


# -- reading without a lock -----------------------------------------------------------------------------------------


def test_a_ledger_that_is_read_cannot_be_written_and_keeps_no_writer_waiting(book: Book, eyes: Ledger) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        eyes.conn.execute("update batch set name = 'x'")
    eyes.conn.execute("begin")
    eyes.conn.execute("select * from runs").fetchall()
    book.ledger.conn.execute("pragma busy_timeout = 0")
    book.stage(row("written while somebody reads"))
    eyes.conn.execute("rollback")


def test_reading_leaves_the_file_as_it_is(book: Book) -> None:
    book.close()
    before = book.path.read_bytes()
    with Ledger.read(book.path) as ledger:
        reads.counts(ledger)
    assert book.path.read_bytes() == before
    assert [path.name for path in book.path.parent.iterdir()] == ["ledger.db"]


def test_a_ledger_on_a_medium_that_cannot_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Book(tmp_path / "ledger.db")
    book.close()
    real = sqlite3.connect

    def connect(address: str, **how: object) -> sqlite3.Connection:
        if "immutable" not in str(address):
            raise sqlite3.OperationalError("unable to open database file")
        return real(address, **how)  # type: ignore[call-overload, no-any-return]  # handed on as it came

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(sqlite3.OperationalError):
        sqlite3.connect("anything")
    with Ledger.read(book.path) as ledger:
        assert reads.batch(ledger)


def test_an_older_ledger_is_migrated_before_it_is_read(tmp_path: Path) -> None:
    with made_by_version(1), Ledger.open(tmp_path / "ledger.db", create=True) as old:
        old.conn.execute(
            "insert into batch (id, name, hub, created_at, created_on) values (1, 'n', 'h', 1.0, '2026-11-22')"
        )

    with Ledger.read(tmp_path / "ledger.db") as ledger:
        assert reads.last_run(ledger) is None
        assert "mood" in {column[1] for column in ledger.conn.execute("pragma table_info(runs)")}
    assert (tmp_path / "ledger.db.v1.bak").exists()


def test_what_cannot_be_read_is_told_as_when_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="there is no ledger"):
        Ledger.read(tmp_path / "ledger.db")
    (tmp_path / "noise.db").write_bytes(b"noise" * 1000)
    with pytest.raises(MachineError, match="cannot be read"):
        Ledger.read(tmp_path / "noise.db")
    with Ledger.open(tmp_path / "new.db", create=True) as ledger:
        ledger.conn.execute(f"pragma user_version = {schema.VERSION + 1}")
    with pytest.raises(ConfigProblem, match="newer oxenbatch"):
        Ledger.read(tmp_path / "new.db")


# -- a run's signs of life --------------------------------------------------------------------------------------------


def test_a_run_goes_on_while_it_gives_signs_and_its_process_is_there(book: Book) -> None:
    def goes_on(**more: object) -> bool:
        return runs.goes_on({**(reads.last_run(book.ledger) or {}), **more}, now=book.now)

    runs.give_sign(book.ledger, book.run_id, at=book.now, mood="{}", concurrency=8, max_cost_nanos=None)
    assert goes_on()
    assert not goes_on(ended_at=book.now)
    assert not goes_on(seen_at=book.now - runs.GONE_S - 1)
    assert not goes_on(pid=2**22 + 1)  # no process has such a number
    assert goes_on(pid=2**22 + 1, host="another machine")
    assert goes_on(seen_at=None, started_at=book.now)
    assert not runs.goes_on(None, now=book.now)
