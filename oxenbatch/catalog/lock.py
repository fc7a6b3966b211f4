"""The lock: the schemas and prices that a manifest was checked with, and what has changed since."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.catalog import Catalog
from oxenbatch.catalog.faults import shown
from oxenbatch.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

VERSION: Final = 1
_SHOWN: Final = 10  # changes of one model that are told one by one
_SHOWING: Final = frozenset(["title", "description", "basic", "renderType", "examples"])
"""Words of a schema about the form that shows it: another label is no reason to stop a night's run."""


@dataclass(frozen=True, slots=True)
class Lock:
    """What was written down."""

    hub: str
    locked_at: str
    """The moment, ISO 8601."""
    models: dict[str, Any]
    """The hub's own entry of each model, by id."""

    @classmethod
    def of(cls, catalog: Catalog, models: Iterable[str], *, hub: str, at: str) -> Lock:
        """These models as they are now; those that the catalogue does not have are left out."""
        known = {name: catalog.get(name) for name in sorted(set(models))}
        return cls(hub, at, {name: model.as_data() for name, model in known.items() if model is not None})

    @classmethod
    def from_json(cls, text: str) -> Lock:
        """What `to_json` wrote; ValueError where it did not."""
        said = json.loads(text)
        if not isinstance(said, dict) or said.get("version") != VERSION or not isinstance(said.get("models"), dict):
            raise ValueError(f"is no lock file of version {VERSION}")
        return cls(str(said.get("hub")), str(said.get("locked_at")), said["models"])

    def to_json(self) -> str:
        """One member a line, in an order that does not change, for version control."""
        said = {"version": VERSION, "hub": self.hub, "locked_at": self.locked_at, "models": self.models}
        return json.dumps(said, ensure_ascii=False, indent=2) + "\n"

    def catalog(self) -> Catalog:
        """The models that are locked, as a catalogue."""
        return Catalog.from_answer({"data": list(self.models.values())})

    def changes(self, catalog: Catalog) -> Iterator[tuple[str, str]]:
        """Each model whose parameters or prices are others now, and how: `cost_per_second was 0.07 and is 0.08`."""
        for name, was in self.models.items():
            model = catalog.get(name)
            if model is None:
                yield name, "is not in the hub's catalogue any more"
                continue
            now = model.as_data()
            told = [*_differences("pricing", was.get("pricing"), now["pricing"])]
            told += _differences("parameters", was.get("request_schema"), now["request_schema"])
            more = f", and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
            if told:
                yield name, "; ".join(told[:_SHOWN]) + more


def _differences(place: str, was: Any, now: Any, *, names: bool = False) -> Iterator[str]:
    """Each place where two values differ, in words; `names`: the keys are parameters, not words of a schema."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in sorted(was.keys() | now.keys(), key=str):
            if not names and (name in _SHOWING or str(name).startswith("x-")):
                continue
            inside = place if name == "properties" and place == "parameters" else f"{place}.{printable(name, 80)}"
            if name not in was and now[name] is not None:
                yield f"{inside} is new"
            elif name not in now and was[name] is not None:
                yield f"{inside} is gone"
            else:
                yield from _differences(inside, was.get(name), now.get(name), names=name == "properties")
    elif was != now:
        yield f"{place} was {shown(was)} and is {shown(now)}"
