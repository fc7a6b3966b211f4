"""How a run and its hub get on: one small picture of the desk, for whoever watches."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

from oxenbatch.errors import printable

if TYPE_CHECKING:
    from oxenbatch.runner.desk import Desk

WORDS: Final = 200  # characters of the hub's words that are kept: a line on a wide terminal


@dataclass(frozen=True, slots=True)
class Pause:
    """One model that nothing is sent to for a while."""

    model: str
    left_s: float
    words: str
    """The failures that it pauses for."""


@dataclass(frozen=True, slots=True)
class Mood:
    """What slows a run or stops it, at one moment; seconds count from that moment."""

    listening: bool | None = None
    """Whether the hub's announcements are heard; None before that was tried."""
    unreachable_s: float = 0.0
    """For how long no call has had a usable answer; 0 while the hub answers."""
    waits_s: float = 0.0
    """For how long nothing is sent, since the hub asked for that or troubled us; 0: sending goes on."""
    words: str = ""
    """What the hub said that sending waits for."""
    pauses: tuple[Pause, ...] = ()
    given_up: tuple[str, ...] = ()
    """Models whose first row failed, so that their others are not sent."""
    stops: tuple[str, ...] = ()
    """Why nothing more is sent in this run, in sentences."""
    fetching: int = 0
    """Files on their way."""

    def as_json(self) -> str:
        """The mood as the ledger keeps it."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @property
    def lasting(self) -> Self:
        """The mood without what only counts down, or up: two that are equal in this tell the same."""
        pauses = tuple(replace(pause, left_s=0.0) for pause in self.pauses)
        return replace(self, unreachable_s=float(self.unreachable_s > 0), waits_s=float(self.waits_s > 0),
                       pauses=pauses, fetching=0)  # fmt: skip

    @classmethod
    def from_json(cls, text: str | None, age_s: float = 0.0) -> Self:
        """The mood that was written down `age_s` seconds ago; a calm one where it cannot be read."""
        try:
            told: dict[str, Any] = json.loads(text or "{}")
            told["pauses"] = tuple(
                Pause(p["model"], p["left_s"] - age_s, p["words"])
                for p in told.get("pauses", ())
                if p["left_s"] > age_s
            )
            told["waits_s"] = max(0.0, told.get("waits_s", 0.0) - age_s)
            for name in ("given_up", "stops"):
                told[name] = tuple(told.get(name, ()))
            return cls(**told)
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()  # a newer program's, or a stranger's


def mood_of(desk: Desk) -> Mood:
    """How the run gets on now."""
    now = desk.clock.monotonic()
    since = desk.hub.unreachable_since
    waits_s = max(0.0, desk.lane.opens_at - now)
    return Mood(
        listening=desk.listening,
        unreachable_s=0.0 if since is None else now - since,
        waits_s=waits_s,
        words=printable(desk.lane_words, WORDS) if waits_s else "",
        pauses=tuple(
            Pause(model, breaker.opens_at - now, printable(breaker.words, WORDS))
            for model, breaker in sorted(desk.breakers.items())
            if breaker.opens_at > now
        ),
        given_up=tuple(sorted(desk.given_up)),
        stops=tuple(printable(words, WORDS) for words in desk.stops.values() if words),
        fetching=len(desk.fetching),
    )
