"""The ledger's tables, as they grew: one step a version, none ever edited.

Opens in Datasette; every column is explained in docs/ledger.md. Dollars are exact: `cost` is the hub's own decimal
text, and what limits are checked against is whole nanodollars, since SQLite adds no decimals.
"""

from __future__ import annotations

import re
from typing import Final

from oxenbatch.jobs import JobState

_STATES = ", ".join(f"'{state}'" for state in JobState)

BATCH = """
create table batch (
  id integer primary key check (id = 1),
  name text not null,
  hub text not null,
  created_at real not null,
  created_on text not null,
  fingerprint text,
  committed_nanos integer not null default 0 check (committed_nanos >= 0),
  viewed_event integer not null default 0
) strict
"""

RUNS = """
create table runs (
  id integer primary key,
  started_at real not null,
  ended_at real,
  pid integer not null,
  host text not null,
  version text not null,
  exit_code integer,
  sends integer not null default 0
) strict
"""

JOBS = """
create table jobs (
  id integer primary key,
  key text not null unique,
  row_id text,
  occurrence integer not null,
  request_hash text not null,
  model text not null,
  prompt text not null,
  parameters text not null,
  metadata text not null,
  samples integer not null check (samples >= 1),
  position integer not null,
  wanted integer not null check (wanted in (0, 1)),
  source text not null,
  kept_hash text,
  created_at real not null
) strict
"""

SUBMISSIONS = """
create table submissions (
  id integer primary key,
  job_id integer not null references jobs(id),
  run_id integer not null references runs(id),
  state text not null check (state in ('intent', 'accepted', 'refused', 'turned_away', 'not_sent', 'unknown',
                                       'absent', 'held', 'dropped')),
  request_hash text not null,
  token text not null unique,
  targeted integer not null default 0 check (targeted in (0, 1)),
  namespace text,
  count integer not null check (count between 1 and 12),
  intent_at real not null,
  ended_at real,
  status integer,
  error text,
  absent_scans integer not null default 0
) strict
"""

SAMPLES = f"""
create table samples (
  id integer primary key,
  job_id integer not null references jobs(id),
  number integer not null check (number >= 1),
  model text not null,
  request_hash text not null,
  seed integer,
  wanted integer not null check (wanted in (0, 1)),
  state text not null check (state in ({_STATES})),
  attempts integer not null default 0,
  attempts_allowed integer not null,
  estimate_nanos integer check (estimate_nanos >= 0),
  not_before real,
  submission_id integer references submissions(id),
  generation_id text references generations(generation_id) deferrable initially deferred,
  error text,
  name text not null,
  name_key text not null unique,
  file text,
  unique (job_id, number),
  check (attempts between 0 and attempts_allowed),
  check (state not in ('submitting', 'uncertain') or submission_id is not null),
  check (state not in ('queued', 'processing', 'succeeded', 'downloaded', 'unfetchable') or generation_id is not null),
  check (state <> 'downloaded' or file is not null)
) strict
"""

GENERATIONS = """
create table generations (
  generation_id text primary key check (length(generation_id) = 36),
  sample_id integer references samples(id),
  submission_id integer not null references submissions(id),
  model text not null,
  state text not null check (state in ('queued', 'processing', 'succeeded', 'failed', 'cancelled', 'downloaded',
                                       'unfetchable', 'vanished', 'set_aside', 'surplus')),
  attempt integer not null,
  accepted_at real not null,
  enqueued_at real,
  started_at real,
  completed_at real,
  missing_since real,
  error text,
  estimate_nanos integer,
  cost text,
  result_url text,
  fetch_tries integer not null default 0,
  file text,
  sha256 text,
  bytes integer,
  media_type text,
  width integer,
  height integer,
  seconds real,
  fps real,
  downloaded_at real
) strict
"""

EVENTS = """
create table events (
  id integer primary key,
  at real not null,
  sample_id integer references samples(id),
  submission_id integer,
  generation_id text,
  event text not null,
  was text,
  became text,
  note text
) strict
"""

INDEXES = (
    # What is due, what is active, what is to be fetched: found without reading what is finished.
    "create index samples_pending on samples (model, id) where state = 'pending' and wanted = 1",
    (
        "create index samples_active on samples (model, state)"
        " where state in ('submitting', 'uncertain', 'queued', 'processing')"
    ),
    (
        "create index samples_waiting on samples (not_before)"
        " where state = 'pending' and wanted = 1 and not_before is not null"
    ),
    "create index samples_succeeded on samples (id) where state = 'succeeded'",
    "create index samples_at_rest on samples (state) where state in ('held', 'failed', 'cancelled', 'unfetchable')",
    "create index samples_of_submission on samples (submission_id) where submission_id is not null",
    "create index submissions_open on submissions (request_hash, state) where state in ('intent', 'unknown', 'held')",
    (
        "create unique index one_live_generation on generations (sample_id)"
        " where state in ('queued', 'processing', 'succeeded', 'downloaded', 'unfetchable')"
    ),
    "create index generations_of_sample on generations (sample_id)",
    "create index generations_of_submission on generations (submission_id)",
    (
        "create index generations_uncharged on generations (accepted_at)"
        " where cost is null and state in ('succeeded', 'downloaded', 'unfetchable', 'set_aside')"
    ),
    ("create index generations_made on generations (model) where state in ('succeeded', 'downloaded', 'unfetchable')"),
    "create index submissions_of_job on submissions (job_id)",
    "create index events_of_sample on events (sample_id)",
    "create index jobs_by_position on jobs (position)",
    "create index jobs_by_request on jobs (request_hash, occurrence)",
)

RESULTS_VIEW = """
create view results as
select jobs.position, jobs.key, samples.number as sample, samples.state, samples.file, jobs.model, jobs.prompt,
       generations.generation_id, generations.cost, generations.bytes, generations.sha256, samples.error
from samples join jobs on jobs.id = samples.job_id
left join generations on generations.generation_id = samples.generation_id
order by jobs.position, samples.number
"""

# So that another terminal can watch a run, and the morning knows what the night was: docs/ledger.md says what each is.
WATCHED = (
    "alter table runs add column command text",
    "alter table runs add column folder text",
    "alter table runs add column concurrency integer",
    "alter table runs add column max_cost_nanos integer",
    "alter table runs add column seen_at real",
    "alter table runs add column mood text",
)

# What a result is, held against what was asked for, and against the other results: docs/datasets.md.
MEASURED = (
    "alter table generations add column audio integer check (audio in (0, 1))",
    "alter table generations add column blank integer check (blank in (0, 1))",
    "alter table generations add column mismatches text",
    "create index generations_by_bytes on generations (sha256, state) where sha256 is not null",
    "create index generations_blank on generations (generation_id) where blank = 1",
    "create index generations_mismatched on generations (generation_id) where mismatches is not null",
)

SHARD = """
create table shard (
  id integer primary key check (id = 1),
  number integer not null check (number >= 1),
  total integer not null check (total >= number)
) strict
"""

SHARED_REQUESTS = """
create table shared_requests (
  request_hash text primary key
) strict, without rowid
"""

MERGE = """
create table merge (
  id integer primary key check (id = 1),
  merged_at real not null,
  newest_event integer not null,
  taken_over_at real
) strict
"""

PARTS = """
create table parts (
  id integer primary key,
  ledger text not null unique,
  newest_event integer not null,
  samples integer not null
) strict
"""

SUCCESSOR = """
create table successor (
  id integer primary key check (id = 1),
  folder text not null
) strict
"""

# Files of this machine that rows send along. A job's parameters hold references made of the bytes; see jobs.InputFile.
INPUTS = (
    "alter table jobs add column written text",
    """
create table inputs (
  id integer primary key,
  sha256 text not null unique check (length(sha256) = 64),
  name text not null,
  bytes integer not null,
  address text,
  stored_at real
) strict
""",
    """
create table input_files (
  path text primary key,
  input_id integer not null references inputs(id),
  bytes integer not null,
  mtime_ns integer not null,
  inode integer not null,
  wanted integer not null check (wanted in (0, 1))
) strict
""",
    """
create table job_inputs (
  input_id integer not null references inputs(id),
  job_id integer not null references jobs(id) on delete cascade,
  primary key (input_id, job_id)
) strict, without rowid
""",
    "create index job_inputs_of_job on job_inputs (job_id)",
    "create index input_files_of_input on input_files (input_id)",
)

# What takes longest is sent first, as far as a request says how long its video is to be.
LENGTHS = (
    "alter table samples add column length_s integer not null default 0 check (length_s >= 0)",
    "drop index samples_pending",
    # The longest first, and those of one length in their order: found without sorting a million.
    "create index samples_pending on samples (model, length_s, id) where state = 'pending' and wanted = 1",
)


def _anew(statement: str) -> str:
    """The table under another name, without `unique` columns, and with every list of words as so many comparisons."""

    def compared(found: re.Match[str]) -> str:
        words = " or ".join(f"{found[1]} = {word}" for word in found[3].split(", "))
        return f"{found[2] or ''}({words})"

    renamed = re.sub(r"table (\w+)", r"table \1_anew", statement).replace("not null unique", "not null")
    return re.sub(r"(\w+) (not )?in \(([^)]+)\)", compared, renamed)


# A million new rows are recorded first and then sorted once for what must be unique, instead of a million times: SQLite
# can drop an index that has a name, and not a column's `unique`, so both tables are made anew. Of a list of words it
# would build a table for every row that it checks.
LOADED = (
    "pragma legacy_alter_table = on",  # views of jobs, a user's own too, are not asked while there are none
    _anew(JOBS),
    _anew(INPUTS[0]),
    "insert into jobs_anew select * from jobs",
    "drop table jobs",
    "alter table jobs_anew rename to jobs",
    "create unique index jobs_by_key on jobs (key)",
    "create index jobs_by_position on jobs (position)",
    _anew(SAMPLES),
    _anew(LENGTHS[0]),
    "insert into samples_anew select * from samples",
    "drop table samples",
    "alter table samples_anew rename to samples",
    "create unique index samples_by_name on samples (name_key)",
    LENGTHS[2],
    *(index for index in INDEXES if " on samples " in index and "index samples_pending" not in index),
    "pragma legacy_alter_table = off",
)

# Version 1. A later version is one more entry here; what stands is never edited.
STEPS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        "m001_ledger",
        (BATCH, RUNS, JOBS, SUBMISSIONS, SAMPLES, GENERATIONS, EVENTS, *INDEXES, RESULTS_VIEW),
    ),
    ("m002_watched_runs", WATCHED),
    ("m003_measured", MEASURED),
    (
        "m004_shards",
        (SHARD, SHARED_REQUESTS, MERGE, PARTS, SUCCESSOR),
    ),
    ("m005_inputs", INPUTS),
    ("m006_reuse", ("alter table generations add column origin text",)),
    ("m007_lengths", LENGTHS),
    ("m008_loaded", LOADED),
)
