"""Which fault strikes when: a list of rules in a JSON file, deterministic by a seed, editable while the hub runs."""

from __future__ import annotations

import hashlib
import json
from fnmatch import fnmatchcase
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from .mishaps import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_COMMON: Final = ("do", "on", "chance", "after", "times", "between", "model")


class Rule:
    """One fault, when it strikes, and how often it has.

    `do` names the fault (`mishaps.KINDS`); `on` the call, `*` allowed, as in `GET /ai/*`. All others may be absent:
    `chance` 0 to 1; `after` that many chances let pass; `times` at most; `between` two times in seconds since the hub
    started, by its own clock; `model` an id; and the fault's own options.
    """

    def __init__(self, asked: Mapping[str, Any], seed: str) -> None:
        self.do = str(asked.get("do"))
        if self.do not in KINDS:
            raise ValueError(f"a fault's `do` is {self.do!r}, expected one of: {', '.join(sorted(KINDS))}")
        options = KINDS[self.do].options
        if strangers := [name for name in asked if name not in _COMMON and name not in options]:
            known = ", ".join((*_COMMON, *options))
            raise ValueError(f"the fault {self.do} has no option {strangers[0]!r}, only: {known}")
        self.asked = dict(asked)
        self.on = str(asked.get("on", KINDS[self.do].on))
        self.chance = float(asked.get("chance", 1.0))
        self.after = int(asked.get("after", 0))
        self.times: int | None = asked.get("times")
        self.between: tuple[float, float] = tuple(asked.get("between", (0.0, float("inf"))))
        self.model: str | None = asked.get("model")
        self.options = dict(options) | {name: value for name, value in asked.items() if name in options}
        self.met = 0
        self.struck = 0
        self._seed = seed
        self._random = Random(seed)  # noqa: S311  repeatable, and nothing secret hangs on it

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    def concerns(self, on: str, elapsed: float, model: str | None) -> bool:
        """The rule is about this call, at this time, of this model."""
        low, high = self.between
        return (
            low <= elapsed < high
            and (self.model is None or self.model == model)
            and (self.on == on or fnmatchcase(on, self.on))
        )

    def strikes(self) -> bool:
        """It happens now: one more chance is used up, and one more blow if so."""
        self.met += 1
        if self.met <= self.after or (self.times is not None and self.struck >= self.times):
            return False
        if self._random.random() >= self.chance:
            return False
        self.struck += 1
        return True

    def marks(self, generation_id: str) -> bool:
        """It happens to this generation: the same answer however often one looks."""
        return int(hashlib.sha256(f"{self._seed}/{generation_id}".encode()).hexdigest()[:8], 16) < self.chance * 2**32


class Faults:
    """All rules. The first that replaces a call's answer wins; those that only change an answer add up."""

    def __init__(self, rules: Iterable[Mapping[str, Any]] = (), *, seed: int | str = 0) -> None:
        self.path: Path | None = None
        self._mtime_ns = 0
        self._seed = seed
        self.rules: list[Rule] = []
        self._set(list(rules))

    @classmethod
    def from_file(cls, path: Path | str) -> Faults:
        """The rules of a JSON file, which is read again whenever it changes.

        It holds a list of rules, or an object of `seed` and `rules`.
        """
        faults = cls()
        faults.path = Path(path)
        faults._read()
        return faults

    def refresh(self) -> None:
        """The rules are those of the file as it is now; as they were, while it cannot be read or understood."""
        if self.path is None:
            return
        try:
            if self.path.stat().st_mtime_ns != self._mtime_ns:
                self._read()
        except (OSError, ValueError):  # somebody is in the middle of editing it
            return

    def _read(self) -> None:
        assert self.path is not None  # noqa: S101  only called with one
        mtime_ns = self.path.stat().st_mtime_ns
        value = json.loads(self.path.read_text(encoding="utf-8"))
        try:
            if isinstance(value, dict):
                self._seed = value.get("seed", self._seed)
                value = value["rules"]
            self._set(value)
        except (AttributeError, LookupError, TypeError):
            raise ValueError(f"{self.path}: expected a list of rules, or an object of `seed` and `rules`") from None
        self._mtime_ns = mtime_ns

    def _set(self, asked: list[Mapping[str, Any]]) -> None:
        fresh = [Rule(rule, f"{self._seed}/{number}") for number, rule in enumerate(asked)]
        # A rule that stayed keeps its counts: adding a line must not make `times: 1` strike again.
        for number, rule in enumerate(self.rules[: len(fresh)]):
            if fresh[number].asked == rule.asked:
                fresh[number] = rule
        self.rules = fresh

    def about(self, do: str, on: str, elapsed: float, model: str | None = None) -> Iterator[Rule]:
        """The rules of that name which concern this call; nothing is counted."""
        for rule in self.rules:
            if rule.do == do and rule.concerns(on, elapsed, model):
                yield rule

    def strike(self, do: str, on: str, elapsed: float, model: str | None = None) -> Rule | None:
        """The rule of that name that strikes now, if any."""
        return next((rule for rule in self.about(do, on, elapsed, model) if rule.strikes()), None)

    def struck(self, on: str, elapsed: float, model: str | None) -> tuple[Rule | None, list[Rule]]:
        """What this call's answer is replaced by, if anything, and what else happens to it."""
        replacing: Rule | None = None
        changing: list[Rule] = []
        for rule in self.rules:
            kind = KINDS[rule.do]
            wanted = kind.change is not None or (kind.replace is not None and replacing is None)
            if not wanted or not rule.concerns(on, elapsed, model) or not rule.strikes():
                continue
            if kind.replace is not None:
                replacing = rule
            else:
                changing.append(rule)
        return replacing, changing
