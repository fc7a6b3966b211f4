"""Entries become rows: defaults under them, axes across them, templates filled in, every field checked."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.catalog.faults import shown
from oxenbatch.errors import Problem, printable
from oxenbatch.jobs import Row, with_addresses
from oxenbatch.manifest import templates
from oxenbatch.manifest.blame import Blame
from oxenbatch.manifest.draft import LARGEST, MOST_VALUES, Draft, merged, own_names, weight
from oxenbatch.manifest.fields import LONGEST_NAME, MOST_NAMES, CellFault, Plan, metadata_fault
from oxenbatch.manifest.head import OURS, RESERVED, Head, Overrides
from oxenbatch.manifest.ids import Ids, id_fault, label
from oxenbatch.manifest.inputs import InputFault
from oxenbatch.manifest.quick import Quick
from oxenbatch.manifest.source import Entry, Faulty

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator, Mapping

    from oxenbatch.catalog import Catalog
    from oxenbatch.jobs import InputFile
    from oxenbatch.manifest.inputs import InputFiles

MOST_SAMPLES: Final = 10_000  # of one row; a slip of the finger past that is real money
LONGEST_PROMPT: Final = 100_000  # characters; the longest that any model is known to read is a tenth of it
REFUSALS_TOLD: Final = 3  # rows that are named for one model that cannot be used; more would say the same

_SOMEWHERE: Final = "https://hub.oxen.ai/"
"""A schema may ask for an address, and no file has one before it is stored."""
_NOTHING: Final[Mapping[str, Any]] = {}


class Expansion:
    """One reading of a manifest's rows; it counts them and remembers the ids that were used."""

    def __init__(
        self, head: Head, overrides: Overrides, date: dt.date, catalog: Catalog | None, files: InputFiles
    ) -> None:
        self.head, self.overrides, self.catalog, self.files = head, overrides, catalog, files
        self.number = 0
        self._calendar = templates.calendar(date, head.name)
        self._base = merged(head.defaults, overrides)
        pinned = {name.casefold() for name in overrides.parameters}
        if overrides.model is not None:
            pinned.add("model")
        # A flag is over the manifest, so it pins an axis of the same name to its own value.
        self._matrix = {name: values for name, values in head.matrix.items() if name.casefold() not in pinned}
        self._plans: dict[str, Plan] = {}
        self._ids = Ids()
        self._told: set[tuple[str, str]] = set()
        self._blame = Blame(head, overrides)
        self._named: set[str] = set()
        self._spelt_variables = {name.casefold() for name in head.variables}
        self._spelt: set[str] = set()
        self._quick: Quick | None = None

    def rows(self, items: Iterable[Entry | Faulty | Problem]) -> Iterator[Row | Problem]:
        """Every row and problem, in the entries' order, until `limit` or `max_rows` is reached."""
        limit, most = self.overrides.limit, self.overrides.max_rows
        for item in items:
            if isinstance(item, Problem):
                yield item
                continue
            if limit is not None and self.number >= limit:
                return
            if isinstance(item, Faulty):
                self.number += 1
                for problem in item.problems:
                    yield replace(problem, row=self.number)
                continue
            if not self.head.templates:
                if self.number >= most:
                    yield self._too_many(item, 1)
                    return
                found = self._quick_row(item) or self._one(item, item.fields, _NOTHING, None, ())
                if isinstance(found, Row):
                    yield found
                else:
                    yield from found
                continue
            axes, fields = self._axes(item)
            yield from self._ambiguous(item, fields)
            count = math.prod(len(values) for _, values in axes)
            most_here = most - self.number
            wanted = count if limit is None else min(count, limit - self.number)
            if wanted > most_here:
                yield self._too_many(item, count)
                return
            yield from self._combinations(item, fields, axes, wanted)

    def _quick_row(self, entry: Entry) -> Row | None:
        """The row, where it is a common one of the manifest's own model, and one was read in full before it."""
        if self._quick is None:
            plan = self._plans.get(str(self._base.get("model")))
            if plan is None or plan.base is None:
                return None
            self._quick = Quick(plan, self._base, self.catalog, self._ids, LONGEST_PROMPT)
        row = self._quick.row(entry, self.number + 1) if self._quick.usable else None
        self.number += row is not None
        return row

    def _too_many(self, entry: Entry, count: int) -> Problem:
        many = f" (this entry alone becomes {count:,})" if count > 1 else ""
        most = f"{self.overrides.max_rows:,}"
        words = f"there are more than {most} rows{many}; raise --max-rows, or take the first ones with --limit"
        return Problem(words, where=entry.spot(), row=self.number + 1)

    def _plan(self, model_id: str) -> Plan:
        plan = self._plans.get(model_id)
        if plan is None:
            plan = self._plans[model_id] = Plan(model_id, self.catalog)
        return plan

    def _model_of(self, fields: Mapping[str, Any], chosen: Mapping[str, Any]) -> Any:
        return fields.get("model") or chosen.get("model") or self._base.get("model")

    # -- axes and templates

    def _axes(self, entry: Entry) -> tuple[list[tuple[str, list[Any]]], dict[str, Any]]:
        """The variables that the row's texts name and the axes that it leaves open, and its typed fields."""
        fields = own_names(entry.fields)
        matrix = {n: v for n, v in self._matrix.items() if n.casefold() not in {own.casefold() for own in fields}}
        first = self._model_of(fields, {name: values[0] for name, values in matrix.items()})
        plan = self._plan(first) if isinstance(first, str) else None
        if plan is not None and "model" not in matrix and self._is_guest(plan):
            matrix = {name: values for name, values in matrix.items() if plan.learn(name).kind != "extra"}
        own = {name.casefold() for name in fields}
        texts: list[Any] = []
        for name, value in fields.items():
            texts.append(value if entry.columns is None or plan is None else _readable(plan, name, value))
        other_prompt = {"prompt", "multi_prompt"} & own
        for name, value in self._base.items():
            key = name.casefold()
            if key not in own and key not in {n.casefold() for n in matrix}:
                if key in ("prompt", "multi_prompt") and other_prompt:
                    continue
                texts.append(value)
        named: set[str] = set()
        for text in texts:
            try:
                named.update(templates.names(text))
            except templates.TemplateFault:
                continue  # filling it in says so, with the field
        self._named = named
        axes: list[tuple[str, list[Any]]] = [
            (name, list(values))
            for name, values in self.head.variables.items()
            if name.casefold() in named and name.casefold() not in own
        ]
        return axes + list(matrix.items()), fields

    def _ambiguous(self, entry: Entry, fields: Mapping[str, Any]) -> Iterator[Problem]:
        """A name that a template asks for, and that two things have: told once for a table.

        A row written by hand that has a variable's name means its own value; a table may have such a column by chance.
        """
        own = {name.casefold() for name in entry.columns or fields}
        others = self._calendar.keys() | (self._spelt_variables if entry.columns else set())
        for name in sorted(own & self._named & others):
            key = (entry.shown if entry.columns else entry.where, f"{{{name}}}")
            if key in self._told:
                continue
            self._told.add(key)
            what = "column" if entry.columns else "field"
            other = "a variable" if name in self._spelt_variables else "what every template knows by that name"
            words = f"{{{printable(name, 80)}}} may be this {what} or {other}; rename the {what}"
            yield Problem(words, where=entry.spot(name, name=True), row=self.number + 1, field=name)

    def _combinations(
        self, entry: Entry, fields: dict[str, Any], axes: list[tuple[str, list[Any]]], wanted: int
    ) -> Iterator[Row | Problem]:
        try:
            in_id = set(templates.names(fields.get("id")))
        except templates.TemplateFault:
            in_id = set()
        known: dict[str, str | None] = dict.fromkeys((name.casefold() for name in entry.columns or ()), None)
        known.update(self._calendar)
        own = {name.casefold(): templates.text_of(value) for name, value in fields.items() if not _deep(value)}
        pinned = {n.casefold(): templates.text_of(self._base.get(n)) for n in self.head.matrix if n not in self._matrix}
        names = [name for name, _ in axes]
        for place, values in enumerate(product(*(values for _, values in axes))):
            if place >= wanted:
                return
            chosen = dict(zip(names, values, strict=True))
            here = known | pinned
            here.update({name.casefold(): templates.text_of(value) for name, value in chosen.items()})
            here.update({name: value for name, value in own.items() if value is not None or name not in here})
            labels = [label(value) for name, value in chosen.items() if name.casefold() not in in_id]
            sent = {name: value for name, value in chosen.items() if name not in self.head.variables}
            found = self._one(entry, fields, sent, here, labels)
            yield from [found] if isinstance(found, Row) else found

    # -- one row

    def _one(
        self,
        entry: Entry,
        fields: dict[str, Any],
        chosen: Mapping[str, Any],
        known: Mapping[str, str | None] | None,
        labels: Iterable[str],
    ) -> Row | list[Problem]:
        """The row that the entry is with these values of the axes, or what is wrong with it."""
        self.number += 1
        draft = Draft(entry, self.number, known, self.head.variables)
        draft.axes = chosen
        if not fields.keys() <= self._spelt:
            fields = own_names(fields)
            if len(self._spelt) < MOST_NAMES:
                self._spelt.update(fields)
        model_id = self._model_of(fields, chosen)
        if not isinstance(model_id, str) or not model_id.strip():
            remedy = "say it in the row, as 'model:' at the top of the manifest, or with --model"
            draft.wrong(f"{shown(model_id)}, expected a model's name" if model_id else f"has no model; {remedy}")
            return draft.problems
        plan = self._plan(model_id)
        if plan.refusal:
            plan.reported += 1
            if plan.reported <= REFUSALS_TOLD:
                last = plan.reported == REFUSALS_TOLD and draft.says("model")
                more = " (later rows of it are not listed)" if last else ""
                self._blame.wrong(draft, plan.refusal + more, "model")
            draft.refused = True
            return draft.problems
        if plan.base is None:
            draft.problems += self._lay_base(plan)
            draft.refused = draft.refused or bool(draft.problems)
        draft.parameters = dict(plan.base or {})
        draft.samples = 1 if self._base.get("samples") is None else self._base["samples"]
        own: set[str] = set()
        for name, value in chosen.items():
            field = plan.fields.get(name) or plan.learn(name)
            if name != "model" and (field.kind == "parameter" or (field.kind == "extra" and self._keeps(plan, name))):
                own.add(field.name)
                draft.set(field.name, value)
        self._take(draft, plan, fields, own)
        if draft.extra:
            self._strangers(draft, plan)
        self._finish(draft, plan, own, labels)
        if draft.refused:
            return draft.problems
        return Row(
            model=model_id,
            parameters=draft.parameters,
            id=draft.id,
            samples=draft.samples,
            metadata=draft.metadata,
            number=draft.number,
            where=entry.where,
            inputs=tuple(draft.inputs),
            written=draft.written,
        )

    def _take(self, draft: Draft, plan: Plan, fields: Mapping[str, Any], own: set[str]) -> None:
        """Every field of the row is in the draft, under the name that it is sent or kept by."""
        cells = draft.entry.columns is not None
        for name, value in fields.items():
            field = plan.fields.get(name) or plan.learn(name)
            if field.kind == "parameter":
                if field.name in own:
                    words = f"is there twice, the other time as {printable(field.name, 80)}; remove one"
                    draft.wrong(words, name, name=True)
                    continue
                own.add(field.name)
                if field.name in OURS and field.name != "prompt":
                    draft.take_ours(field.name, value)
                    continue
                if cells:
                    try:
                        value = field.value(value)  # noqa: PLW2901  (the cell's text becomes its value)
                    except CellFault as fault:
                        draft.wrong(str(fault), name)
                        continue
                draft.set(field.name, draft.filled(value, name))
            elif field.kind == "metadata":
                if value is not None:
                    draft.metadata[field.name] = draft.filled(value, name)
            elif field.kind == "reserved":
                draft.wrong(f"is not a parameter; {RESERVED[field.name]}", name, name=True)
            elif field.kind == "nameless":
                draft.wrong(f"{shown(name)} is no name for a field, expected 1 to {LONGEST_NAME} plain characters")
            elif value is not None and draft.entry.by_hand and self._keeps(plan, name):
                own.add(name)
                draft.set(name, draft.filled(value, name))
            elif value is not None:
                draft.extra[name] = value

    def _keeps(self, plan: Plan, name: str) -> bool:
        """Whether a field written by hand is sent, although the model's schema does not list it."""
        return self.overrides.extra_columns == "error" and plan.is_sent(name)

    def _strangers(self, draft: Draft, plan: Plan) -> None:
        """Fields that are neither ours nor the model's are kept, dropped, or told once for a table."""
        for name in list(draft.extra):
            if name.casefold() == "seed" and draft.extra[name] == "auto":
                del draft.extra[name]  # the contract: `seed: auto` where the model takes one
        if not draft.extra:
            return
        if self.overrides.extra_columns == "metadata":
            for name, value in draft.extra.items():
                draft.metadata.setdefault(name, value)
            return
        if self.overrides.extra_columns == "ignore":
            return
        used = self._named if draft.known is not None else set()
        strangers = [name for name in draft.extra if name.casefold() not in used]
        columns = draft.entry.columns
        if columns is None:
            for name in strangers:
                remedy = "; keep it with --extra-columns metadata, or drop it with ignore"
                words = f"is not a parameter of {printable(plan.model_id, 80)}{plan.suggestion(name) or remedy}"
                draft.wrong(words, name, name=True)
            return
        key = (draft.entry.shown, plan.model_id)
        if not strangers or key in self._told:
            return
        self._told.add(key)
        every = [
            name
            for name in columns
            if name and (plan.fields.get(name) or plan.learn(name)).kind == "extra" and name.casefold() not in used
        ]
        listed = ", ".join(f"{printable(name, 80)}{_near(plan, name)}" for name in every)
        what = "is a column" if len(every) == 1 else "are columns"
        words = (
            f"{listed} {what} that {printable(plan.model_id, 80)} does not take; keep them in the dataset with "
            "--extra-columns metadata (or rename them meta.NAME), or drop them with --extra-columns ignore"
        )
        draft.problems.append(Problem(words, where=draft.entry.spot(every[0], name=True)))
        draft.refused = True

    def _finish(self, draft: Draft, plan: Plan, own: set[str], labels: Iterable[str]) -> None:
        """What only the whole row can tell is checked: its prompt, its id, its names, its model's schema."""
        parameters = draft.parameters
        if "prompt" in parameters and "multi_prompt" in parameters:
            both = {"prompt", "multi_prompt"}
            if len(both & own) == 1:
                del parameters[next(iter(both - own))]  # the row's own takes the place of the default
            else:
                draft.wrong("has both prompt and multi_prompt, expected one of them")
        if draft.known is not None:
            for name in sorted(parameters.keys() - own):
                try:
                    parameters[name] = templates.fill(parameters[name], draft.known, draft.variables)
                except templates.TemplateFault as unfilled:
                    self._blame.wrong(draft, str(unfilled), name)
        for name, value in plan.base_metadata.items():
            if name not in draft.metadata:
                draft.metadata[name] = draft.filled(value, "metadata", name)
        prompt = parameters.get("prompt")
        if prompt is not None and not isinstance(prompt, str):
            self._blame.wrong(draft, f"{shown(prompt)}, expected text", "prompt")
        elif prompt is not None and len(prompt) > LONGEST_PROMPT:
            self._blame.wrong(draft, f"has {len(prompt):,} characters, expected at most {LONGEST_PROMPT:,}", "prompt")
        elif draft.blamed("prompt"):
            pass
        elif not prompt.strip() if prompt is not None else "multi_prompt" not in parameters and plan.asks_for_prompt:
            draft.wrong("has no prompt" + self._header_hint(draft.entry))
        if parameters.get("seed") == "auto" and plan.model is not None and plan.model.takes("seed") is False:
            del parameters["seed"]
        if (
            not isinstance(draft.samples, int)
            or isinstance(draft.samples, bool)
            or not 1 <= draft.samples <= MOST_SAMPLES
        ):
            words = f"{shown(draft.samples)}, expected a whole number from 1 to {MOST_SAMPLES:,}"
            self._blame.wrong(draft, words, "samples")
        size, count = weight(parameters)
        if size > LARGEST or count > MOST_VALUES:
            most = f"{LARGEST >> 20} MB" if size > LARGEST else f"{MOST_VALUES:,} values"
            draft.wrong(f"is a request of more than {most}; give a picture or video by its address")
        for name in draft.metadata:
            if (fault := metadata_fault(name, parameters, plan)) is not None:
                draft.wrong(fault, *((name,) if draft.says(name) else ("metadata", name)), name=True)
        if draft.id is not None:
            draft.id = "-".join([draft.id, *labels])
            fault = id_fault(draft.id)
            if fault is None and (before := self._ids.add(draft.id, draft.number)):
                fault = f"{shown(draft.id)} is already the id of row {before}; ids are unique"
            if fault is not None:
                draft.wrong(fault, "id")
        sent = self._take_files(draft, plan) if plan.media else parameters
        if self.catalog is not None and not draft.refused:
            for found in self.catalog.check(plan.model_id, sent):
                self._blame.wrong(draft, found.message, *found.path, name=found.kind == "stranger")

    def _take_files(self, draft: Draft, plan: Plan) -> Mapping[str, Any]:
        """Files that the row names are references from here on; the parameters as the model will see them."""
        parameters = draft.parameters
        for name in plan.media.keys() & parameters.keys():
            found: list[InputFile] = []
            try:
                value = self.files.replaced(parameters[name], plan.media[name], found)
            except InputFault as fault:
                draft.wrong(str(fault), name)
                continue
            if found:
                draft.inputs += found
                draft.written[name], parameters[name] = parameters[name], value
        if not draft.written:
            return parameters
        return {**parameters, **with_addresses({n: parameters[n] for n in draft.written}, _SOMEWHERE.__add__)}

    def _header_hint(self, entry: Entry) -> str:
        if entry.columns is None or any(name.casefold() == "prompt" for name in entry.columns):
            return ""
        return f"; the header has no column 'prompt', its columns are {printable(', '.join(entry.columns), 200)}"

    def _lay_base(self, plan: Plan) -> Iterator[Problem]:
        """Defaults and flags are known by the model's own names; a slip among them is told once for each model.

        They are meant for the manifest's model: a row that names another one goes without those that its own model
        does not take.
        """
        plan.base, plan.base_metadata = {}, {}
        for name, value in self._base.items():
            if name == "metadata":
                plan.base_metadata.update(value if isinstance(value, dict) else {})
                continue
            if name in OURS and name != "prompt":
                continue
            field = plan.learn(name)
            if field.kind == "parameter":
                if value is not None:
                    given = name in self.overrides.parameters and field.types == ("string",)
                    number = isinstance(value, int | float) and not isinstance(value, bool)
                    # `-p duration=5` was read before anybody knew that this model wants the text 5.
                    plan.base[field.name] = templates.text_of(value) if given and number else value
            elif value is None or (field.name.casefold() == "seed" and value == "auto") or self._is_guest(plan):
                continue
            elif self._keeps(plan, name):
                plan.base[name] = value
            elif self.overrides.extra_columns == "metadata":
                plan.base_metadata[name] = value
            elif self.overrides.extra_columns == "error":
                yield self._blame.stranger(plan, name, "-p" if name in self.overrides.parameters else "defaults")
        for name, values in self._matrix.items():
            extra = name != "model" and plan.learn(name).kind == "extra" and not self._is_guest(plan)
            if (
                extra
                and not self._keeps(plan, name)
                and self.overrides.extra_columns == "error"
                and (name.casefold() != "seed" or values != ["auto"])
            ):
                yield self._blame.stranger(plan, name, "matrix")

    def _is_guest(self, plan: Plan) -> bool:
        """The model is a row's own, not the one that the manifest is about."""
        return plan.model_id != self._base.get("model")


def _readable(plan: Plan, name: str, cell: Any) -> Any:
    field = plan.fields.get(name) or plan.learn(name)
    try:
        return field.value(cell)
    except CellFault:
        return None


def _near(plan: Plan, name: str) -> str:
    hint = plan.suggestion(name)
    return f" ({hint.removeprefix('; ')})" if hint else ""


def _deep(value: Any) -> bool:
    return isinstance(value, dict | list)
