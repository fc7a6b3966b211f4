"""What may be sent, what was sent and what became of it: whatever happens, nothing is paid twice or counted wrongly."""

from __future__ import annotations

import tempfile
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ledgers import MODEL, NANOS, NOW, PRICE, Book, check_all, new_id, numbered_id, recomputed, row

from oxenbatch.jobs import PER_POST, IllegalMove, JobState
from oxenbatch.ledger import decisions, news, reads, runs, sends
from oxenbatch.ledger.sends import Caps
from oxenbatch.plan import Kind, Stop
from oxenbatch.wire import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oxenbatch.ledger.news import Fetch


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    found = Book(tmp_path / "ledger.db")
    found.stage(*(row(f"prompt {n}", number=n) for n in range(1, 9)))
    yield found
    check_all(found.ledger)
    found.close()


# -- what is due --------------------------------------------------------------------------------------------------


def test_samples_are_due_in_the_manifests_order_as_far_as_each_model_has_room(tmp_path: Path) -> None:
    book = Book(tmp_path / "two.db")
    book.stage(*(row(str(n), number=n, model=f"model-{n % 2}") for n in range(1, 9)))

    kinds = sends.kinds_due(book.ledger)
    assert kinds == [Kind("model-0", 0), Kind("model-1", 0)]
    due = sends.due(book.ledger, [kinds], {"model-0": 1, "model-1": 3, "model-9": 5}, book.now)
    assert [one.sample_id for one in due] == [1, 2, 3, 5]
    book.close()


def test_a_rank_goes_before_the_next_and_within_one_the_manifests_order_holds(tmp_path: Path) -> None:
    book = Book(tmp_path / "lengths.db")
    lengths = [5, 10, 5, 10, 8]
    book.stage(*(row(str(n), number=n, parameters={"duration": length}) for n, length in enumerate(lengths, 1)))
    five, eight, ten = sends.kinds_due(book.ledger)

    assert [kind.length_s for kind in (five, eight, ten)] == [5, 8, 10]
    longest_first = sends.due(book.ledger, [[ten], [eight, five]], {MODEL: 9}, book.now)
    assert [one.sample_id for one in longest_first] == [2, 4, 1, 3, 5]
    in_order = sends.due(book.ledger, [[ten, five, eight]], {MODEL: 4}, book.now)
    assert [one.sample_id for one in in_order] == [1, 2, 3, 4]
    book.close()


def test_what_the_hub_took_of_late_is_known_by_model_and_length(book: Book) -> None:
    (generation_id,) = book.accept()
    assert sends.paces(book.ledger) == {}
    book.now += 40.0
    book.hear(generation_id, "succeeded")

    ((kind, seconds),) = sends.paces(book.ledger).items()
    assert (kind, seconds) == (Kind(MODEL, 0), pytest.approx(40.0, abs=2.0))


def test_a_sample_that_waits_for_another_attempt_is_due_when_its_time_has_come(book: Book) -> None:
    (generation_id,) = book.accept()
    book.hear(generation_id, "failed", error="overloaded")
    at = sends.next_due_at(book.ledger)

    assert at == book.now + news.RETRY_AFTER_FAILURE_S
    assert 1 not in [due.sample_id for due in book.due()]
    book.now = at
    assert 1 in [due.sample_id for due in book.due()]


def test_nothing_waits_where_nothing_failed(book: Book) -> None:
    assert sends.next_due_at(book.ledger) is None


@pytest.mark.parametrize("held", [False, True])
def test_no_twin_of_a_send_that_nobody_answered_is_due(tmp_path: Path, held: bool) -> None:
    book = Book(tmp_path / "twins.db")
    book.stage(row("same"), row("same", number=2), row("other", number=3))
    intent = book.send()
    assert [due.sample_id for due in book.due()] == [2, 3]  # under way is not unknown
    book.record(intent, Outcome.UNKNOWN)
    if held:
        sends.hold(book.ledger, intent.submission_id, at=book.tick(), note="?")
    assert [due.sample_id for due in book.due()] == [3]
    sends.declare_absent(book.ledger, intent.submission_id, at=book.tick(), note="proved")

    assert [due.sample_id for due in book.due()] == [1, 2, 3]
    book.close()


# -- authorise ----------------------------------------------------------------------------------------------------


def test_an_intent_is_on_disk_before_anybody_has_it(book: Book) -> None:
    intent = book.send()
    ended = Book(book.path)  # another connection sees only what is committed

    assert ended.all("select id, state, token, count from submissions") == [(1, "intent", intent.token, 1)]
    assert ended.state() is JobState.SUBMITTING
    assert (intent.model, intent.parameters, intent.count) == (MODEL, {"prompt": "prompt 1"}, 1)
    ended.close()


def test_no_more_places_are_taken_than_the_limit_has(book: Book) -> None:
    picks = [[due] for due in book.due()]
    first = book.authorise(picks, Caps(concurrency=3))
    assert (len(first.intents), first.blocked) == (3, None)
    assert book.authorise([[due] for due in book.due()], Caps(concurrency=3)).intents == []
    book.record(first.intents[0], Outcome.UNKNOWN)
    assert book.authorise([[due] for due in book.due()], Caps(concurrency=3)).intents == []  # it may hold a place
    book.record(first.intents[1], Outcome.NOT_SENT)

    assert len(book.authorise([[due] for due in book.due()], Caps(concurrency=3)).intents) == 1


def test_a_pick_that_does_not_fit_into_the_places_left_is_not_cut(tmp_path: Path) -> None:
    book = Book(tmp_path / "four.db")
    book.stage(row(samples=4))

    assert book.authorise([book.due()], Caps(concurrency=3)).intents == []
    assert book.authorise([book.due()], Caps(concurrency=4)).intents[0].count == 4
    book.close()


@pytest.mark.parametrize(("most", "sent"), [(0, 0), (NANOS - 1, 0), (NANOS, 1), (3 * NANOS - 1, 2), (3 * NANOS, 3)])
def test_the_cost_limit_holds_to_the_nanodollar_and_may_be_reached(book: Book, most: int, sent: int) -> None:
    told = book.authorise([[due] for due in book.due()], Caps(100, max_cost_nanos=most))

    assert (len(told.intents), told.blocked) == (sent, Stop.COST)
    assert told.nanos == book.committed() == sent * NANOS <= most


def test_what_all_has_cost_before_counts_against_the_limit(book: Book) -> None:
    (generation_id,) = book.accept()
    book.hear(generation_id, "succeeded", cost=Decimal("0.1"))
    limit = Caps(100, max_cost_nanos=100_000_000 + NANOS)

    assert len(book.authorise([[due] for due in book.due()], limit).intents) == 1


def test_a_sample_without_a_price_is_not_sent_under_a_limit_unless_that_is_allowed(tmp_path: Path) -> None:
    book = Book(tmp_path / "unpriced.db")
    book.stage(row("one"), row("two", number=2), price=lambda one: None if one.number == 2 else PRICE)
    picks = [[due] for due in book.due()]
    told = book.authorise(picks, Caps(100, max_cost_nanos=10**12))
    assert (len(told.intents), told.blocked) == (1, Stop.UNPRICED)
    told = book.authorise(picks[1:], Caps(100, max_cost_nanos=10**12, allow_unpriced=True))

    assert (len(told.intents), told.blocked) == (1, None)
    assert book.committed() == NANOS
    book.close()


def test_without_a_limit_a_price_is_not_needed(tmp_path: Path) -> None:
    book = Book(tmp_path / "unpriced.db")
    book.stage(row(), price=lambda _: None)

    assert len(book.authorise([book.due()]).intents) == 1
    book.close()


@pytest.mark.parametrize(("left", "sent"), [(-1, 0), (0, 0), (2, 2), (8, 8), (9, 8)])
def test_no_more_posts_are_made_than_a_run_may_make(book: Book, left: int, sent: int) -> None:
    told = book.authorise([[due] for due in book.due()], Caps(100, sends_left=left))

    assert len(told.intents) == sent == runs.sends_of(book.ledger, book.run_id)
    assert told.blocked == (Stop.SENDS if left < 8 else None)


def test_the_days_limit_holds_to_the_nanodollar(book: Book) -> None:
    told = book.authorise([[due] for due in book.due()], Caps(100, day_nanos_left=2 * NANOS))

    assert (len(told.intents), told.blocked, told.nanos) == (2, Stop.DAY, 2 * NANOS)


def test_an_attempt_too_many_is_refused_by_the_database_and_nothing_is_sent(book: Book) -> None:
    picks = [[due] for due in book.due()]
    book.ledger.conn.execute("update samples set attempts = attempts_allowed where id = 2")
    before = book.dump()

    with pytest.raises(Exception, match="attempts"):
        book.authorise(picks)
    assert book.dump() == before
    book.ledger.conn.execute("update samples set attempts = 0 where id = 2")


def test_a_sample_is_not_authorised_twice(book: Book) -> None:
    picks = [[due] for due in book.due()]
    book.authorise(picks[:1])
    before = book.dump()

    with pytest.raises(IllegalMove):
        book.authorise(picks)
    assert book.dump() == before


def test_each_sample_has_as_many_attempts_as_it_is_allowed_and_then_fails_for_good(book: Book) -> None:
    for attempt in (1, 2, 3):
        book.now += 1e6
        (generation_id,) = book.accept()
        assert book.sample()["attempts"] == attempt
        book.hear(generation_id, "failed", error="overloaded")
        assert book.state() is (JobState.PENDING if attempt < 3 else JobState.FAILED)
        assert book.committed() == 0
    book.retry(1, attempts=2)
    assert (book.sample()["attempts"], book.sample()["attempts_allowed"]) == (3, 5)
    book.accept()

    assert book.sample()["attempts"] == 4


def test_more_attempts_are_allowed_and_never_fewer(book: Book) -> None:
    sends.allow_attempts(book.ledger, 5)
    assert book.sample()["attempts_allowed"] == 5
    sends.allow_attempts(book.ledger, 1)

    assert book.sample()["attempts_allowed"] == 5


# -- record -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "state", "attempts", "committed"),
    [
        (Outcome.REFUSED, JobState.FAILED, 1, 0),
        (Outcome.TURNED_AWAY, JobState.PENDING, 0, 0),
        (Outcome.NOT_SENT, JobState.PENDING, 0, 0),
        (Outcome.UNKNOWN, JobState.UNCERTAIN, 1, NANOS),
        (Outcome.ACCEPTED, JobState.UNCERTAIN, 1, NANOS),  # accepted, and no id that is new: nobody knows
    ],
)
def test_each_outcome_without_an_id_has_its_state_its_attempts_and_its_money(
    book: Book, outcome: Outcome, state: JobState, attempts: int, committed: int
) -> None:
    intent = book.send()
    book.record(intent, outcome, words="words", status=400)

    assert (book.state(), book.sample()["attempts"], book.committed()) == (state, attempts, committed)
    stored = Outcome.UNKNOWN if outcome is Outcome.ACCEPTED else outcome
    assert book.all("select state, status, error, ended_at from submissions") == [(stored, 400, "words", book.now)]
    assert book.one("select note from events order by id desc") == "words"
    assert (book.sample()["error"] == "words") == (outcome is Outcome.REFUSED)


def _four(path: Path) -> Book:
    book = Book(path)
    book.stage(row(samples=4))
    return book


@pytest.mark.parametrize("outcome", [Outcome.ACCEPTED, Outcome.UNKNOWN])
@pytest.mark.parametrize("came", range(7))
def test_ids_that_came_are_kept_and_only_the_rest_is_unknown(tmp_path: Path, outcome: Outcome, came: int) -> None:
    book = _four(tmp_path / "four.db")
    intent = book.send(4)
    ids = [new_id() for _ in range(came)]
    book.record(intent, outcome, *ids)

    assert book.states() == (["queued"] * came + ["uncertain"] * 4)[:4]
    assert book.one("select state from submissions") == ("accepted" if came >= 4 else "unknown")
    assert [one for (one,) in book.all("select generation_id from samples order by id")][:came] == ids[:4]
    surplus = book.all("select generation_id from generations where sample_id is null and state = 'surplus'")
    assert surplus == [(one,) for one in ids[4:]]
    assert book.committed() == 4 * NANOS
    check_all(book.ledger)
    book.close()


def test_an_id_that_another_sample_has_is_not_taken_for_a_new_one(book: Book) -> None:
    (mine,) = book.accept()
    book.record(book.send(), Outcome.ACCEPTED, mine)

    assert book.states()[:2] == ["queued", "uncertain"]
    assert book.all("select generation_id, sample_id from generations") == [(mine, 1)]
    assert book.committed() == 2 * NANOS


def test_a_charge_for_a_generation_that_nobody_asked_for_is_counted(book: Book) -> None:
    mine, surplus = new_id(), new_id()
    book.record(book.send(), Outcome.UNKNOWN, mine, surplus)
    for _ in range(2):
        book.hear(surplus, "succeeded", cost=Decimal("0.5"))

    assert book.committed() == NANOS + 500_000_000
    assert reads.charged(book.ledger) == Decimal("0.5")
    assert book.generation(surplus)["state"] == "surplus"


# -- recover ------------------------------------------------------------------------------------------------------


def test_intents_that_a_killed_run_left_are_unknown(book: Book) -> None:
    first, second = book.send(), book.send()
    book.record(book.send(), Outcome.ACCEPTED, new_id())
    found = sends.recover(book.ledger, now=book.now + 1000, post_timeout_s=30.0)

    assert found == 2
    assert book.states()[:3] == ["uncertain", "uncertain", "queued"]
    opens = sends.unknown(book.ledger)
    assert [one.submission_id for one in opens] == [first.submission_id, second.submission_id]
    assert [one.ended_at - one.intent_at for one in opens] == [30.0, 30.0]
    assert book.committed() == 3 * NANOS
    assert sends.recover(book.ledger, now=book.now + 2000, post_timeout_s=30.0) == 0


def test_nothing_of_a_killed_run_reaches_the_hub_after_the_next_one_has_begun(book: Book) -> None:
    book.send()
    sends.recover(book.ledger, now=book.now + 5, post_timeout_s=30.0)
    (one,) = sends.unknown(book.ledger)

    assert one.ended_at == book.now + 5


# -- sends that nobody answered -----------------------------------------------------------------------------------


def test_an_open_send_tells_what_was_sent(tmp_path: Path) -> None:
    book = Book(tmp_path / "seeds.db")
    book.stage(row(samples=2, id="hero", parameters={"seed": "auto"}))
    intent = book.send()
    book.record(intent, Outcome.UNKNOWN)
    (one,) = sends.unknown(book.ledger)

    assert (one.parameters, one.model, one.token, one.waiting) == (intent.parameters, MODEL, intent.token, 1)
    assert one.request_hash == book.sample(1)["request_hash"] != book.sample(2)["request_hash"]
    book.close()


def test_an_open_send_is_left_alone_while_a_twin_is_under_way(tmp_path: Path) -> None:
    book = Book(tmp_path / "twins.db")
    book.stage(row("same"), row("same", number=2), row("other", number=3))
    first, twin, other = book.send(), book.send(), book.send()
    book.record(first, Outcome.UNKNOWN)
    book.record(other, Outcome.UNKNOWN)
    assert [one.submission_id for one in sends.unknown(book.ledger)] == [other.submission_id]
    book.record(twin, Outcome.UNKNOWN)

    assert [one.submission_id for one in sends.unknown(book.ledger)] == [1, 2, 3]
    book.close()


def test_a_send_is_adopted_piece_by_piece_and_the_rest_is_proved_absent(tmp_path: Path) -> None:
    book = _four(tmp_path / "four.db")
    intent = book.send(4)
    known = new_id()
    book.record(intent, Outcome.UNKNOWN, known)
    assert [one.waiting for one in sends.unknown(book.ledger)] == [3]
    sends.adopt(book.ledger, intent.submission_id, [new_id(), known], at=book.tick())
    assert [one.waiting for one in sends.unknown(book.ledger)] == [2]
    assert book.committed() == 4 * NANOS
    sends.count_absent_scans(book.ledger, intent.submission_id, 1)
    assert [one.absent_scans for one in sends.unknown(book.ledger)] == [1]
    sends.declare_absent(book.ledger, intent.submission_id, at=book.tick(), note="proved")

    assert book.states() == ["queued", "queued", "pending", "pending"]
    assert book.all("select attempts from samples") == [(1,), (1,), (0,), (0,)]
    assert book.one("select state from submissions") == "accepted"
    assert book.committed() == 2 * NANOS
    assert sends.unknown(book.ledger) == []
    sends.declare_absent(book.ledger, intent.submission_id, at=book.tick(), note="once more")
    assert book.committed() == 2 * NANOS
    check_all(book.ledger)
    book.close()


def test_a_held_send_can_still_be_adopted_in_part_and_then_given_up(tmp_path: Path) -> None:
    book = _four(tmp_path / "four.db")
    intent = book.send(4)
    book.record(intent, Outcome.UNKNOWN)
    sends.hold(book.ledger, intent.submission_id, at=book.tick(), note="two rows say nothing")
    assert book.all("select distinct state, error from samples") == [("held", "two rows say nothing")]
    assert sends.unknown(book.ledger) == []
    sends.adopt(book.ledger, intent.submission_id, [new_id()], at=book.tick())
    check_all(book.ledger)
    sends.declare_absent(book.ledger, intent.submission_id, at=book.tick(), note="a person said so")

    assert book.states() == ["queued", "pending", "pending", "pending"]
    assert book.committed() == NANOS
    check_all(book.ledger)
    book.close()


def test_owned_are_the_ids_of_this_ledger(book: Book) -> None:
    (mine,) = book.accept()
    theirs = new_id()

    assert sends.owned(book.ledger, [mine, theirs, "'; --"]) == {mine}
    assert sends.owned(book.ledger, (numbered_id(n) for n in range(100_000))) == set()


def test_another_ledger_tells_what_it_owns_and_what_it_has_open(book: Book, tmp_path: Path) -> None:
    other = Book(tmp_path / "other.db")
    other.stage(row("prompt 1"), row("prompt 2", number=2), row("prompt 3", number=3))
    (theirs,) = other.accept()
    second, third = other.send(), other.send()
    other.record(third, Outcome.UNKNOWN)
    hashes = [hashed for (hashed,) in other.all("select request_hash from jobs order by id")]
    (tmp_path / "broken.db").write_text("no ledger")
    found = sends.elsewhere([tmp_path / "broken.db", tmp_path / "gone.db", other.path], [theirs, new_id()], hashes)

    assert found.owned == {theirs}
    assert found.posting == {hashes[1]}
    assert [(rival.request_hash, rival.waiting) for rival in found.rivals] == [(hashes[2], 1)]
    assert second.submission_id == 2
    other.close()


# -- money, whatever the order ------------------------------------------------------------------------------------

CONCURRENCY = 4
MOST = 12 * NANOS


class Money(RuleBasedStateMachine):
    """The ledger under anything that a hub, a network, a killed run and a person may do to it."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="oxenbatch-test-")
        self.book = Book(Path(self._folder.name) / "ledger.db")
        self.book.ledger.conn.execute("pragma synchronous = off")  # many short lives; power cuts are not the subject
        self.ids: list[str] = []

    def teardown(self) -> None:
        self.book.close()
        self._folder.cleanup()

    @initialize()
    def begin(self) -> None:
        self._stage(10)
        self.authorise(pieces=2, limited=False)
        for number in self._submissions("intent"):
            self.book.record(number, Outcome.ACCEPTED, *(self._id() for _ in range(2)))

    def _stage(self, count: int, price: str = "0.04") -> None:
        rows = [row("same", number=1), row("same", number=2), row("four", number=3, id="four", samples=4)]
        rows += [row(f"other {n}", number=4 + n, model="model-b") for n in range(4)]
        unpriced = {f"other {3}"}
        self.book.stage(
            *rows[:count], price=lambda one: None if one.parameters["prompt"] in unpriced else Decimal(price)
        )

    def _id(self) -> str:
        self.ids.append(numbered_id(len(self.ids)))
        return self.ids[-1]

    def _submissions(self, state: str) -> list[int]:
        return [n for (n,) in self.book.all("select id from submissions where state = ? order by id", state)]

    def _some(self, data: st.DataObject, query: str) -> int | str | None:
        found = [one for (one,) in self.book.all(query)]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(pieces=st.integers(1, PER_POST), limited=st.booleans())
    def authorise(self, pieces: int, limited: bool) -> None:
        self.book.now += 60.0
        groups: dict[tuple[int, str], list[object]] = {}
        for due in self.book.due():
            group = groups.setdefault((due.job_id, due.request_hash), [])
            if len(group) < pieces:
                group.append(due)
        caps = Caps(CONCURRENCY, MOST if limited else None, allow_unpriced=True)
        before = self.book.committed()
        told = self.book.authorise(list(groups.values())[:2], caps)  # type: ignore[arg-type]
        assert self.book.committed() == before + told.nanos
        if told.intents:
            assert sum(sends.active_by_model(self.book.ledger).values()) <= CONCURRENCY
            assert self.book.committed() <= MOST or not limited

    @rule(data=st.data(), outcome=st.sampled_from(list(Outcome)), came=st.integers(0, 5), twice=st.booleans())
    def record(self, data: st.DataObject, outcome: Outcome, came: int, twice: bool) -> None:
        intents = self._submissions("intent")
        if not intents:
            return
        number = data.draw(st.sampled_from(intents))
        ids = [self._id() for _ in range(came)] if outcome in (Outcome.ACCEPTED, Outcome.UNKNOWN) else []
        if twice and self.ids and ids:
            ids[0] = self.ids[0]
        self.book.record(number, outcome, *dict.fromkeys(ids), words="words")

    @rule()
    def crash(self) -> None:
        self.book.ledger.close()
        self.book = Book(self.book.path)
        self.book.ledger.conn.execute("pragma synchronous = off")
        self.book.now += 100_000.0
        sends.recover(self.book.ledger, now=self.book.now, post_timeout_s=30.0)
        assert not self._submissions("intent")

    @precondition(lambda self: self.ids)
    @rule(
        data=st.data(),
        live=st.booleans(),
        status=st.sampled_from(["queued", "processing", "succeeded", "failed", "cancelled"]),
        words=st.sampled_from([None, "overloaded", "content policy", "insufficient credits"]),
        cost=st.sampled_from([None, None, "0", "0.01", "0.04", "1.0000000001"]),
    )
    def hear(self, data: st.DataObject, live: bool, status: str, words: str | None, cost: str | None) -> None:
        watched = sorted(news.watched(self.book.ledger)) if live else []
        generation_id = data.draw(st.sampled_from(watched or self.ids))
        self.book.hear(generation_id, status, error=words, cost=cost and Decimal(cost), result_url="https://x/y")

    @rule(data=st.data(), count=st.integers(0, 5))
    def adopt(self, data: st.DataObject, count: int) -> None:
        number = self._some(data, "select id from submissions where state in ('unknown', 'held')")
        if number is not None:
            sends.adopt(self.book.ledger, int(number), [self._id() for _ in range(count)], at=self.book.tick())

    @rule(data=st.data())
    def declare_absent(self, data: st.DataObject) -> None:
        number = self._some(data, "select id from submissions where state in ('unknown', 'held')")
        if number is not None:
            sends.declare_absent(self.book.ledger, int(number), at=self.book.tick(), note="proved")

    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        number = self._some(data, "select id from submissions where state = 'unknown'")
        if number is not None:
            sends.hold(self.book.ledger, int(number), at=self.book.tick(), note="?")

    @rule(data=st.data(), grace=st.sampled_from([0.0, 120.0]))
    def miss(self, data: st.DataObject, grace: float) -> None:
        if self.ids:
            generation_id = data.draw(st.sampled_from(self.ids))
            news.missing(self.book.ledger, generation_id, now=self.book.tick(), grace_s=grace)

    @rule(data=st.data(), attempts=st.integers(1, 3))
    def retry(self, data: st.DataObject, attempts: int) -> None:
        sample = self._some(data, "select id from samples where state in ('failed', 'cancelled')")
        if sample is not None:
            self.book.retry(int(sample), attempts=attempts)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sample = self._some(data, "select id from samples where state = 'pending'")
        if sample is not None:
            decisions.cancel_unsent(self.book.ledger, [int(sample)], at=self.book.tick())

    def _a_fetch(self, data: st.DataObject) -> Fetch | None:
        found, _ = news.fetchable(self.book.ledger, 100, now=self.book.now + 1e9)
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        fetch = self._a_fetch(data)
        if fetch:
            self.book.keep(fetch)

    @rule(data=st.data(), again=st.booleans(), expired=st.booleans())
    def fail_to_fetch(self, data: st.DataObject, again: bool, expired: bool) -> None:
        fetch = self._a_fetch(data)
        if fetch:
            at = self.book.tick()
            news.fetch_failed(
                self.book.ledger, fetch, at=at, why="?", retry_at=at + 9 if again else None, address_expired=expired
            )

    @rule(data=st.data())
    def fetch_again(self, data: st.DataObject) -> None:
        sample = self._some(data, "select id from samples where state in ('downloaded', 'unfetchable')")
        if sample is not None:
            news.fetch_again(self.book.ledger, int(sample), at=self.book.tick(), note="gone")

    @rule(data=st.data())
    def set_aside(self, data: st.DataObject) -> None:
        sample = self._some(data, "select id from samples where state in ('downloaded', 'unfetchable', 'failed')")
        if sample is not None:
            decisions.set_aside(self.book.ledger, [int(sample)], attempts=2, at=self.book.tick())

    @rule(count=st.integers(1, 7), price=st.sampled_from(["0.04", "0.05"]))
    def edit_the_manifest(self, count: int, price: str) -> None:
        self._stage(count, price)

    @invariant()
    def all_is_well(self) -> None:
        # A held send has no place kept for it (a person may take days); found at the hub after all, it is one more.
        found = self.book.one("select count(*) from events where was = 'held' and became = 'queued'")
        check_all(self.book.ledger, CONCURRENCY + found)


Money.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_whatever_happens_every_nanodollar_is_counted_exactly_once = Money.TestCase


def test_the_oracle_itself_sees_money_that_is_given_back_twice(book: Book) -> None:
    book.accept(1)
    book.ledger.commit_money(-NANOS)

    assert book.committed() != recomputed(book.ledger)
    book.ledger.commit_money(NANOS)
    assert book.now > NOW
