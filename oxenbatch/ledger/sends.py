"""What may be sent, what was sent, and what became of it: every line here is about money.

The order that keeps a generation from being paid twice: `authorise` commits the intent, fsynced; only then a socket
opens; `record` writes the answer down before anything else is awaited for that row; an intent without an answer is
`unknown`, and only `settle_unknown` and a person can say more.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.errors import OxenbatchError
from oxenbatch.jobs import ACTIVE, Event, Intent, sealed
from oxenbatch.ledger import inputs
from oxenbatch.ledger.book import Ledger
from oxenbatch.ledger.parts import superseded_by
from oxenbatch.plan import Due, Kind, Stop
from oxenbatch.reconcile import Elsewhere, Open, Rival
from oxenbatch.wire import Answer, Outcome, Target

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

RECENTLY: Final = 200  # generations: what a model took last month says little, and it is asked while the hub waits
_ACTIVE: Final = ", ".join(f"'{state}'" for state in ACTIVE)


@dataclass(frozen=True, slots=True)
class Caps:
    """What the ledger itself enforces where an intent is made. None: no such limit."""

    concurrency: int
    max_cost_nanos: int | None = None
    allow_unpriced: bool = False
    sends_left: int | None = None
    day_nanos_left: int | None = None
    """What the account's limit for a day leaves; enforced by the account's own register, in whose block this runs."""


@dataclass(frozen=True, slots=True)
class Authorised:
    """The intents that are on disk now, and what kept further samples back."""

    intents: list[Intent]
    blocked: Stop | None = None
    """The limit that stopped the rest; None where nothing did."""
    nanos: int = 0
    """The estimates of the intents, together."""
    waits: bool = False
    """Something is due whose files are not stored yet."""


def active_by_model(ledger: Ledger) -> dict[str, int]:
    """How many of each model's samples hold, or may hold, a place at the hub."""
    rows = ledger.conn.execute(f"select model, count(*) from samples where state in ({_ACTIVE}) group by model")
    return {model: count for model, count in rows}  # noqa: C416 - a Row is no pair to mypy


def kinds_due(ledger: Ledger) -> list[Kind]:
    """The models and lengths that wanted, unsent samples ask for, found by skipping through the index."""
    kinds: list[Kind] = []
    found = _first_due(ledger, "model > ''")
    while found:
        kinds.append(found)
        # Asked in two: for `(model, length_s) > (?, ?)` SQLite would read all of the model's samples, at every send.
        found = _first_due(ledger, "model = ? and length_s > ?", *found) or _first_due(ledger, "model > ?", found.model)
    return kinds


def _first_due(ledger: Ledger, which: str, *values: object) -> Kind | None:
    row = ledger.conn.execute(
        f"select model, length_s from samples where state = 'pending' and wanted = 1 and {which}"
        " order by model, length_s limit 1",
        values,
    ).fetchone()
    return Kind(row[0], row[1]) if row else None


def paces(ledger: Ledger) -> dict[Kind, float]:
    """How long the hub took of late, in seconds, for each kind of sample: the mean of the last made."""
    rows = ledger.conn.execute(
        "select s.model, s.length_s, avg(g.completed_at - g.accepted_at) from"
        " (select * from generations order by rowid desc limit ?) g join samples s on s.id = g.sample_id"
        " where g.state in ('succeeded', 'downloaded') and g.completed_at > g.accepted_at group by 1, 2",
        (RECENTLY,),
    )
    return {Kind(model, length): mean for model, length, mean in rows}


def canary_of(ledger: Ledger, model: str) -> bool | None:
    """Whether the model has made something for this batch (True), only failed (False), or neither yet (None)."""
    made = "select 1 from generations where model = ? and state in ('succeeded', 'downloaded', 'unfetchable') limit 1"
    if ledger.conn.execute(made, (model,)).fetchone():
        return True
    failed = ledger.conn.execute(
        "select 1 from samples where state in ('held', 'failed', 'cancelled', 'unfetchable') and state = 'failed'"
        " and wanted = 1 and model = ? limit 1",
        (model,),
    ).fetchone()
    return False if failed else None


def due(ledger: Ledger, ranks: Iterable[Iterable[Kind]], room: Mapping[str, int], now: float) -> list[Due]:
    """Samples to send next, at most `room[model]` of each model: rank by rank, in the manifest's order within one.

    While a request has a send whose outcome is not known, nothing with the same request is due: equal requests
    could not be told apart.
    """
    chosen: list[Due] = []
    left = dict(room)
    for kinds in ranks:
        found: list[sqlite3.Row] = []
        for kind in kinds:
            if left.get(kind.model, 0) > 0:
                found += _due_of(ledger, kind, left[kind.model], now)
        found.sort(key=lambda row: int(row["id"]))
        for row in found:
            if left[row["model"]] > 0:
                left[row["model"]] -= 1
                chosen.append(Due(*row))
    return chosen


def _due_of(ledger: Ledger, kind: Kind, limit: int, now: float) -> list[sqlite3.Row]:
    return ledger.conn.execute(
        "select id, job_id, model, request_hash, estimate_nanos from samples"
        " where state = 'pending' and wanted = 1 and model = ? and length_s = ?"
        " and (not_before is null or not_before <= ?)"
        # The state is asked for as the partial index has it, since SQLite does not infer one list from another.
        " and not exists (select 1 from submissions b where b.request_hash = samples.request_hash"
        "                 and b.state in ('intent', 'unknown', 'held') and b.state <> 'intent')"
        " order by id limit ?",
        (*kind, now, limit),
    ).fetchall()


def next_due_at(ledger: Ledger, after: float = 0.0) -> float | None:
    """When the first sample that waits for another attempt is due, later than `after`; None where none waits so."""
    row = ledger.conn.execute(
        "select min(not_before) from samples where state = 'pending' and wanted = 1 and not_before is not null"
        " and not_before > ?",
        (after,),
    ).fetchone()
    return None if row[0] is None else float(row[0])


def authorise(
    ledger: Ledger,
    picks: Iterable[Sequence[Due]],
    caps: Caps,
    *,
    at: float,
    run_id: int,
    target: Target | None = None,
    input_folder: str | None = None,
) -> Authorised:
    """Record one submission for each pick, as far as the caps allow; the intents are durable once this commits.

    A pick is up to `PER_POST` samples of one job with one request; one whose files are not stored in `input_folder`,
    an address at the hub, is left for later. Limits, budget and attempts are enforced here,
    in the transaction that makes the intent, whatever the caller has reckoned before.
    """
    intents: list[Intent] = []
    nanos = 0
    waits = False
    with ledger.immediate():
        active = sum(active_by_model(ledger).values())
        committed = ledger.conn.execute("select committed_nanos from batch").fetchone()[0]
        for pick in picks:
            if active + len(pick) > caps.concurrency:
                break
            if inputs.are_lacking(ledger, pick[0].job_id, input_folder):
                waits = True
                continue
            if caps.sends_left is not None and len(intents) >= caps.sends_left:
                return Authorised(intents, Stop.SENDS, nanos, waits)
            estimates = _estimates(ledger, pick)
            if caps.max_cost_nanos is not None:
                if None in estimates and not caps.allow_unpriced:
                    return Authorised(intents, Stop.UNPRICED, nanos, waits)
                if committed + sum(e or 0 for e in estimates) > caps.max_cost_nanos:
                    return Authorised(intents, Stop.COST, nanos, waits)
            if caps.day_nanos_left is not None:
                if None in estimates and not caps.allow_unpriced:
                    return Authorised(intents, Stop.UNPRICED, nanos, waits)
                if nanos + sum(e or 0 for e in estimates) > caps.day_nanos_left:
                    return Authorised(intents, Stop.DAY, nanos, waits)
            intent = _intend(ledger, pick, sum(e or 0 for e in estimates), target, at=at, run_id=run_id)
            nanos += sum(e or 0 for e in estimates)
            committed += sum(e or 0 for e in estimates)
            active += len(pick)
            intents.append(intent)
    return Authorised(intents, None, nanos, waits)


def _estimates(ledger: Ledger, pick: Sequence[Due]) -> list[int | None]:
    """What each of them is estimated to cost, by the ledger's own word."""
    marks = ", ".join("?" * len(pick))
    rows = ledger.conn.execute(
        f"select estimate_nanos from samples where id in ({marks})", [sample.sample_id for sample in pick]
    )
    return [row[0] for row in rows]


def _intend(
    ledger: Ledger, pick: Sequence[Due], nanos: int, target: Target | None, *, at: float, run_id: int
) -> Intent:
    conn, first = ledger.conn, pick[0]
    token = secrets.token_hex(8)
    submission_id = conn.execute(
        "insert into submissions (job_id, run_id, state, request_hash, token, targeted, namespace, count, intent_at)"
        " values (?, ?, 'intent', ?, ?, ?, ?, ?, ?) returning id",
        (
            first.job_id,
            run_id,
            first.request_hash,
            token,
            target is not None,
            target and target.namespace,
            len(pick),
            at,
        ),
    ).fetchone()[0]
    for sample in pick:
        cleared = {"submission_id": submission_id, "generation_id": None, "not_before": None, "error": None}
        ledger.move(sample.sample_id, Event.AUTHORISED, at=at, submission_id=submission_id, columns=cleared)
        conn.execute("update samples set attempts = attempts + 1 where id = ?", (sample.sample_id,))
    ledger.commit_money(nanos)
    conn.execute("update runs set sends = sends + 1 where id = ?", (run_id,))
    return sealed(submission_id, first.model, sent_parameters(ledger, first.sample_id), len(pick), token)


def sent_parameters(ledger: Ledger, sample_id: int) -> dict[str, Any]:
    """What the sample's request carries beside the model: its job's parameters, with the addresses of its files, and
    with its own seed if it has one."""
    row = ledger.conn.execute(
        "select parameters, written, seed from samples join jobs on jobs.id = job_id where samples.id = ?", (sample_id,)
    ).fetchone()
    parameters: dict[str, Any] = json.loads(row["parameters"])
    if row["written"]:
        parameters = inputs.addressed(ledger, parameters, json.loads(row["written"]))
    return parameters if row["seed"] is None else {**parameters, "seed": row["seed"]}


# -- what became of it --------------------------------------------------------------------------------------------


def record(ledger: Ledger, submission_id: int, answer: Answer, *, at: float) -> None:
    """Write the POST's outcome down: ids become generations, refusals give the money back, silence is `unknown`."""
    with ledger.immediate():
        waiting = _waiting(ledger, submission_id)
        adopted = _give_ids(ledger, submission_id, answer.ids, waiting, Event.ACCEPTED, at=at)
        rest = waiting[adopted:]
        outcome = answer.outcome
        if outcome is Outcome.ACCEPTED and rest:
            outcome = Outcome.UNKNOWN  # an id came that another generation of ours has
        if outcome is Outcome.UNKNOWN and not rest:
            outcome = Outcome.ACCEPTED  # more ids than asked for, but each of ours is known
        for sample in rest:
            if outcome is Outcome.UNKNOWN:
                ledger.move(sample["id"], Event.UNANSWERED, at=at, note=answer.words, submission_id=submission_id)
            elif outcome is Outcome.REFUSED:
                ledger.move(sample["id"], Event.REFUSED, at=at, note=answer.words, submission_id=submission_id,
                            columns={"error": answer.words})  # fmt: skip
            else:
                event = Event.NOT_SENT if outcome is Outcome.NOT_SENT else Event.TURNED_AWAY
                _return(ledger, sample, event, submission_id, at=at, note=answer.words)
        if outcome is Outcome.REFUSED:
            ledger.commit_money(-sum(sample["estimate_nanos"] or 0 for sample in rest))
        ledger.conn.execute(
            "update submissions set state = ?, ended_at = ?, status = ?, error = ? where id = ?",
            (outcome, at, answer.status, answer.words or None, submission_id),
        )


def _waiting(ledger: Ledger, submission_id: int) -> list[sqlite3.Row]:
    return ledger.conn.execute(
        "select id, estimate_nanos, attempts, model from samples where submission_id = ?"
        " and state in ('submitting', 'uncertain', 'held') and generation_id is null order by id",
        (submission_id,),
    ).fetchall()


def _give_ids(
    ledger: Ledger, submission_id: int, ids: Sequence[str], samples: Sequence[sqlite3.Row], event: Event, *, at: float
) -> int:
    """Each new id is a generation of the next sample, a surplus one is kept without a sample; the number adopted."""
    conn, adopted = ledger.conn, 0
    for generation_id in ids:
        if conn.execute("select 1 from generations where generation_id = ?", (generation_id,)).fetchone():
            continue
        sample = samples[adopted] if adopted < len(samples) else None
        conn.execute(
            "insert into generations (generation_id, sample_id, submission_id, model, state, attempt, accepted_at,"
            " estimate_nanos) select ?, ?, b.id, j.model, ?, ?, ?, ? from submissions b join jobs j on j.id = b.job_id"
            " where b.id = ?",
            (generation_id, sample and sample["id"], "queued" if sample else "surplus",
             sample["attempts"] if sample else 0, at, sample and sample["estimate_nanos"], submission_id),
        )  # fmt: skip
        if sample:
            ledger.move(sample["id"], event, at=at, submission_id=submission_id, generation_id=generation_id,
                        columns={"generation_id": generation_id, "error": None})  # fmt: skip
            adopted += 1
    return adopted


def _return(
    ledger: Ledger, sample: sqlite3.Row, event: Event, submission_id: int, *, at: float, note: str | None
) -> None:
    """The sample was not sent after all: it is pending, its attempt and its money are given back."""
    ledger.move(sample["id"], event, at=at, note=note, submission_id=submission_id)
    ledger.conn.execute(
        "update samples set submission_id = null, attempts = attempts - 1 where id = ?", (sample["id"],)
    )
    ledger.commit_money(-(sample["estimate_nanos"] or 0))


def give_back(ledger: Ledger, sample_id: int, submission_id: int, *, at: float, note: str) -> None:
    """The held or uncertain sample may be sent again: its send is taken for one that never landed."""
    sample = ledger.conn.execute("select id, estimate_nanos from samples where id = ?", (sample_id,)).fetchone()
    _return(ledger, sample, Event.ABSENT, submission_id, at=at, note=note)


# -- sends that nobody answered -----------------------------------------------------------------------------------


def recover(ledger: Ledger, *, now: float, post_timeout_s: float) -> int:
    """Intents that a killed run left are unknown; the number of them.

    Nothing of that run can reach the hub later than its POST's timeout, nor later than the moment this run took the
    lock, so `settle` counts from the earlier of the two. Call with the hub's time, when this run holds the lock.
    """
    with ledger.immediate():
        left = ledger.conn.execute(
            "select id, intent_at from submissions where state in ('intent', 'unknown', 'held') and state = 'intent'"
        ).fetchall()
        for submission in left:
            ended_at = min(submission["intent_at"] + post_timeout_s, now)
            for sample in _waiting(ledger, submission["id"]):
                ledger.move(sample["id"], Event.UNANSWERED, at=now, note="the run ended before the hub answered",
                            submission_id=submission["id"])  # fmt: skip
            ledger.conn.execute(
                "update submissions set state = 'unknown', ended_at = ?, error = 'the run ended first' where id = ?",
                (ended_at, submission["id"]),
            )
    return len(left)


def unknown(ledger: Ledger) -> list[Open]:
    """Every submission to be reconciled now, oldest first.

    Those whose request has a POST under way are left out: its own row at the hub must not be taken for theirs.
    """
    rows = ledger.conn.execute(
        "select b.id, b.request_hash, j.model, b.token, b.targeted, b.namespace, b.intent_at, b.ended_at,"
        " b.absent_scans, count(s.id) as waiting, min(s.id) as sample_id"
        " from submissions b indexed by submissions_open join jobs j on j.id = b.job_id"  # else all samples are read
        " join samples s on s.submission_id = b.id and s.state = 'uncertain'"
        " where b.state in ('intent', 'unknown', 'held') and b.state = 'unknown'"
        " and not exists (select 1 from submissions o where o.request_hash = b.request_hash"
        "                 and o.state in ('intent', 'unknown', 'held') and o.state = 'intent')"
        " group by b.id order by b.intent_at, b.id"
    ).fetchall()
    return [
        Open(r["id"], r["request_hash"], r["model"], sent_parameters(ledger, r["sample_id"]), r["token"], r["waiting"],
             r["intent_at"], r["ended_at"], r["absent_scans"], bool(r["targeted"]), r["namespace"])
        for r in rows
    ]  # fmt: skip


def owned(ledger: Ledger, ids: Iterable[str]) -> set[str]:
    """Those of the ids that are generations of this ledger."""
    text = json.dumps(list(ids))
    rows = ledger.conn.execute(
        "select generation_id from generations where generation_id in (select value from json_each(?))", (text,)
    )
    return {row[0] for row in rows}


def elsewhere(paths: Iterable[Path], ids: Collection[str], hashes: Collection[str]) -> Elsewhere:
    """What the other ledgers at `paths` own of these ids, and have open of these requests."""
    unreadable = ""
    mine: set[str] = set()
    rivals: list[Rival] = []
    posting: set[str] = set()
    for path in paths:
        try:
            with Ledger.open(path) as ledger:
                if superseded_by(ledger):
                    continue  # the batch that took it over has all of it, and is a sibling itself
                opens = _open_sends(ledger, hashes)  # first: what is answered meanwhile is open or owned, not neither
                mine |= owned(ledger, ids)
                for state, hashed, intent_at, ended_at, waiting in opens:
                    if state == "intent":
                        posting.add(hashed)
                    else:
                        rivals.append(Rival(hashed, intent_at, waiting, float("inf") if ended_at is None else ended_at))
        except (OxenbatchError, sqlite3.Error):
            unreadable = str(path)
    return Elsewhere(frozenset(mine), tuple(rivals), unreadable, frozenset(posting))


def _open_sends(ledger: Ledger, hashes: Collection[str]) -> list[sqlite3.Row]:
    return ledger.conn.execute(
        "select b.state, b.request_hash, b.intent_at, b.ended_at, count(s.id) from submissions b"
        " join samples s on s.submission_id = b.id and s.state in ('submitting', 'uncertain', 'held')"
        " where b.state in ('intent', 'unknown', 'held')"
        " and b.request_hash in (select value from json_each(?)) group by b.id",
        (json.dumps(list(hashes)),),
    ).fetchall()


def under_way(ledger: Ledger, judged: Collection[int]) -> list[Open]:
    """Submissions that a row at the hub may belong to beside those that are `judged`: POSTs still being answered, and
    those that have become unknown since."""
    rows = ledger.conn.execute(
        "select b.id, b.request_hash, j.model, b.token, b.intent_at, b.count, min(s.id) as sample_id"
        " from submissions b join jobs j on j.id = b.job_id join samples s on s.submission_id = b.id"
        " where b.state in ('intent', 'unknown', 'held') and b.state <> 'held' group by b.id"
    ).fetchall()
    rows = [row for row in rows if row["id"] not in judged]
    return [
        Open(r["id"], r["request_hash"], r["model"], sent_parameters(ledger, r["sample_id"]), r["token"], r["count"],
             r["intent_at"], r["intent_at"])
        for r in rows
    ]  # fmt: skip


def adopt(ledger: Ledger, submission_id: int, ids: Sequence[str], *, at: float) -> None:
    """The generations were this submission's: its samples follow them."""
    with ledger.immediate():
        _give_ids(ledger, submission_id, ids, _waiting(ledger, submission_id), Event.FOUND, at=at)
        if not _waiting(ledger, submission_id):
            ledger.conn.execute("update submissions set state = 'accepted' where id = ?", (submission_id,))


def count_absent_scans(ledger: Ledger, submission_id: int, scans: int) -> None:
    """So many complete scans after the settle time have not shown it."""
    ledger.conn.execute("update submissions set absent_scans = ? where id = ?", (scans, submission_id))


def declare_absent(ledger: Ledger, submission_id: int, *, at: float, note: str) -> None:
    """It is proved that the rest of this submission never landed: its samples may be authorised again."""
    with ledger.immediate():
        _close(ledger, submission_id, Event.ABSENT, "absent", at=at, note=note)


def hold(ledger: Ledger, submission_id: int, *, at: float, note: str) -> None:
    """It cannot be found out what became of this submission: its samples wait for a person."""
    with ledger.immediate():
        for sample in _waiting(ledger, submission_id):
            ledger.move(
                sample["id"], Event.UNDECIDABLE, at=at, note=note, submission_id=submission_id, columns={"error": note}
            )
        ledger.conn.execute("update submissions set state = 'held' where id = ?", (submission_id,))


def _close(ledger: Ledger, submission_id: int, event: Event, state: str, *, at: float, note: str) -> None:
    for sample in _waiting(ledger, submission_id):
        _return(ledger, sample, event, submission_id, at=at, note=note)
    some = ledger.conn.execute("select 1 from generations where submission_id = ?", (submission_id,)).fetchone()
    ledger.conn.execute("update submissions set state = ? where id = ?", ("accepted" if some else state, submission_id))


# -- more tries ---------------------------------------------------------------------------------------------------


def allow_attempts(ledger: Ledger, attempts: int) -> None:
    """Samples that are not sent yet may be tried so often, all in all (more where they were tried more already)."""
    ledger.conn.execute(
        "update samples set attempts_allowed = max(attempts, ?) where state = 'pending' and wanted = 1"
        " and attempts_allowed < ?",
        (attempts, attempts),
    )
