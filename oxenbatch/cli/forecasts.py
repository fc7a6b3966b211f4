"""What `check` found out, for a person and for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.cli.options import dollars, plural
from oxenbatch.errors import ManifestError, OxenbatchError, Problem, printable

if TYPE_CHECKING:
    from pathlib import Path

    from oxenbatch.forecast import Forecast
    from oxenbatch.ledger.compare import Changes, Lot

LOTS: Final = ("new", "changed", "unfinished", "done", "orphaned")
SIGNS: Final = {"new": "+", "changed": "~", "unfinished": ".", "done": "=", "orphaned": "-"}


@dataclass
class Checked:
    """What is known of one manifest."""

    name: str
    folder: Path | None = None
    found: Forecast | None = None
    fetched_at: float | None = None
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    warnings: list[str] = field(default_factory=list)
    lock: Path | None = None
    code: int = 0

    def refuse(self, error: OxenbatchError) -> None:
        """What stands in the way is noted."""
        self.code = error.exit_code
        if isinstance(error, ManifestError):
            self.problems += error.problems
            self.problem_count += error.total
        else:
            self.problems.append(Problem(str(error)))
            self.problem_count += 1


def _money(lot: Lot) -> str:
    """What it costs, as far as that is known: never $0 for what is not."""
    unknown = f"{plural(lot.unpriced, 'generation')} of unknown price" if lot.unpriced else ""
    if lot.unpriced and lot.unpriced == lot.generations:
        return "unknown"
    return f"${dollars(lot.cost)}" + (f" and {unknown}" if unknown else "")


def lines_of(one: Checked, found: Forecast) -> list[str]:
    """What a manifest would make and cost, and what it would change, for a person."""
    total = found.total
    cost = _money(total)
    about = f"about {cost}" if cost != "unknown" else "at a cost that is not known"
    lines = [f"{printable(one.name)}: {plural(total.rows, 'row')}, {plural(total.generations, 'generation')}, {about}"]
    width = max(len(printable(model, 60)) for model in found.models)
    for model, lot in found.models.items():
        lines.append(f"  {printable(model, 60):<{width}}  {_counts(lot)}  {_money(lot)}")
    if found.changes is not None:
        lines += _plan_lines(one, found, found.changes)
    return lines


def _counts(lot: Lot) -> str:
    return f"{plural(lot.rows, 'row'):>12}  {plural(lot.generations, 'generation'):>19}"


def _plan_lines(one: Checked, found: Forecast, changes: Changes) -> list[str]:
    lines = [f"against {printable(one.folder)}:"]
    for name in LOTS:
        lot: Lot = getattr(changes, name)
        if not lot.rows:
            continue
        more = {"changed": " to make anew", "done": " charged", "orphaned": " charged; stays as it is"}.get(name, "")
        lines.append(f"  {SIGNS[name]} {name:<10}  {_counts(lot)}  {_money(lot)}{more}")
        for row in lot.named if name in ("changed", "orphaned") else ():
            diff = "".join(
                f"  {printable(field, 40)}: {_short(was)} -> {_short(now)}"
                for field, (was, now) in row.get("changes", {}).items()
            )
            lines.append(f"      {printable(row['id'] or row['prompt'], 60)}{diff}")
        if name in ("changed", "orphaned") and lot.rows > len(lot.named):
            lines.append(f"      … and {lot.rows - len(lot.named)} more")
    sending = found.to_send
    lines.append(
        f"a run would send {plural(sending.generations, 'generation')}, for about {_money(sending)}"
        if sending.generations
        else "a run would send nothing"
    )
    return lines


def _short(value: Any) -> str:
    return "nothing" if value is None else printable(value if isinstance(value, str) else json.dumps(value), 60)


# -- JSON ---------------------------------------------------------------------------------------------------------


def _lot(lot: Lot, *, named: bool = False) -> dict[str, Any]:
    unknown = bool(lot.unpriced) and lot.unpriced == lot.generations
    said: dict[str, Any] = {
        "rows": lot.rows,
        "generations": lot.generations,
        "cost": None if unknown else dollars(lot.cost),
        "unpriced": lot.unpriced,
    }
    return said | ({"named": lot.named} if named else {})


def _summary(found: list[Forecast]) -> dict[str, Any]:
    """Rows, generations and dollars of these manifests, by model too, and the plan against the ledgers there are."""
    from oxenbatch.forecast import added  # noqa: PLC0415 - not for --help

    by_model: dict[str, list[Lot]] = {}
    for one in found:
        for model, lot in one.models.items():
            by_model.setdefault(model, []).append(lot)
    against = [one for one in found if one.changes is not None]
    plan = None
    if against:
        plan = {
            name: _lot(added(getattr(one.changes, name) for one in against))
            | {"named": [row for one in against for row in getattr(one.changes, name).named]}
            for name in LOTS
        }
        plan["to_send"] = _lot(added(one.to_send for one in against))
    return {
        **_lot(added(one.total for one in found)),
        "models": [{"model": model, **_lot(added(lots))} for model, lots in by_model.items()],
        "plan": plan,
    }


def as_json(checked: list[Checked], code: int) -> dict[str, Any]:
    """The same for programs, for all manifests together and for each."""

    def problems(some: list[Checked]) -> dict[str, Any]:
        return {
            "problems": [problem.as_data() for one in some for problem in one.problems],
            "problem_count": sum(one.problem_count for one in some),
            "warnings": [warning for one in some for warning in one.warnings],
        }

    return {
        "ok": code == 0,
        "exit_code": code,
        **_summary([one.found for one in checked if one.found]),
        **problems(checked),
        "manifests": [
            {
                "manifest": one.name,
                "output": str(one.folder) if one.folder else None,
                "exit_code": one.code,
                **_summary([one.found] if one.found else []),
                **problems([one]),
                "catalog_fetched_at": one.fetched_at,
                "lock": str(one.lock) if one.lock else None,
            }
            for one in checked
        ],
    }
