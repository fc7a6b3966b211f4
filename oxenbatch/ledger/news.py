"""What the hub says of our generations, and what came of fetching their files, becomes moves of samples."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from oxenbatch.errors import printable
from oxenbatch.jobs import Event
from oxenbatch.ledger.book import to_nanos
from oxenbatch.media import Media
from oxenbatch.media.asked import mismatches
from oxenbatch.wire import STATUS_EVENTS, Generation
from oxenbatch.words import Cause, cause_of, fails_again, failure_event

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence
    from decimal import Decimal

    from oxenbatch.ledger.book import Ledger

log = logging.getLogger(__name__)

LIVE: Final = ("queued", "processing")
EARLY_MOST: Final = 1000  # other programs' ends are among them; an answer is milliseconds behind its event
RETRY_MAX_S: Final = 300.0
RETRY_AFTER_FAILURE_S: Final = 5.0  # doubled with each attempt: a model that is briefly overloaded gets a breath


@dataclass(frozen=True, slots=True)
class End:
    """One generation of ours that reached its end."""

    model: str
    trouble: str | None = None
    """The words of a failure that is not the row's; None where it was made, or the row is to blame."""
    took_s: float = 0.0
    """How long it was at the hub, as far as we heard."""


@dataclass(frozen=True, slots=True)
class Told:
    """What some news changed, as far as the run has to act on it."""

    moved: int = 0
    ends: tuple[End, ...] = ()
    failed: int = 0
    """Samples that failed for good by this news."""
    cause: Cause | None = None
    """The account's trouble that a failed generation spoke of."""
    strangers: tuple[Generation, ...] = ()
    """News of generations that are not ours."""


def apply(ledger: Ledger, generations: Iterable[Generation], *, at: float) -> Told:
    """Every generation of ours is where the hub says it is; those that are not ours are ignored."""
    moved = failed = 0
    ends: list[End] = []
    strangers: list[Generation] = []
    cause: Cause | None = None
    with ledger.immediate():
        for news in generations:
            row = ledger.conn.execute(
                "select g.*, s.generation_id as current, s.state as sample_state, s.attempts, s.attempts_allowed"
                " from generations g left join samples s on s.id = g.sample_id where g.generation_id = ?",
                (news.generation_id,),
            ).fetchone()
            if row is None:
                strangers.append(news)
                continue
            if news.status not in LIVE:
                charge(ledger, row, news.cost)  # what is said before the end (0, say) is not the charge yet
            if row["state"] == "vanished" and (row["current"], row["sample_state"]) == (news.generation_id, "held"):
                _reappear(ledger, row, at=at)
            elif row["state"] not in LIVE:
                continue
            if row["missing_since"] is not None:
                ledger.conn.execute(
                    "update generations set missing_since = null where generation_id = ?", (news.generation_id,)
                )
            if news.status == row["state"]:
                continue
            event, trouble = _event(news, row)
            cause = cause or trouble
            moved += _move(ledger, row, news, event, trouble, at=at)
            failed += event is Event.SEEN_FAILED
            if news.status not in LIVE:
                in_passing = news.status == "failed" and not trouble and not fails_again(news.error)
                words = (news.error or "no reason given") if in_passing else None
                ends.append(End(row["model"], words, (news.completed_at or at) - row["accepted_at"]))
    return Told(moved, tuple(ends), failed, cause, tuple(strangers))


class Early:
    """Ends that were announced before they were ours: an event may overtake the answer to its POST.

    Used by the clerk alone, so that hearing and recording stand in one order.
    """

    def __init__(self) -> None:
        self._heard: dict[str, Generation] = {}

    def hear(self, ledger: Ledger, generations: Iterable[Generation], *, at: float) -> Told:
        """`apply`, and what is not ours is remembered for a while: it may be of a POST that is being answered."""
        told = apply(ledger, generations, at=at)
        for stranger in told.strangers:
            self._heard[stranger.generation_id] = stranger
        while len(self._heard) > EARLY_MOST:
            del self._heard[next(iter(self._heard))]
        return told

    def catch_up(self, ledger: Ledger, ids: Iterable[str], *, at: float) -> Told:
        """Of these generations, which have just become ours, what was heard before counts now."""
        heard = [self._heard.pop(i) for i in ids if i in self._heard]
        return apply(ledger, heard, at=at) if heard else Told()


def _reappear(ledger: Ledger, row: sqlite3.Row, *, at: float) -> None:
    """The generation that the hub no longer knew is there after all: its sample is not held for it any more."""
    ledger.conn.execute("update generations set state = 'queued' where generation_id = ?", (row["generation_id"],))
    ledger.move(row["sample_id"], Event.FOUND, at=at, generation_id=row["generation_id"], columns={"error": None})


def _event(news: Generation, row: sqlite3.Row) -> tuple[Event, Cause | None]:
    if news.status != "failed":
        return STATUS_EVENTS[news.status], None
    if cause := cause_of(news.error):
        return Event.SEEN_FAILED_IN_PASSING, cause
    event = failure_event(news.error)
    if event is Event.SEEN_FAILED_IN_PASSING and row["attempts"] >= row["attempts_allowed"]:
        event = Event.SEEN_FAILED
    return event, None


def _move(
    ledger: Ledger, row: sqlite3.Row, news: Generation, event: Event, trouble: Cause | None, *, at: float
) -> bool:
    if news.status == "queued" and row["state"] == "processing":
        return False  # the hub's lists lag behind its events
    ledger.conn.execute(
        "update generations set state = ?, missing_since = null, error = ?,"
        " enqueued_at = coalesce(?, enqueued_at), started_at = coalesce(?, started_at),"
        " completed_at = coalesce(?, completed_at), result_url = coalesce(?, result_url) where generation_id = ?",
        (news.status, news.error, news.enqueued_at, news.started_at, news.completed_at or _end(news, at),
         news.result_url, news.generation_id),
    )  # fmt: skip
    if news.status in ("failed", "cancelled"):
        _release(ledger, news.generation_id)
    if row["current"] != news.generation_id:
        return False
    columns: dict[str, object] = {}
    if event in (Event.SEEN_FAILED, Event.SEEN_FAILED_IN_PASSING, Event.SEEN_CANCELLED):
        columns["error"] = news.error or ("cancelled at the hub" if news.status == "cancelled" else "no reason given")
        log.info(
            "%s of %s %s, try %d of %d: %s",
            news.generation_id,
            printable(row["model"], 80),
            "failed and is tried again" if event is Event.SEEN_FAILED_IN_PASSING else "will not be made",
            row["attempts"],
            row["attempts_allowed"],
            printable(columns["error"]),
        )
    if event is Event.SEEN_FAILED_IN_PASSING and not trouble:
        columns["not_before"] = at + min(RETRY_MAX_S, RETRY_AFTER_FAILURE_S * 2 ** (row["attempts"] - 1))
    if trouble:
        columns["attempts"] = row["attempts"] - 1  # the account is why: the row's budget stays untouched
    ledger.move(row["sample_id"], event, at=at, note=news.error, generation_id=news.generation_id, columns=columns)
    return True


def _end(news: Generation, at: float) -> float | None:
    return None if news.status in LIVE else at


def _release(ledger: Ledger, generation_id: str) -> None:
    """Nothing is reserved for a generation that ended without a charge."""
    row = ledger.conn.execute(
        "select estimate_nanos from generations where generation_id = ? and cost is null and estimate_nanos > 0",
        (generation_id,),
    ).fetchone()
    if row:
        ledger.conn.execute("update generations set estimate_nanos = 0 where generation_id = ?", (generation_id,))
        ledger.commit_money(-row[0])


def charge(ledger: Ledger, row: sqlite3.Row, cost: Decimal | None) -> None:
    """The hub's charge takes the estimate's place, once it is known; `row` is of `generations`."""
    if cost is None or row["cost"] is not None:
        return
    ledger.conn.execute("update generations set cost = ? where generation_id = ?", (f"{cost:f}", row["generation_id"]))
    ledger.commit_money((to_nanos(cost) or 0) - (row["estimate_nanos"] or 0))


def timed_out(generation: Generation, limit_s: float) -> Generation:
    """The generation that we cancelled for its slowness, as a failure that another attempt may cure."""
    return replace(generation, status="failed", error=f"timed out: not made within {limit_s:.0f} s, and cancelled")


def uncharged(ledger: Ledger, limit: int, skip: int = 0) -> list[tuple[str, float]]:
    """Ids, and when they were accepted, of made generations whose charge is not known yet, but for the first `skip`."""
    rows = ledger.conn.execute(
        "select generation_id, accepted_at from generations"
        " where cost is null and state in ('succeeded', 'downloaded', 'unfetchable', 'set_aside')"
        " order by accepted_at limit ? offset ?",
        (limit, skip),
    ).fetchall()
    return [(row[0], row[1]) for row in rows]


# -- what is watched ----------------------------------------------------------------------------------------------


def watched(ledger: Ledger) -> dict[str, float]:
    """The generations of ours that the hub has not finished, as far as we know, and when each was accepted."""
    rows = ledger.conn.execute(
        "select g.generation_id, g.accepted_at from samples s join generations g on g.generation_id = s.generation_id"
        # All four are named as the partial index has them: without it every finished sample would be read.
        " where s.state in ('submitting', 'uncertain', 'queued', 'processing') and s.state in ('queued', 'processing')"
    )
    return {row[0]: row[1] for row in rows}


def apply_and_watch(ledger: Ledger, generations: Iterable[Generation], *, at: float) -> tuple[Told, dict[str, float]]:
    """`apply`, and what is still `watched` after it."""
    return apply(ledger, generations, at=at), watched(ledger)


def missing(ledger: Ledger, generation_id: str, *, now: float, grace_s: float) -> bool:
    """The hub does not know this id of ours; once that lasts longer than `grace_s` its sample is held (True)."""
    with ledger.immediate():
        row = ledger.conn.execute(
            "update generations set missing_since = coalesce(missing_since, ?) where generation_id = ?"
            " and state in ('queued', 'processing') returning sample_id, missing_since",
            (now, generation_id),
        ).fetchone()
        if row is None or now - row["missing_since"] < grace_s:
            return False
        note = f"the hub accepted {generation_id} and no longer knows it"
        ledger.conn.execute("update generations set state = 'vanished' where generation_id = ?", (generation_id,))
        ledger.move(row["sample_id"], Event.VANISHED, at=now, note=note, generation_id=generation_id,
                    columns={"error": note})  # fmt: skip
        return True


# -- files --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fetch:
    """One file to be had."""

    sample_id: int
    generation_id: str
    url: str | None
    """None: ask the hub for a fresh address first."""
    name: str
    """The file's name without its extension, relative to the output folder."""
    tries: int


def fetchable(ledger: Ledger, limit: int, *, now: float, busy: Sequence[int] = ()) -> tuple[list[Fetch], float | None]:
    """The next files to be had, oldest first, without those that are being fetched already; where there are fewer
    than `limit`, when the first that waits for another try is due."""
    rows = ledger.conn.execute(
        "select s.id, s.generation_id, g.result_url, s.name, g.fetch_tries from samples s"
        " join generations g on g.generation_id = s.generation_id"
        " where s.state = 'succeeded' and (s.not_before is null or s.not_before <= ?) order by s.id limit ?",
        (now, limit + len(busy)),
    ).fetchall()
    found = [Fetch(*row) for row in rows if row["id"] not in busy][:limit]
    return found, next_fetch_at(ledger, now) if len(found) < limit else None


def next_fetch_at(ledger: Ledger, after: float = 0.0) -> float | None:
    """When the first file that waits for another try is due, later than `after`; None where none waits so."""
    row = ledger.conn.execute(
        "select min(not_before) from samples where state = 'succeeded' and not_before > ?", (after,)
    ).fetchone()
    return None if row[0] is None else float(row[0])


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that is on disk, whole and checked."""

    file: str
    """Relative to the output folder."""
    sha256: str
    bytes: int
    media_type: str
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    fps: float | None = None
    audio: bool | None = None
    blank: bool | None = None
    """Whether it is of one colour; None where that could not be told."""


def keep(ledger: Ledger, files: Iterable[tuple[Fetch, Kept]], *, at: float) -> None:
    """The samples' files are recorded, and how they differ from what was asked for; their addresses are forgotten."""
    with ledger.immediate():
        for fetch, kept in files:
            ledger.conn.execute(
                "update generations set state = 'downloaded', result_url = null, file = ?, sha256 = ?, bytes = ?,"
                " media_type = ?, width = ?, height = ?, seconds = ?, fps = ?, audio = ?, blank = ?, mismatches = ?,"
                " downloaded_at = ?, fetch_tries = fetch_tries + 1 where generation_id = ?",
                (kept.file, kept.sha256, kept.bytes, kept.media_type, kept.width, kept.height, kept.seconds, kept.fps,
                 kept.audio, kept.blank, _mismatches(ledger, fetch.sample_id, kept), at, fetch.generation_id),
            )  # fmt: skip
            ledger.move(fetch.sample_id, Event.FETCHED, at=at, generation_id=fetch.generation_id,
                        columns={"file": kept.file, "not_before": None, "error": None})  # fmt: skip


def _mismatches(ledger: Ledger, sample_id: int, kept: Kept) -> str | None:
    """What the file is not, although its request asked for it, as JSON; None where it is all that."""
    row = ledger.conn.execute(
        "select j.parameters from samples s join jobs j on j.id = s.job_id where s.id = ?", (sample_id,)
    ).fetchone()
    kind: Literal["image", "video"] = "video" if kept.media_type.startswith("video/") else "image"
    media = Media(kept.file.rpartition(".")[2], kind, kept.width, kept.height, kept.seconds, kept.fps, kept.audio)
    found = mismatches(json.loads(row["parameters"]), media)
    return json.dumps([one._asdict() for one in found], ensure_ascii=False) if found else None


def fetch_failed(
    ledger: Ledger,
    fetch: Fetch,
    *,
    at: float,
    why: str,
    retry_at: float | None,
    address_expired: bool = False,
    counts: bool = True,
) -> None:
    """The file was not had this time (a try where it `counts`); without a `retry_at`, not in this run any more."""
    with ledger.immediate():
        ledger.conn.execute(
            "update generations set fetch_tries = fetch_tries + ?, result_url = case when ? then null else result_url"
            " end, error = ? where generation_id = ?",
            (counts, address_expired, why, fetch.generation_id),
        )
        if retry_at is not None:
            ledger.conn.execute(
                "update samples set not_before = ?, error = ? where id = ? and state = 'succeeded'",
                (retry_at, why, fetch.sample_id),
            )
            return
        ledger.conn.execute(
            "update generations set state = 'unfetchable', result_url = null where generation_id = ?",
            (fetch.generation_id,),
        )
        ledger.move(fetch.sample_id, Event.FETCH_GIVEN_UP, at=at, note=why, generation_id=fetch.generation_id,
                    columns={"error": why, "not_before": None})  # fmt: skip


def set_address(ledger: Ledger, fetch: Fetch, url: str) -> None:
    """The generation's fresh address is known."""
    ledger.conn.execute("update generations set result_url = ? where generation_id = ?", (url, fetch.generation_id))


def fetch_again(ledger: Ledger, sample_id: int, *, at: float, note: str) -> None:
    """The sample's paid file is to be had once more, for nothing."""
    with ledger.immediate():
        ledger.conn.execute(
            "update generations set state = 'succeeded', fetch_tries = 0, result_url = null where generation_id ="
            " (select generation_id from samples where id = ?)",
            (sample_id,),
        )
        ledger.move(sample_id, Event.FETCH_AGAIN, at=at, note=note, columns={"not_before": None})


def unfetchable(ledger: Ledger) -> list[int]:
    """Samples whose paid file could not be had by an earlier run."""
    rows = ledger.conn.execute(
        "select id from samples where state in ('held', 'failed', 'cancelled', 'unfetchable') and state = 'unfetchable'"
    ).fetchall()
    return [row[0] for row in rows]
