"""The common row: text fields that are parameters of one model, and perhaps an id; nothing else is to be asked.

It is what `expand` would make of it, in a third of the time: a million rows are mostly this. Where anything is unusual
(an axis, metadata, a stranger, a problem), there is no quick answer, and `expand` reads the row in full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from oxenbatch.jobs import Row
from oxenbatch.manifest.draft import weight
from oxenbatch.manifest.fields import TEXTS, CellFault, Plan
from oxenbatch.manifest.head import OURS
from oxenbatch.manifest.ids import Ids, id_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oxenbatch.catalog import Catalog
    from oxenbatch.manifest.source import Entry

# Whoever has so little is no request that is too large: that is not counted here.
MOST_FIELDS: Final = 64
LONGEST_TEXT: Final = 4096
_PLAIN: Final = frozenset({str, int, float, bool})
LARGEST_BASE: Final = (2**20, 1000)  # bytes and values


class Quick:
    """Reads common rows of one model, once `expand` has read one."""

    def __init__(self, plan: Plan, base: Mapping[str, Any], catalog: Catalog | None, ids: Ids, longest: int) -> None:
        self._plan = plan
        self._catalog = catalog
        self._ids = ids
        self._longest = longest
        under = plan.base or {}
        self.usable = (
            plan.base is not None
            and not plan.refusal
            and not plan.base_metadata
            and base.get("samples") is None
            and not {"prompt", "multi_prompt"} & under.keys()
            and under.get("seed") != "auto"
            and not plan.media.keys() & under.keys()
            and all(most >= is_ for most, is_ in zip(LARGEST_BASE, weight(dict(under)), strict=True))
        )
        """Whether what stands under the rows leaves no question."""
        self._under: Final = dict(under)
        self._known: dict[str, tuple[str, Callable[[str], Any] | None] | None] = {}
        """By a field's spelling: the name that it is sent by, and what makes a cell's text its value."""

    def row(self, entry: Entry, number: int) -> Row | None:
        """The row that the entry is; None where that takes a closer look."""
        parameters = dict(self._under)
        cells = entry.columns is not None
        row_id: str | None = None
        if len(entry.fields) > MOST_FIELDS:
            return None
        for name, value in entry.fields.items():
            known = self._known.get(name) or self._learn(name)
            if known is None or value is None:
                return None
            real, reader = known
            if real == "id":
                if row_id is not None or not isinstance(value, str) or id_fault(value) is not None:
                    return None
                row_id = value
                continue
            if cells and reader is not None:
                try:
                    value = reader(value)  # noqa: PLW2901 - the cell's text becomes its value
                except CellFault:
                    return None
            if value.__class__ not in _PLAIN or (
                value.__class__ is str and len(value) > LONGEST_TEXT and real != "prompt"
            ):
                return None
            parameters[real] = value
        prompt = parameters.get("prompt")
        if (
            type(prompt) is not str
            or len(prompt) > self._longest
            or not prompt.strip()
            or parameters.get("seed") == "auto"
            or (self._catalog is not None and self._catalog.check(self._plan.model_id, parameters))
        ):
            return None
        if row_id is not None and self._ids.add(row_id, number):
            return None  # it was there before, and that stays so: `expand` says it
        return Row(self._plan.model_id, parameters, row_id, 1, {}, number, entry.where)

    def _learn(self, name: str) -> tuple[str, Callable[[str], Any] | None] | None:
        field = self._plan.fields.get(name) or self._plan.learn(name)
        usual = field.kind == "parameter" and (field.name not in OURS or field.name in ("prompt", "id"))
        if not usual or field.name == "multi_prompt" or name != field.name or name in self._plan.media:
            return None  # not remembered: a stranger's file may have any number of names
        plain = field.name in TEXTS or field.types == ("string",)
        found = self._known[name] = (field.name, None if plain else field.value)
        return found
