"""An estimate that is kept is the one that would be reckoned anew."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from oxenbatch import catalog
from oxenbatch.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest


def test_what_differs_in_nothing_that_has_a_price_is_reckoned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def price(_pricing: object, _properties: object, parameters: Mapping[str, Any]) -> Decimal:
        asked.append(dict(parameters))
        return Decimal(len(asked))

    monkeypatch.setattr(catalog, "estimate", price)
    monkeypatch.setattr(catalog, "_PRICES_KEPT", 20)
    model = Catalog.from_answer({"object": "list", "data": [{"id": "m", "pricing": {}}]}).get("m")
    assert model is not None
    same = [model.price({"prompt": f"{n}", "seed": n, "duration": 5}) for n in range(10)]
    others = [model.price({"duration": value}) for value in (10, True, 1, "5", 5.5)]
    lists = [model.price({"multi_prompt": [{"prompt": "x"}]}) for _ in range(2)]

    assert same == [Decimal(1)] * 10
    assert len({*same, *others, *lists}) == 8
    for n in range(100):
        model.price({"duration": n + 100})
    assert len(model._prices) <= 20
