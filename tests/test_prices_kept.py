"""An estimate that is kept is the one that would be reckoned anew."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from oxenbatch.prices import KEPT, Prices

if TYPE_CHECKING:
    from collections.abc import Mapping


def test_what_differs_in_nothing_that_has_a_price_is_reckoned_once() -> None:
    asked: list[dict[str, Any]] = []

    def price(_model: str, parameters: Mapping[str, Any]) -> Decimal:
        asked.append(dict(parameters))
        return Decimal(len(asked))

    prices = Prices(price)
    same = [prices.of("m", {"prompt": f"{n}", "seed": n, "duration": 5}) for n in range(10)]
    others = [prices.of("m", {"duration": value}) for value in (10, True, "5", 5.5)]
    lists = [prices.of("m", {"multi_prompt": [{"prompt": "x"}]}) for _ in range(2)]

    assert same == [Decimal(1)] * 10
    assert len({*same, *others, *lists}) == 7
    for n in range(2 * KEPT):
        prices.of("m", {"duration": n})
    assert len(prices._known) <= KEPT
