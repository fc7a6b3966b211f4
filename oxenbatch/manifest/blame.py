"""Whose word is wrong: a row's problem is told where its value was written, in the row or once above all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxenbatch.catalog.faults import written
from oxenbatch.errors import Problem, printable

if TYPE_CHECKING:
    from oxenbatch.manifest.draft import Draft
    from oxenbatch.manifest.fields import Plan
    from oxenbatch.manifest.head import Head, Overrides


class Blame:
    """The head and the flags of one reading, and what was told of them."""

    def __init__(self, head: Head, overrides: Overrides) -> None:
        self.head, self.overrides = head, overrides
        self._told: set[tuple[str, str]] = set()

    def wrong(self, draft: Draft, message: str, *path: str | int, name: bool = False) -> None:
        """The problem is noted where the value was written: in the row, or, once for all rows, above them.

        A default that the model does not take would else be told of with every row that it stands under.
        """
        first = str(path[0]) if path else ""
        above = None if not first or draft.says(first) else self._above(draft, first)
        if above is None:
            draft.wrong(message, *path, name=name)
            return
        draft.refused = True
        where, label = above
        if (key := (where + label, message)) not in self._told:
            self._told.add(key)
            inside = written(path[1:])
            field = label + (f".{inside}" if inside and inside[0] != "[" else inside)
            draft.problems.append(Problem(message, where=where, row=draft.number, field=field))

    def _above(self, draft: Draft, name: str) -> tuple[str, str] | None:
        """The place of a value that the row has from an axis, a flag or a default, and what to call it."""
        key = name.casefold()
        for axis, value in draft.axes.items():
            if axis.casefold() == key:
                values = self.head.matrix.get(axis, [])
                at = (values.index(value),) if len(values) > 1 and value in values else ()
                return self.head.spot("matrix", axis, *at), f"matrix.{axis}"
        flag = next((flag for flag in self.overrides.parameters if flag.casefold() == key), None)
        if flag is not None:
            return self.head.shown, f"-p {flag}"
        if key == "model" and self.overrides.model is not None:
            return self.head.shown, "--model"
        said = next((said for said in self.head.defaults if said.casefold() == key), None)
        if said is None:
            return None
        path = self.head.path_of_default(said)
        return self.head.spot(*path), ".".join(path)

    def stranger(self, plan: Plan, name: str, place: str) -> Problem:
        """That a default, an axis or a flag is no parameter of the model."""
        words = f"is not a parameter of {printable(plan.model_id, 80)}{plan.suggestion(name)}"
        if place == "-p":
            return Problem(words, where=self.head.shown, field=f"{place} {name}")
        path = self.head.path_of_default(name) if place == "defaults" else (place, name)
        return Problem(words, where=self.head.spot(*path, name=True), field=".".join(path))
