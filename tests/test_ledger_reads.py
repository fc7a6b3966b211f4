"""What the ledger tells is true, bears hostile text, and is found by its indexes however much is finished."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledgers import MODEL, NANOS, Book, new_id, row

from oxenbatch.errors import printable
from oxenbatch.jobs import JobState
from oxenbatch.ledger import news, reads, results, runs, sends
from oxenbatch.ledger.book import Ledger
from oxenbatch.plan import Facts, Kind
from oxenbatch.wire import Outcome

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from pathlib import Path

S = JobState


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    found = Book(tmp_path / "ledger.db")
    yield found
    found.close()


def _one_of_each(book: Book) -> dict[JobState, str]:
    """A sample in every state, in the order of the states; a pending one last."""
    order = [state for state in S if state is not S.PENDING] + [S.PENDING]
    book.stage(*(row(f"prompt {state}", id=str(state), number=n) for n, state in enumerate(order, 1)))
    return {state: book.bring(state) for state in order}


# -- counts -------------------------------------------------------------------------------------------------------


def test_counts_and_facts_tell_each_state_and_only_what_is_wanted(book: Book) -> None:
    _one_of_each(book)
    assert reads.counts(book.ledger) == dict.fromkeys(S, 1)
    assert reads.facts(book.ledger) == Facts(pending=True, submitting=1, uncertain=1, at_the_hub=2, succeeded=1)
    assert reads.due_totals(book.ledger) == (1, Decimal("0.04"), 0)
    book.stage(row("only this", id="new"))

    counted = reads.counts(book.ledger)
    assert (sum(counted.values()), counted[S.PENDING]) == (1, 1)
    # What is unwanted and under way is still to be collected.
    assert reads.facts(book.ledger) == Facts(pending=True, submitting=1, uncertain=1, at_the_hub=2, succeeded=1)


def test_an_empty_ledger_has_nothing_to_do(book: Book) -> None:
    assert reads.facts(book.ledger) == Facts(pending=False, submitting=0, uncertain=0, at_the_hub=0, succeeded=0)
    assert reads.counts(book.ledger) == dict.fromkeys(S, 0)
    assert reads.due_totals(book.ledger) == (0, Decimal(0), 0)
    assert (
        list(reads.listing(book.ledger)) == list(results.on_disk(book.ledger)) == list(reads.files(book.ledger)) == []
    )
    assert reads.failures(book.ledger) == []
    assert reads.newest_event(book.ledger) == 0


def test_a_sample_that_waits_for_a_persons_word_about_its_twin_is_not_pending_work(book: Book) -> None:
    book.stage(row("same"), row("same", number=2))
    book.bring(S.HELD)
    assert reads.facts(book.ledger).pending is False
    book.stage(row("same"), row("same", number=2), row("other", number=3))

    assert reads.facts(book.ledger).pending is True
    assert reads.facts(book.ledger, [MODEL]).pending is False


def test_samples_without_a_price_are_counted(book: Book) -> None:
    book.stage(row("one"), row("two", number=2), price=lambda one: Decimal("0.1") if one.number == 1 else None)

    assert reads.due_totals(book.ledger) == (2, Decimal("0.1"), 1)


def test_the_batch_and_its_runs_are_told(book: Book, tmp_path: Path) -> None:
    book.stage(row())
    generation_id = book.bring(S.SUCCEEDED)
    known = reads.batch(book.ledger)
    assert known is not None
    assert (known.name, known.hub, known.fingerprint, known.committed) == ("test", "http://hub", "f", Decimal("0.04"))
    assert reads.charged(book.ledger) == 0
    book.hear(generation_id, "succeeded", cost=Decimal("0.000000000001"))
    assert reads.charged(book.ledger) == Decimal("0.000000000001")
    runs.begin_batch(book.ledger, name="other", hub="x", at=1.0, on="d")
    assert reads.batch(book.ledger).name == "test"  # type: ignore[union-attr]
    runs.end_run(book.ledger, book.run_id, exit_code=5, at=9.0)
    last = reads.last_run(book.ledger)
    assert last is not None
    assert (last["exit_code"], last["ended_at"], last["sends"]) == (5, 9.0, 1)
    runs.mark_viewed(book.ledger, reads.newest_event(book.ledger))
    assert runs.viewed(book.ledger) == book.one("select max(id) from events")
    with Ledger.open(tmp_path / "new.db", create=True) as new:
        assert (reads.batch(new), reads.last_run(new)) == (None, None)


# -- tables -------------------------------------------------------------------------------------------------------


def test_the_listing_is_in_the_manifests_order_and_can_be_narrowed(book: Book) -> None:
    book.stage(row("b", id="b", samples=2), row("a", id="a", number=2, model="other"))
    book.stage(row("a", id="a", model="other"), row("b", id="b", number=2, samples=2))
    (generation_id,) = book.accept()

    def told(**how: Any) -> list[tuple[str, int]]:
        return [(one["job"], one["sample"]) for one in reads.listing(book.ledger, **how)]

    assert told() == [("a", 1), ("b", 1), ("b", 2)]
    assert told(limit=2) == [("a", 1), ("b", 1)]
    assert told(limit=0) == []
    assert told(model="other") == [("a", 1)]
    assert told(state="queued") == [("b", 1)]
    assert told(state="queued' or '1'='1") == told(model="%") == []
    listed = next(reads.listing(book.ledger, state="queued"))
    assert (listed["generation_id"], listed["prompt"], listed["attempts"]) == (generation_id, "b", 1)


def test_failures_are_grouped_by_their_words_most_frequent_first(book: Book) -> None:
    book.stage(*(row(str(n), id=f"row-{n}", number=n) for n in range(1, 8)))
    for words in ("policy a", "policy b", "policy b"):
        (generation_id,) = book.accept()
        book.hear(generation_id, "failed", error=words)
    book.bring(S.UNCERTAIN)
    book.bring(S.CANCELLED)
    book.bring(S.DOWNLOADED)
    found = [(one.state, one.error, one.count, one.example) for one in reads.failures(book.ledger)]

    assert found[0] == (S.FAILED, "policy b", 2, "row-2")
    assert set(found[1:]) == {
        (S.FAILED, "policy a", 1, "row-1"),
        (S.UNCERTAIN, "", 1, "row-4"),
        (S.CANCELLED, "cancelled at the hub", 1, "row-5"),
    }
    assert len(reads.failures(book.ledger, limit=1)) == 1


# -- one job ------------------------------------------------------------------------------------------------------

HOSTILE = [
    "100%",
    "a_b",
    "it's",
    "; drop table jobs; --",
    "é🎉",
    "id:x",
    "%",
    "_",
    "a@1",
    "\u202ex",
    "*",
    "[a-z]",
    "r1",
]


def test_a_job_is_found_by_its_id_whatever_characters_that_has(book: Book) -> None:
    book.stage(*(row(str(n), id=one, number=n) for n, one in enumerate(HOSTILE, 1)))

    for number, one in enumerate(HOSTILE, 1):
        assert reads.find_jobs(book.ledger, one) == [number]
        assert reads.find_jobs(book.ledger, f"id:{one}") == [
            HOSTILE.index(f"id:{one}") + 1 if f"id:{one}" in HOSTILE else number
        ]


def test_wildcards_find_only_themselves(book: Book) -> None:
    book.stage(row("one", id="plain"), row("two", id="other", number=2))

    for text in ("%", "_", "pl%", "p_ain", "*", "' or 1=1 --", "\\", "\0"):
        assert reads.find_jobs(book.ledger, text) == []


def test_a_job_is_found_by_a_key_an_id_of_the_hubs_a_file_or_a_part_of_a_name(book: Book) -> None:
    book.stage(row("A red cube"), row("blue", number=2))
    generation_id = book.bring(S.DOWNLOADED)
    key, file, name = book.one("select key from jobs where id = 1"), book.sample()["file"], book.sample()["name"]

    for text in (key, key[:10], key[3:11], generation_id, generation_id.upper(), file, name, "red-cube", name[-8:]):
        assert reads.find_jobs(book.ledger, text) == [1], text
    assert reads.find_jobs(book.ledger, new_id()) == []


def test_what_a_screen_shows_of_a_key_finds_its_job(book: Book) -> None:
    book.stage(row("A red cube"), row("blue", number=2))
    key = book.one("select key from jobs where id = 1")

    assert reads.find_jobs(book.ledger, printable(key, 20)) == [1]
    assert reads.find_jobs(book.ledger, "…") == []


def test_the_example_of_a_failure_finds_its_one_job_among_equal_ones(book: Book) -> None:
    book.stage(*(row("the same for all", number=n) for n in range(1, 5)))
    book.bring(S.FAILED)
    paid = book.bring(S.UNFETCHABLE)
    examples = {one.state: one.example for one in reads.failures(book.ledger)}

    assert [len(reads.find_jobs(book.ledger, example)) for example in examples.values()] == [1, 1]
    assert examples[S.UNFETCHABLE] == paid


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_text_can_be_looked_for(book: Book, text: str) -> None:
    assert isinstance(reads.find_jobs(book.ledger, text), list)


def test_a_story_tells_everything_but_no_address(book: Book) -> None:
    book.stage(row("x", id="hero", metadata={"k": [1]}), row("y", id="other", number=2))
    first = book.accept()[0]
    book.hear(first, "failed", error="overloaded")
    book.now += 1e6
    second = book.accept()[0]
    book.hear(second, "succeeded", result_url="https://files/x.png?signature=SECRET")
    book.accept()
    told = reads.story(book.ledger, 1)

    assert (told.job["row_id"], told.job["parameters"], told.job["metadata"]) == ("hero", {"prompt": "x"}, {"k": [1]})
    assert [one["state"] for one in told.samples] == ["succeeded"]
    assert [one["generation_id"] for one in told.generations] == [first, second]
    assert [one["job_id"] for one in told.submissions] == [1, 1]
    assert [one["event"] for one in told.events] == [
        "authorised", "accepted", "seen_failed_in_passing", "authorised", "accepted", "seen_succeeded",
    ]  # fmt: skip
    assert "SECRET" not in repr(told)
    assert all("result_url" not in one for one in told.generations)


# -- results ------------------------------------------------------------------------------------------------------


def test_results_are_what_is_on_disk_in_the_manifests_order(book: Book) -> None:
    _one_of_each(book)
    (result,) = results.on_disk(book.ledger)

    assert (result["row_id"], result["file"]) == ("downloaded", "downloaded.png")
    assert (result["parameters"], result["metadata"]) == ({"prompt": "prompt downloaded"}, {})
    assert list(reads.files(book.ledger)) == [
        (book.one("select id from samples where file is not null"), "downloaded.png", 1234)
    ]


# -- the hot statements -------------------------------------------------------------------------------------------


class Plans:
    """A connection that asks for the plan of every statement, as it is bound, before it runs it."""

    def __init__(self, real: sqlite3.Connection) -> None:
        self._real = real
        self.details: list[tuple[str, str]] = []

    def execute(self, query: str, values: Any = ()) -> sqlite3.Cursor:
        if query.lstrip().startswith(("select", "update", "insert", "delete")):
            for step in self._real.execute(f"explain query plan {query}", values):
                self.details.append((query, step["detail"]))
        return self._real.execute(query, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


HOT: dict[str, Callable[[Ledger], object]] = {
    "due": lambda ledger: sends.due(ledger, [[Kind(MODEL, 0), Kind("other", 0)]], {MODEL: 8, "other": 8}, 1e12),
    "kinds_due": sends.kinds_due,
    "next_due_at": sends.next_due_at,
    "active_by_model": sends.active_by_model,
    "unknown": sends.unknown,
    "recover": lambda ledger: sends.recover(ledger, now=1e12, post_timeout_s=30.0),
    "allow_attempts": lambda ledger: sends.allow_attempts(ledger, 4),
    "facts": reads.facts,
    "fetchable": lambda ledger: news.fetchable(ledger, 8, now=1e12, busy=(1, 2)),
    "next_fetch_at": news.next_fetch_at,
    "watched": news.watched,
    "uncharged": lambda ledger: news.uncharged(ledger, 1000),
    "unfetchable": news.unfetchable,
    "owned": lambda ledger: sends.owned(ledger, [new_id()]),
}


@pytest.fixture(scope="module")
def vast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    """50,000 samples are finished, and a few are in every other state."""
    book = Book(tmp_path_factory.mktemp("vast") / "ledger.db")
    conn = book.ledger.conn
    numbers = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 50000)"
    gid = "printf('%08x-0000-4000-8000-000000000000', i)"
    with book.ledger.immediate():
        for statement in (
            (
                "insert into jobs (id, key, occurrence, request_hash, model, prompt, parameters, metadata, samples,"
                " position, wanted, source, created_at)"
                " select i, 'r1:' || i, 1, 'r1:' || i, ?1, 'p', '{}', '{}', 1, i, 1, '', 1.0 from n"
            ),
            (
                "insert into submissions (id, job_id, run_id, state, request_hash, token, count, intent_at)"
                " select i, i, 1, 'accepted', 'r1:' || i, 't' || i, 1, 1.0 from n where ?1 <> ''"
            ),
            (
                "insert into samples (id, job_id, number, model, request_hash, wanted, state, attempts,"
                " attempts_allowed, estimate_nanos, submission_id, name, name_key, file)"
                " select i, i, 1, ?1, 'r1:' || i, 1, 'pending', 1, 3,"
                f" {NANOS}, i, 'n' || i, 'n' || i, 'n' || i || '.png' from n"
            ),
            (
                "insert into generations (generation_id, sample_id, submission_id, model, state, attempt, accepted_at,"
                f" estimate_nanos, cost, bytes, file) select {gid}, i, i, ?1, 'downloaded', 1, 1.0, {NANOS}, '0.04', 9,"
                " 'n' || i || '.png' from n"
            ),
        ):
            conn.execute(_with(statement, numbers), (MODEL,))
        conn.execute(f"update samples set state = 'downloaded', generation_id = {gid.replace('i)', 'id)')}")
        conn.execute(f"update batch set committed_nanos = 50000 * {NANOS}")
    _stage_beside(book, [row(f"prompt {n}", id=f"x{n}", number=n) for n in range(1, 31)])
    for state in (*(s for s in S if s is not S.PENDING), S.QUEUED, S.SUCCEEDED, S.UNCERTAIN):
        book.bring(state)
    (generation_id,) = book.accept()
    book.hear(generation_id, "failed", error="overloaded")
    yield book
    book.close()


def _with(statement: str, numbers: str) -> str:
    into, _, rest = statement.partition(" select ")
    return f"{numbers} {into} select {rest}"


def _stage_beside(book: Book, rows: list[Any]) -> None:
    """The rows are staged, and what there was stays wanted."""
    book.stage(*rows)
    book.ledger.conn.execute("update jobs set wanted = 1")
    book.ledger.conn.execute("update samples set wanted = 1")


@pytest.mark.parametrize("name", HOT)
def test_a_hot_statement_never_reads_a_whole_table(vast: Book, name: str) -> None:
    real = vast.ledger.conn
    plans = Plans(real)
    vast.ledger.conn = plans  # type: ignore[assignment]
    try:
        with pytest.raises(ZeroDivisionError), vast.ledger.immediate():  # noqa: PT012 - the block is the subject
            HOT[name](vast.ledger)
            raise ZeroDivisionError  # what it changes is not kept
    finally:
        vast.ledger.conn = real

    assert plans.details
    read_whole = [
        (query, detail) for query, detail in plans.details if detail.startswith("SCAN") and not _is_small(detail)
    ]
    assert read_whole == []


def _is_small(detail: str) -> bool:
    """A scan of a partial index, of the one row of `batch`, or of a list that we gave ourselves."""
    partial = ("samples_pending", "samples_active", "samples_waiting", "samples_succeeded", "samples_at_rest",
               "submissions_open", "generations_uncharged")  # fmt: skip
    ours = ("SCAN batch", "SCAN json_each", "SCAN CONSTANT")
    return detail.startswith(ours) or any(f"INDEX {index}" in detail for index in partial)


@pytest.mark.parametrize("name", HOT)
def test_a_hot_statement_does_not_feel_what_is_finished(vast: Book, name: str) -> None:
    """Counted in steps of SQLite's machine, a thousand at a time: reading 50,000 rows would take over 100,000."""
    thousands = 0

    def step() -> int:
        nonlocal thousands
        thousands += 1
        return 0

    vast.ledger.conn.set_progress_handler(step, 1000)
    try:
        with pytest.raises(ZeroDivisionError), vast.ledger.immediate():  # noqa: PT012 - the block is the subject
            HOT[name](vast.ledger)
            raise ZeroDivisionError
    finally:
        vast.ledger.conn.set_progress_handler(None, 0)

    assert thousands <= 5


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    """20,000 samples of one kind are still to be sent, and one of another."""
    book = Book(tmp_path_factory.mktemp("waiting") / "ledger.db")
    book.stage(*(row(f"prompt {n}", number=n) for n in range(20_000)), row("a film", model="other", number=20_000))
    yield book
    book.close()


@pytest.mark.parametrize("name", ["due", "kinds_due", "next_due_at", "active_by_model", "facts", "fetchable"])
def test_a_look_for_what_to_send_does_not_feel_how_much_there_is(waiting: Book, name: str) -> None:
    """Counted as above: reading 20,000 rows would take 40,000 steps, ten times a second."""
    hundreds: list[int] = []
    waiting.ledger.conn.set_progress_handler(lambda: hundreds.append(1) or 0, 100)
    HOT[name](waiting.ledger)
    waiting.ledger.conn.set_progress_handler(None, 0)

    assert len(hundreds) <= 20


def test_the_steps_of_a_slow_statement_are_seen(vast: Book) -> None:
    """The measure itself: a statement that reads every sample is not taken for a fast one."""
    steps: list[int] = []
    vast.ledger.conn.set_progress_handler(lambda: steps.append(1) or 0, 1000)
    reads.counts(vast.ledger)
    vast.ledger.conn.set_progress_handler(None, 0)

    assert len(steps) > 50


def test_news_and_outcomes_do_not_feel_what_is_finished(vast: Book) -> None:
    steps: list[int] = []
    vast.ledger.conn.set_progress_handler(lambda: steps.append(1) or 0, 1000)
    try:
        vast.record(vast.send(), Outcome.ACCEPTED, queued := new_id())
        vast.hear(queued, "succeeded", cost=Decimal("0.01"))
        fetch = next(one for one in news.fetchable(vast.ledger, 99, now=1e12)[0] if one.generation_id == queued)
        vast.keep(fetch)
        intent = vast.send()
        vast.record(intent, Outcome.UNKNOWN)
        sends.declare_absent(vast.ledger, intent.submission_id, at=vast.tick(), note="proved")
    finally:
        vast.ledger.conn.set_progress_handler(None, 0)

    assert len(steps) <= 8
