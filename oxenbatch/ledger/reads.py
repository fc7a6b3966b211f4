"""What the ledger tells: the counts that plans are made of, and the tables that people read. Nothing here writes."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.echo import echoes
from oxenbatch.jobs import JobState, prompt_of
from oxenbatch.ledger.book import to_dollars
from oxenbatch.plan import Facts
from oxenbatch.words import alike

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from oxenbatch.ledger.book import Ledger
    from oxenbatch.wire import Generation


REASONS_TOLD_APART: Final = 1000  # a hub that gives every failure words of its own must not fill the memory


def facts(ledger: Ledger, left_out: Sequence[str] = ()) -> Facts:
    """The state of the batch, for the plan; unsent samples of models that are `left_out` do not count as pending."""
    conn = ledger.conn
    open_sends = "from submissions where state in ('intent', 'unknown', 'held') and state = 'held'"
    held = conn.execute(f"select exists (select 1 {open_sends})").fetchone()[0]
    # A request with a held send is not sent again before a person has decided.
    free = f" and request_hash not in (select request_hash {open_sends})" if held else ""
    free += f" and model not in ({', '.join('?' * len(left_out))})" if left_out else ""
    pending = conn.execute(
        f"select exists (select 1 from samples where state = 'pending' and wanted = 1{free})", left_out
    ).fetchone()[0]
    active = Counter(
        dict(
            conn.execute(
                "select state, count(*) from samples"
                " where state in ('submitting', 'uncertain', 'queued', 'processing') group by state"
            ).fetchall()
        )
    )
    succeeded = conn.execute("select count(*) from samples where state = 'succeeded'").fetchone()[0]
    at_the_hub = active["queued"] + active["processing"]
    return Facts(bool(pending), active["submitting"], active["uncertain"], at_the_hub, succeeded)


def is_unfinished(ledger: Ledger) -> bool:
    """Whether a run would have something to do, without a person."""
    now = facts(ledger)
    return now.pending or bool(now.submitting + now.uncertain + now.at_the_hub + now.succeeded)


def facts_and_moves(ledger: Ledger, left_out: Sequence[str] = ()) -> tuple[Facts, dict[JobState, int]]:
    """The facts, and how many samples this ledger object has moved to, or from, each state."""
    return facts(ledger, left_out), dict(ledger.moved)


def counts(ledger: Ledger) -> dict[JobState, int]:
    """How many wanted samples there are in each state; every state is a key."""
    found = dict(ledger.conn.execute("select state, count(*) from samples where wanted = 1 group by state").fetchall())
    return {state: int(found.get(state, 0)) for state in JobState}


_NOT_REUSED: Final = " and id not in (select sample_id from temp.reusable)"
"""But for what an older batch has; `ledger.reuse.find` fills the table."""


def due_totals(ledger: Ledger, *, reuse: bool = False) -> tuple[int, Decimal, int]:
    """(samples, dollars, samples without a known price) of all that is wanted and not sent yet."""
    row = ledger.conn.execute(
        "select count(*), coalesce(sum(estimate_nanos), 0), count(*) - count(estimate_nanos) from samples"
        f" where state = 'pending' and wanted = 1{_NOT_REUSED if reuse else ''}"
    ).fetchone()
    return row[0], to_dollars(row[1]), row[2]


def due_models(ledger: Ledger, *, reuse: bool = False) -> list[str]:
    """The models of all that is wanted and not sent yet."""
    found = ledger.conn.execute(
        f"select distinct model from samples where state = 'pending' and wanted = 1{_NOT_REUSED if reuse else ''}"
    )
    return sorted(row[0] for row in found)


def cheapest_due(ledger: Ledger) -> int | None:
    """Nanodollars that the cheapest unsent sample with a price is expected to cost; None where there is none."""
    row = ledger.conn.execute(
        "select min(estimate_nanos) from samples where state = 'pending' and wanted = 1"
    ).fetchone()
    return None if row[0] is None else int(row[0])


@dataclass(frozen=True, slots=True)
class Batch:
    """The one row of `batch`."""

    name: str
    hub: str
    created_at: float
    created_on: str
    fingerprint: str | None
    committed: Decimal
    """Dollars that are charged, or may yet be: charges where they are known, estimates where not."""


def batch(ledger: Ledger) -> Batch | None:
    """What the batch is, or None where no run has begun it."""
    row = ledger.conn.execute(
        "select name, hub, created_at, created_on, fingerprint, committed_nanos from batch"
    ).fetchone()
    if row is None:
        return None
    name, hub, created_at, created_on, fingerprint, nanos = row
    return Batch(name, hub, created_at, created_on, fingerprint, to_dollars(nanos))


def committed_nanos(ledger: Ledger) -> int:
    """Nanodollars that are charged, or may yet be."""
    return int(ledger.conn.execute("select committed_nanos from batch").fetchone()[0])


def charged(ledger: Ledger) -> Decimal:
    """Dollars that the hub has charged for generations of this batch, exactly."""
    return sum((Decimal(row[0]) for row in ledger.conn.execute(
        "select cost from generations where cost is not null")), Decimal(0))  # fmt: skip


def newest_event(ledger: Ledger) -> int:
    """The number of the last line in `events`, 0 where there is none."""
    return int(ledger.conn.execute("select coalesce(max(id), 0) from events").fetchone()[0])


@dataclass(frozen=True, slots=True)
class Failure:
    """Samples that ended, or wait, for the same reason."""

    state: JobState
    error: str
    count: int
    example: str
    """A name of one such job that `show` takes as it stands; the generation's where it is paid and its file is not."""


WORDS_TOLD: Final = 2_000


def failures(ledger: Ledger, limit: int = 20) -> list[Failure]:
    """Why samples are not on disk, grouped by reason, the most frequent first.

    Reasons that differ only in a request's number or its seconds are one; the words are the most frequent's.
    """
    rows = ledger.conn.execute(
        # We write down no longer words; somebody else's megabytes are not searched for a meaning.
        f"select s.state, substr(coalesce(s.error, ''), 1, {WORDS_TOLD}), count(*) as n,"
        " min(case when s.state = 'unfetchable' then s.generation_id else coalesce(j.row_id, s.name) end)"
        " from samples s join jobs j on j.id = s.job_id where s.wanted = 1"
        " and s.state in ('failed', 'cancelled', 'unfetchable', 'held', 'uncertain')"
        " group by s.state, s.error order by n desc, min(s.id)"
    )
    groups: dict[tuple[str, str], Failure] = {}
    for state, error, count, example in rows:
        kind = (state, alike(error))
        known = groups.get(kind)
        if known:
            groups[kind] = replace(known, count=known.count + count)
        elif len(groups) < REASONS_TOLD_APART:
            groups[kind] = Failure(JobState(state), error, count, example)
    return sorted(groups.values(), key=lambda failure: -failure.count)[:limit]


LISTING: Final = """
select coalesce(j.row_id, j.key) as job, s.number as sample, s.state, s.model, g.generation_id, s.attempts,
       g.cost, s.file, g.bytes, g.width, g.height, g.seconds, j.prompt, s.error
from samples s join jobs j on j.id = s.job_id left join generations g on g.generation_id = s.generation_id
where (:state is null or s.state = :state) and (:model is null or s.model = :model)
order by j.position, j.id, s.number limit :limit
"""


def listing(
    ledger: Ledger, *, state: str | None = None, model: str | None = None, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """One dict a sample, in the manifest's order: job, sample, state, model, generation_id, cost, file, prompt, …"""
    bound = {"state": state, "model": model, "limit": -1 if limit is None else limit}
    return (dict(row) for row in ledger.conn.execute(LISTING, bound))


def find_jobs(ledger: Ledger, text: str) -> list[int]:
    """Jobs that the text names: an id, a key or its beginning, a generation_id, or a file; ids of `jobs`."""
    for query in (
        "select id from jobs where row_id = :t or key = :t",
        "select s.job_id from generations g join samples s on s.id = g.sample_id where g.generation_id = lower(:t)",
        "select job_id from samples where file = :t or name = :t",
        "select distinct job_id from samples where instr(name, :t) > 0 limit 20",
        "select id from jobs where substr(key, 1, length(:t)) = :t or substr(key, 4, length(:t)) = :t limit 20",
    ):
        if found := [row[0] for row in ledger.conn.execute(query, {"t": text})]:
            return found
    whole = text.rstrip("…")
    return find_jobs(ledger, whole) if whole and whole != text else []


def generation_of_file(ledger: Ledger, name: str) -> str | None:
    """The generation whose result this file is now, or None."""
    row = ledger.conn.execute("select generation_id from samples where file = ?", (name,)).fetchone()
    return row[0] if row else None


def sample_of(ledger: Ledger, generation_id: str) -> int | None:
    """The sample whose current result the generation is, or None."""
    row = ledger.conn.execute(
        "select s.id from generations g join samples s on s.id = g.sample_id and s.generation_id = g.generation_id"
        " where g.generation_id = ?", (generation_id,)
    ).fetchone()  # fmt: skip
    return row[0] if row else None


def key_of(ledger: Ledger, job: int) -> str:
    """The job's key, which names it in every ledger that has it."""
    return str(ledger.conn.execute("select key from jobs where id = ?", (job,)).fetchone()[0])


def job_names(ledger: Ledger, begun: str, limit: int) -> list[str]:
    """What the user knows jobs by whose name begins so, in the manifest's order."""
    rows = ledger.conn.execute(
        "select coalesce(row_id, key) as name from jobs where substr(name, 1, length(?)) = ? order by position limit ?",
        (begun, begun, limit),
    )
    return [row[0] for row in rows]


@dataclass(frozen=True, slots=True)
class Story:
    """Everything about one job."""

    job: dict[str, Any]
    samples: list[dict[str, Any]] = field(default_factory=list)
    submissions: list[dict[str, Any]] = field(default_factory=list)
    generations: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)


def story(ledger: Ledger, job_id: int) -> Story:
    """The job's request, its samples, its sends, its generations and how they became so."""
    conn = ledger.conn

    def rows(query: str) -> list[dict[str, Any]]:
        return [dict(row) for row in conn.execute(query, (job_id,))]

    job = rows("select * from jobs where id = ?")[0]
    job |= {name: json.loads(job[name] or "{}") for name in ("parameters", "metadata", "written")}
    generations = rows(
        "select g.* from generations g join samples s on s.id = g.sample_id where s.job_id = ? order by g.accepted_at"
    )
    for generation in generations:
        generation.pop("result_url")  # a signed address is a key of its own
    return Story(
        job,
        rows("select * from samples where job_id = ? order by number"),
        rows("select * from submissions where job_id = ? order by id"),
        generations,
        rows("select e.* from events e join samples s on s.id = e.sample_id where s.job_id = ? order by e.id"),
    )


def files(ledger: Ledger) -> Iterator[tuple[int, str, int]]:
    """(sample id, file, bytes) of every file that should be on disk."""
    # A generation is downloaded exactly where its sample is; by its own index, a million take one second and not five.
    cursor = ledger.conn.cursor()
    cursor.row_factory = None  # plain tuples: a third less
    return cursor.execute(
        "select sample_id, file, bytes from generations indexed by one_live_generation where state = 'downloaded'"
        " and state in ('queued', 'processing', 'succeeded', 'downloaded', 'unfetchable') order by sample_id"
    )


def hashes(ledger: Ledger) -> Iterator[tuple[int, str, str]]:
    """(sample id, file, sha256) of every file that should be on disk."""
    for row in ledger.conn.execute(
        "select s.id, g.file, g.sha256 from samples s join generations g on g.generation_id = s.generation_id"
        # One that was there, is gone, and could not be had again is still to be there.
        " where s.state in ('downloaded', 'succeeded', 'unfetchable') and g.sha256 is not null order by s.id"
    ):
        yield row[0], row[1], row[2]


def source(ledger: Ledger) -> str:
    """The manifest's file, as the first job names it; without its line."""
    row = ledger.conn.execute("select source from jobs order by id limit 1").fetchone()
    return re.sub(r":\d+$", "", row[0]) if row and row[0] else "MANIFEST"


def last_run(ledger: Ledger) -> dict[str, Any] | None:
    """The newest run, finished or not."""
    row = ledger.conn.execute("select * from runs order by id desc limit 1").fetchone()
    return dict(row) if row else None


# -- for the audit ------------------------------------------------------------------------------------------------


def first_send_at(ledger: Ledger) -> float | None:
    """The hub's time of the batch's first intent; None where nothing was ever sent."""
    at = ledger.conn.execute("select min(intent_at) from submissions").fetchone()[0]
    return None if at is None else float(at)


def job_count(ledger: Ledger) -> int:
    """How many jobs the ledger has, those that are no longer wanted too."""
    return int(ledger.conn.execute("select count(*) from jobs").fetchone()[0])


def generation_count(ledger: Ledger) -> int:
    """How many generations this batch has bought."""
    return int(ledger.conn.execute("select count(*) from generations where origin is null").fetchone()[0])


def generations_of(ledger: Ledger, samples: Sequence[int]) -> list[str]:
    """The generations that these samples have now."""
    marks = ", ".join("?" * len(samples))
    rows = ledger.conn.execute(
        f"select generation_id from samples where id in ({marks}) and generation_id is not null order by id", samples
    )
    return [row[0] for row in rows]


def generation_ids(ledger: Ledger) -> Iterator[str]:
    """Every generation_id that this batch has bought."""
    query = "select generation_id from generations where origin is null order by accepted_at"
    return (row[0] for row in ledger.conn.execute(query))


def is_reused(ledger: Ledger, generation_id: str) -> bool:
    """Whether the generation was bought by an older batch, and its file taken from there."""
    query = "select 1 from generations where generation_id = ? and origin is not null"
    return ledger.conn.execute(query, (generation_id,)).fetchone() is not None


def job_of(ledger: Ledger, generation_id: str) -> int | None:
    """The job that the generation was made for."""
    row = ledger.conn.execute(
        "select s.job_id from generations g join samples s on s.id = g.sample_id where g.generation_id = ?",
        (generation_id,),
    ).fetchone()
    return row[0] if row else None


def job_of_token(ledger: Ledger, token: str) -> int | None:
    """The job whose submission bears this token."""
    row = ledger.conn.execute("select job_id from submissions where token = ?", (token,)).fetchone()
    return row[0] if row else None


def job_that_asked(ledger: Ledger, row: Generation) -> int | None:
    """A job whose request the hub's row echoes, or None."""
    for job in ledger.conn.execute(
        "select id, parameters from jobs where id in (select job_id from submissions) and prompt = ? and model = ?",
        (prompt_of(dict(row.echo)), row.model),
    ):
        asked = {name: value for name, value in json.loads(job["parameters"]).items() if value != "auto"}
        if echoes(row, row.model, asked):
            return int(job["id"])
    return None


def name_of(ledger: Ledger, job_id: int) -> str:
    """What the user knows the job by: its id, else its key."""
    return str(ledger.conn.execute("select coalesce(row_id, key) from jobs where id = ?", (job_id,)).fetchone()[0])


def results_allowed(ledger: Ledger, job_id: int) -> int:
    """How many generations the job may have been charged for: its samples, and the results that were set aside."""
    row = ledger.conn.execute(
        "select (select count(*) from samples where job_id = :job),"
        " (select count(*) from generations g join samples s on s.id = g.sample_id"
        "  where s.job_id = :job and g.state in ('set_aside', 'vanished', 'failed') and g.cost is not null)",
        {"job": job_id},
    ).fetchone()
    return int(row[0] + row[1])
