"""What became of a send that nobody answered, decided from the hub's own rows.

Pure: no I/O, no clock. Identical requests are interchangeable, so sets are matched, not single sends: with o open
submissions of a request and u rows at the hub that no ledger owns, the older min(o, u) are adopted. Absence needs
proof: the settle time, by the hub's clock, and then two complete scans that agree (the money rules, section 3).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.wire import Generation, echoes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SLACK_S: Final = 3.0  # `enqueued_at` and `Date` are whole seconds, and one answer's way back is part of the reckoning
SCANS_THAT_PROVE: Final = 2


@dataclass(frozen=True, slots=True)
class Open:
    """A submission whose outcome is not known. Times are Unix seconds by the hub's clock."""

    submission_id: int
    request_hash: str
    model: str
    parameters: dict[str, Any]
    """What was sent beside the model: only these are compared."""
    token: str
    waiting: int
    """How many of its samples have no generation yet."""
    intent_at: float
    ended_at: float
    """When our side of the connection ended: nothing of it can reach the hub later, but for what is under way."""
    absent_scans: int = 0
    """Complete scans after the settle time that did not show it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one scan says of one open submission; adopt `ids` whatever else it says."""

    submission_id: int
    ids: tuple[str, ...] = ()
    scans: int = 0
    """The new count of scans that prove its absence; two are enough."""
    undecidable: str = ""
    """Why a person must decide, once the settle time is over."""

    @property
    def absent(self) -> bool:
        """It is proved that what was not found never landed."""
        return self.scans >= SCANS_THAT_PROVE


def window_start(opens: Iterable[Open]) -> float:
    """The hub's time before which no row can belong to any of them."""
    return min(one.intent_at for one in opens) - SLACK_S


def scan_due_at(opens: Iterable[Open], settle_s: float) -> float:
    """The hub's time at which the first of them can be proved absent."""
    return min(one.ended_at for one in opens) + settle_s


def judge(
    opens: Sequence[Open], rows: Sequence[Generation], owned: set[str], *, now: float, settle_s: float, by_token: bool
) -> list[Verdict]:
    """One verdict for each open submission, from one complete scan that began at the hub's time `now`.

    `owned` are ids that belong to this ledger or another of this user's. `by_token`: the manifest sets a target, so
    a row says itself whose it is.
    """
    free = [row for row in rows if row.generation_id not in owned]
    if by_token:
        return [_judge_by_token(one, free, now, settle_s) for one in opens]
    verdicts: list[Verdict] = []
    pools: dict[str, list[Open]] = defaultdict(list)
    for one in sorted(opens, key=lambda one: (one.intent_at, one.submission_id)):
        pools[one.request_hash].append(one)
    for pool in pools.values():
        verdicts += _judge_pool(pool, free, now, settle_s)
    return verdicts


def _judge_by_token(one: Open, free: Sequence[Generation], now: float, settle_s: float) -> Verdict:
    mine = [row for row in free if row.directory and row.directory.rstrip("/").rsplit("/", 1)[-1] == one.token]
    ids = tuple(row.generation_id for row in _oldest_first(mine)[: one.waiting])
    return Verdict(one.submission_id, ids, _scans(one, ids, now, settle_s))


def _judge_pool(pool: Sequence[Open], free: Sequence[Generation], now: float, settle_s: float) -> list[Verdict]:
    first = pool[0]
    begin = window_start(pool)
    end = max(one.ended_at for one in pool) + settle_s + SLACK_S
    found: list[Generation] = []
    silent = 0
    for row in _oldest_first(free):
        if row.enqueued_at is not None and not begin <= row.enqueued_at <= end:
            continue
        same = echoes(row, first.model, first.parameters)
        if same:
            found.append(row)
        silent += same is None
    verdicts: list[Verdict] = []
    for one in pool:
        ids = tuple(row.generation_id for row in found[: one.waiting])
        del found[: one.waiting]
        scans = _scans(one, ids, now, settle_s)
        if scans and silent:
            why = f"{silent} rows at the hub could be this send's, and do not say which request made them"
            verdicts.append(Verdict(one.submission_id, ids, undecidable=why))
        else:
            verdicts.append(Verdict(one.submission_id, ids, scans))
    return verdicts


def _scans(one: Open, ids: Sequence[str], now: float, settle_s: float) -> int:
    if len(ids) >= one.waiting or now < one.ended_at + settle_s:
        return 0
    return 1 if ids else one.absent_scans + 1  # a scan that found some of it does not agree with one that found none


def _oldest_first(rows: Iterable[Generation]) -> list[Generation]:
    return sorted(rows, key=lambda row: (row.enqueued_at or 0.0, row.generation_id))
