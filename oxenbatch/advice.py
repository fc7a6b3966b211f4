"""What a person does about it: why samples failed, grouped by cause with the remedy, and what to type next.

Pure: what the ledger tells goes in, sentences and commands come out.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from oxenbatch.jobs import JobState
from oxenbatch.words import Cause, cause_of, fails_again

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_S = JobState


class Why(StrEnum):
    """The cause of a failure, in the word that programs get."""

    CREDITS = "credits"
    KEY = "key"
    CONTENT = "content"
    PARAMETER = "parameter"
    TIMEOUT = "timeout"
    TROUBLE = "trouble"
    FILE = "file"
    HELD = "held"
    UNANSWERED = "unanswered"
    CANCELLED = "cancelled"


WORDS_LEAST: Final = 6  # fewer letters would find errors of another kind too
_CONTENT: Final = (
    r"(?i)"
    r"polic|safety|moderat|nsfw|sensitive|prohibit|flagged|blocked|violat|copyright|inappropriate|not allowed|likeness"
)
MEANING: Final[dict[Why, tuple[str, str]]] = {
    Why.CREDITS: ("the account had no credits left", "top it up, then put them back"),
    Why.KEY: ("the hub did not accept the key", "`oxenbatch doctor` says which key is used; then put them back"),
    Why.CONTENT: ("refused for what they ask for", "change these rows in the manifest; the same would fail again"),
    Why.PARAMETER: ("a parameter does not suit the model", "change these rows in the manifest; the same fails again"),
    Why.TIMEOUT: ("not made in time, and cancelled", "give them longer with --timeout"),
    Why.TROUBLE: ("the hub or the model was in trouble", "put them back: another night may do better"),
    Why.FILE: ("made and paid, and the file could not be had", "the next run tries again, for nothing"),
    Why.HELD: ("sent, and nobody can tell whether it landed", "a person decides: it is money"),
    Why.UNANSWERED: ("sent, and not answered", "the next run finds out from the hub; nothing is sent twice"),
    Why.CANCELLED: ("cancelled", "put them back, if you want them after all"),
}
"""Of each cause: what it means, and what helps."""
EXITS: Final[dict[int, str]] = {
    0: "all done",
    1: "a bug",
    2: "called in a way that cannot be meant",
    3: "done, but for what failed for good",
    4: "a person must decide",
    5: "a limit was reached",
    65: "the manifest was wrong",
    69: "the hub stayed out of reach",
    74: "this machine: disk or folder",
    75: "work was left for the next run",
    77: "the key was refused",
    78: "a setting was wrong",
    130: "stopped with Ctrl-C",
    143: "told to stop",
}
"""How a run ended, in a few words."""


def why(state: JobState, error: str) -> Why:
    """The cause of a sample's rest in this state with these words."""
    if state is _S.HELD:
        return Why.HELD
    if state is _S.UNCERTAIN:
        return Why.UNANSWERED
    if state is _S.UNFETCHABLE:
        return Why.FILE
    if state is _S.CANCELLED:
        return Why.CANCELLED
    account = cause_of(error)
    if account in (Cause.CREDITS, Cause.KEY):
        return Why.CREDITS if account is Cause.CREDITS else Why.KEY
    if error.startswith("timed out: not made"):
        return Why.TIMEOUT
    if not fails_again(error):
        return Why.TROUBLE
    return Why.CONTENT if re.search(_CONTENT, error) else Why.PARAMETER


@dataclass(frozen=True, slots=True)
class Reason:
    """Samples at rest for the same words."""

    state: JobState
    error: str
    count: int
    example: str
    """A job to look at."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Samples at rest for the same cause, the most frequent words first."""

    why: Why
    reasons: tuple[Reason, ...]

    @property
    def count(self) -> int:
        """How many samples."""
        return sum(reason.count for reason in self.reasons)

    @property
    def meaning(self) -> str:
        """What the cause means."""
        return MEANING[self.why][0]

    @property
    def remedy(self) -> str:
        """What helps."""
        return MEANING[self.why][1]

    @property
    def common_words(self) -> str:
        """What `retry --error` finds all of these by: the words that their errors begin with; nothing where too few."""
        first, last = min(r.error for r in self.reasons), max(r.error for r in self.reasons)
        same = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
        words = re.split(r"\d|[^ -~]", same[:40])[0].strip()  # what varies, or cannot be typed, ends them
        return words if len(words) >= WORDS_LEAST else ""


def troubles(reasons: Iterable[Reason]) -> list[Trouble]:
    """The reasons by cause, the gravest cause first: those in whose way money stands, then by their number."""
    by_cause: dict[Why, list[Reason]] = {}
    for reason in reasons:
        by_cause.setdefault(why(reason.state, reason.error), []).append(reason)
    found = [Trouble(cause, tuple(sorted(some, key=lambda r: -r.count))) for cause, some in by_cause.items()]
    return sorted(found, key=lambda one: (one.why not in (Why.HELD, Why.CREDITS, Why.KEY), -one.count))


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do, and what to type for it."""

    words: str
    command: str = ""


def next_steps(
    counts: Mapping[JobState, int],
    found: list[Trouble],
    *,
    batch: str,
    run: str,
    running: bool,
    exit_code: int | None,
    left: bool,
) -> list[Step]:
    """What to do next about a batch, in order; `batch` is its folder, `run` the command that goes on with it.

    `left`: a run would find something to do by itself. `exit_code`: of the last run, if it ended.
    """
    name = shlex.quote(batch)
    if running:
        return [Step("a run is under way: watch it", f"oxenbatch status {name} --watch")]
    steps: list[Step] = []
    causes = {one.why: one for one in found}
    if exit_code == 77 or Why.KEY in causes:
        steps.append(Step("the key was refused: see which one is used, and why", "oxenbatch doctor"))
    if exit_code == 74:
        steps.append(Step("this machine was in the way: see what it lacks", f"oxenbatch doctor {name}"))
    if Why.CREDITS in causes:
        steps.append(Step("top up the account at the hub"))
    if Why.HELD in causes:
        steps.append(Step("decide about what is held", f"oxenbatch resolve {name}"))
    for cause in (Why.CREDITS, Why.KEY, Why.TROUBLE):
        if cause in causes:
            words = causes[cause].common_words
            only = f" --error {shlex.quote(words)}" if words else ""
            steps.append(Step(f"put back what failed ({MEANING[cause][0]})", f"oxenbatch retry {name}{only}"))
            left = True
    if Why.TIMEOUT in causes:
        steps.append(Step("put back what was too slow, and give it longer", f"{run} --retry-failed --timeout 2h"))
        left = False  # that run does the rest too
    for cause in (Why.CONTENT, Why.PARAMETER):
        if cause in causes:
            steps.append(Step("see which rows cannot be made as they are, and change them in the manifest",
                              f"oxenbatch ls {name} --state failed"))  # fmt: skip
            break
    if left or Why.FILE in causes or Why.UNANSWERED in causes:
        steps.append(Step(_what_a_run_does(counts, exit_code), run))
    return steps


def _what_a_run_does(counts: Mapping[JobState, int], exit_code: int | None) -> str:
    sends = counts.get(_S.PENDING, 0)
    collects = sum(counts.get(state, 0) for state in (_S.QUEUED, _S.PROCESSING, _S.SUCCEEDED, _S.UNFETCHABLE))
    asks = counts.get(_S.SUBMITTING, 0) + counts.get(_S.UNCERTAIN, 0)
    parts = [f"send {sends}"] if sends else []
    parts += [f"collect {collects} that are paid"] if collects else []
    parts += [f"find out about {asks} sent without an answer"] if asks else []
    again = " (a limit stopped the last one: raise it, or wait)" if exit_code == 5 else ""
    return "go on: " + (", ".join(parts) or "make what was put back") + again
