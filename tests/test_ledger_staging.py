"""The manifest's rows become jobs: identity holds, names stay, and what changed is said before it costs anything."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledgers import MODEL, NANOS, Book, check_all, new_id, row

from oxenbatch.errors import ManifestError, Problem
from oxenbatch.jobs import JobState, Row, auto_seed, hash_of_text, request_hash
from oxenbatch.ledger import bulk, decisions, results, sends, staging
from oxenbatch.names import ROOT_RESULTS, collision_key
from oxenbatch.wire import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from oxenbatch.ledger.book import Ledger


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    found = Book(tmp_path / "ledger.db")
    yield found
    found.close()


def _wanted(book: Book) -> dict[str, str]:
    """Name and state of every wanted sample."""
    return dict(book.all("select name, state from samples where wanted = 1 order by id"))


def _rows(*prompts: str, **more: object) -> list[Row]:
    return [row(prompt, number=number, **more) for number, prompt in enumerate(prompts, 1)]


# -- identity -----------------------------------------------------------------------------------------------------


def test_reading_the_same_rows_again_changes_nothing(book: Book) -> None:
    rows = [*_rows("one", "two", "two"), row("three", number=4, id="hero", samples=3)]
    first = book.stage(*rows)
    before = book.dump()
    again = book.stage(*rows)

    assert (first.rows, first.added, first.samples_added) == (4, 4, 6)
    assert (again.rows, again.added, again.samples_added) == (4, 0, 0)
    assert book.dump() == before


def test_reordering_and_inserting_rows_changes_nothing_that_exists(book: Book) -> None:
    book.stage(*_rows("one", "two", "three"))
    before = book.all("select id, job_id, number, request_hash, name, state, wanted from samples")
    staged = book.stage(*_rows("three", "new", "one", "two"))

    assert staged.added == 1
    assert book.all("select id, job_id, number, request_hash, name, state, wanted from samples")[:3] == before
    assert book.all("select prompt, position from jobs order by position") == [
        ("three", 1), ("new", 2), ("one", 3), ("two", 4),
    ]  # fmt: skip


def test_equal_rows_are_told_apart_by_their_occurrence(book: Book) -> None:
    book.stage(*_rows("same", "same", "same"))
    hashed = request_hash(MODEL, {"prompt": "same"})

    assert book.all("select key, occurrence from jobs order by id") == [(f"{hashed}#{n}", n) for n in (1, 2, 3)]
    assert len(_wanted(book)) == 3


def test_spellings_of_the_same_request_are_one_row(book: Book) -> None:
    book.stage(row(parameters={"size": 5, "x": {"b": 1, "a": [1.0]}}))
    staged = book.stage(row(parameters={"x": {"a": [1], "b": 1.0}, "size": 5.0}))

    assert staged.added == 0


def test_one_duplicate_less_makes_one_sample_unwanted_and_one_more_wants_it_again(book: Book) -> None:
    book.stage(*_rows("same", "same"))
    book.stage(*_rows("same"))
    assert book.all("select occurrence, wanted from jobs order by id") == [(1, 1), (2, 0)]
    book.stage(*_rows("same", "same"))

    assert book.all("select wanted from samples") == [(1,), (1,)]
    assert book.one("select count(*) from jobs") == 2


@pytest.mark.parametrize("state", list(JobState))
def test_a_row_that_left_is_unwanted_in_every_state_and_back_when_it_returns(book: Book, state: JobState) -> None:
    book.stage(*_rows("one", "two"))
    book.bring(state)
    before = book.sample()
    book.stage(*_rows("two"))
    assert book.sample() == before | {"wanted": 0}
    book.stage(*_rows("two", "one"))

    assert book.sample() == before
    check_all(book.ledger)


def test_what_is_unwanted_is_not_sent(book: Book) -> None:
    book.stage(*_rows("one", "two"))
    book.stage(*_rows("two"))

    assert [due.sample_id for due in book.due()] == [2]
    book.stage(*_rows("three"))
    assert [due.sample_id for due in book.due()] == [3]


def test_what_is_under_way_for_a_row_that_left_is_still_collected(book: Book) -> None:
    book.stage(*_rows("one", "two"))
    (generation_id,) = book.accept()
    book.stage(*_rows("two"))
    book.hear(generation_id, "succeeded", cost=Decimal("0.03"))
    book.keep()

    assert book.state() is JobState.DOWNLOADED
    check_all(book.ledger)


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, "x", "y"]), st.integers(1, 3)), max_size=6),
        min_size=1,
        max_size=4,
    )
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_any_edits_exactly_the_manifests_samples_are_wanted(
    tmp_path_factory: pytest.TempPathFactory, edits: list[list[tuple[str, str | None, int]]]
) -> None:
    book = Book(tmp_path_factory.mktemp("edits") / "ledger.db")
    names: dict[int, str] = {}
    for edit in edits:
        seen: set[str] = set()
        rows = []
        for prompt, row_id, samples in edit:
            if row_id is None or row_id not in seen:
                seen.add(row_id or "")
                rows.append(row(prompt, id=row_id, samples=samples, number=len(rows) + 1))
        if not rows:
            continue
        book.stage(*rows)
        wanted = book.all(
            "select j.prompt, j.row_id, count(*) from samples s join jobs j on j.id = s.job_id"
            " where s.wanted = 1 group by j.id order by j.position"
        )
        assert wanted == [(one.prompt, one.id, one.samples) for one in rows]
        # Nothing was sent, so a changed row is made anew, and everything else keeps its name.
        found = dict(
            book.all("select id, name from samples where job_id in (select id from jobs where row_id is null)")
        )
        assert all(found[sample] == name for sample, name in names.items())
        names = found
        check_all(book.ledger)
    book.close()


# -- how many -----------------------------------------------------------------------------------------------------


def test_more_samples_add_only_the_difference_and_fewer_make_the_rest_unwanted(book: Book) -> None:
    book.stage(row(id="hero", samples=2))
    book.accept(2)
    more = book.stage(row(id="hero", samples=5))
    assert (more.added, more.samples_added) == (0, 3)
    assert book.states() == ["queued"] * 2 + ["pending"] * 3
    book.stage(row(id="hero", samples=1))
    assert book.all("select wanted from samples order by number") == [(1,), (0,), (0,), (0,), (0,)]
    again = book.stage(row(id="hero", samples=4))

    assert again.samples_added == 0
    assert book.all("select wanted from samples order by number") == [(1,), (1,), (1,), (1,), (0,)]


def test_each_sample_of_a_row_with_an_automatic_seed_has_its_own_and_keeps_it(book: Book) -> None:
    book.stage(row(id="hero", samples=2, parameters={"seed": "auto"}))
    book.stage(row(id="hero", samples=3, parameters={"seed": "auto"}))

    assert book.all("select seed from samples order by number") == [(auto_seed("id:hero", n),) for n in (1, 2, 3)]
    for number, (hashed,) in enumerate(book.all("select request_hash from samples order by number"), 1):
        sent = sends.sent_parameters(book.ledger, number)
        assert sent == {"prompt": "a red cube", "seed": auto_seed("id:hero", number)}
        assert hashed == request_hash(MODEL, sent)


def test_a_seed_stays_as_it_is_where_the_model_takes_none_by_that_name(book: Book) -> None:
    book.stage(row(parameters={"seed": "auto"}), takes_seed=lambda _: False)

    assert book.sample()["seed"] is None
    assert book.sample()["request_hash"] == book.one("select request_hash from jobs")


# -- requests that changed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", ["stop", "rerun", "keep"])
def test_a_row_that_was_never_sent_may_change_freely(book: Book, changed: staging.Changed) -> None:
    book.stage(row("old", id="hero", samples=2))
    staged = book.stage(row("new", id="hero"), changed=changed)

    assert (staged.changed, staged.set_aside) == ([], [])
    assert book.all("select prompt from jobs") == [("new",)]
    assert _wanted(book) == {"hero": "pending"}
    assert book.send().parameters == {"prompt": "new"}


@pytest.mark.parametrize("changed", ["stop", "rerun", "keep"])
def test_a_row_that_was_cancelled_before_it_was_sent_may_change_freely(book: Book, changed: staging.Changed) -> None:
    book.stage(row("old", id="hero"))
    decisions.cancel_unsent(book.ledger, [1], at=book.tick())
    book.stage(row("new", id="hero"), changed=changed)

    assert _wanted(book) == {"hero": "pending"}
    assert book.send().parameters == {"prompt": "new"}
    check_all(book.ledger)


_PAID = [s for s in JobState if s is not JobState.PENDING]
_RESTING = [JobState.DOWNLOADED, JobState.FAILED, JobState.CANCELLED, JobState.UNFETCHABLE]


@pytest.mark.parametrize("state", _PAID)
def test_a_row_that_was_sent_and_changed_stops_everything(book: Book, state: JobState) -> None:
    book.stage(row("old", id="hero"))
    book.bring(state)
    before = book.dump()

    with pytest.raises(ManifestError, match="sent with another request"):
        book.stage(row("new", id="hero"), row("other", number=2))
    assert book.dump() == before


@pytest.mark.parametrize("state", _PAID)
def test_keep_keeps_what_there_is_whatever_the_row_says_now(book: Book, state: JobState) -> None:
    book.stage(row("old", id="hero"))
    book.bring(state)
    before = book.sample()
    book.stage(row("new", id="hero", metadata={"split": "test"}), changed="keep")

    assert book.sample() == before
    assert book.all("select prompt, metadata from jobs") == [("old", '{"split":"test"}')]


def test_keep_sends_further_samples_with_the_kept_request(book: Book) -> None:
    """What is sent, its model, its hash and its price belong together, or a lost answer is bought twice."""
    book.stage(row("old", id="hero", samples=1), price=lambda _: Decimal(1))
    book.bring(JobState.DOWNLOADED)
    new = row("new", id="hero", samples=2, model="another", parameters={"seed": "auto"})
    book.stage(new, changed="keep", price=lambda one: Decimal(1) if one.model == MODEL else Decimal(9))
    intent = book.send()

    assert (intent.model, intent.parameters) == (MODEL, {"prompt": "old"})
    assert book.sample(2)["request_hash"] == request_hash(MODEL, {"prompt": "old"})
    assert book.sample(2)["estimate_nanos"] == 10**9
    assert book.one("select request_hash from submissions order by id desc") == book.sample(2)["request_hash"]


@pytest.mark.parametrize("state", _RESTING)
def test_rerun_sets_a_result_aside_and_makes_the_row_anew(book: Book, state: JobState) -> None:
    book.stage(row("old", id="hero"))
    book.bring(state)
    old = book.sample()
    staged = book.stage(row("new", id="hero"), changed="rerun")

    assert _wanted(book) == {"hero": "pending"}
    kept = book.sample(1)
    assert (kept["wanted"], kept["state"], kept["generation_id"]) == (0, state, old["generation_id"])
    assert kept["name"].startswith("set-aside/")
    files = ["hero.png"] if state is JobState.DOWNLOADED else []
    assert staged.set_aside == [decisions.Aside(file, f"set-aside/1-{file}") for file in files]
    assert kept["file"] == (f"set-aside/1-{files[0]}" if files else None)
    check_all(book.ledger)
    book.accept()
    assert not list(results.on_disk(book.ledger))  # what is set aside is not of the dataset


@pytest.mark.parametrize("state", [s for s in _PAID if s not in _RESTING])
def test_rerun_leaves_alone_what_is_under_way_or_open(book: Book, state: JobState) -> None:
    book.stage(row("old", id="hero"))
    book.bring(state)
    before = book.dump()

    with pytest.raises(ManifestError, match="--changed keep"):
        book.stage(row("new", id="hero"), changed="rerun")
    assert book.dump() == before


def test_rerun_cancels_the_samples_of_the_old_request_that_were_not_sent(book: Book) -> None:
    book.stage(row("old", id="hero", samples=2))
    generation_id = book.bring(JobState.QUEUED)
    book.hear(generation_id, "cancelled")
    book.stage(row("new", id="hero", samples=2), changed="rerun")

    assert book.states() == ["cancelled", "cancelled", "pending", "pending"]
    assert [due.sample_id for due in book.due()] == [3, 4]


def test_a_row_can_change_again_and_again(book: Book) -> None:
    for prompt in ("one", "two", "three", "one"):
        book.stage(row(prompt, id="hero"), changed="rerun")
        book.bring(JobState.DOWNLOADED)

    assert book.states() == ["downloaded"] * 4
    assert [result["prompt"] for result in results.on_disk(book.ledger)] == ["one"]
    check_all(book.ledger)


@pytest.mark.parametrize("row_id", ["a@1", "mail@1", "x@2", "%@1"])
def test_an_id_that_looks_like_an_old_key_is_an_id_like_any_other(book: Book, row_id: str) -> None:
    book.stage(row("one", id=row_id))
    book.bring(JobState.DOWNLOADED)

    assert [result["row_id"] for result in results.on_disk(book.ledger)] == [row_id]


def test_the_key_of_a_retired_job_is_no_rows_key(book: Book) -> None:
    book.stage(row("one", id="hero"))
    book.bring(JobState.DOWNLOADED)
    book.stage(row("two", id="hero"), row("three", id="hero@1", number=2), changed="rerun")
    staged = book.stage(row("two", id="hero"), row("three", id="hero@1", number=2))

    assert staged.added == 0
    assert len(_wanted(book)) == 2


# -- problems -----------------------------------------------------------------------------------------------------


def test_every_problem_is_told_and_nothing_is_changed(book: Book) -> None:
    book.stage(row("old", id="a"), row("old", id="b", number=2))
    book.accept()
    book.accept()
    before = book.dump()
    with pytest.raises(ManifestError) as caught:
        book.stage(
            Problem("seed is 'abc'", "m.csv:2", 1, "seed"),
            row("new", id="a", number=2),
            row("new", id="b", number=3),
            row("new", number=4, id="c"),
            row("new", number=5, id="c", where="m.csv:6"),
            row("new", id="a", number=6),
            Problem("no prompt", "m.csv:8", 7),
        )

    told = [str(problem) for problem in caught.value.problems]
    assert [problem.row for problem in caught.value.problems] == [1, 2, 3, 5, 6, 7]
    assert "m.csv:6: row 5, id: id 'c' stands twice in the manifest" in told
    assert "stands twice" in told[4]
    assert caught.value.total == 6
    assert book.dump() == before


def test_a_million_problems_are_counted_and_a_thousand_told(book: Book) -> None:
    with pytest.raises(ManifestError) as caught:
        book.stage(*(Problem("wrong", row=number) for number in range(1, 3001)))

    assert (len(caught.value.problems), caught.value.total) == (staging.PROBLEMS_KEPT, 3000)


def test_a_manifest_without_rows_is_a_problem_and_unwants_nothing(book: Book) -> None:
    book.stage(row())

    with pytest.raises(ManifestError, match="no rows"):
        book.stage()
    assert book.one("select wanted from jobs") == 1


def test_a_reader_that_breaks_off_leaves_the_ledger_as_it_was(book: Book) -> None:
    book.stage(row("one"))
    before = book.dump()

    def rows() -> Iterator[Row]:
        yield row("two")
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        staging.stage(book.ledger, rows(), "f", book.terms())
    assert book.dump() == before
    assert book.stage(row("one")).added == 0


def test_the_fingerprint_is_kept_with_the_rows_and_not_without_them(book: Book) -> None:
    book.stage(row(), fingerprint="first")
    with pytest.raises(ManifestError):
        book.stage(Problem("wrong"), fingerprint="second")

    assert book.one("select fingerprint from batch") == "first"


# -- prices -------------------------------------------------------------------------------------------------------


def test_what_is_not_sent_follows_the_price_and_what_is_sent_does_not(book: Book) -> None:
    rows = [row(id="hero", samples=3)]
    book.stage(*rows, price=lambda _: None)
    book.accept()
    assert book.committed() == 0
    book.stage(*rows, price=lambda _: Decimal("0.5"))
    assert book.all("select estimate_nanos from samples") == [(None,), (NANOS * 12.5,), (NANOS * 12.5,)]
    book.accept()
    book.stage(*rows, price=lambda _: Decimal("0.75"))
    assert book.all("select estimate_nanos from samples") == [(None,), (500_000_000,), (750_000_000,)]
    book.stage(*rows, price=lambda _: None)  # the catalogue cannot be had today: the last known price stands

    assert book.all("select estimate_nanos from samples") == [(None,), (500_000_000,), (750_000_000,)]
    check_all(book.ledger)


# -- names --------------------------------------------------------------------------------------------------------


def test_colliding_names_become_distinct_ones(book: Book) -> None:
    ids = ["Hero", "hero", "HERO", "hero-1", "straße", "STRASSE", "é", "e\u0301", "a/b", "a\\b", "x", "x-2"]
    rows = [row(str(n), id=one, number=n, samples=2) for n, one in enumerate(ids, 1)]
    book.stage(*rows)
    names = [name for (name,) in book.all("select name from samples")]

    assert len(names) == len({collision_key(name) for name in names}) == 2 * len(ids)
    assert "Hero-1" in names


def test_names_never_change(book: Book) -> None:
    book.stage(row("one", id="Hero"), row("two", id="hero", number=2))
    before = dict(book.all("select id, name from samples"))
    book.stage(row("two", id="hero", samples=3))
    book.stage(row("0", id="HERO"), row("two", id="hero", number=2, samples=2), row("one", id="Hero", number=3))

    after = dict(book.all("select id, name from samples"))
    assert before.items() <= after.items()


def test_the_same_rows_get_the_same_names_in_another_ledger(tmp_path: Path, book: Book) -> None:
    rows = [row("one", id="Hero"), row("two", id="hero", number=2), *_rows("same", "same")]
    book.stage(*rows)
    other = Book(tmp_path / "other.db")
    other.stage(*rows)

    assert other.all("select name from samples") == book.all("select name from samples")
    other.close()


def test_results_beyond_ten_thousand_lie_in_sub_folders_and_are_distinct_all_over(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oxenbatch.names.ROOT_RESULTS", 10)
    book.stage(*(row(str(n), id=f"r{n}", number=n + 1) for n in range(25)))
    book.stage(row("other", id="R3"), row("another", id="R24", number=2))
    names = [name for (name,) in book.all("select name from samples order by id")]

    assert [name.rpartition("/")[0] for name in names] == [""] * 10 + ["0001"] * 10 + ["0002"] * 7
    assert names[25] not in ("0002/R3", "R3")
    assert len({collision_key(name.rpartition("/")[2]) for name in names}) == 27


@pytest.mark.slow
def test_the_ten_thousandth_result_is_the_last_in_the_folder_itself(book: Book) -> None:
    assert ROOT_RESULTS == 10_000
    book.stage(*(row(str(n), number=n) for n in range(1, 10_003)))
    inside = book.all("select min(id), max(id) from samples where instr(name, '/') = 0")
    beyond = book.all("select id from samples where name glob '0001/*'")

    assert (inside, beyond) == ([(1, 10_000)], [(10_001,), (10_002,)])


def test_hostile_ids_and_texts_are_kept_as_they_are(book: Book) -> None:
    hostile = ["'; drop table jobs; --", "../../etc/passwd", "\u202egnp", "🎉", "a\nb", "%_", "CON"]
    book.stage(*(row(f"{one} prompt", id=one, number=n, metadata={one: [one]}) for n, one in enumerate(hostile, 1)))

    assert [found for (found,) in book.all("select row_id from jobs order by id")] == hostile
    kept = [json.loads(found) for (found,) in book.all("select metadata from jobs order by id")]
    assert kept == [{one: [one]} for one in hostile]
    assert not any(".." in name or name.startswith("/") for (name,) in book.all("select name from samples"))


# -- how much work ------------------------------------------------------------------------------------------------


def _statements(ledger: Ledger) -> list[str]:
    ran: list[str] = []
    ledger.conn.set_trace_callback(ran.append)
    return ran


def test_a_row_costs_a_few_statements_however_many_rows_there_are(book: Book) -> None:
    ran = _statements(book.ledger)
    rows = _rows(*map(str, range(500)))
    book.stage(*rows)
    assert len(ran) < 500 * 5 + 20
    ran.clear()
    book.stage(*rows)

    assert len(ran) < 500 * 3 + 20


def test_the_hash_of_a_request_is_reckoned_once_a_row(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counting(model: str, parameters: str) -> str:
        asked.append(model)
        return hash_of_text(model, parameters)

    monkeypatch.setattr(bulk, "hash_of_text", counting)
    book.stage(row(samples=50))

    assert len(asked) == 1


def test_staging_leaves_the_connection_as_it_was(book: Book) -> None:
    before = book.one("pragma cache_size")
    book.stage(row())
    with pytest.raises(ManifestError):
        book.stage(Problem("wrong"))

    assert book.one("pragma cache_size") == before


def test_a_retired_job_with_an_open_send_cannot_be_and_its_money_stays_counted(book: Book) -> None:
    book.stage(row("old", id="hero", samples=2))
    intent = book.send(2)
    book.record(intent, Outcome.UNKNOWN, new_id())
    with pytest.raises(ManifestError):
        book.stage(row("new", id="hero"), changed="rerun")

    assert book.committed() == 2 * NANOS
    check_all(book.ledger)
