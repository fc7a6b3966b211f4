"""Which rows belong to a shard, and how limits are divided: by identity alone, and to the last nanodollar."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxenbatch.errors import UsageProblem
from oxenbatch.jobs import Row
from oxenbatch.plan import Limits
from oxenbatch.shards import MOST, Shard, all_of


def row(prompt: str, **more: Any) -> Row:
    return Row(**({"model": "m", "parameters": {"prompt": prompt}} | more))


def owner(one: Row, total: int) -> Shard:
    (found,) = [shard for shard in all_of(total) if shard.owns(one)]
    return found


@given(prompt=st.text(), row_id=st.none() | st.text(min_size=1), total=st.integers(1, 50))
def test_every_row_belongs_to_exactly_one_shard(prompt: str, row_id: str | None, total: int) -> None:
    assert owner(row(prompt, id=row_id), total).total == total


def test_a_row_stays_in_its_shard_whatever_its_place_and_whatever_else_its_author_changes() -> None:
    rows = [row(f"p{n}", id=f"id-{n}", number=n, where=f"m.csv:{n}") for n in range(100)]
    before = {one.id: owner(one, 7) for one in rows}
    random.Random(1).shuffle(rows)
    for number, one in enumerate(rows):
        changed = replace(one, number=number, where="x", samples=9, metadata={"a": 1}, parameters={"prompt": "new"})
        assert owner(changed, 7) == before[one.id]


def test_equal_rows_without_an_id_stay_together_so_that_their_numbers_are_the_whole_batchs() -> None:
    assert len({owner(row("the same", number=n), 10) for n in range(20)}) == 1


def test_shards_are_of_about_the_same_size() -> None:
    sizes = [sum(shard.owns(row(f"prompt {n}")) for n in range(5000)) for shard in all_of(10)]
    assert sum(sizes) == 5000
    assert min(sizes) > 400
    assert max(sizes) < 600


@given(whole=st.integers(0, 10**18), total=st.integers(1, 1000))
def test_the_shares_of_a_number_are_that_number_and_differ_by_one_at_most(whole: int, total: int) -> None:
    shares = [shard.share(whole) for shard in all_of(total)]
    assert sum(shares) == whole
    assert max(shares) - min(shares) <= 1


@given(
    dollars=st.decimals(min_value=0, max_value=10**9, places=9, allow_nan=False, allow_infinity=False),
    total=st.integers(1, 300),
)
def test_the_shares_of_an_amount_are_that_amount_to_the_last_nanodollar(dollars: Decimal, total: int) -> None:
    assert sum(shard.share_of_dollars(dollars) for shard in all_of(total)) == dollars


@given(text=st.from_regex(r"0\.[0-9]{1,60}", fullmatch=True), total=st.integers(1, 30))
def test_however_finely_an_amount_is_written_the_shares_never_exceed_it(text: str, total: int) -> None:
    shares = [shard.share_of_dollars(Decimal(text)) for shard in all_of(total)]
    assert sum(shares) <= Decimal(text)


def test_every_limit_of_the_whole_is_divided() -> None:
    whole = Limits(concurrency=8, models={"m": 4}, max_cost=Decimal("10.01"), limit_sends=5)
    parts = [shard.limits(whole) for shard in all_of(3)]
    assert [part.concurrency for part in parts] == [3, 3, 2]
    assert [part.models["m"] for part in parts] == [2, 1, 1]
    assert [part.limit_sends for part in parts] == [2, 2, 1]
    assert sum(part.max_cost or 0 for part in parts) == Decimal("10.01")
    assert parts[0].settle_s == whole.settle_s
    assert all_of(2)[1].limits(Limits()).max_cost is None


@pytest.mark.parametrize("limits", [Limits(concurrency=8), Limits(concurrency=20, models={"kling": 4})])
def test_a_share_that_would_be_no_place_is_refused_with_the_remedy(limits: Limits) -> None:
    with pytest.raises(UsageProblem, match="raise it to 10, or make fewer shards"):
        Shard(1, 10).limits(limits)


@pytest.mark.parametrize("text", ["", "3", "3/", "/3", "0/3", "4/3", "-1/3", "1/0", "a/b", "1/2/3", "1.0/2", "²/3",
                                  f"1/{MOST + 1}", "1/9999999999"])  # fmt: skip
def test_nonsense_is_no_shard(text: str) -> None:
    with pytest.raises(UsageProblem, match="expected K/N"):
        Shard.parse(text)


def test_a_shard_is_written_and_read_in_both_its_forms() -> None:
    shard = Shard.parse(" 03/10 ")
    assert (str(shard), shard.folder) == ("3/10", "3-of-10")
    assert Shard.parse(str(shard)) == Shard.of_folder(shard.folder) == shard
    assert [Shard.of_folder(name) for name in ("shards", "03-of-10", "2026-11-24", "a-3-of-10")] == [None] * 4
