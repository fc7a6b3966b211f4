"""Several ledgers become one: every row of each, under new numbers, and where each result's file belongs now.

Rules of residence: SQL, no files. What must always hold: of the money record nothing is left out, so each table of a
ledger is copied whole (`COPIED`), or by what its files are (`BY_CONTENT`), or is named in `LEFT_OUT` with its reason (a
test compares them with a real ledger); columns that are no numbers of rows are copied as they are, whatever later
versions add.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from oxenbatch.errors import MachineError, UsageProblem, printable
from oxenbatch.ledger import reads
from oxenbatch.ledger.book import refuse_strangers
from oxenbatch.ledger.schema import VERSION
from oxenbatch.ledger.staging import CACHE_KIB
from oxenbatch.names import collision_key, marks, sub_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from oxenbatch.ledger.book import Ledger

ASIDE: Final = "set-aside"  # the folder of results that were put aside, and the beginning of the keys of retired jobs

# Each table with its columns that name rows, and the table whose rows they name. In this order, for the foreign keys.
COPIED: Final[dict[str, dict[str, str]]] = {
    "runs": {"id": "runs"},
    "jobs": {"id": "jobs"},
    "submissions": {"id": "submissions", "job_id": "jobs", "run_id": "runs"},
    "samples": {"id": "samples", "job_id": "jobs", "submission_id": "submissions"},
    "generations": {"sample_id": "samples", "submission_id": "submissions"},
    "events": {"id": "events", "sample_id": "samples", "submission_id": "submissions"},
}
BY_CONTENT: Final = ("inputs", "input_files", "job_inputs")
"""Tables of files that several parts may have sent along: a file is one, whoever named it."""
LEFT_OUT: Final = {
    "batch": "the merged batch has a row of its own, with the sum of the money",
    "shard": "the merged batch is none",
    "shared_requests": "the merged batch has all of a request's sends itself",
    "merge": "it tells of one merge, and this is another",
    "parts": "so do these",
    "successor": "whoever has one is not merged anew",
}
_INPUTS: Final = """
insert into main.inputs (sha256, name, bytes, address, stored_at)
select sha256, name, bytes, address, stored_at from part.inputs where true
on conflict (sha256) do update set address = coalesce(address, excluded.address),
  stored_at = coalesce(stored_at, excluded.stored_at)
"""
# The parts are of one manifest, whose next reading looks at each file anew: which part's mark is kept does not matter.
_INPUT_FILES: Final = """
insert into main.input_files (path, input_id, bytes, mtime_ns, inode, wanted)
select f.path, m.id, f.bytes, f.mtime_ns, f.inode, f.wanted from part.input_files f
join part.inputs p on p.id = f.input_id join main.inputs m using (sha256) where true
on conflict (path) do nothing
"""
_JOB_INPUTS: Final = """
insert into main.job_inputs (input_id, job_id)
select m.id, u.job_id + ? from part.job_inputs u
join part.inputs p on p.id = u.input_id join main.inputs m using (sha256)
"""
OVERLAPS: Final = (
    (
        "generation",
        (
            "select g.generation_id, b.job_id from part.generations join main.generations g using (generation_id)"
            " join main.submissions b on b.id = g.submission_id limit 1"
        ),
    ),
    ("send", "select token, m.job_id from part.submissions join main.submissions m using (token) limit 1"),
)
AT_ONCE: Final = 1000  # samples in one transaction: the merged ledger is scratch until it is whole


@dataclass(frozen=True, slots=True)
class Result:
    """One result: the file that it has in its part, and the one that it gets in the merged batch; both relative."""

    part: int
    """Which of the parts has it, from 0, in the order in which they were absorbed."""
    was: str
    becomes: str
    sha256: str
    bytes: int
    is_kept: bool
    """It should lie there; not so while it is to be fetched again."""


class Merging:
    """A merged ledger in the making: `absorb` each part, `place` what they have, then `finish`."""

    def __init__(self, ledger: Ledger, earlier: Path | None) -> None:
        """`earlier`: the ledger that an earlier merge of the same parts has made; names stay as they are there."""
        self._ledger = ledger
        self._conn = ledger.conn
        # A part's rows may come before those that they name, and are checked once, before any file is touched: at every
        # row, each generation would be looked for among all samples that wait for theirs.
        self._conn.execute("pragma foreign_keys = off")
        # Scratch until the caller has made it durable as a whole, and each row is touched several times.
        self._conn.execute("pragma synchronous = off")
        self._conn.execute(f"pragma cache_size = -{CACHE_KIB}")
        self._earlier = earlier
        self._named = 0
        self._parts: list[tuple[str, dict[str, int]]] = []
        """Each part as people know it, and the number of its last row in each table."""

    def absorb(self, part: Path, home: Path) -> None:
        """Everything that the ledger `part` has is here as well, in the batch whose folder will be `home`.

        `UsageProblem`, and nothing is changed, where a job or a generation is here already; `MachineError` where it is
        damaged, or no ledger of ours. That every row is there which its rows name is only known once all are absorbed.
        """
        try:
            self._absorb(part, home, printable(part.parent))
        except sqlite3.DatabaseError as error:
            raise MachineError(
                f"the ledger in {printable(part.parent)} cannot be merged ({error}): if it is damaged, restore it from"
                " a backup"
            ) from error

    def _absorb(self, part: Path, home: Path, shown: str) -> None:
        conn = self._conn
        with self._attached(part, "part"), self._ledger.immediate():
            # What was opened and checked a moment ago may be another file by now; of this one we have a snapshot.
            refuse_strangers(conn, "part", path=part, version=VERSION)
            self._refuse_overlap(shown)
            before = {table: _highest(f"main.{table}", conn) for table, named in COPIED.items() if "id" in named}
            for table, named in COPIED.items():
                self._copy(table, named, before)
            self._copy_inputs(before["jobs"])
            conn.execute("update batch set committed_nanos = committed_nanos"
                         " + coalesce((select committed_nanos from part.batch), 0)")  # fmt: skip
            conn.execute(
                "insert into parts (ledger, newest_event, samples) select ?, ?, count(*) from part.samples",
                (os.path.relpath(part, home), _highest("part.events", conn)),
            )
            self._parts.append((shown, {table: _highest(f"main.{table}", conn, "rowid") for table in COPIED}))

    def place(self) -> Iterator[Result]:
        """Each sample has a name that is its own in the whole batch; every result, and where its file belongs.

        `MachineError` where one of the parts was damaged.
        """
        self._refuse_orphans()
        if self._earlier:
            with self._attached(self._earlier, "earlier"):
                for rows in self._samples():
                    with self._ledger.immediate():
                        for row in rows:
                            self._keep_name(row)
        for rows in self._samples():
            with self._ledger.immediate():
                results = [result for row in rows for result in self._place(row)]
            yield from results

    def gone(self) -> list[tuple[str, str]]:
        """(file, sha256) of results that the earlier merge has put where there is none now."""
        if not self._earlier:
            return []
        with self._attached(self._earlier, "earlier"):
            rows = self._conn.execute(
                "select file, sha256 from earlier.generations where file is not null"
                " and file not in (select file from main.generations where file is not null)"
            ).fetchall()
        return [(row[0], row[1]) for row in rows]

    def had(self, file: str, sha256: str) -> bool:
        """Whether the earlier merge has put a result with these bytes there."""
        if not self._earlier:
            return False
        with self._attached(self._earlier, "earlier"):
            return self._conn.execute(
                "select 1 from earlier.generations where file = ? and sha256 = ?", (file, sha256)
            ).fetchone() is not None  # fmt: skip

    def finish(self, *, at: float) -> None:
        """The merged ledger remembers what it is."""
        self._conn.execute(
            "insert into merge (id, merged_at, newest_event) values (1, ?, ?)", (at, reads.newest_event(self._ledger))
        )

    # -- rows -----------------------------------------------------------------------------------------------------

    def _refuse_orphans(self) -> None:
        """`MachineError` where a row names one that is not there."""
        found = self._conn.execute("pragma main.foreign_key_check").fetchone()
        if found:
            table, row, named, _ = found
            whose = self._part_of(table, row) if table in COPIED else f"one of the {len(self._parts)} batches"
            raise MachineError(
                f"the ledger in {whose} is damaged (a row of {table} without the one of {named} that it names): restore"
                " it from a backup"
            )
        self._conn.execute("pragma foreign_keys = on")

    def _refuse_overlap(self, shown: str) -> None:
        conn = self._conn
        for what, query in OVERLAPS:
            if found := conn.execute(query).fetchone():
                raise UsageProblem(
                    f"{shown} and {self._part_of('jobs', found[1])} both have the {what} {found[0]}: one of them is a"
                    " copy of the other, or was merged from it"
                )
        job = conn.execute(
            "select coalesce(m.row_id, m.key), m.id from part.jobs p join main.jobs m using (key)"
            f" where m.key not like '{ASIDE}:%' limit 1"
        ).fetchone()
        if job:
            raise UsageProblem(
                f"{shown} and {self._part_of('jobs', job[1])} both have the job {printable(job[0])!r}, each with"
                " results of its own: they are no parts of one batch"
            )

    def _part_of(self, table: str, row: int) -> str:
        return self._parts[self._number_of(table, row)][0]

    def _number_of(self, table: str, row: int) -> int:
        """Which part the row came from, from 0."""
        return next(number for number, (_, last) in enumerate(self._parts) if row <= last[table])

    def _copy(self, table: str, named: dict[str, str], before: dict[str, int]) -> None:
        columns = [row["name"] for row in self._conn.execute(f"pragma main.table_info({table})")]
        values = [f"{name} + {before[named[name]]}" if name in named else name for name in columns]
        if table == "jobs":  # a retired job's key has its own number in it
            values[columns.index("key")] = (
                f"case when key like '{ASIDE}:%' then '{ASIDE}:' || (id + {before['jobs']})"
                f" || substr(key, length('{ASIDE}:' || id) + 1) else key end"
            )
        if table == "samples":  # until it is placed: two parts may have given the same name, and none has a colon
            values[columns.index("name_key")] = f"':' || (id + {before['samples']})"
        self._conn.execute(
            f"insert into main.{table} ({', '.join(columns)}) select {', '.join(values)} from part.{table}"
        )

    def _copy_inputs(self, jobs_before: int) -> None:
        """The part's jobs send along what they did; a file that is known by its bytes is the same file."""
        self._conn.execute(_INPUTS)
        self._conn.execute(_INPUT_FILES)
        self._conn.execute(_JOB_INPUTS, (jobs_before,))

    # -- names ----------------------------------------------------------------------------------------------------

    def _samples(self) -> Iterator[list[sqlite3.Row]]:
        last = 0
        while rows := self._conn.execute(
            "select s.id, s.number, s.name, s.name_key, s.file, s.generation_id, j.key from samples s"
            " join jobs j on j.id = s.job_id where s.id > ? order by s.id limit ?",
            (last, AT_ONCE),
        ).fetchall():
            last = rows[-1]["id"]
            yield rows

    def _keep_name(self, row: sqlite3.Row) -> None:
        """A result that an earlier merge has named keeps that name, if it still is its sample's."""
        if not row["file"] or row["key"].startswith(f"{ASIDE}:"):
            return
        known = self._conn.execute(
            "select file from earlier.generations where generation_id = ?", (row["generation_id"],)
        ).fetchone()
        if known and known[0]:
            name = known[0].removesuffix(row["file"].removeprefix(row["name"]))
            if self._claim(row["id"], name):
                self._conn.execute("update samples set file = ? where id = ?", (known[0], row["id"]))

    def _place(self, row: sqlite3.Row) -> Iterator[Result]:
        """The sample has its name; its results, those that were set aside too."""
        conn, retired, file = self._conn, row["key"].startswith(f"{ASIDE}:"), row["file"]
        if row["name_key"].startswith(":"):
            name = self._new_name(row, retired=retired)
            file = file and f"{name}{file.removeprefix(row['name'])}"
        part = self._number_of("samples", row["id"])
        for result in conn.execute(
            "select generation_id, state, file, sha256, bytes from generations"
            " where sample_id = ? and file is not null",
            (row["id"],),
        ).fetchall():
            generation_id, was = result["generation_id"], result["file"]
            current = generation_id == row["generation_id"] and row["file"] and not retired
            becomes = file if current else _aside(generation_id, was)
            conn.execute("update generations set file = ? where generation_id = ?", (becomes, generation_id))
            if generation_id == row["generation_id"]:
                file = file and becomes
            kept = result["state"] in ("downloaded", "set_aside")
            yield Result(part, was, becomes, result["sha256"], result["bytes"], kept)
        conn.execute("update samples set file = ? where id = ?", (file, row["id"]))

    def _new_name(self, row: sqlite3.Row, *, retired: bool) -> str:
        """The name that the sample has in its part, if nobody else has it, else that with a mark."""
        base = row["name"].rpartition("/")[2]
        if retired:
            base, folder = f"{base}-{row['id']}", f"{ASIDE}/"
        else:
            folder = sub_folder(self._named)
        names = (f"{folder}{base}{mark}" for mark in marks(row["key"], row["number"]))
        return next(name for name in names if self._claim(row["id"], name))

    def _claim(self, sample_id: int, name: str) -> bool:
        """Whether the name was free and is this sample's now; as everywhere, distinct over all sub-folders."""
        key = collision_key(name if name.startswith(f"{ASIDE}/") else name.rpartition("/")[2])
        claimed = self._conn.execute(
            "update or ignore samples set name = ?, name_key = ? where id = ?", (name, key, sample_id)
        ).rowcount
        self._named += claimed
        return bool(claimed)

    @contextlib.contextmanager
    def _attached(self, path: Path, name: str) -> Iterator[None]:
        self._conn.execute(f"attach ? as {name}", (str(path),))
        try:
            yield
        finally:
            self._conn.execute(f"detach {name}")


def _highest(table: str, conn: sqlite3.Connection, column: str = "id") -> int:
    return int(conn.execute(f"select coalesce(max({column}), 0) from {table}").fetchone()[0])


def _aside(generation_id: str, file: str) -> str:
    """Where a result that was put aside belongs: its own generation's name in front, so that no two are one."""
    base = file.rpartition("/")[2]
    return f"{ASIDE}/{base if base.startswith(generation_id) else f'{generation_id}-{base}'}"
