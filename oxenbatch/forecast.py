"""What a manifest would make and cost, and what it would change in a ledger that exists. Nothing is sent or changed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from oxenbatch.errors import Problem
from oxenbatch.ledger.book import Ledger
from oxenbatch.ledger.compare import Changes, Comparison, Lot

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable
    from pathlib import Path

    from oxenbatch.catalog import Catalog
    from oxenbatch.manifest import Manifest

PROBLEMS_KEPT: Final = 1000  # the manifest stops soon after as many


@dataclass(slots=True)
class Forecast:
    """What reading the manifest tells."""

    total: Lot = field(default_factory=Lot)
    """All of its rows, as if nothing were there yet."""
    models: dict[str, Lot] = field(default_factory=dict)
    """The same by model."""
    changes: Changes | None = None
    """Against the ledger; None where there is none, or where the manifest is wrong."""
    problems: list[Problem] = field(default_factory=list)

    rerun: bool = False
    """Rows whose request changed would be made anew."""

    @property
    def to_send(self) -> Lot:
        """What a run would send now."""
        if self.changes is None:
            return self.total
        return added([self.changes.new, self.changes.unfinished, *([self.changes.changed] if self.rerun else ())])


def added(lots: Iterable[Lot]) -> Lot:
    """All of these rows, without their names."""
    total = Lot()
    for lot in lots:
        total.rows += lot.rows
        total.generations += lot.generations
        total.cost += lot.cost
        total.unpriced += lot.unpriced
    return total


def forecast(
    manifest: Manifest, date: dt.date, catalog: Catalog | None, ledger_path: Path | None, *, rerun: bool = False
) -> Forecast:
    """Every row is read and checked, priced, and looked up in the ledger where there is one."""
    found = Forecast(rerun=rerun)
    with ExitStack() as held:
        against: Comparison | None = None
        if ledger_path is not None:
            against = held.enter_context(Comparison(held.enter_context(Ledger.open(ledger_path))))
        for row in manifest.rows(date, catalog):
            if isinstance(row, Problem):
                if len(found.problems) <= PROBLEMS_KEPT:
                    found.problems.append(row)
                continue
            model = catalog.get(row.model) if catalog is not None else None
            each = model.price(row.parameters) if model is not None else None
            found.total.add(row.samples, each)
            found.models.setdefault(row.model, Lot()).add(row.samples, each)
            if against is not None and not found.problems:
                against.add(row, each)
        if against is not None and not found.problems:
            found.changes = against.finish()
    return found
