"""Rows that the ledger has never seen, many at once: what `staging` does row by row, where nothing is to be decided.

What must always hold: a chunk is written whole or not at all. Where there are jobs already, `add` writes nothing if one
of its rows meets anything, a key or a name that there is, and `staging` takes the chunk row by row, which is ten times
slower and knows every case. Where there are none, rows are loaded without indexes (`drop_indexes`, `load`), which are
built at the end (`build_indexes`): whatever has come twice by then gets a key or a name of its own.
"""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from oxenbatch.errors import Problem, printable
from oxenbatch.jobs import Row, auto_seed, canonical, hash_of_text, job_key, length_of, request_hash
from oxenbatch.names import collision_key, marks, stem_for, sub_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from oxenbatch.jobs import InputFile
    from oxenbatch.ledger.book import Ledger
    from oxenbatch.ledger.inputs import Staging

_JOB: Final = """
insert into jobs (id, key, row_id, occurrence, request_hash, model, prompt, parameters, metadata, samples, position,
                  wanted, source, written, created_at)
values (?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?) on conflict do nothing
"""
_SAMPLE: Final = """
insert into samples (job_id, number, model, request_hash, seed, wanted, state, attempts_allowed, estimate_nanos, name,
                     name_key, length_s)
values (?, ?, ?, ?, ?, 1, 'pending', ?, ?, ?, ?, ?) on conflict do nothing
"""


class Terms(NamedTuple):
    """What is the same for all rows of a staging."""

    at: float
    attempts: int
    estimate: Callable[[Row], int | None]
    takes_seed: Callable[[str], bool]
    inputs: Staging


Drawn = tuple[int, int | None, str, str]
"""One sample of a row: its number, seed, `request_hash`, and its name without sub-folder and mark."""


def drawn(row: Row, key: str, hashed: str, takes_seed: Callable[[str], bool], after: int = 0) -> Iterator[Drawn]:
    """The samples that the row wants, those behind number `after`."""
    seeds = row.parameters.get("seed") == "auto" and takes_seed(row.model)
    stem = stem_for(row.id, row.prompt, key)
    for number in range(after + 1, row.samples + 1):
        seed = auto_seed(key, number) if seeds else None
        own_hash = request_hash(row.model, {**row.parameters, "seed": seed}) if seeds else hashed
        yield number, seed, own_hash, stem if row.samples == 1 else f"{stem}-{number}"


def twice(row_id: str, where: str, number: int) -> Problem:
    """What is wrong with the second row of an id."""
    return Problem(f"id {printable(row_id)!r} stands twice in the manifest", where, number, "id")


def add(ledger: Ledger, rows: Sequence[Row], terms: Terms, newest: int) -> int:
    """The rows are jobs with all their samples, and how many samples that are; or 0, and nothing is written.

    `newest`: the id of the newest sample: how many results there may be so far.
    """
    conn = ledger.conn
    # A manifest that has grown a little begins with what is known: that is seen before anything is tried.
    ends = [job_key(row.id, request_hash(row.model, row.parameters), 1) for row in (rows[0], rows[-1])]
    if conn.execute("select 1 from jobs where key in (?, ?)", ends).fetchone():
        return 0
    with ledger.immediate():
        added = load(conn, rows, terms, newest)
        if not added:
            conn.execute("rollback to step")  # and the block that ends releases it, empty
    return added


def load(conn: sqlite3.Connection, rows: Sequence[Row], terms: Terms, newest: int) -> int:
    """The rows are jobs with all their samples, and how many samples that are; or 0, where an index was in the way."""
    job_id: int = conn.execute("select coalesce(max(id), 0) from jobs").fetchone()[0]
    jobs: list[tuple[Any, ...]] = []
    samples: list[tuple[Any, ...]] = []
    sent_along: list[tuple[int, tuple[InputFile, ...]]] = []
    for row in rows:
        job_id += 1
        parameters = canonical(row.parameters)
        hashed = hash_of_text(row.model, parameters)
        key = job_key(row.id, hashed, 1)
        jobs.append((job_id, key, row.id, hashed, row.model, row.prompt, parameters, as_json(row.metadata), row.samples,
                     row.number, row.where, written_of(row), terms.at))  # fmt: skip
        if row.inputs:
            sent_along.append((job_id, row.inputs))
        estimate = terms.estimate(row)
        length = length_of(row.parameters)
        for number, seed, own_hash, name in drawn(row, key, hashed, terms.takes_seed):
            samples.append((job_id, number, row.model, own_hash, seed, terms.attempts, estimate,
                            sub_folder(newest + len(samples)) + name, collision_key(name), length))  # fmt: skip
    for statement, values in ((_JOB, jobs), (_SAMPLE, samples)):
        before = conn.total_changes
        conn.executemany(statement, values)
        if conn.total_changes - before != len(values):
            return 0
    for number, files in sent_along:  # last, since what is remembered of them is not forgotten with the rest
        terms.inputs.add(number, files)
    return len(samples)


_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def as_json(value: Any) -> str:
    """A row's metadata as the ledger has it."""
    return _encode(value) if value else "{}"


def written_of(row: Row) -> str | None:
    """The parameters that the row's files stand in, as they were written; None where it sends none along."""
    return _encode(row.written) if row.written else None


# -- without indexes ----------------------------------------------------------------------------------------------


def drop_indexes(conn: sqlite3.Connection) -> list[tuple[str, str]]:
    """The names of the indexes of `jobs` and `samples`, and the statements that make them; they are gone.

    For a ledger that has neither; call inside `immediate`.
    """
    indexes = conn.execute(
        "select name, sql from sqlite_master where type = 'index' and tbl_name in ('jobs', 'samples')"
        " and sql is not null order by name = 'samples_by_name'"
    ).fetchall()  # names last: whoever gets a key of his own gets a name by it
    for name, _ in indexes:
        conn.execute(f"drop index {name}")
    return [(name, statement) for name, statement in indexes]


def build_indexes(conn: sqlite3.Connection, indexes: list[tuple[str, str]], terms: Terms) -> Iterator[Problem]:
    """The indexes stand again, a million entries sorted at once; or what is wrong with rows that have one id."""
    twins = {"jobs_by_key": _twin_keys, "samples_by_name": _twin_names}
    for name, statement in indexes:
        try:
            conn.execute(statement)
        except sqlite3.IntegrityError:
            problem = None
            for problem in twins[name](conn, statement, terms):
                yield problem
            if problem:
                return


def _twin_keys(conn: sqlite3.Connection, index: str, terms: Terms) -> Iterator[Problem]:
    """Equal requests are told apart by their order, and the index stands; equal ids are problems."""
    _find_twins(conn, "jobs", "key")
    found = False
    for job in conn.execute(
        "select row_id, source, position from twins join jobs using (id) where row_id is not null order by id"
    ):
        found = True
        yield twice(job["row_id"], job["source"], job["position"])
    if found:
        return
    for job in conn.execute("select jobs.*, n from twins join jobs using (id) order by id"):
        row = Row(job["model"], json.loads(job["parameters"]), samples=job["samples"])
        key = job_key(None, job["request_hash"], job["n"])
        conn.execute("update jobs set key = ?, occurrence = ? where id = ?", (key, job["n"], job["id"]))
        for number, seed, own_hash, name in drawn(row, key, job["request_hash"], terms.takes_seed):
            conn.execute(
                "update samples set seed = ?, request_hash = ?, name = substr(name, 1, instr(name, '/')) || ?,"
                " name_key = ? where job_id = ? and number = ?",
                (seed, own_hash, name, collision_key(name), job["id"], number),
            )
    conn.execute(index)


def _twin_names(conn: sqlite3.Connection, index: str, _: Terms) -> Iterator[Problem]:
    """Names that some file system takes for one get marks, all but the first, and the index stands."""
    _find_twins(conn, "samples", "name_key")
    conn.execute("update samples set name_key = ':' || id where id in (select id from twins)")  # none has a colon
    conn.execute(index)
    for sample in conn.execute(
        "select s.id, s.name, s.number, j.key from twins t join samples s using (id) join jobs j on j.id = s.job_id"
        " order by s.id"
    ):
        for mark in marks(sample["key"], sample["number"]):
            name = sample["name"] + mark
            if conn.execute(
                "update or ignore samples set name = ?, name_key = ? where id = ?",
                (name, collision_key(name.rpartition("/")[2]), sample["id"]),
            ).rowcount:  # fmt: skip
                break
    yield from ()


def _find_twins(conn: sqlite3.Connection, table: str, column: str) -> None:
    """`twins` has those that are not the first of theirs, and which of theirs they are (from 2)."""
    conn.execute("create temp table if not exists twins (id integer primary key, n integer)")
    conn.execute("delete from twins")
    conn.execute(
        f"insert into twins select id, n from (select id, row_number() over (partition by {column} order by id) as n"
        f" from {table}) where n > 1"
    )
