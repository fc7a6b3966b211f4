"""What the batch has brought: its results with all that is known of them, and what is odd about them. Only reads."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.jobs import JobState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from oxenbatch.ledger.book import Ledger

# The first result of each set with the same bytes. The index has the hashes, so that a batch without twins costs one
# walk through it; and a set of ten thousand is ordered once, not once for each of its members.
TWINS: Final = """
select sha256, file from (
  select g.sha256, g.file, row_number() over (partition by g.sha256 order by j.position, j.id, s.number) as place
  from generations g join samples s on s.id = g.sample_id join jobs j on j.id = s.job_id
  where g.state = 'downloaded' and g.sha256 in (
    select sha256 from generations where sha256 is not null and state = 'downloaded'
    group by sha256 having count(*) > 1)
) where place = 1
"""
RECORDS: Final = f"""
with twins (sha256, file) as materialized ({TWINS})
select s.state, s.error, g.file, j.prompt, j.model, j.parameters, j.written, j.metadata, s.seed, j.key, j.row_id,
       s.number, j.samples, g.generation_id, g.sha256, g.bytes, g.media_type, g.width, g.height, g.seconds, g.fps,
       g.audio, g.origin, g.blank, g.mismatches, g.cost, g.enqueued_at, g.started_at,
       coalesce(g.completed_at, g.downloaded_at) as created_at,
       case when s.state = 'downloaded' then t.file end as same_as
from samples s join jobs j on j.id = s.job_id left join generations g on g.generation_id = s.generation_id
left join twins t on t.sha256 = g.sha256
where s.state in ({{states}}) and (s.wanted = 1 or s.state = 'downloaded') and j.key not like 'set-aside:%'
order by j.position, j.id, s.number
"""


def on_disk(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """One dict a file on disk, in the manifest's order; `parameters` and `metadata` are dicts."""
    return records(ledger, (JobState.DOWNLOADED,))


def records(ledger: Ledger, states: Collection[JobState]) -> Iterator[dict[str, Any]]:
    """One dict a sample in these states, in the manifest's order, as `on_disk` has them; also `state` and `error`.

    `same_as` names the first result with the same bytes, where there are several; `mismatches` is a list. A parameter
    that refers to a file of the user's is as the manifest has it.
    """
    marks = ", ".join("?" * len(states))
    for row in ledger.conn.execute(RECORDS.format(states=marks), tuple(states)):
        record = dict(row)
        record["parameters"] = json.loads(record["parameters"]) | json.loads(record.pop("written") or "{}")
        record["metadata"] = json.loads(record["metadata"])
        record["mismatches"] = json.loads(record["mismatches"] or "[]")
        yield record


@contextmanager
def one_moment(ledger: Ledger) -> Iterator[None]:
    """All that the block reads is of one moment, whatever a run beside it writes."""
    ledger.conn.execute("begin")
    try:
        yield
    finally:
        ledger.conn.execute("rollback")  # nothing was written


# -- what is odd --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Oddity:
    """Results that are odd in the same way."""

    what: str
    """`mismatch`, `identical` or `blank`."""
    says: str
    """A sentence without its subject: `duration: asked 10, got 5 s`."""
    count: int
    files: tuple[str, ...]
    """Some of them."""


EXAMPLES: Final = 3
KINDS_TOLD: Final = 20  # of mismatches, and sets of equal results: more are a list for `export`, not for eyes


def oddities(ledger: Ledger) -> list[Oddity]:
    """What is odd about the results on disk, grouped, the most frequent of each kind first."""
    return _mismatched(ledger) + _identical(ledger) + _blank(ledger)


def _mismatched(ledger: Ledger) -> list[Oddity]:
    counts: Counter[str] = Counter()
    files: dict[str, list[str]] = {}
    for file, mismatches in ledger.conn.execute(
        "select file, mismatches from generations where mismatches is not null and state = 'downloaded'"
        " order by generation_id"
    ):
        for one in json.loads(mismatches):
            says = f"{one['field']}: asked {_shown(one['asked'])}, got {one['got']}"
            counts[says] += 1
            if counts[says] <= EXAMPLES:
                files.setdefault(says, []).append(file)
    told = [Oddity("mismatch", says, count, tuple(sorted(files[says]))) for says, count in counts.items()]
    return sorted(told, key=lambda one: (-one.count, one.says))[:KINDS_TOLD]


def _shown(asked: Any) -> str:
    return asked if isinstance(asked, str) else json.dumps(asked, ensure_ascii=False)


def _identical(ledger: Ledger) -> list[Oddity]:
    rows = ledger.conn.execute(
        "select sha256, count(*) as n from generations where state = 'downloaded' and sha256 is not null"
        " group by sha256 having n > 1 order by n desc, sha256 limit ?",
        (KINDS_TOLD,),
    ).fetchall()
    return [
        Oddity("identical", "the same bytes", row["n"], _files(ledger, "sha256 = ?", row["sha256"])) for row in rows
    ]


def _blank(ledger: Ledger) -> list[Oddity]:
    count = ledger.conn.execute("select count(*) from generations where blank = 1 and state = 'downloaded'").fetchone()
    return [Oddity("blank", "one colour", count[0], _files(ledger, "blank = 1"))] if count[0] else []


def _files(ledger: Ledger, where: str, *bound: Any) -> tuple[str, ...]:
    rows = ledger.conn.execute(
        f"select file from generations where {where} and state = 'downloaded' order by file limit {EXAMPLES}", bound
    )
    return tuple(row[0] for row in rows)
