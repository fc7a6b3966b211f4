"""Due work, limits, money and the time become what to do next.

Pure: no I/O, no clock, no randomness. `runner` obeys; the ledger enforces the money limits once more where an intent
is made. Times are seconds of whatever clock the caller uses throughout; only differences count.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from oxenbatch.jobs import PER_POST
from oxenbatch.wire import Answer, Outcome
from oxenbatch.words import Cause, alike

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence
    from decimal import Decimal

OPEN_POSTS: Final = 16  # httpx scans its pool for every request: more connections cost more CPU than they save
DOWNLOADS: Final = 8
STORES: Final = 4  # files stored at once: each is a commit on one branch of one repository


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user allows a run. Dollars are exact, times are seconds; None means no limit."""

    concurrency: int = 8
    models: Mapping[str, int] = field(default_factory=dict)
    """Tighter limits of single models."""
    attempts: int = 3
    max_cost: Decimal | None = None
    allow_unpriced: bool = False
    limit_sends: int | None = None
    settle_s: float = 120.0
    """How long a send may surface late at the hub: a killed client's bytes still sit in kernels and proxies."""
    post_timeout_s: float = 30.0
    image_timeout_s: float = 900.0
    video_timeout_s: float = 3600.0
    max_outage_s: float = 1800.0
    deadline_s: float | None = None
    wait: bool = True
    fail_fast: bool = False
    on_unknown: Literal["hold", "resubmit"] = "hold"
    in_order: bool = False
    """Send in the manifest's order, and not the longest first."""
    canary: Literal["unknown", "all", "none"] = "unknown"
    """Which models have their first row made before the rest is released: those without a schema, all, or none."""


class Stop(Enum):
    """Why a run sends nothing more, and the exit code that says so where work is left."""

    SIGINT = 130
    SIGTERM = 143
    KEY = 77
    FORBIDDEN = (77, "")  # what the key may not do is not needed for collecting what is paid
    INPUTS = (65, "")
    DISK = (74, "the disk is nearly full")
    OUTAGE = 69
    DEADLINE = 75
    FAIL_FAST = 3
    CREDITS = (5, "the account has no credits left")
    COST = (5, "max-cost is reached")
    UNPRICED = (5, "a model has no known price, so max-cost cannot be kept; --allow-unpriced sends it all the same")
    SENDS = (5, "limit-sends is reached")
    DAY = (5, "max_cost_per_day is reached, over all batches of today")

    @property
    def exit_code(self) -> int:
        """The contract's section 3."""
        return self.value[0] if isinstance(self.value, tuple) else int(self.value)

    @property
    def words(self) -> str:
        """The sentence that tells it, where it has one of its own."""
        return self.value[1] if isinstance(self.value, tuple) else ""

    @property
    def at_once(self) -> bool:
        """Whether the run leaves without waiting for what the hub still makes."""
        return self in (Stop.SIGINT, Stop.SIGTERM, Stop.KEY, Stop.DISK, Stop.OUTAGE)


# -- what to send -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Due:
    """One sample that could be sent now."""

    sample_id: int
    job_id: int
    model: str
    request_hash: str
    estimate_nanos: int | None


class Kind(NamedTuple):
    """Samples that take about as long as each other: of one model, and of one length."""

    model: str
    length_s: int
    """Seconds of video that are asked for; 0 where the request does not say."""


VIDEO_S: Final = (60.0, 20.0)  # what a video takes, and for each of its seconds, while nothing is known of its model
IMAGE_S: Final = 15.0
ALIKE: Final = 1.25  # times that differ by less are the same: reordering for them gains nothing


def expected_s(kind: Kind, paces: Mapping[Kind, float], *, video: bool) -> float:
    """How long the hub will take for a sample of this kind.

    By what it took of late, else by what it took for other lengths of the model, else as such things usually take.
    """
    if kind in paces:
        return paces[kind]
    same = {other.length_s: pace for other, pace in paces.items() if other.model == kind.model}
    if same and kind.length_s and (rates := [pace / length for length, pace in same.items() if length]):
        return kind.length_s * sum(rates) / len(rates)
    if same:
        return sum(same.values()) / len(same)
    return VIDEO_S[0] + VIDEO_S[1] * kind.length_s if video else IMAGE_S


def ranked(kinds: Iterable[Kind], paces: Mapping[Kind, float], videos: Container[str]) -> list[list[Kind]]:
    """The kinds by the time that they will take, the longest first; those that take as long stand together.

    A long one that is begun last is waited for alone: the longest first ends a tenth to a quarter earlier.
    """
    times = [(expected_s(kind, paces, video=kind.model in videos), kind) for kind in kinds]
    times.sort(key=lambda pair: -pair[0])
    ranks: list[list[Kind]] = []
    longest = float("inf")
    for seconds, kind in times:
        if not ranks or seconds * ALIKE < longest:
            ranks.append([])
            longest = seconds
        ranks[-1].append(kind)
    return ranks


def rooms(
    models: Iterable[str],
    active: Mapping[str, int],
    limits: Limits,
    *,
    single: Container[str] = (),
    paused: Container[str] = (),
) -> dict[str, int]:
    """How many more samples of each model may become active at the hub; models without room are left out.

    `single`: models that are being tried with one sample at a time; `paused`: models that get nothing now.
    """
    free = limits.concurrency - sum(active.values())
    room: dict[str, int] = {}
    for model in models:
        most = limits.models.get(model, limits.concurrency)
        most = 0 if model in paused else min(most, 1) if model in single else most
        left = min(free, most - active.get(model, 0))
        if left > 0:
            room[model] = left
    return room


def picks(
    due: Sequence[Due], room: Mapping[str, int], free: int, posts: int, per_post: Mapping[str, int]
) -> list[list[Due]]:
    """What to post now: groups of one job and one request, each one POST, in the order of `due`.

    `free`: places at the hub over all models; `posts`: how many POSTs may be opened; `per_post`: how many
    generations one POST of a model may ask for, where that is not `PER_POST`.
    """
    left = dict(room)
    groups: list[list[Due]] = []
    for sample in due:
        if free <= 0:
            break
        if left.get(sample.model, 0) <= 0:
            continue
        last = groups[-1] if groups else None
        most = per_post.get(sample.model, PER_POST)
        if last and len(last) < most and (last[0].job_id, last[0].request_hash) == (sample.job_id, sample.request_hash):
            last.append(sample)
        elif len(groups) < posts:
            groups.append([sample])
        else:
            break
        left[sample.model] -= 1
        free -= 1
    return groups


# -- how fast to send ---------------------------------------------------------------------------------------------

RECENT: Final = 20
UNKNOWN_IN_A_ROW: Final = 3
UNKNOWN_SHARE: Final = 0.2
PAUSE_FIRST_S: Final = 1.0
PAUSE_MAX_S: Final = 30.0  # a network that is gone is tried every half minute


@dataclass(frozen=True, slots=True)
class Lane:
    """How wide the way to the hub is, after what it has answered. All sends share it."""

    width: int = OPEN_POSTS
    """POSTs that may be open at once."""
    opens_at: float = 0.0
    troubles: int = 0
    """Answers in a row that were none, or told of trouble."""
    recent: tuple[bool, ...] = ()
    """The last 20 answers: was it unknown?"""
    calm: int = 0
    """Good answers since the width last changed."""


def after_answer(lane: Lane, answer: Answer, now: float, jitter: float) -> Lane:
    """The lane after one more answer; `jitter` is random, 0 to 1.

    429: wait as told, at half the width. Unknown: after 3 in a row, or a fifth of the last 20, one probe at a time,
    since each more would be one more that may have landed. Not sent: back off to 30 s. Good: slowly wider again.
    """
    unknown = answer.outcome is Outcome.UNKNOWN
    recent = (*lane.recent, unknown)[-RECENT:]
    if answer.outcome in (Outcome.ACCEPTED, Outcome.REFUSED):
        calm = lane.calm + 1
        width = min(OPEN_POSTS, lane.width + 1) if calm >= lane.width else lane.width
        return replace(lane, troubles=0, recent=recent, calm=0 if width != lane.width else calm, width=width)
    troubles = lane.troubles + 1
    # 2**1024 is no float: a hub that answers 429 for a night would end the run by its number of answers.
    pause = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** min(troubles - 1, 10)) * (1 + jitter / 2)
    if answer.cause is Cause.RATE:
        told = answer.retry_after_s
        wait = pause if told is None else max(PAUSE_FIRST_S, told) * (1 + jitter / 10)  # `Retry-After: 0` is no licence
        opens_at = max(lane.opens_at, now + wait)
        return replace(lane, width=max(1, lane.width // 2), opens_at=opens_at, troubles=troubles, recent=recent, calm=0)
    if unknown:
        broken = troubles >= UNKNOWN_IN_A_ROW or (len(recent) == RECENT and sum(recent) >= RECENT * UNKNOWN_SHARE)
        if broken:
            opens_at = max(lane.opens_at, now + pause)
            return replace(lane, width=1, opens_at=opens_at, troubles=troubles, recent=(), calm=0)
        return replace(lane, troubles=troubles, recent=recent)
    return replace(lane, width=1, opens_at=max(lane.opens_at, now + pause), troubles=troubles, recent=recent, calm=0)


# -- models that are broken -----------------------------------------------------------------------------------------

SAME_IN_A_ROW: Final = 5
BREAK_FIRST_S: Final = 300.0
BREAK_MAX_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """Whether one model is worth sending to: other models are not concerned."""

    streak: int = 0
    """Failures in a row with the same words, which the rows are not to blame for."""
    words: str = ""
    opens_at: float = 0.0
    pause_s: float = 0.0

    @property
    def probing(self) -> bool:
        """It has paused, and what comes next is one probe at a time."""
        return self.pause_s > 0


def after_end(breaker: Breaker, trouble: str | None, now: float) -> Breaker:
    """The breaker after one more generation of its model ended: well (None), or in passing trouble with these words.

    After five in a row with the same words the model pauses for 5 minutes, doubled with each failed probe to an hour.
    """
    if trouble is None:
        return Breaker()
    words = alike(trouble)
    streak = breaker.streak + 1 if words == breaker.words else 1
    if streak < SAME_IN_A_ROW:
        return replace(breaker, streak=streak, words=words)
    if now < breaker.opens_at:
        return breaker  # it had been sent before the pause began
    pause_s = min(BREAK_MAX_S, max(BREAK_FIRST_S, 2 * breaker.pause_s))
    return Breaker(SAME_IN_A_ROW - 1, words, now + pause_s, pause_s)


# -- when to look -------------------------------------------------------------------------------------------------

IMAGE_LOOK_S: Final = 3.0  # the reference polls images every 2 to 5 s, videos every 10 to 30 s
VIDEO_LOOK_S: Final = 15.0
TRUSTED_FACTOR: Final = 5.0  # while events bring every end, the list is only a second opinion
LIVES: Final = 5.0  # what ended unheard (a cancelled generation fires no event) holds its place for so many lives
LOOK_MAX_S: Final = 300.0


def look_every_s(*, images: bool, events_trusted: bool, longest_s: float = 0.0) -> float:
    """Seconds between two looks at the hub's list of active generations; `longest_s`: the longest life so far."""
    base = IMAGE_LOOK_S if images else VIDEO_LOOK_S
    return min(LOOK_MAX_S, max(base * TRUSTED_FACTOR, LIVES * longest_s)) if events_trusted else base


# -- when to end --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """What is left to do, from indexes alone: as quick for a million rows as for ten."""

    pending: bool
    """A wanted sample is not sent yet (it may be waiting for another attempt, or for an uncertain twin)."""
    submitting: int
    uncertain: int
    at_the_hub: int
    succeeded: int
    """Made, and their files still to be had."""


def is_over(
    facts: Facts, stops: Iterable[Stop], *, wait: bool, could_send: bool, fetching: int, open_posts: int
) -> bool:
    """Whether the run has nothing left that it may do.

    `could_send`: the send stage found something to post when it last looked. `fetching`: downloads under way.
    `open_posts`: POSTs of this run that are not answered yet; a killed run's are the ledger's business.
    """
    stops = list(stops)
    if open_posts:
        return False
    if any(stop.at_once for stop in stops):
        return fetching == 0 or any(stop in (Stop.SIGINT, Stop.SIGTERM, Stop.DISK) for stop in stops)
    if facts.submitting:
        return False
    if not wait and not could_send:
        return True
    if facts.uncertain or facts.at_the_hub or facts.succeeded:
        return False
    return bool(stops) or not facts.pending
