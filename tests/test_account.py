"""What all batches of one user share: places, money for a day, and who owns what."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from oxenbatch.account import Account, AccountLimits, folder_of, ledger_of, read_limits, remember_folder
from oxenbatch.errors import ConfigProblem

if TYPE_CHECKING:
    from pathlib import Path

NANOS = 1_000_000_000
DAY = "2026-11-22"


def account(folder: Path, name: str, *, hub: str = "hub", **limits: object) -> Account:
    ledger = folder / f"{name}.db"
    ledger.touch()
    return Account(hub, ledger, at=1.0, limits=AccountLimits(**limits), folder=folder)  # type: ignore[arg-type]


def test_two_batches_never_take_more_places_than_the_account_has(tmp_path: Path) -> None:
    with account(tmp_path, "a", concurrency=5) as first, account(tmp_path, "b", concurrency=5) as second:
        with first.reserving(active=0, committed_nanos=0, day=DAY) as room:
            assert room.places == 5
            room.taken = 3
        with second.reserving(active=0, committed_nanos=0, day=DAY) as room:
            assert room.places == 2
            room.taken = 2
        with first.reserving(active=3, committed_nanos=0, day=DAY) as room:
            assert room.places == 0


def test_a_place_is_given_back_when_its_batch_says_so_or_its_run_is_over(tmp_path: Path) -> None:
    with account(tmp_path, "b", concurrency=5) as second:
        with account(tmp_path, "a", concurrency=5) as first, first.reserving(0, 0, DAY) as room:
            room.taken = 4
        with second.reserving(0, 0, DAY) as room:
            assert room.places == 5


def test_whoever_only_asks_gives_no_place_of_a_run_away(tmp_path: Path) -> None:
    with account(tmp_path, "a", concurrency=5) as run, account(tmp_path, "b", concurrency=5) as second:
        with run.reserving(0, 0, DAY) as room:
            room.taken = 4
        with Account("hub", tmp_path / "a.db", at=2.0, limits=AccountLimits(), folder=tmp_path, runs=False) as audit:
            assert audit.siblings() == [tmp_path / "b.db"]
        with second.reserving(0, 0, DAY) as room:
            assert room.places == 1


def test_a_ledger_that_lies_elsewhere_and_its_folder_are_found_by_each_other(tmp_path: Path) -> None:
    ledger, folder, data = tmp_path / "x.db", tmp_path / "out", tmp_path / "data"
    folder.mkdir()
    ledger.touch()
    assert (folder_of(ledger, data=data), ledger_of(folder, data=data)) == (tmp_path, None)
    remember_folder(ledger, folder, data=data)
    remember_folder(ledger, folder, data=data)
    assert (folder_of(ledger, data=data), ledger_of(folder, data=data)) == (folder, ledger)
    ledger.unlink()
    assert ledger_of(folder, data=data) is None


def test_a_run_that_was_killed_holds_no_place(tmp_path: Path) -> None:
    first = account(tmp_path, "a", concurrency=5)
    with first.reserving(0, 0, DAY) as room:
        room.taken = 4
    first._conn.execute("update batches set pid = 4194305")  # above any pid that a kernel gives
    with account(tmp_path, "b", concurrency=5) as second, second.reserving(0, 0, DAY) as room:
        assert room.places == 5
    first._conn.close()


def test_a_days_money_is_one_for_all_batches_and_comes_back_where_it_was_not_spent(tmp_path: Path) -> None:
    limit = {"max_cost_per_day": Decimal(10)}
    with account(tmp_path, "a", **limit) as first, account(tmp_path, "b", **limit) as second:
        with first.reserving(0, 7 * NANOS, DAY) as room:  # seven dollars of earlier days
            assert room.nanos == 10 * NANOS
            room.nanos_taken = 6 * NANOS
        with second.reserving(0, 0, DAY) as room:
            assert room.nanos == 4 * NANOS
        with first.reserving(0, 9 * NANOS, DAY) as room:  # four of the six were not spent after all
            assert room.nanos == 8 * NANOS
        with second.reserving(0, 0, "2026-11-23") as room:
            assert room.nanos == 10 * NANOS


def test_what_failed_inside_takes_nothing(tmp_path: Path) -> None:
    with account(tmp_path, "a", concurrency=5) as first:
        with pytest.raises(ZeroDivisionError), first.reserving(0, 0, DAY) as room:  # noqa: PT012 - it is the block's
            room.taken = 5
            raise ZeroDivisionError
        with account(tmp_path, "b", concurrency=5) as second, second.reserving(0, 0, DAY) as room:
            assert room.places == 5


def test_siblings_are_the_other_ledgers_at_this_hub_that_are_still_there(tmp_path: Path) -> None:
    with account(tmp_path, "a"), account(tmp_path, "gone"), account(tmp_path, "c", hub="another") as other:
        (tmp_path / "gone.db").unlink()
        with account(tmp_path, "b") as second:
            assert [path.name for path in second.siblings()] == ["a.db"]
        assert other.siblings() == []


def test_limits_are_read_exactly(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert read_limits(path) == AccountLimits()
    path.write_text("concurrency = 12\nmax_cost_per_day = 25.10\n")
    assert read_limits(path) == AccountLimits(12, Decimal("25.10"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("concurrency = 0", "concurrency is 0"),
        ("concurrency = true", "concurrency is True"),
        ("max_cost_per_day = -1", "max_cost_per_day is -1"),
        ("max_cost_per_day = 'ten'", "expected dollars"),
        ("maxcost = 1", "maxcost is no setting"),
        ("concurrency = ", "cannot be read"),
    ],
)
def test_a_setting_that_cannot_be_used_is_told(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigProblem, match=words):
        read_limits(path)


def test_a_register_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigProblem, match="register"):
        Account("hub", tmp_path / "a.db", at=1.0, limits=AccountLimits(), folder=tmp_path / "file" / "deeper")
