"""The manifest's rows become jobs: what is new is added, what exists keeps its files, what changed is reported."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from oxenbatch.errors import ManifestError, Problem, printable
from oxenbatch.jobs import Event, JobState, Row, auto_seed, canonical, job_key, request_hash
from oxenbatch.ledger.book import to_nanos
from oxenbatch.names import collision_key, stem_for

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable
    from decimal import Decimal

    from oxenbatch.ledger.book import Ledger

PROBLEMS_KEPT: Final = 1000  # a wrong column makes a problem of every row; a thousand tell as much as a million
ROOT_RESULTS: Final = 10_000  # more results than this are spread over sub-folders of as many
Changed = Literal["stop", "rerun", "keep"]


@dataclass(slots=True)
class Staged:
    """What reading the manifest changed."""

    rows: int = 0
    added: int = 0
    samples_added: int = 0
    changed: list[str] = field(default_factory=list)
    """Keys of rows whose request changed under results that are paid for."""
    set_aside: list[str] = field(default_factory=list)
    """Files, relative, that a rerun replaces; the caller moves them to their new names in `moved_to`."""
    moved_to: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Terms:
    """What staging needs to know beside the rows."""

    at: float
    attempts: int
    price: Callable[[Row], Decimal | None]
    takes_seed: Callable[[str], bool]
    changed: Changed = "stop"


def stage(ledger: Ledger, rows: Iterable[Row | Problem], fingerprint: str, terms: Terms) -> Staged:
    """The ledger holds every row of the manifest as a job, or is as it was.

    All in one transaction. Rows that left the manifest stay, unwanted: they are not sent. Raises `ManifestError`
    with every problem found, among them rows that changed where `terms.changed` is "stop".
    """
    staged = Staged()
    problems: list[Problem] = []
    total = 0
    with ledger.immediate():
        conn = ledger.conn
        conn.execute("create temp table if not exists seen (request_hash text primary key, n integer) without rowid")
        conn.execute("delete from seen")
        conn.execute("update jobs set wanted = 0 where wanted = 1")
        for entry in rows:
            if isinstance(entry, Row) and not problems:
                problem = _stage_row(ledger, entry, staged, terms)
            else:
                problem = entry if isinstance(entry, Problem) else None
                staged.rows += isinstance(entry, Row)
            if problem:
                total += 1
                if total <= PROBLEMS_KEPT:
                    problems.append(problem)
        if not problems and not staged.rows:
            problems, total = [Problem("the manifest has no rows")], 1
        if problems:
            raise ManifestError(problems, total=total)
        _follow_jobs(conn)
        conn.execute("update batch set fingerprint = ?", (fingerprint,))
        conn.execute("delete from seen")
    return staged


def _follow_jobs(conn: sqlite3.Connection) -> None:
    """Samples are wanted as their jobs are; a sample beyond its job's number is not."""
    conn.execute(
        "update samples set wanted = w.wanted from"
        " (select s.id, j.wanted and s.number <= j.samples as wanted from samples s join jobs j on j.id = s.job_id) w"
        " where w.id = samples.id and w.wanted <> samples.wanted"
    )


def _stage_row(ledger: Ledger, row: Row, staged: Staged, terms: Terms) -> Problem | None:
    staged.rows += 1
    hashed = request_hash(row.model, row.parameters)
    occurrence = 1
    if row.id is None:
        occurrence = ledger.conn.execute(
            "insert into seen values (?, 1) on conflict do update set n = n + 1 returning n", (hashed,)
        ).fetchone()[0]
    key = job_key(row.id, hashed, occurrence)
    job = ledger.conn.execute(
        "select id, request_hash, samples, wanted, metadata, position from jobs where key = ?", (key,)
    ).fetchone()
    if job is None:
        _add_job(ledger, row, key, hashed, occurrence, staged, terms)
        return None
    if job["wanted"]:
        return Problem(f"id {printable(row.id)!r} stands twice in the manifest", row.where, row.number, "id")
    if job["request_hash"] != hashed:
        return _change_job(ledger, row, key, hashed, job, staged, terms)
    _keep_job(ledger, row, job, staged, terms)
    return None


def _keep_job(ledger: Ledger, row: Row, job: sqlite3.Row, staged: Staged, terms: Terms) -> None:
    """The job is wanted again, with the manifest's present metadata, place and number of samples."""
    ledger.conn.execute(
        "update jobs set wanted = 1, position = ?, samples = ?, metadata = ?, source = ? where id = ?",
        (row.number, row.samples, _json(row.metadata), row.where, job["id"]),
    )
    if row.samples > job["samples"]:
        key = ledger.conn.execute("select key from jobs where id = ?", (job["id"],)).fetchone()[0]
        _add_samples(ledger, row, job["id"], key, staged, terms)


def _change_job(
    ledger: Ledger, row: Row, key: str, hashed: str, job: sqlite3.Row, staged: Staged, terms: Terms
) -> Problem | None:
    """The row's id stayed and its request changed: free where nothing was sent, else as `terms.changed` says."""
    conn = ledger.conn
    states = {JobState(r[0]) for r in conn.execute("select state from samples where job_id = ?", (job["id"],))}
    touched = conn.execute("select 1 from submissions where job_id = ? limit 1", (job["id"],)).fetchone()
    if touched and terms.changed == "keep":
        _keep_job(ledger, row, job, staged, terms)
        return None
    if touched and (terms.changed == "stop" or states - _AT_REST):
        staged.changed.append(key)
        remedy = (
            "--changed rerun makes it anew (and pays again), --changed keep keeps what there is"
            if states <= _AT_REST
            else "it is still under way at the hub: run once with --changed keep, then change it"
        )
        return Problem(f"{printable(row.id)!r} was sent with another request before: {remedy}", row.where, row.number)
    if touched:
        _retire(ledger, job["id"], key, staged, terms)
        _add_job(ledger, row, key, hashed, 1, staged, terms)
        return None
    conn.execute("delete from samples where job_id = ?", (job["id"],))
    conn.execute("delete from jobs where id = ?", (job["id"],))
    _add_job(ledger, row, key, hashed, 1, staged, terms)
    return None


_AT_REST: Final = {
    JobState.PENDING,
    JobState.DOWNLOADED,
    JobState.FAILED,
    JobState.CANCELLED,
    JobState.UNFETCHABLE,
}


def _retire(ledger: Ledger, job_id: int, key: str, staged: Staged, terms: Terms) -> None:
    """The job keeps its history under another key, its files go aside, and its names are free."""
    conn = ledger.conn
    conn.execute("update jobs set key = ?, wanted = 0 where id = ?", (f"{key}@{job_id}", job_id))
    for sample in conn.execute("select id, state, name, file from samples where job_id = ?", (job_id,)).fetchall():
        name = f"set-aside/{sample['name']}-{sample['id']}"
        file = sample["file"] and f"set-aside/{sample['id']}-{sample['file'].replace('/', '-')}"
        conn.execute(
            "update samples set name = ?, name_key = ?, file = ? where id = ?",
            (name, collision_key(name), file, sample["id"]),
        )
        if file:
            conn.execute(
                "update generations set file = ? where sample_id = ? and file is not null", (file, sample["id"])
            )
            staged.set_aside.append(sample["file"])
            staged.moved_to.append(file)
        if sample["state"] == JobState.PENDING:
            ledger.move(sample["id"], Event.CANCELLED_HERE, at=terms.at, note="its row changed")


def _add_job(ledger: Ledger, row: Row, key: str, hashed: str, occurrence: int, staged: Staged, terms: Terms) -> None:
    job_id = ledger.conn.execute(
        "insert into jobs (key, row_id, occurrence, request_hash, model, prompt, parameters, metadata, samples,"
        " position, wanted, source, created_at) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?) returning id",
        (key, row.id, occurrence, hashed, row.model, row.prompt, canonical(row.parameters), _json(row.metadata),
         row.samples, row.number, row.where, terms.at),
    ).fetchone()[0]  # fmt: skip
    staged.added += 1
    _add_samples(ledger, row, job_id, key, staged, terms)


def _add_samples(ledger: Ledger, row: Row, job_id: int, key: str, staged: Staged, terms: Terms) -> None:
    """The job has as many samples as the row wants, each with its own name; those it has stay as they are."""
    conn = ledger.conn
    have = conn.execute("select coalesce(max(number), 0) from samples where job_id = ?", (job_id,)).fetchone()[0]
    estimate = to_nanos(terms.price(row))
    seeds = row.parameters.get("seed") == "auto" and terms.takes_seed(row.model)
    stem = stem_for(row.id, row.prompt, key)
    for number in range(have + 1, row.samples + 1):
        seed = auto_seed(key, number) if seeds else None
        hashed = request_hash(row.model, {**row.parameters, "seed": seed}) if seeds else None
        first = stem if row.samples == 1 else f"{stem}-{number}"
        name, name_key = _free_name(conn, first, f"{key}/{number}")
        conn.execute(
            "insert into samples (job_id, number, model, request_hash, seed, wanted, state, attempts_allowed,"
            " estimate_nanos, name, name_key) values (?, ?, ?, ?, ?, 1, 'pending', ?, ?, ?, ?)",
            (job_id, number, row.model, hashed or request_hash(row.model, row.parameters), seed, terms.attempts,
             estimate, name, name_key),
        )  # fmt: skip
        staged.samples_added += 1


def _free_name(conn: sqlite3.Connection, stem: str, identity: str) -> tuple[str, str]:
    """A name, and its key on case-insensitive file systems, that no other sample has: the stem, or the stem and a mark.

    The first 10,000 results lie in the folder itself, each further 10,000 in a sub-folder of its own.
    """
    count = conn.execute("select coalesce(max(id), 0) from samples").fetchone()[0]
    folder = f"{count // ROOT_RESULTS:04d}/" if count >= ROOT_RESULTS else ""
    marks = ("", *(f"-{request_hash(identity, {})[3 + n : 11 + n]}" for n in range(8)))
    for mark in itertools.chain(marks, (f"-{n}" for n in itertools.count(count))):
        name_key = collision_key(stem + mark)
        if not conn.execute("select 1 from samples where name_key = ?", (name_key,)).fetchone():
            return folder + stem + mark, name_key
    raise AssertionError  # pragma: no cover - the last chain never ends


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
