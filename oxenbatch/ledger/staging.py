"""The manifest's rows become jobs: what is new is added, what exists keeps its files, what changed is reported."""

from __future__ import annotations

import contextlib
import gc
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

from oxenbatch.errors import ManifestError, Problem, printable
from oxenbatch.jobs import Event, JobState, Row, canonical, job_key, length_of, request_hash
from oxenbatch.ledger import bulk, inputs
from oxenbatch.ledger.book import to_nanos
from oxenbatch.ledger.decisions import Aside
from oxenbatch.ledger.parts import Neighbours
from oxenbatch.names import collision_key, marks, sub_folder

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator
    from decimal import Decimal

    from oxenbatch.ledger.book import Ledger
    from oxenbatch.shards import Shard

PROBLEMS_KEPT: Final = 1000  # a wrong column makes a problem of every row; a thousand tell as much as a million
CHUNK: Final = 500  # rows that are recorded together, and the most that are held in memory
CHUNK_SIZE: Final = 4 * 2**20  # characters of their texts, at most, and one row more: a picture may stand in a row
SKIPS_MOST: Final = 64
CACHE_KIB: Final = 4 * 1024  # keys and names are random places of their indexes: SQLite's own 2 MB would thrash
Changed = Literal["stop", "rerun", "keep"]


@dataclass(slots=True)
class Staged:
    """What reading the manifest changed."""

    rows: int = 0
    added: int = 0
    samples_added: int = 0
    changed: list[str] = field(default_factory=list)
    """Keys of rows whose request changed under results that are paid for."""
    set_aside: list[Aside] = field(default_factory=list)
    """Results that a rerun replaces."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What staging needs to know beside the rows."""

    at: float
    attempts: int
    price: Callable[[Row], Decimal | None]
    takes_seed: Callable[[str], bool]
    changed: Changed = "stop"
    shard: Shard | None = None
    """Whose rows are staged; None: all of them."""
    move_aside: Callable[[list[Aside]], None] = lambda _: None
    """Moves files that a rerun replaces; called before the commit, so that a crash leaves the ledger's old word, and
    a file that is merely gone is fetched again for nothing."""


@dataclass(slots=True)
class _Work:
    """One staging under way."""

    ledger: Ledger
    terms: Terms
    staged: Staged
    newest: int
    """The id of the newest sample: how many results there may be so far."""
    inputs: inputs.Staging
    """The files that rows send along."""
    neighbours: Neighbours | None = None
    """Whose shards the other rows are; None where all rows are this batch's."""
    elsewhere: int = 0
    """Rows that are another shard's."""
    skip: int = 0
    """Chunks that are to be taken row by row: after one that had to be, so are the next, twice as many each time."""
    skips: int = 1

    def estimate(self, row: Row) -> int | None:
        """Nanodollars for one sample of the row."""
        return to_nanos(self.terms.price(row))

    def count(self, rows: list[Row], samples: int) -> None:
        """All the rows are new jobs, with so many samples."""
        self.newest += samples
        self.staged.rows += len(rows)
        self.staged.added += len(rows)
        self.staged.samples_added += samples

    def bulk(self) -> bulk.Terms:
        """What `bulk` needs to know."""
        return bulk.Terms(self.terms.at, self.terms.attempts, self.estimate, self.terms.takes_seed, self.inputs)


@contextlib.contextmanager
def _no_look_for_garbage() -> Iterator[None]:
    """Rows come and go without circles: to look for some among a million takes a twentieth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_no_look_for_garbage()
def stage(ledger: Ledger, rows: Iterable[Row | Problem], fingerprint: str, terms: Terms) -> Staged:
    """The ledger holds every row of the manifest as a job, or is as it was.

    All in one transaction. Rows that left the manifest stay, unwanted: they are not sent. Raises `ManifestError`
    with every problem found, among them rows that changed where `terms.changed` is "stop". Of a shard's rows alone
    jobs are made, and every row of the manifest is checked.
    """
    staged = Staged()
    problems: list[Problem] = []
    total = 0
    conn = ledger.conn
    cache = conn.execute("pragma cache_size").fetchone()[0]
    conn.execute(f"pragma cache_size = -{CACHE_KIB}")
    try:
        with ledger.immediate():
            conn.execute(
                "create temp table if not exists seen (request_hash text primary key, n integer) without rowid"
            )
            conn.execute("delete from seen")
            neighbours = Neighbours(ledger, terms.shard) if terms.shard else None
            fresh = is_fresh(conn)
            conn.execute("update jobs set wanted = 0 where wanted = 1")
            newest = conn.execute("select coalesce(max(id), 0) from samples").fetchone()[0]
            work = _Work(ledger, terms, staged, newest, inputs.Staging(ledger), neighbours)
            for problem in (_load_all if fresh else _stage_all)(work, rows):
                total += 1
                if total <= PROBLEMS_KEPT:
                    problems.append(problem)
            if not problems and not staged.rows and not work.elsewhere:
                problems, total = [Problem("the manifest has no rows")], 1
            if problems:
                raise ManifestError(problems, total=total)
            if not fresh:
                _follow_jobs(conn)
            if neighbours:
                neighbours.record()
            conn.execute("update batch set fingerprint = ?", (fingerprint,))
            conn.execute("delete from seen")
            terms.move_aside(staged.set_aside)
    finally:
        conn.execute(f"pragma cache_size = {cache}")
    return staged


def _follow_jobs(conn: sqlite3.Connection) -> None:
    """Samples are wanted as their jobs are; a sample beyond its job's number is not."""
    conn.execute(
        "update samples set wanted = w.wanted from"
        " (select s.id, j.wanted and s.number <= j.samples as wanted from samples s join jobs j on j.id = s.job_id) w"
        " where w.id = samples.id and w.wanted <> samples.wanted"
    )


def is_fresh(conn: sqlite3.Connection) -> bool:
    """Whether there are no jobs yet."""
    return not conn.execute("select 1 from jobs limit 1").fetchone()


def _load_all(work: _Work, rows: Iterable[Row | Problem]) -> Iterator[Problem]:
    """Every row is a job, in a ledger that has none; what is wrong with them."""
    conn, terms = work.ledger.conn, work.bulk()
    indexes = bulk.drop_indexes(conn)
    wrong = False
    for part in _chunks(work, rows):
        if isinstance(part, Problem):
            wrong = True
            yield part
        else:
            work.count(part, bulk.load(conn, part, terms, work.newest))
    if not wrong:  # else all of it is taken back
        yield from bulk.build_indexes(conn, indexes, terms)


def _stage_all(work: _Work, rows: Iterable[Row | Problem]) -> Iterator[Problem]:
    """Every row is a job, chunk by chunk; what is wrong with them."""
    for part in _chunks(work, rows):
        if isinstance(part, Problem):
            yield part
        else:
            yield from _stage_chunk(work, part)


def _chunks(work: _Work, rows: Iterable[Row | Problem]) -> Iterator[list[Row] | Problem]:
    """The rows that are this batch's, as many at once as memory is to hold, and what is wrong with others."""
    chunk: list[Row] = []
    size = 0
    for entry in rows:
        if isinstance(entry, Row):
            if work.neighbours and not work.neighbours.is_mine(entry):
                work.elsewhere += 1
                continue
            chunk.append(entry)
            size += _size(entry)
        if chunk and (len(chunk) == CHUNK or size >= CHUNK_SIZE or isinstance(entry, Problem)):
            yield chunk
            chunk, size = [], 0
        if isinstance(entry, Problem):
            yield entry
    if chunk:
        yield chunk


def _size(row: Row) -> int:
    """How many characters the row's values have, about."""
    size = 0
    for values in filter(None, (row.parameters, row.metadata, row.written)):
        for value in values.values():
            kind = value.__class__
            size += len(value) if kind is str else len(repr(value)) if kind in (dict, list) else 8
    return size


def _stage_chunk(work: _Work, chunk: list[Row]) -> Iterator[Problem]:
    if work.skip:
        work.skip -= 1
    elif added := bulk.add(work.ledger, chunk, work.bulk(), work.newest):
        work.count(chunk, added)
        work.skips = 1
        return
    else:
        work.skip = work.skips = min(2 * work.skips, SKIPS_MOST)
    for row in chunk:
        if problem := _stage_row(work, row):
            yield problem


def _stage_row(work: _Work, row: Row) -> Problem | None:
    conn = work.ledger.conn
    work.staged.rows += 1
    hashed = request_hash(row.model, row.parameters)
    occurrence = 1
    if row.id is None:
        # Where the first of them came with a whole chunk, nobody counted it: but then it is wanted already.
        occurrence = conn.execute(
            "insert into seen values (?, 1 + exists (select 1 from jobs where key = ? and wanted = 1))"
            " on conflict do update set n = n + 1 returning n",
            (hashed, job_key(None, hashed, 1)),
        ).fetchone()[0]
    key = job_key(row.id, hashed, occurrence)
    estimate = work.estimate(row)
    job = conn.execute(_JOB, (estimate, key)).fetchone()
    if job is None:
        _add_job(work, row, key, hashed, occurrence, estimate)
        return None
    if job["wanted"]:
        return bulk.twice(row.id or "", row.where, row.number)
    if job["request_hash"] != hashed:
        return _change_job(work, row, hashed, job, estimate)
    _keep_job(work, row, job, estimate)
    return None


_JOB: Final = """
select id, key, request_hash, kept_hash, samples, wanted, model, parameters, written,
       exists (select 1 from samples s
               where s.job_id = jobs.id and s.state = 'pending' and s.estimate_nanos is not ?) as repriced
from jobs where key = ?
"""


def _keep_job(work: _Work, row: Row, job: sqlite3.Row, estimate: int | None) -> None:
    """The job is wanted again, with the manifest's present metadata, place, number of samples, and today's price."""
    conn = work.ledger.conn
    conn.execute(
        "update jobs set wanted = 1, position = ?, samples = ?, metadata = ?, source = ?, written = ? where id = ?",
        (row.number, row.samples, bulk.as_json(row.metadata), row.where, bulk.written_of(row), job["id"]),
    )
    work.inputs.add(job["id"], row.inputs)
    if job["repriced"] and estimate is not None:  # nothing is reserved for what is not sent: it follows the price
        conn.execute(
            "update samples set estimate_nanos = ? where job_id = ? and state = 'pending'", (estimate, job["id"])
        )
    if row.samples > job["samples"]:
        have = conn.execute("select max(number) from samples where job_id = ?", (job["id"],)).fetchone()[0]
        _add_samples(work, row, job["id"], job["key"], job["request_hash"], estimate, have=have)


def _change_job(work: _Work, row: Row, hashed: str, job: sqlite3.Row, estimate: int | None) -> Problem | None:
    """The row's id stayed and its request changed: free where nothing was sent, else as `terms.changed` says."""
    conn, terms = work.ledger.conn, work.terms
    states = {JobState(r[0]) for r in conn.execute("select state from samples where job_id = ?", (job["id"],))}
    sent = conn.execute("select 1 from submissions where job_id = ? limit 1", (job["id"],)).fetchone()
    if sent and terms.changed != "rerun" and (terms.changed == "keep" or job["kept_hash"] == hashed):
        # What is kept is the request too: further samples of it are of the job's, not of the row's new one.
        kept = replace(row, model=job["model"], parameters=json.loads(job["parameters"]), inputs=(),
                       written=json.loads(job["written"] or "{}"))  # fmt: skip
        _keep_job(work, kept, job, to_nanos(terms.price(kept)))
        conn.execute("update jobs set kept_hash = ? where id = ?", (hashed, job["id"]))  # settled: not asked again
        for file in row.inputs:
            work.inputs.keep(file)  # else the next run would take them for new ones
        return None
    if sent and (terms.changed == "stop" or states - _AT_REST):
        work.staged.changed.append(job["key"])
        conn.execute("update jobs set wanted = 1 where id = ?", (job["id"],))  # a second row of this id is one too many
        remedy = (
            "--changed rerun makes it anew (and pays again), --changed keep keeps what there is"
            if states <= _AT_REST
            else "it is still under way at the hub: run once with --changed keep, then change it"
        )
        return Problem(f"{printable(row.id)!r} was sent with another request before: {remedy}", row.where, row.number)
    told = conn.execute(
        "select 1 from events where sample_id in (select id from samples where job_id = ?) limit 1", (job["id"],)
    ).fetchone()
    if sent or told:
        _retire(work, job["id"], job["key"])
    else:
        conn.execute("delete from samples where job_id = ?", (job["id"],))
        conn.execute("delete from jobs where id = ?", (job["id"],))
    _add_job(work, row, job["key"], hashed, 1, estimate)
    return None


_AT_REST: Final = {
    JobState.PENDING,
    JobState.DOWNLOADED,
    JobState.FAILED,
    JobState.CANCELLED,
    JobState.UNFETCHABLE,
}


def _retire(work: _Work, job_id: int, key: str) -> None:
    """The job keeps its history under a key that no row can have, its files go aside, and its names are free."""
    ledger, conn = work.ledger, work.ledger.conn
    conn.execute("update jobs set key = ?, wanted = 0 where id = ?", (f"set-aside:{job_id}:{key}", job_id))
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
            work.staged.set_aside.append(Aside(sample["file"], file))
        if sample["state"] == JobState.PENDING:
            ledger.move(sample["id"], Event.CANCELLED_HERE, at=work.terms.at, note="its row changed")


def _add_job(work: _Work, row: Row, key: str, hashed: str, occurrence: int, estimate: int | None) -> None:
    job_id = work.ledger.conn.execute(
        "insert into jobs (key, row_id, occurrence, request_hash, model, prompt, parameters, metadata, samples,"
        " position, wanted, source, written, created_at)"
        " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?) returning id",
        (key, row.id, occurrence, hashed, row.model, row.prompt, canonical(row.parameters), bulk.as_json(row.metadata),
         row.samples, row.number, row.where, bulk.written_of(row), work.terms.at),
    ).fetchone()[0]  # fmt: skip
    work.inputs.add(job_id, row.inputs)
    work.staged.added += 1
    _add_samples(work, row, job_id, key, hashed, estimate, have=0)


def _add_samples(work: _Work, row: Row, job_id: int, key: str, hashed: str, estimate: int | None, *, have: int) -> None:
    """The job has as many samples as the row wants, each with its own name; the `have` first stay as they are."""
    terms = work.terms
    for number, seed, own_hash, first in bulk.drawn(row, key, hashed, terms.takes_seed, after=have):
        for mark in marks(key, number):
            added = work.ledger.conn.execute(
                "insert into samples (job_id, number, model, request_hash, seed, wanted, state, attempts_allowed,"
                " estimate_nanos, name, name_key, length_s) values (?, ?, ?, ?, ?, 1, 'pending', ?, ?, ?, ?, ?)"
                " on conflict (name_key) do nothing",
                (job_id, number, row.model, own_hash, seed, terms.attempts, estimate,
                 sub_folder(work.newest) + first + mark, collision_key(first + mark), length_of(row.parameters)),
            ).rowcount  # fmt: skip
            if added:
                break
        work.newest += 1
        work.staged.samples_added += 1
