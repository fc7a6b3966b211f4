"""Rows that the ledger has never seen, many at once: what `staging` does row by row, where nothing is to be decided.

What must always hold: a chunk is written whole or not at all. Where one of its rows meets anything, a key or a name
that there is already, nothing is written, and `staging` takes the chunk row by row, which is ten times slower and knows
every case.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from oxenbatch.jobs import Row, auto_seed, canonical, hash_of_text, job_key, length_of, request_hash
from oxenbatch.names import collision_key, stem_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from oxenbatch.jobs import InputFile
    from oxenbatch.ledger.book import Ledger
    from oxenbatch.ledger.inputs import Staging

ROOT_RESULTS: Final = 10_000  # more results than this are spread over sub-folders of as many

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


def add(ledger: Ledger, rows: Sequence[Row], terms: Terms, newest: int) -> int:
    """The rows are jobs with all their samples, and how many samples that are; or 0, and nothing is written.

    `newest`: the id of the newest sample: how many results there may be so far.
    """
    conn = ledger.conn
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
        seeds = row.parameters.get("seed") == "auto" and terms.takes_seed(row.model)
        stem = stem_for(row.id, row.prompt, key)
        length = length_of(row.parameters)
        for number in range(1, row.samples + 1):
            seed = auto_seed(key, number) if seeds else None
            own_hash = request_hash(row.model, {**row.parameters, "seed": seed}) if seeds else hashed
            name = stem if row.samples == 1 else f"{stem}-{number}"
            place = newest + len(samples)
            folder = f"{place // ROOT_RESULTS:04d}/" if place >= ROOT_RESULTS else ""
            samples.append((job_id, number, row.model, own_hash, seed, terms.attempts, estimate, folder + name,
                            collision_key(name), length))  # fmt: skip
    # A manifest that has grown a little begins with what is known: that is seen before anything is tried.
    if conn.execute("select 1 from jobs where key in (?, ?)", (jobs[0][1], jobs[-1][1])).fetchone():
        return 0
    with ledger.immediate():
        for statement, values in ((_JOB, jobs), (_SAMPLE, samples)):
            before = conn.total_changes
            conn.executemany(statement, values)
            if conn.total_changes - before != len(values):
                conn.execute("rollback to step")  # and the block that ends releases it, empty
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


@contextmanager
def without_indexes(ledger: Ledger) -> Iterator[None]:
    """Inside, jobs and samples have no index but those of their own rules: a million entries are sorted once, after.

    For a ledger that had none of either; call inside `immediate`.
    """
    conn = ledger.conn
    indexes = conn.execute(
        "select name, sql from sqlite_master where type = 'index' and tbl_name in ('jobs', 'samples')"
        " and sql is not null"
    ).fetchall()
    for name, _ in indexes:
        conn.execute(f"drop index {name}")
    yield
    for _, statement in indexes:
        conn.execute(statement)
