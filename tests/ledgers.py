"""What the tests of the ledger share: a batch in a temporary folder, and short ways to bring it into any state."""

from __future__ import annotations

import contextlib
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from oxenbatch.jobs import Intent, JobState, Row
from oxenbatch.ledger import decisions, news, runs, schema, sends, staging
from oxenbatch.ledger.book import Ledger, to_nanos
from oxenbatch.ledger.news import Fetch, Kept
from oxenbatch.wire import Answer, Generation, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from oxenbatch.errors import Problem

NOW = 1_800_000_000.0
MODEL = "flux-2-klein"
PRICE = Decimal("0.04")
NANOS = 40_000_000
ROOMY = sends.Caps(concurrency=1000)


@contextlib.contextmanager
def made_by_version(version: int) -> Iterator[None]:
    """Inside, ledgers are made as oxenbatch of that ledger's version made them."""
    with pytest.MonkeyPatch.context() as older:
        older.setattr(schema, "STEPS", schema.STEPS[:version])
        older.setattr("oxenbatch.ledger.book.VERSION", version)
        older.setattr("oxenbatch.ledger.book.create", schema.migrate)
        yield


def new_id() -> str:
    return str(uuid.uuid4())


def numbered_id(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def row(prompt: str = "a red cube", *, number: int = 1, **more: Any) -> Row:
    fields = {"model": MODEL, "parameters": {"prompt": prompt, **more.pop("parameters", {})}, "number": number, **more}
    return Row(**fields)


class Book:
    """A ledger, the run that works on it, and its own clock, which moves a second with each step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = Ledger.open(path, create=True)
        self.now = NOW
        runs.begin_batch(self.ledger, name="test", hub="http://hub", at=NOW, on="2027-01-15")
        self.run_id = runs.begin_run(self.ledger, version="0", at=NOW)

    def close(self) -> None:
        self.ledger.close()

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    # -- asking ---------------------------------------------------------------------------------------------------

    def all(self, query: str, *values: Any) -> list[Any]:
        return [tuple(found) for found in self.ledger.conn.execute(query, values)]

    def one(self, query: str, *values: Any) -> Any:
        found = self.ledger.conn.execute(query, values).fetchone()
        return found[0] if found is not None else None

    def states(self) -> list[str]:
        return [state for (state,) in self.all("select state from samples order by id")]

    def state(self, sample: int = 1) -> JobState:
        return self.ledger.state_of(sample)

    def sample(self, sample: int = 1) -> dict[str, Any]:
        return dict(self.ledger.conn.execute("select * from samples where id = ?", (sample,)).fetchone())

    def generation(self, generation_id: str) -> dict[str, Any]:
        query = "select * from generations where generation_id = ?"
        return dict(self.ledger.conn.execute(query, (generation_id,)).fetchone())

    def committed(self) -> int:
        return int(self.one("select committed_nanos from batch"))

    def dump(self) -> list[str]:
        return list(self.ledger.conn.iterdump())

    # -- doing ----------------------------------------------------------------------------------------------------

    def terms(self, **more: Any) -> staging.Terms:
        given = {"at": self.tick(), "attempts": 3, "price": lambda _: PRICE, "takes_seed": lambda _: True}
        return staging.Terms(**(given | more))

    def stage(self, *rows: Row | Problem, fingerprint: str = "f", **more: Any) -> staging.Staged:
        return staging.stage(self.ledger, rows, fingerprint, self.terms(**more))

    def due(self, limit: int = 1000) -> list[Any]:
        kinds = sends.kinds_due(self.ledger)
        return sends.due(self.ledger, [kinds], {kind.model: limit for kind in kinds}, self.now)

    def send(self, count: int = 1, caps: sends.Caps = ROOMY) -> Intent:
        """One POST of the `count` samples that are due next."""
        (intent,) = self.authorise([self.due()[:count]], caps).intents
        return intent

    def authorise(self, picks: Iterable[Sequence[Any]], caps: sends.Caps = ROOMY) -> sends.Authorised:
        return sends.authorise(self.ledger, picks, caps, at=self.tick(), run_id=self.run_id)

    def record(self, intent: Intent | int, outcome: Outcome, *ids: str, **more: Any) -> None:
        number = intent if isinstance(intent, int) else intent.submission_id
        sends.record(self.ledger, number, Answer(outcome, ids, **more), at=self.tick())

    def accept(self, count: int = 1) -> list[str]:
        """The next `count` samples are queued at the hub, by one POST."""
        ids = [new_id() for _ in range(count)]
        self.record(self.send(count), Outcome.ACCEPTED, *ids)
        return ids

    def hear(self, generation_id: str, status: str, **more: Any) -> news.Told:
        return news.apply(self.ledger, [Generation(generation_id, MODEL, status, **more)], at=self.tick())

    def fetch(self, generation_id: str | None = None) -> Fetch:
        """The next file to be had, or this generation's."""
        found, _ = news.fetchable(self.ledger, 1000, now=self.now + 1e6)
        return next(fetch for fetch in found if generation_id in (None, fetch.generation_id))

    def keep(self, fetch: Fetch | None = None) -> Fetch:
        found = fetch or self.fetch()
        kept = Kept(f"{found.name}.png", "a" * 64, 1234, "image/png", 64, 32)
        news.keep(self.ledger, [(found, kept)], at=self.tick())
        return found

    def give_up(self, fetch: Fetch | None = None) -> None:
        news.fetch_failed(self.ledger, fetch or self.fetch(), at=self.tick(), why="gone", retry_at=None)

    def retry(self, *samples: int, attempts: int = 3) -> None:
        decisions.retry(self.ledger, samples, attempts=attempts, at=self.tick())

    def bring(self, state: JobState) -> str:
        """The next sample is in this state; its generation_id, or nothing."""
        return _WAYS[state](self)

    def vanish(self, generation_id: str) -> None:
        news.missing(self.ledger, generation_id, now=self.tick(), grace_s=0.0)


def _to_hub(*statuses: str) -> Callable[[Book], str]:
    def way(book: Book) -> str:
        (generation_id,) = book.accept()
        for status in statuses:
            book.hear(generation_id, status, error="content policy" if status == "failed" else None)
        return generation_id

    return way


def _posted(outcome: Outcome | None, *, held: bool = False) -> Callable[[Book], str]:
    def way(book: Book) -> str:
        intent = book.send()
        if outcome:
            book.record(intent, outcome, words="nobody knows")
        if held:
            sends.hold(book.ledger, intent.submission_id, at=book.tick(), note="undecidable")
        return ""

    return way


def _downloaded(book: Book) -> str:
    generation_id = _to_hub("succeeded")(book)
    book.keep(book.fetch(generation_id))
    return generation_id


def _unfetchable(book: Book) -> str:
    generation_id = _to_hub("succeeded")(book)
    book.give_up(book.fetch(generation_id))
    return generation_id


_WAYS: dict[JobState, Callable[[Book], str]] = {
    JobState.PENDING: lambda _: "",
    JobState.SUBMITTING: _posted(None),
    JobState.UNCERTAIN: _posted(Outcome.UNKNOWN),
    JobState.HELD: _posted(Outcome.UNKNOWN, held=True),
    JobState.QUEUED: _to_hub(),
    JobState.PROCESSING: _to_hub("processing"),
    JobState.SUCCEEDED: _to_hub("succeeded"),
    JobState.FAILED: _to_hub("failed"),
    JobState.CANCELLED: _to_hub("cancelled"),
    JobState.DOWNLOADED: _downloaded,
    JobState.UNFETCHABLE: _unfetchable,
}


def recomputed(ledger: Ledger) -> int:
    """What is charged or may yet be, from the rows alone: the oracle of `committed_nanos`.

    A generation counts with its charge, else with its estimate (nothing once it failed or was cancelled); a sample
    that is sent and has no generation yet counts with its estimate.
    """
    total = 0
    for state, estimate, cost in ledger.conn.execute("select state, estimate_nanos, cost from generations"):
        if cost is not None:
            total += to_nanos(Decimal(cost)) or 0
        elif state not in ("failed", "cancelled"):
            total += estimate or 0
    waiting = ledger.conn.execute(
        "select coalesce(sum(estimate_nanos), 0) from samples"
        " where state in ('submitting', 'uncertain', 'held') and generation_id is null"
    ).fetchone()[0]
    return total + int(waiting)


def check_all(ledger: Ledger, concurrency: int | None = None) -> None:
    """Everything that must hold of any ledger at any time."""

    def count(query: str) -> int:
        return int(ledger.conn.execute(f"select count(*) from ({query})").fetchone()[0])

    assert ledger.conn.execute("select committed_nanos from batch").fetchone()[0] == recomputed(ledger)
    live = "('queued', 'processing', 'succeeded', 'downloaded', 'unfetchable')"
    assert not count(f"select 1 from generations where state in {live} group by sample_id having count(*) > 1")
    assert not count("select 1 from samples where attempts < 0 or attempts > attempts_allowed")
    assert not count("select 1 from samples where state = 'pending' and wanted = 1 and attempts >= attempts_allowed")
    assert not count("select 1 from generations where submission_id not in (select id from submissions)")
    # Sample and generation say the same.
    assert not count(
        "select 1 from samples s join generations g using (generation_id) where g.sample_id <> s.id"
        f" or (s.state in {live} and g.state <> s.state)"
    )
    # An open submission has samples that wait for it, and they have an open submission.
    assert not count(
        "select 1 from submissions b where state in ('intent', 'unknown', 'held') and not exists (select 1 from samples"
        " where submission_id = b.id and generation_id is null and state in ('submitting', 'uncertain', 'held'))"
    )
    pairs = {"submitting": "intent", "uncertain": "unknown", "held": "held"}
    for state, sent in pairs.items():
        assert not count(
            "select 1 from samples s join submissions b on b.id = s.submission_id"
            f" where s.state = '{state}' and s.generation_id is null and b.state <> '{sent}'"
        )
    # The last line of a sample's story says where it is.
    assert not count(
        "select 1 from samples s join events e on e.id = (select max(id) from events where sample_id = s.id"
        " and became is not null) where e.became <> s.state"
    )
    assert not ledger.conn.execute("pragma foreign_key_check").fetchall()
    if concurrency is not None:
        assert sum(sends.active_by_model(ledger).values()) <= concurrency
