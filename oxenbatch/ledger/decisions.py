"""What a person decides about samples: try again, cancel, set aside, and settle what could not be found out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oxenbatch.jobs import Event, JobState, auto_seed, request_hash
from oxenbatch.ledger import sends

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from oxenbatch.ledger.book import Ledger


def choose(ledger: Ledger, states: Collection[JobState], *, jobs: Sequence[int] = (), error: str = "") -> list[int]:
    """Wanted samples in these states, of these jobs (all, where none is named), whose error holds this text."""
    marks, some = ", ".join("?" * len(states)), ", ".join("?" * len(jobs))
    rows = ledger.conn.execute(
        f"select id from samples where wanted = 1 and state in ({marks})"
        f" and (? or job_id in ({some})) and instr(lower(coalesce(error, '')), lower(?)) > 0 order by id",
        (*states, not jobs, *jobs, error),
    ).fetchall()
    return [row[0] for row in rows]


def sample_of_file(ledger: Ledger, name: str) -> int | None:
    """The sample whose result this file is, or None."""
    row = ledger.conn.execute("select id from samples where file = ?", (name,)).fetchone()
    return row[0] if row else None


def retry(ledger: Ledger, sample_ids: Iterable[int], *, attempts: int, at: float) -> int:
    """The samples are pending again, with so many attempts more; how many they are."""
    count = 0
    with ledger.immediate():
        for sample_id in sample_ids:
            ledger.move(sample_id, Event.RETRIED, at=at, columns={"not_before": None, "error": None})
            ledger.conn.execute(
                "update samples set attempts_allowed = attempts + ? where id = ?", (attempts, sample_id)
            )
            count += 1
    return count


def cancel_unsent(ledger: Ledger, sample_ids: Iterable[int], *, at: float) -> int:
    """The samples, which are not sent yet, never will be; how many they are."""
    count = 0
    with ledger.immediate():
        for sample_id in sample_ids:
            ledger.move(sample_id, Event.CANCELLED_HERE, at=at, columns={"error": "cancelled before it was sent"})
            count += 1
    return count


@dataclass(frozen=True, slots=True)
class Aside:
    """A result that is put aside: where its file was, and where it belongs now; both relative."""

    was: str
    becomes: str


def set_aside(ledger: Ledger, sample_ids: Iterable[int], *, attempts: int, at: float) -> list[Aside]:
    """The samples are pending again; their results belong elsewhere, and the caller moves the files there.

    A sample with a seed of its own (`seed: auto`) gets another one; any other request is sent as it was.
    """
    moved: list[Aside] = []
    with ledger.immediate():
        for sample_id in sample_ids:
            sample = ledger.conn.execute(
                "select s.*, j.key, j.parameters from samples s join jobs j on j.id = s.job_id where s.id = ?",
                (sample_id,),
            ).fetchone()
            becomes = f"set-aside/{sample['generation_id']}-{(sample['file'] or '').replace('/', '-')}"
            ledger.conn.execute(
                "update generations set state = 'set_aside', file = ? where generation_id = ?",
                (becomes if sample["file"] else None, sample["generation_id"]),
            )
            if sample["file"]:
                moved.append(Aside(sample["file"], becomes))
            ledger.move(sample_id, Event.SET_ASIDE, at=at, columns={"file": None, "error": None, "not_before": None})
            ledger.conn.execute(
                "update samples set attempts_allowed = attempts + ? where id = ?", (attempts, sample_id)
            )
            if sample["seed"] is not None:
                seed = auto_seed(f"{sample['key']}/{sample['seed']}", sample["number"])
                parameters = {**json.loads(sample["parameters"]), "seed": seed}
                ledger.conn.execute(
                    "update samples set seed = ?, request_hash = ? where id = ?",
                    (seed, request_hash(sample["model"], parameters), sample_id),
                )
    return moved


# -- held sends ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """One sample that waits for a person."""

    sample_id: int
    job_id: int
    job: str
    number: int
    model: str
    prompt: str
    submission_id: int
    intent_at: float
    generation_id: str | None
    """The id that the hub gave and no longer knows; None where it is not known whether the hub made anything."""
    why: str


def held(ledger: Ledger, *, jobs: Sequence[int] = ()) -> list[Held]:
    """Every held sample of these jobs (all, where none is named), oldest first."""
    some = ", ".join("?" * len(jobs))
    rows = ledger.conn.execute(
        "select s.id, s.job_id, coalesce(j.row_id, j.key), s.number, s.model, j.prompt, b.id, b.intent_at,"
        " s.generation_id, coalesce(s.error, '') from samples s join jobs j on j.id = s.job_id"
        " join submissions b on b.id = s.submission_id"
        f" where s.state = 'held' and (? or s.job_id in ({some})) order by b.intent_at, s.id",
        (not jobs, *jobs),
    ).fetchall()
    return [Held(*row) for row in rows]


def adopt(ledger: Ledger, one: Held, generation_id: str, *, at: float) -> None:
    """The held sample's generation is this one; a run follows it from here."""
    with ledger.immediate():
        if one.generation_id is None:
            sends.adopt(ledger, one.submission_id, [generation_id], at=at)
        else:
            ledger.conn.execute(
                "update generations set state = 'queued', missing_since = null where generation_id = ?",
                (one.generation_id,),
            )
            ledger.move(one.sample_id, Event.FOUND, at=at, generation_id=one.generation_id, columns={"error": None})
        _close_submission(ledger, one.submission_id, "accepted")


def resubmit(ledger: Ledger, one: Held, *, at: float) -> None:
    """The held sample is pending: a person says that the hub has not made it, or that paying again is all right."""
    with ledger.immediate():
        if one.generation_id is None:
            sends.give_back(ledger, one.sample_id, one.submission_id, at=at, note="a person said: resubmit")
        else:
            cleared = {"submission_id": None, "error": None}
            ledger.move(one.sample_id, Event.ABSENT, at=at, note="a person said: resubmit", columns=cleared)
            ledger.conn.execute(
                "update samples set attempts_allowed = max(attempts_allowed, attempts + 1) where id = ?",
                (one.sample_id,),
            )
        _close_submission(ledger, one.submission_id, "absent")


def drop(ledger: Ledger, one: Held, *, at: float) -> None:
    """The held sample is given up. What it may have cost stays reserved: nobody knows that it cost nothing."""
    with ledger.immediate():
        ledger.move(one.sample_id, Event.DROPPED, at=at, note="a person said: drop")
        _close_submission(ledger, one.submission_id, "dropped")


def _close_submission(ledger: Ledger, submission_id: int, state: str) -> None:
    """A held submission none of whose samples is held any more is settled."""
    ledger.conn.execute(
        "update submissions set state = ? where id = ? and state = 'held'"
        " and not exists (select 1 from samples where submission_id = submissions.id and state = 'held')",
        (state, submission_id),
    )
