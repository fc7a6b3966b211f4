"""What the hub says of our generations moves samples once, late or repeated or not, and files are fetched in turn."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from ledgers import MODEL, NANOS, Book, check_all, new_id, row

from oxenbatch.jobs import Event, JobState, after
from oxenbatch.ledger import decisions, news, sends
from oxenbatch.ledger.news import Kept
from oxenbatch.wire import STATUS_EVENTS, Cause, Generation, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

S = JobState
STATUSES = list(STATUS_EVENTS)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    found = Book(tmp_path / "ledger.db")
    found.stage(*(row(f"prompt {n}", number=n) for n in range(1, 9)))
    yield found
    check_all(found.ledger)
    found.close()


# -- what the hub says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize(
    "state", [S.QUEUED, S.PROCESSING, S.SUCCEEDED, S.FAILED, S.CANCELLED, S.DOWNLOADED, S.UNFETCHABLE]
)
def test_every_status_in_every_state_is_as_the_table_says_and_said_again_changes_nothing(
    book: Book, state: JobState, status: str
) -> None:
    generation_id = book.bring(state)
    lines = book.one("select count(*) from events")
    told = book.hear(generation_id, status, error="bad prompt: policy" if status == "failed" else None)
    expected = after(state, STATUS_EVENTS[status])
    assert book.state() is expected
    assert book.one("select count(*) from events") == lines + (expected is not state)
    ended = state in (S.QUEUED, S.PROCESSING) and expected not in (S.QUEUED, S.PROCESSING)
    assert len(told.ends) == ended
    assert told.failed == (ended and status == "failed")
    before = book.dump()

    for _ in range(2):
        again = book.hear(generation_id, status, error="other words")
        assert (again.moved, again.ends, again.failed) == (0, (), 0)
    assert book.dump() == before


def test_news_of_others_and_of_unknown_ids_are_ignored(book: Book) -> None:
    book.accept()
    before = book.dump()
    told = book.hear(new_id(), "succeeded", cost=Decimal(9))

    assert replace(told, strangers=()) == news.Told()
    assert book.dump() == before


def test_times_and_the_address_are_kept_and_never_forgotten_by_poorer_news(book: Book) -> None:
    (generation_id,) = book.accept()
    book.hear(generation_id, "processing", enqueued_at=10.0, started_at=11.0)
    book.hear(generation_id, "succeeded", result_url="https://files/x?sig=1", completed_at=12.0)
    found = book.generation(generation_id)

    times = (found["enqueued_at"], found["started_at"], found["completed_at"])
    assert times == (10.0, 11.0, 12.0)
    assert found["result_url"] == "https://files/x?sig=1"
    assert book.fetch().url == "https://files/x?sig=1"


def test_an_end_without_a_time_of_its_own_was_when_we_heard_of_it(book: Book) -> None:
    (generation_id,) = book.accept()
    book.hear(generation_id, "succeeded")

    assert book.generation(generation_id)["completed_at"] == book.now


def test_many_news_are_told_together(book: Book) -> None:
    ids = [book.accept()[0] for _ in range(4)]
    rows = [
        Generation(ids[0], MODEL, "succeeded"),
        Generation(ids[1], MODEL, "failed", error="policy"),
        Generation(ids[2], MODEL, "failed", error="overloaded"),
        Generation(ids[3], MODEL, "processing"),
        Generation(ids[0], MODEL, "processing"),
    ]
    told = news.apply(book.ledger, rows, at=book.tick())

    assert (told.moved, told.failed, told.cause) == (4, 1, None)
    assert [(end.model, end.trouble) for end in told.ends] == [(MODEL, None), (MODEL, None), (MODEL, "overloaded")]
    assert book.states()[:4] == ["succeeded", "failed", "pending", "processing"]


# -- failures by their words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "state", "cause", "attempts"),
    [
        ("violates the content policy", S.FAILED, None, 1),
        ("duration must be 5 or 10", S.FAILED, None, 1),
        ("the model is overloaded, try again", S.PENDING, None, 1),
        ("words that nobody has seen before", S.PENDING, None, 1),
        (None, S.PENDING, None, 1),
        ("Insufficient credits", S.PENDING, Cause.CREDITS, 0),
        ("insufficient_credits", S.PENDING, Cause.CREDITS, 0),
        ("unauthenticated", S.PENDING, Cause.KEY, 0),
    ],
)
def test_a_failure_is_taken_by_its_words(
    book: Book, words: str | None, state: JobState, cause: Cause | None, attempts: int
) -> None:
    (generation_id,) = book.accept()
    told = book.hear(generation_id, "failed", error=words)

    assert (book.state(), told.cause, book.sample()["attempts"]) == (state, cause, attempts)
    assert book.sample()["error"] == (words or "no reason given")
    assert book.committed() == 0
    waits = state is S.PENDING and cause is None
    assert book.sample()["not_before"] == (book.now + news.RETRY_AFTER_FAILURE_S if waits else None)


def test_the_account_can_fail_a_row_forever_and_its_attempts_stay_untouched(book: Book) -> None:
    for _ in range(10):
        (generation_id,) = book.accept()
        assert book.hear(generation_id, "failed", error="Insufficient credits").cause is Cause.CREDITS

    assert (book.state(), book.sample()["attempts"], book.committed()) == (S.PENDING, 0, 0)


def test_each_attempt_waits_twice_as_long_as_the_one_before(book: Book) -> None:
    waits = []
    for _ in range(2):
        book.now += 1e6
        (generation_id,) = book.accept()
        book.hear(generation_id, "failed", error="overloaded")
        waits.append(book.sample()["not_before"] - book.now)

    assert waits == [5.0, 10.0]


def test_a_generation_that_we_cancelled_for_its_slowness_is_another_attempt(book: Book) -> None:
    (generation_id,) = book.accept()
    late = news.timed_out(Generation(generation_id, MODEL, "cancelled"), 900.0)
    news.apply(book.ledger, [late], at=book.tick())

    assert (book.state(), book.sample()["attempts"]) == (S.PENDING, 1)
    assert "900 s" in book.sample()["error"]


@pytest.mark.parametrize("status", STATUSES)
def test_news_of_an_earlier_attempt_do_not_touch_the_next_one(book: Book, status: str) -> None:
    (first,) = book.accept()
    book.hear(first, "failed", error="overloaded")
    book.now += 1e6
    (second,) = book.accept()
    before = book.sample()
    book.hear(first, status, error="policy")

    assert before["generation_id"] == second
    assert book.sample() == before


def test_a_cancelled_sample_stays_cancelled_whatever_is_heard_later(book: Book) -> None:
    generation_id = book.bring(S.CANCELLED)
    book.hear(generation_id, "succeeded", cost=Decimal("0.03"))

    assert book.state() is S.CANCELLED
    assert book.committed() == 30_000_000  # but what it cost is counted


# -- money --------------------------------------------------------------------------------------------------------


def test_a_charge_takes_the_estimates_place_once(book: Book) -> None:
    (generation_id,) = book.accept()
    for cost in ("0.0312345678919", "0.5", "0"):
        book.hear(generation_id, "succeeded", cost=Decimal(cost))

    assert book.committed() == 31_234_568
    assert book.generation(generation_id)["cost"] == "0.0312345678919"


def test_what_is_said_before_the_end_is_not_the_charge(book: Book) -> None:
    (generation_id,) = book.accept()
    book.hear(generation_id, "processing", cost=Decimal(0))
    assert book.committed() == NANOS
    book.hear(generation_id, "succeeded", cost=Decimal("0.05"))

    assert book.committed() == 50_000_000


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_an_end_without_a_file_gives_the_estimate_back_and_a_late_charge_is_still_counted(
    book: Book, status: str
) -> None:
    (generation_id,) = book.accept()
    book.hear(generation_id, status, error="policy")
    assert book.committed() == 0
    for _ in range(2):
        book.hear(generation_id, status, cost=Decimal("0.01"))

    assert book.committed() == 10_000_000


def test_a_failure_that_was_charged_costs_its_charge(book: Book) -> None:
    (generation_id,) = book.accept()
    book.hear(generation_id, "failed", error="policy", cost=Decimal("0.01"))

    assert book.committed() == 10_000_000


def test_charges_are_asked_for_oldest_first_until_they_are_known(book: Book) -> None:
    ids = [book.bring(state) for state in (S.SUCCEEDED, S.QUEUED, S.FAILED)]
    ids.append(book.accept()[0])
    book.hear(ids[3], "succeeded")
    assert [one for one, _ in news.uncharged(book.ledger, 9)] == [ids[0], ids[3]]
    assert len(news.uncharged(book.ledger, 1)) == 1
    book.hear(ids[0], "succeeded", cost=Decimal(0))

    assert [one for one, _ in news.uncharged(book.ledger, 9)] == [ids[3]]


# -- what the hub no longer knows ---------------------------------------------------------------------------------


def test_an_id_that_is_missing_is_held_when_its_grace_is_over_and_its_money_stays_counted(book: Book) -> None:
    (generation_id,) = book.accept()
    start = book.now
    for after_s, held in ((0, False), (119, False), (120, True), (500, False)):
        assert news.missing(book.ledger, generation_id, now=start + after_s, grace_s=120.0) is held

    assert book.state() is S.HELD
    assert generation_id in book.sample()["error"]
    assert book.generation(generation_id)["state"] == "vanished"
    assert book.committed() == NANOS
    assert news.watched(book.ledger) == {}


@pytest.mark.parametrize("heard", ["queued", "processing"])
def test_an_id_that_was_seen_again_has_its_whole_grace_again(book: Book, heard: str) -> None:
    generation_id = book.bring(S.PROCESSING)
    start = book.now
    news.missing(book.ledger, generation_id, now=start, grace_s=120.0)
    book.hear(generation_id, heard)  # the hub's lists lag: `queued` after `processing` is a sign of life too

    assert not news.missing(book.ledger, generation_id, now=start + 130, grace_s=120.0)
    assert book.state() is S.PROCESSING


def test_what_is_not_at_the_hub_any_more_is_not_missed(book: Book) -> None:
    generation_id = book.bring(S.DOWNLOADED)

    assert not news.missing(book.ledger, generation_id, now=book.now + 1e9, grace_s=0.0)
    assert not news.missing(book.ledger, new_id(), now=book.now + 1e9, grace_s=0.0)
    assert book.state() is S.DOWNLOADED


@pytest.mark.parametrize(
    ("status", "state"),
    [("queued", S.QUEUED), ("processing", S.PROCESSING), ("succeeded", S.SUCCEEDED), ("failed", S.PENDING),
     ("cancelled", S.CANCELLED)],
)  # fmt: skip
def test_a_generation_that_had_vanished_and_is_there_after_all_is_followed_again(
    book: Book, status: str, state: JobState
) -> None:
    (generation_id,) = book.accept()
    book.vanish(generation_id)
    book.hear(generation_id, status)

    assert book.state() is state
    assert book.generation(generation_id)["state"] == status
    assert book.committed() == (0 if status in ("failed", "cancelled") else NANOS)


@pytest.mark.parametrize("decide", [decisions.resubmit, decisions.drop])
def test_what_a_person_has_decided_is_not_undone_by_a_generation_that_reappears(book: Book, decide: object) -> None:
    (generation_id,) = book.accept()
    book.vanish(generation_id)
    (held,) = decisions.held(book.ledger)
    decide(book.ledger, held, at=book.tick())  # type: ignore[operator]
    state = book.state()
    book.hear(generation_id, "succeeded", cost=Decimal("0.05"))

    assert book.state() is state
    assert book.committed() == 50_000_000


def test_what_is_watched_is_what_the_hub_has_not_finished(book: Book) -> None:
    queued, processing = book.bring(S.QUEUED), book.bring(S.PROCESSING)
    for state in (S.SUCCEEDED, S.FAILED, S.UNCERTAIN, S.HELD):
        book.bring(state)

    assert set(news.watched(book.ledger)) == {queued, processing}
    told, watched = news.apply_and_watch(book.ledger, [Generation(queued, MODEL, "succeeded")], at=book.tick())
    assert (told.moved, set(watched)) == (1, {processing})


# -- files --------------------------------------------------------------------------------------------------------


def test_files_are_fetched_oldest_first_without_those_under_way_or_waiting(book: Book) -> None:
    ids = [book.accept()[0] for _ in range(5)]
    for generation_id in reversed(ids):
        book.hear(generation_id, "succeeded", result_url=f"https://x/{generation_id}")
    first, _ = news.fetchable(book.ledger, 2, now=book.now)
    assert [fetch.sample_id for fetch in first] == [1, 2]
    assert [fetch.url for fetch in first] == [f"https://x/{one}" for one in ids[:2]]
    news.fetch_failed(book.ledger, first[0], at=book.now, why="reset", retry_at=book.now + 10)

    assert [f.sample_id for f in news.fetchable(book.ledger, 9, now=book.now, busy=(2, 3))[0]] == [4, 5]
    assert [f.sample_id for f in news.fetchable(book.ledger, 1, now=book.now, busy=(2, 3))[0]] == [4]
    assert news.next_fetch_at(book.ledger) == book.now + 10
    again, _ = news.fetchable(book.ledger, 9, now=book.now + 10)
    assert (again[0].sample_id, again[0].tries) == (1, 1)


def test_a_file_that_is_kept_is_recorded_and_its_address_is_forgotten(book: Book) -> None:
    (generation_id,) = book.accept()
    book.hear(generation_id, "succeeded", result_url="https://x/?sig=secret")
    fetch = book.fetch()
    news.fetch_failed(book.ledger, fetch, at=book.now, why="reset", retry_at=book.now)
    kept = Kept("x.mp4", "b" * 64, 99, "video/mp4", 640, 480, 5.0, 24.0)
    news.keep(book.ledger, [(fetch, kept)], at=book.tick())
    found, sample = book.generation(generation_id), book.sample()

    assert {name: found[name] for name in Kept.__slots__} == {name: getattr(kept, name) for name in Kept.__slots__}
    assert (found["result_url"], found["downloaded_at"], found["fetch_tries"]) == (None, book.now, 2)
    assert (sample["state"], sample["file"], sample["not_before"], sample["error"]) == (
        "downloaded",
        "x.mp4",
        None,
        None,
    )
    assert "secret" not in "".join(book.dump())
    assert news.next_fetch_at(book.ledger) is None


def test_a_file_is_kept_once(book: Book) -> None:
    book.bring(S.SUCCEEDED)
    fetch = book.keep()
    before = book.dump()

    with pytest.raises(ValueError, match="cannot be fetched"):
        book.keep(fetch)
    assert book.dump() == before


@pytest.mark.parametrize("expired", [False, True])
def test_an_address_that_expired_is_asked_for_anew(book: Book, expired: bool) -> None:
    (generation_id,) = book.accept()
    book.hear(generation_id, "succeeded", result_url="https://x/1")
    news.fetch_failed(book.ledger, book.fetch(), at=book.now, why="403", retry_at=book.now, address_expired=expired)
    assert book.fetch().url == (None if expired else "https://x/1")
    news.set_address(book.ledger, book.fetch(), "https://x/2")

    assert book.fetch().url == "https://x/2"


def test_a_file_that_could_not_be_had_is_paid_and_tried_again_for_nothing(book: Book) -> None:
    generation_id = book.bring(S.UNFETCHABLE)
    assert (book.sample()["error"], book.committed()) == ("gone", NANOS)
    assert book.generation(generation_id)["state"] == "unfetchable"
    assert news.unfetchable(book.ledger) == [1]
    news.fetch_again(book.ledger, 1, at=book.tick(), note="a new run")
    fetch = book.fetch()

    assert (fetch.generation_id, fetch.url, fetch.tries) == (generation_id, None, 0)
    book.keep(fetch)
    assert (book.state(), book.committed(), book.sample()["attempts"]) == (S.DOWNLOADED, NANOS, 1)


@pytest.mark.parametrize("state", [s for s in S if s not in (S.DOWNLOADED, S.UNFETCHABLE)])
def test_only_what_was_fetched_or_given_up_is_fetched_again(book: Book, state: JobState) -> None:
    book.bring(state)
    before = book.dump()

    with pytest.raises(ValueError, match="fetch_again"):
        news.fetch_again(book.ledger, 1, at=book.tick(), note="?")
    assert book.dump() == before


def test_a_crash_between_any_two_statements_leaves_the_ledger_before_or_after(book: Book) -> None:
    """Each function that records something is cut after each of its statements; what is left is as if it never ran."""

    class Cut(Exception):
        pass

    steps = [
        lambda: book.authorise([book.due()[:1]]),
        lambda: book.record(1, Outcome.UNKNOWN),
        lambda: sends.adopt(book.ledger, 1, [generation_id], at=1.0),
        lambda: book.hear(generation_id, "processing"),
        lambda: book.hear(generation_id, "succeeded", cost=Decimal("0.05"), result_url="https://x"),
        book.keep,
        lambda: news.fetch_again(book.ledger, 1, at=2.0, note="gone"),
        book.give_up,
        lambda: decisions.set_aside(book.ledger, [1], attempts=3, at=3.0),
    ]
    generation_id = new_id()
    real = book.ledger.conn
    for step in steps:
        before = book.dump()
        cut_at = 0
        while True:
            cut_at += 1
            book.ledger.conn = _Cutting(real, cut_at, Cut)  # type: ignore[assignment]
            try:
                step()
                break
            except Cut:
                if real.in_transaction:
                    real.execute("rollback")  # what the kernel does with a process that is gone
                book.ledger.conn = real
                assert book.dump() == before
            finally:
                book.ledger.conn = real
        assert cut_at > 3
        assert book.dump() != before
        check_all(book.ledger)
    assert Event.AUTHORISED in [event for (event,) in book.all("select event from events")]


class _Cutting:
    """A connection whose process dies before its n-th statement, and does nothing after that."""

    def __init__(self, real: object, cut_at: int, error: type[Exception]) -> None:
        self._real, self._left, self._error = real, cut_at, error

    def execute(self, *args: object) -> object:
        self._left -= 1
        if self._left <= 0:
            raise self._error
        return self._real.execute(*args)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)
