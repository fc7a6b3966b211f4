-- The ledger's tables in this version: what all of steps.py makes. Written by docs/generate.py.

CREATE TABLE batch (
  id integer primary key check (id = 1),
  name text not null,
  hub text not null,
  created_at real not null,
  created_on text not null,
  fingerprint text,
  committed_nanos integer not null default 0 check (committed_nanos >= 0),
  viewed_event integer not null default 0
) strict;

CREATE TABLE runs (
  id integer primary key,
  started_at real not null,
  ended_at real,
  pid integer not null,
  host text not null,
  version text not null,
  exit_code integer,
  sends integer not null default 0
, command text, folder text, concurrency integer, max_cost_nanos integer, seen_at real, mood text) strict;

CREATE TABLE submissions (
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
) strict;

CREATE TABLE generations (
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
, audio integer check (audio in (0, 1)), blank integer check (blank in (0, 1)), mismatches text, origin text) strict;

CREATE TABLE events (
  id integer primary key,
  at real not null,
  sample_id integer references samples(id),
  submission_id integer,
  generation_id text,
  event text not null,
  was text,
  became text,
  note text
) strict;

CREATE INDEX submissions_open on submissions (request_hash, state) where state in ('intent', 'unknown', 'held');

CREATE UNIQUE INDEX one_live_generation on generations (sample_id) where state in ('queued', 'processing', 'succeeded', 'downloaded', 'unfetchable');

CREATE INDEX generations_of_sample on generations (sample_id);

CREATE INDEX generations_of_submission on generations (submission_id);

CREATE INDEX generations_uncharged on generations (accepted_at) where cost is null and state in ('succeeded', 'downloaded', 'unfetchable', 'set_aside');

CREATE INDEX generations_made on generations (model) where state in ('succeeded', 'downloaded', 'unfetchable');

CREATE INDEX submissions_of_job on submissions (job_id);

CREATE INDEX events_of_sample on events (sample_id);

CREATE VIEW results as
select jobs.position, jobs.key, samples.number as sample, samples.state, samples.file, jobs.model, jobs.prompt,
       generations.generation_id, generations.cost, generations.bytes, generations.sha256, samples.error
from samples join jobs on jobs.id = samples.job_id
left join generations on generations.generation_id = samples.generation_id
order by jobs.position, samples.number;

CREATE INDEX generations_by_bytes on generations (sha256, state) where sha256 is not null;

CREATE INDEX generations_blank on generations (generation_id) where blank = 1;

CREATE INDEX generations_mismatched on generations (generation_id) where mismatches is not null;

CREATE TABLE shard (
  id integer primary key check (id = 1),
  number integer not null check (number >= 1),
  total integer not null check (total >= number)
) strict;

CREATE TABLE shared_requests (
  request_hash text primary key
) strict, without rowid;

CREATE TABLE merge (
  id integer primary key check (id = 1),
  merged_at real not null,
  newest_event integer not null,
  taken_over_at real
) strict;

CREATE TABLE parts (
  id integer primary key,
  ledger text not null unique,
  newest_event integer not null,
  samples integer not null
) strict;

CREATE TABLE successor (
  id integer primary key check (id = 1),
  folder text not null
) strict;

CREATE TABLE inputs (
  id integer primary key,
  sha256 text not null unique check (length(sha256) = 64),
  name text not null,
  bytes integer not null,
  address text,
  stored_at real
) strict;

CREATE TABLE input_files (
  path text primary key,
  input_id integer not null references inputs(id),
  bytes integer not null,
  mtime_ns integer not null,
  inode integer not null,
  wanted integer not null check (wanted in (0, 1))
) strict;

CREATE TABLE job_inputs (
  input_id integer not null references inputs(id),
  job_id integer not null references jobs(id) on delete cascade,
  primary key (input_id, job_id)
) strict, without rowid;

CREATE INDEX job_inputs_of_job on job_inputs (job_id);

CREATE INDEX input_files_of_input on input_files (input_id);

CREATE TABLE "jobs" (
  id integer primary key,
  key text not null,
  row_id text,
  occurrence integer not null,
  request_hash text not null,
  model text not null,
  prompt text not null,
  parameters text not null,
  metadata text not null,
  samples integer not null check (samples >= 1),
  position integer not null,
  wanted integer not null check ((wanted = 0 or wanted = 1)),
  source text not null,
  kept_hash text,
  created_at real not null
, written text) strict;

CREATE UNIQUE INDEX jobs_by_key on jobs (key);

CREATE INDEX jobs_by_position on jobs (position);

CREATE TABLE "samples" (
  id integer primary key,
  job_id integer not null references jobs(id),
  number integer not null check (number >= 1),
  model text not null,
  request_hash text not null,
  seed integer,
  wanted integer not null check ((wanted = 0 or wanted = 1)),
  state text not null check ((state = 'pending' or state = 'submitting' or state = 'uncertain' or state = 'held' or state = 'queued' or state = 'processing' or state = 'succeeded' or state = 'failed' or state = 'cancelled' or state = 'downloaded' or state = 'unfetchable')),
  attempts integer not null default 0,
  attempts_allowed integer not null,
  estimate_nanos integer check (estimate_nanos >= 0),
  not_before real,
  submission_id integer references submissions(id),
  generation_id text references generations(generation_id) deferrable initially deferred,
  error text,
  name text not null,
  name_key text not null,
  file text, length_s integer not null default 0 check (length_s >= 0),
  unique (job_id, number),
  check (attempts between 0 and attempts_allowed),
  check (not (state = 'submitting' or state = 'uncertain') or submission_id is not null),
  check (not (state = 'queued' or state = 'processing' or state = 'succeeded' or state = 'downloaded' or state = 'unfetchable') or generation_id is not null),
  check (state <> 'downloaded' or file is not null)
) strict;

CREATE UNIQUE INDEX samples_by_name on samples (name_key);

CREATE INDEX samples_pending on samples (model, length_s, id) where state = 'pending' and wanted = 1;

CREATE INDEX samples_active on samples (model, state) where state in ('submitting', 'uncertain', 'queued', 'processing');

CREATE INDEX samples_waiting on samples (not_before) where state = 'pending' and wanted = 1 and not_before is not null;

CREATE INDEX samples_succeeded on samples (id) where state = 'succeeded';

CREATE INDEX samples_at_rest on samples (state) where state in ('held', 'failed', 'cancelled', 'unfetchable');

CREATE INDEX samples_of_submission on samples (submission_id) where submission_id is not null;
