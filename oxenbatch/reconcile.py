"""What became of a send that nobody answered, decided from the hub's own rows.

Pure: no I/O, no clock. Identical requests are interchangeable, so sets are matched, not single sends: with o open
submissions of a request and u rows at the hub that no ledger owns, the older min(o, u) are adopted. Absence needs
proof: the settle time, by the hub's clock, and then two complete scans that agree (the money rules, section 3).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.echo import echoes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from oxenbatch.wire import Generation

SLACK_S: Final = 3.0  # `enqueued_at` and `Date` are whole seconds, and one answer's way back is part of the reckoning
SCANS_THAT_PROVE: Final = 2
BEGINNING_S: Final = 120.0  # another batch or shard that could settle whose a row is may just be starting, or again
POSTING_S: Final = 600.0  # no POST takes so long: whoever recorded it is suspended, or dead and not run again
DOUBT_S: Final = 60.0  # machines of one hub may disagree about the time: a row so near the window proves no absence


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
    by_token: bool = False
    """It was sent with a target, so that its row says itself whose it is."""
    namespace: str | None = None
    """The target's namespace: whose history has its row."""


@dataclass(frozen=True, slots=True)
class Rival:
    """An open send of another ledger of this user's, with a request of ours: older ones take their rows first."""

    request_hash: str
    intent_at: float
    waiting: int
    ended_at: float = inf
    """When its connection ended; a row that came later than the settle time after that is not its."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What this user's other ledgers have to do with the rows at hand."""

    owned: frozenset[str] = frozenset()
    rivals: tuple[Rival, ...] = ()
    unreadable: str = ""
    """A ledger that could not be asked: what it owns is not known, so nothing is adopted that it might own."""
    posting: frozenset[str] = frozenset()
    """Requests with a POST under way there: its row must not be taken for ours."""
    unseen: frozenset[str] = frozenset()
    """Requests that shards on other machines have as well: whose a row of theirs is cannot be told here."""


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
    """The hub's time before which no row can belong to any of them, not even by a clock that is somewhat wrong."""
    return min(one.intent_at for one in opens) - DOUBT_S


def scan_due_at(opens: Iterable[Open], settle_s: float) -> float:
    """The hub's time at which the first of them can be proved absent."""
    return min(one.ended_at for one in opens) + settle_s


def judge(
    opens: Sequence[Open],
    rows: Sequence[Generation],
    owned: set[str],
    *,
    now: float,
    settle_s: float,
    by_token: bool,
    elsewhere: Elsewhere = Elsewhere(),
    under_way: Sequence[Open] = (),
    doubt_s: float = DOUBT_S,
) -> list[Verdict]:
    """One verdict for each open submission, from one complete scan that began at the hub's time `now`.

    `owned` are ids that belong to this ledger. `by_token`: the manifest sets a target, so a row says itself whose
    it is. `elsewhere` was asked after the scan, so that no POST of another ledger can have slipped in between; so
    was `under_way`, this ledger's sends that are still being answered: a row that may be theirs is left to them.
    `doubt_s`: how far outside the window a row still proves no absence; without end where the hub tells no time.
    """
    free = _oldest_first(r for r in rows if r.generation_id not in owned and r.generation_id not in elsewhere.owned)
    if by_token:
        return [_judge_by_token(one, free, now, settle_s) for one in opens]
    busy = _pools(under_way, free, Elsewhere(), inf)
    theirs = {row.generation_id for pool in busy for row in (*pool.rows, *pool.doubts)}
    pools = _pools(opens, free, elsewhere, settle_s, doubt_s)
    taken = _share_out(pools, theirs)
    verdicts = [verdict for pool in pools for verdict in _judge_pool(pool, taken, theirs, now, settle_s)]
    if not elsewhere.unreadable and not elsewhere.unseen:
        return verdicts
    by_id = {one.submission_id: one for one in opens}
    return [_unless_disputed(v, by_id[v.submission_id], elsewhere, now - settle_s) if v.ids else v for v in verdicts]


def _unless_disputed(verdict: Verdict, one: Open, elsewhere: Elsewhere, settled: float) -> Verdict:
    """Nothing is adopted that a ledger may own which cannot be asked: a person decides, once that can be told."""
    if elsewhere.unreadable:
        why = f"it may be at the hub, or be another batch's, whose ledger cannot be read: {elsewhere.unreadable}"
    elif one.request_hash in elsewhere.unseen:
        why = "it may be at the hub, or be another shard's, which has a row with the same request"
        settled -= BEGINNING_S
    else:
        return verdict
    return Verdict(one.submission_id, (), 0, why if settled >= one.ended_at else "")


def _judge_by_token(one: Open, free: Sequence[Generation], now: float, settle_s: float) -> Verdict:
    mine = [row for row in free if row.directory and one.token in row.directory.split("/")]
    ids = tuple(row.generation_id for row in mine[: one.waiting])
    scans = _scans(one, now, settle_s, short=len(ids) < one.waiting, found=bool(ids))
    # The echo is missing: rows that could be this send's, and do not say into which directory they go.
    begin, end = one.intent_at - DOUBT_S, one.ended_at + settle_s + DOUBT_S
    silent = [r for r in free if not r.directory and _is_within(r, begin, end)]
    doubts = sum(echoes(row, one.model, one.parameters) is not False for row in silent) if scans else 0
    return Verdict(one.submission_id, ids, 0 if doubts else scans, _silence(doubts) if doubts else "")


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """The open sends of one request, which are interchangeable, and the rows that may be theirs."""

    opens: list[Open]
    rivals: list[Rival]
    is_posted_elsewhere: bool
    rows: list[Generation]
    """In the window, and made by this request."""
    doubts: list[Generation]
    """Perhaps made by this request, or by it and just outside the window."""

    @property
    def wanted(self) -> int:
        return sum(one.waiting for one in self.opens) + sum(rival.waiting for rival in self.rivals)

    @property
    def said(self) -> int:
        """How much the request says: one that says more is met by fewer rows, so it chooses first."""
        return sum(value is not None for value in self.opens[0].parameters.values())


def _pools(
    opens: Iterable[Open],
    free: Sequence[Generation],
    elsewhere: Elsewhere,
    settle_s: float,
    doubt_s: float = DOUBT_S,
) -> list[_Pool]:
    by_hash: dict[str, list[Open]] = defaultdict(list)
    for one in sorted(opens, key=lambda one: (one.intent_at, one.submission_id)):
        by_hash[one.request_hash].append(one)
    pools = []
    for hashed, members in by_hash.items():
        first = members[0]
        begin, end = first.intent_at - SLACK_S, max(one.ended_at for one in members) + settle_s + SLACK_S
        pool = _Pool(members, [r for r in elsewhere.rivals if r.request_hash == hashed], hashed in elsewhere.posting,
                     [], [])  # fmt: skip
        for row in free:
            if not _is_within(row, begin - doubt_s, end + doubt_s):
                continue
            same, inside = echoes(row, first.model, first.parameters), _is_within(row, begin, end)
            if same and inside:
                pool.rows.append(row)
            elif same or (same is None and inside):
                pool.doubts.append(row)
        pools.append(pool)
    return pools


def _share_out(pools: Iterable[_Pool], theirs: set[str]) -> dict[str, _Pool]:
    """Which pool each row goes to, but for `theirs`: none to two, and as many as can be.

    A row echoes every request that says no more than its own did (`{prompt}` and `{prompt, seed}`, and the hub fills
    in defaults). Given to both, one of the two sends would later be "proved absent", and paid twice; so would one
    whose only row went to a request that another row meets as well, hence the exchange.
    """
    taken: dict[str, _Pool] = {}

    def claim(pool: _Pool, asked: set[int]) -> bool:
        rows = [row.generation_id for row in pool.rows if row.generation_id not in theirs]
        if (row := next((row for row in rows if row not in taken), None)) is not None:
            taken[row] = pool
            return True
        for row in rows:
            holder = taken[row]
            if id(holder) not in asked:
                asked.add(id(holder))
                if claim(holder, asked):
                    taken[row] = pool
                    return True
        return False

    for pool in sorted(pools, key=lambda pool: -pool.said):
        for _ in range(pool.wanted):
            if not claim(pool, {id(pool)}):
                break
    return taken


def _judge_pool(pool: _Pool, taken: dict[str, _Pool], theirs: set[str], now: float, settle_s: float) -> list[Verdict]:
    if pool.is_posted_elsewhere:
        why = "another ledger of yours has not settled a send of the same request: run that batch again"
        late = now - settle_s - POSTING_S
        return [Verdict(o.submission_id, (), o.absent_scans, why if late >= o.ended_at else "") for o in pool.opens]
    rows = [row for row in pool.rows if taken.get(row.generation_id) is pool]
    found = bool(rows)
    silent = sum(row.generation_id not in taken and row.generation_id not in theirs for row in pool.doubts)
    # Whose a row is that a POST under way may have made is known when that is answered.
    disputed = any(row.generation_id in theirs for row in (*pool.rows, *pool.doubts))
    elder = sorted(pool.rivals, key=lambda rival: rival.intent_at)
    left_to_rivals = 0
    verdicts: list[Verdict] = []
    for one in pool.opens:
        while elder and elder[0].intent_at < one.intent_at:
            rival = elder.pop(0)
            begin, end = rival.intent_at - SLACK_S, rival.ended_at + settle_s + SLACK_S
            theirs_first = [row for row in rows if _is_within(row, begin, end)][: rival.waiting]
            left_to_rivals += len(theirs_first)
            rows = [row for row in rows if row not in theirs_first]
        ids = tuple(row.generation_id for row in rows[: one.waiting])
        del rows[: one.waiting]
        short = len(ids) < one.waiting
        scans = 0 if disputed else _scans(one, now, settle_s, short=short, found=found)
        why = ""
        if scans and silent:
            why = _silence(silent)
        elif scans and left_to_rivals:
            why = f"{left_to_rivals} rows at the hub may be this send's, or an older one's of another ledger of yours"
        # A rival that is at work takes its row within seconds, and then nothing is in doubt any more.
        waits = bool(pool.rivals) and now < one.ended_at + settle_s + BEGINNING_S
        verdicts.append(Verdict(one.submission_id, ids, 0 if why else scans, "" if waits else why))
    return verdicts


def _is_within(row: Generation, begin: float, end: float) -> bool:
    return row.enqueued_at is None or begin <= row.enqueued_at <= end


def _silence(count: int) -> str:
    return f"{count} rows at the hub could be this send's, and do not say clearly which request made them"


def _scans(one: Open, now: float, settle_s: float, *, short: bool, found: bool) -> int:
    if not short or now < one.ended_at + settle_s:
        return 0
    return 1 if found else one.absent_scans + 1  # a scan that found some of them does not agree with one that had none


def _oldest_first(rows: Iterable[Generation]) -> list[Generation]:
    """Rows by their age; one that does not say when it was made comes last, since the others are likelier ours."""
    return sorted(rows, key=lambda r: (r.enqueued_at is None, r.enqueued_at or 0.0, r.generation_id))
