"""The head's members become checked values, and every member that is wrong becomes a problem."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

from oxenbatch.catalog.faults import shown
from oxenbatch.errors import Problem, nearest, printable
from oxenbatch.jobs import canonical
from oxenbatch.manifest import templates
from oxenbatch.wire import InputPlace, Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from oxenbatch.manifest.read import Member

KEYS: Final = (
    "name", "output", "concurrency", "max_cost", "model", "models", "target", "inputs",
    "defaults", "variables", "matrix", "prompt", "rows", "prompts",
)  # fmt: skip
OURS: Final = frozenset(["id", "prompt", "model", "samples", "metadata"])
"""A row's own fields; every other field is a parameter of the model."""
RESERVED: Final = {
    "num_generations": "say how many files are wanted with 'samples'",
    "target_namespace": "say it with 'target: {namespace: …}' at the top of the manifest",
    "target_repo": "say it with 'target: {repo: …}' at the top of the manifest",
    "target_directory": "say it with 'target: {directory: …}' at the top of the manifest",
}
"""Fields of the hub's request that are ours to fill in, and what to say in their place."""

MOST_ACTIVE: Final = 1_000  # generations at once: ten times what anybody has been seen to be allowed
MOST_VALUES: Final = 100_000  # of one variable or one axis: past that it is a list of rows
_MONEY = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?\Z")
OUTPUT_NAMES: Final = templates.DATE_FIELDS | {"name"}


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says over a manifest."""

    model: str | None = None
    """Over `defaults.model` and over an axis of models; a row's own field wins."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Typed values over `defaults` and over an axis of that name; a row's own field wins. None removes a default."""
    limit: int | None = None
    """The first so many rows, after expansion."""
    extra_columns: Literal["error", "metadata", "ignore"] = "error"
    """What becomes of fields that are neither ours nor the model's."""
    max_rows: int = 1_000_000
    """More rows than this, after expansion, are a problem: a matrix too many is a bill too high."""
    format: str | None = None
    """How the manifest is written, where its extension does not say."""


@dataclass(slots=True)
class Head:
    """What a manifest says about all of its rows."""

    name: str
    shown: str
    """The manifest's name for messages."""
    output: str = "out/{name}"
    concurrency: int | None = None
    max_cost: Decimal | None = None
    model_concurrency: dict[str, int] = field(default_factory=dict)
    target: Target | None = None
    inputs: InputPlace | None = None
    """Where at the hub files of this machine are kept; None where that is not said."""
    inputs_root: str = "."
    """In which folder of this machine they lie, relative to the manifest."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Under every row; `model` and the head's `prompt` among them."""
    variables: dict[str, list[str]] = field(default_factory=dict)
    matrix: dict[str, list[Any]] = field(default_factory=dict)
    templates: bool = False
    """`variables`, `matrix` or `prompt` is declared, so that braces mean something."""
    problems: list[Problem] = field(default_factory=list)

    members: Mapping[str, Member] = field(default_factory=dict)
    """As they are written, with their places."""

    def spot(self, key: str, *path: str | int, name: bool = False) -> str:
        """`file:line:column` of a member of the head, or of a part of it, or of that part's name."""
        member = self.members.get(key)
        line, column = member.spot(*path, name=name) if member else (1, 1)
        return f"{self.shown}:{line}:{column}"

    def path_of_default(self, name: str) -> tuple[str, ...]:
        """Where a default is said: `defaults.duration`, or `model` and `prompt` at the top."""
        alone = name in ("model", "prompt") and name in self.members
        return (name,) if alone else ("defaults", name)

    def wrong(self, message: str, key: str, *path: str, name: bool = False) -> None:
        """The problem is noted, at the value, or at its name where that is what is wrong."""
        where = self.spot(key, *path, name=name)
        self.problems.append(Problem(message, where=where, field=".".join((key, *path))))


def read_head(members: Mapping[str, Member], name: str, shown_as: str) -> Head:
    """The head, with all that is wrong with it among its problems."""
    head = Head(name=name, shown=shown_as, members=members)
    for key in members:
        if key not in KEYS:
            remedy = _hint(key, KEYS) or "; a parameter of the model goes under 'defaults:', or into a row"
            head.wrong(f"is not a field of a manifest{remedy}", key, name=True)
    value = {key: member for key, member in members.items() if member.value is not None}
    head.templates = "prompt" in value or "variables" in members or "matrix" in members
    _names(head, value)
    _limits(head, value)
    if "target" in value:
        head.target = _target(head, value["target"])
    _inputs(head, value.get("inputs"))
    _defaults(head, value)
    if "variables" in value:
        head.variables = _variables(head, value["variables"])
    if "matrix" in value:
        head.matrix = _matrix(head, value["matrix"])
    for axis in head.matrix:
        if axis.casefold() in {name.casefold() for name in head.variables}:
            head.wrong("is both a variable and an axis of the matrix; rename one", "matrix", axis, name=True)
    for key in ("rows", "prompts"):
        if key in value and (key == "prompts" or not isinstance(value[key].value, str)):
            what = "a list" if key == "prompts" else "a list, or the name of a file"
            head.wrong(f"{shown(value[key].value)}, expected {what}", key)
    return head


def _hint(name: str, known: Iterable[str]) -> str:
    near = nearest(name.casefold(), known)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"


def _names(head: Head, value: Mapping[str, Member]) -> None:
    if (member := value.get("name")) is not None:
        name = member.value
        if not isinstance(name, str) or not safe_name(name):
            what = "text of 1 to 100 characters, without slashes and control characters, that is not . or .."
            head.wrong(f"{shown(name)}, expected {what}", "name")
        else:
            head.name = name
    if (member := value.get("output")) is not None:
        if not isinstance(member.value, str) or not member.value.strip() or not member.value.isprintable():
            head.wrong(f"{shown(member.value)}, expected the name of a folder", "output")
            return
        try:
            strangers = sorted(set(templates.names(member.value)) - OUTPUT_NAMES)
        except templates.TemplateFault as fault:
            head.wrong(str(fault), "output")
            return
        for stranger in strangers:
            known = ", ".join(f"{{{one}}}" for one in sorted(OUTPUT_NAMES))
            head.wrong(f"{{{printable(stranger, 80)}}} is not known here; known are {known}", "output")
        head.output = member.value if not strangers else head.output


def safe_name(name: str) -> bool:
    """Whether the name can be one part of a path, everywhere."""
    return bool(
        0 < len(name) <= 100
        and name.strip() == name
        and name.isprintable()
        and name not in (".", "..")
        and not set(name) & set('/\\:*?"<>|')
    )


def _limits(head: Head, value: Mapping[str, Member]) -> None:
    if (member := value.get("concurrency")) is not None:
        head.concurrency = _count(head, member.value, "concurrency")
    if (member := value.get("max_cost")) is not None:
        text = member.value if isinstance(member.value, str) else ""
        if _MONEY.match(text.strip()) and Decimal(text.strip()) > 0:
            head.max_cost = Decimal(text.strip())
        else:
            words = f"{shown(member.value)}, expected dollars above 0, such as 25.00"
            head.wrong(words, "max_cost")
    if (member := value.get("models")) is not None:
        if not isinstance(member.value, dict):
            head.wrong(f"{shown(member.value)}, expected a mapping of models to limits", "models")
            return
        for model, limits in member.value.items():
            if not isinstance(limits, dict | None):
                head.wrong(f"{shown(limits)}, expected a mapping such as {{concurrency: 4}}", "models", model)
                continue
            for name, limit in (limits or {}).items():
                if name != "concurrency":
                    head.wrong(f"is not a limit{_hint(name, ['concurrency'])}", "models", model, name, name=True)
                elif limit is not None and (count := _count(head, limit, "models", model, name)) is not None:
                    head.model_concurrency[model] = count


def _count(head: Head, value: Any, key: str, *path: str) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_ACTIVE:
        return value
    head.wrong(f"{shown(value)}, expected a whole number from 1 to {MOST_ACTIVE}", key, *path)
    return None


def _target(head: Head, member: Member) -> Target | None:
    found = _place(head, member, "target", ("namespace", "repo", "directory"))
    return Target(**found) if found else None


def _inputs(head: Head, member: Member | None) -> None:
    """Where input files lie and are kept; what is not said is as the target says it."""
    names = ("namespace", "repo", "branch", "directory", "root")
    found = _place(head, member, "inputs", names) if member is not None else {}
    head.inputs_root = found.pop("root", ".")
    target = head.target or Target()
    namespace, repo = found.pop("namespace", target.namespace), found.pop("repo", target.repo)
    if namespace and repo:
        head.inputs = InputPlace(namespace, repo, **found)
    elif member is not None and isinstance(member.value, dict) and not head.problems:
        words = "does not say in which repository of the hub the files are kept; expected namespace and repo"
        head.wrong(words, "inputs")


def _place(head: Head, member: Member, key: str, names: tuple[str, ...]) -> dict[str, str]:
    """A place at the hub, by the names of its parts."""
    found: dict[str, str] = {}
    if not isinstance(member.value, dict):
        head.wrong(f"{shown(member.value)}, expected a mapping of {', '.join(names)}", key)
        return found
    for name, value in member.value.items():
        if name not in names:
            head.wrong(f"is not known{_hint(name, names)}", key, name, name=True)
        elif value is None:
            continue
        elif not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 300:
            head.wrong(f"{shown(value)}, expected text of 1 to 300 characters", key, name)
        elif name in ("namespace", "repo", "branch") and ("/" in value or value in (".", "..")):
            head.wrong(f"{shown(value)}, expected a name without a slash", key, name)
        elif name == "directory" and (value.startswith("/") or ".." in value.split("/") or "\\" in value):
            head.wrong(f"{shown(value)}, expected a folder inside the repository", "target", name)
        else:
            found[name] = value
    return found


def _defaults(head: Head, value: Mapping[str, Member]) -> None:
    member = value.get("defaults")
    if member is not None and not isinstance(member.value, dict):
        head.wrong(f"{shown(member.value)}, expected a mapping of parameters", "defaults")
    elif member is not None:
        for name, inner in member.value.items():
            key = name.casefold() if name.casefold() in OURS else name
            if key == "id":
                head.wrong("cannot be the same for every row; say it in the rows", "defaults", "id", name=True)
            elif key in RESERVED:
                head.wrong(f"is not a parameter; {RESERVED[key]}", "defaults", key, name=True)
            elif key == "metadata" and not isinstance(inner, dict | None):
                head.wrong(f"{shown(inner)}, expected a mapping", "defaults", "metadata")
            else:
                head.defaults[key] = inner
    for key in ("model", "prompt"):
        own = value.get(key)
        if own is None:
            continue
        if not isinstance(own.value, str) or not own.value.strip():
            head.wrong(f"{shown(own.value)}, expected text", key)
        elif head.defaults.get(key, own.value) != own.value:
            words = f"{shown(own.value)}, but defaults.{key} is {shown(head.defaults[key])}; say it once"
            head.wrong(words, key)
        else:
            head.defaults[key] = own.value
    if head.templates:
        for name, inner in head.defaults.items():
            try:
                list(templates.names(inner))
            except templates.TemplateFault as fault:
                head.wrong(str(fault), *head.path_of_default(name))


def _variables(head: Head, member: Member) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, values in _axes(head, member, "variables"):
        texts = [templates.text_of(value) for value in values]
        if any(isinstance(value, dict | list) for value in values) or None in texts:
            head.wrong("holds something that is not text", "variables", name)
        elif name.casefold() in OUTPUT_NAMES:
            words = "is a name that every template knows already; call the variable something else"
            head.wrong(words, "variables", name, name=True)
        elif not _plain(name):
            words = "cannot be named in a template; use a name without . [ ] { } ! and :"
            head.wrong(words, "variables", name, name=True)
        else:
            found[name] = [text for text in texts if text is not None]
    return found


def _matrix(head: Head, member: Member) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name, values in _axes(head, member, "matrix"):
        key = name.casefold() if name.casefold() in OURS else name
        if key in RESERVED:
            head.wrong(f"is not a parameter; {RESERVED[key]}", "matrix", name, name=True)
        elif key in ("id", "samples", "metadata"):
            head.wrong("cannot be an axis; axes are parameters of the model, or model", "matrix", name, name=True)
        elif key == "model" and not all(isinstance(value, str) and value for value in values):
            head.wrong(f"{shown(values)}, expected models' names", "matrix", name)
        else:
            found[key] = values
    return found


def _axes(head: Head, member: Member, what: str) -> list[tuple[str, list[Any]]]:
    if not isinstance(member.value, dict):
        head.wrong(f"{shown(member.value)}, expected a mapping of names to lists", what)
        return []
    found: list[tuple[str, list[Any]]] = []
    seen: set[str] = set()
    for name, given in member.value.items():
        values = given if isinstance(given, list) else [] if given is None else [given]
        texts = Counter(canonical(value) for value in values)
        if not 0 < len(values) <= MOST_VALUES:
            words = f"has {len(values)} values, expected 1 to {MOST_VALUES}"
            head.wrong(words, what, name)
        elif len(texts) != len(values):
            twice = texts.most_common(1)[0][0]
            words = f"holds {printable(twice, 80)} twice; more files of one request are asked for with 'samples'"
            head.wrong(words, what, name)
        elif name.casefold() in seen:
            head.wrong("is there twice but for case; rename one", what, name, name=True)
        else:
            found.append((name, values))
        seen.add(name.casefold())
    return found


def _plain(name: str) -> bool:
    return bool(name.strip()) and not set(name) & set(".[]{}!:")


def stem(path: Path) -> str:
    """The manifest's name where it does not say one: the file's stem, made safe."""
    cleaned = re.sub(r'[/\\:*?"<>|]+', "-", "".join(c for c in path.stem if c.isprintable()))[:100].strip()
    return cleaned if safe_name(cleaned) else "manifest"
