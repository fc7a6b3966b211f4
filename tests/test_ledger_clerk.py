"""The clerk: what waits together shares a commit, who fails fails alone, and nobody waits for an answer in vain."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from typing import TYPE_CHECKING

import pytest
from ledgers import Book, new_id, row

from oxenbatch.errors import MachineError
from oxenbatch.ledger import sends
from oxenbatch.ledger.book import Ledger
from oxenbatch.ledger.clerk import TOGETHER, InlineClerk, ThreadClerk
from oxenbatch.wire import Answer, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    found = Book(tmp_path / "ledger.db")
    found.stage(*(row(f"prompt {n}", number=n) for n in range(1, 101)))
    yield found
    found.close()


class Watched:
    """What the clerk's own connection commits, and a gate that keeps it busy until everybody has asked."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.entered = threading.Event()
        self.opened = threading.Event()

    def hold(self, ledger: Ledger) -> None:
        ledger.conn.set_trace_callback(self.ran.append)
        self.entered.set()
        assert self.opened.wait(60)

    @property
    def commits(self) -> int:
        """How many there were after the gate's own."""
        return sum(statement.lower() == "commit" for statement in self.ran) - 1


async def _together(clerk: ThreadClerk, watched: Watched, *requests: Callable[[Ledger], object]) -> list[object]:
    """All requests are waiting when the clerk comes to the first of them; their answers or errors."""
    gate = asyncio.create_task(clerk.do(watched.hold))
    await asyncio.to_thread(watched.entered.wait, 60)
    tasks = [asyncio.create_task(clerk.do(request)) for request in requests]
    await asyncio.sleep(0)  # every task has asked now, and none has been answered
    watched.opened.set()
    await gate
    return await asyncio.gather(*tasks, return_exceptions=True)


def _note(name: str) -> Callable[[Ledger], str]:
    def request(ledger: Ledger) -> str:
        ledger.conn.execute("insert into events (at, event, note) values (1.0, 'note', ?)", (name,))
        return name

    return request


def _notes(book: Book) -> list[str]:
    return [note for (note,) in book.all("select note from events where event = 'note' order by id")]


@pytest.mark.anyio
@pytest.mark.parametrize(("count", "commits"), [(1, 1), (TOGETHER, 1), (TOGETHER + 1, 2), (200, 4)])
async def test_requests_that_wait_together_share_a_commit_and_keep_their_order(
    book: Book, count: int, commits: int
) -> None:
    watched = Watched()
    names = [str(n) for n in range(count)]
    with ThreadClerk(book.path) as clerk:
        answers = await _together(clerk, watched, *map(_note, names))

    assert answers == names == _notes(book)
    assert watched.commits == commits


@pytest.mark.anyio
async def test_a_request_that_fails_fails_alone(book: Book) -> None:
    def fails(ledger: Ledger) -> None:
        _note("never")(ledger)
        raise KeyError("mine")

    def breaks_a_rule(ledger: Ledger) -> None:
        _note("never")(ledger)
        ledger.conn.execute("update samples set attempts = -1")

    with ThreadClerk(book.path) as clerk:
        answers = await _together(clerk, Watched(), _note("a"), fails, _note("b"), breaks_a_rule, _note("c"))

    assert [type(answer) for answer in answers] == [str, KeyError, str, sqlite3.IntegrityError, str]
    assert _notes(book) == ["a", "b", "c"]


@pytest.mark.anyio
async def test_a_request_that_fails_leaves_nothing_behind_although_nobody_waited_with_it(book: Book) -> None:
    def fails(ledger: Ledger) -> None:
        _note("never")(ledger)
        raise KeyError("mine")

    with ThreadClerk(book.path) as clerk:
        with pytest.raises(KeyError):
            await clerk.do(fails)
        await clerk.do(_note("a"))

    assert _notes(book) == ["a"]


@pytest.mark.anyio
async def test_an_answer_means_that_it_is_durable(book: Book) -> None:
    with ThreadClerk(book.path) as clerk:
        for name in ("a", "b", "c"):
            assert await clerk.do(_note(name)) == name
            assert _notes(book)[-1] == name


@pytest.mark.anyio
async def test_where_the_disk_fails_nobody_is_told_that_his_work_is_done(book: Book) -> None:
    def full(_: Ledger) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with ThreadClerk(book.path) as clerk:
        answers = await _together(clerk, Watched(), _note("a"), full, _note("b"))
        assert [type(answer) for answer in answers] == [MachineError] * 3
        assert "disk is full" in str(answers[0])
        assert _notes(book) == []
        assert await clerk.do(_note("later")) == "later"  # and the clerk goes on

    assert _notes(book) == ["later"]


@pytest.mark.anyio
async def test_a_commit_that_fails_is_told_to_everybody_in_it(book: Book) -> None:
    def dangles(ledger: Ledger) -> None:  # SQLite sees it only at the commit
        ledger.conn.execute("update samples set generation_id = ? where id = 1", (new_id(),))

    with ThreadClerk(book.path) as clerk:
        answers = await _together(clerk, Watched(), _note("a"), dangles)

    assert [type(answer) for answer in answers] == [MachineError] * 2
    assert _notes(book) == []


@pytest.mark.anyio
async def test_what_a_post_brought_is_written_down_though_nobody_waits_for_it_any_more(book: Book) -> None:
    intent = book.send()
    watched = Watched()
    with ThreadClerk(book.path) as clerk:
        gate = asyncio.create_task(clerk.do(watched.hold))
        await asyncio.sleep(0)
        answer = Answer(Outcome.ACCEPTED, (new_id(),))
        recording = asyncio.create_task(clerk.do(sends.record, intent.submission_id, answer, at=1.0))
        await asyncio.sleep(0)
        recording.cancel()
        watched.opened.set()
        await gate

    assert recording.cancelled() or recording.done()
    assert book.state() == "queued"


@pytest.mark.anyio
async def test_the_event_loop_goes_on_while_the_clerk_is_busy(book: Book) -> None:
    watched = Watched()
    with ThreadClerk(book.path) as clerk:
        gate = asyncio.create_task(clerk.do(watched.hold))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not gate.done()
        watched.opened.set()
        await gate


@pytest.mark.anyio
async def test_the_thread_ends_with_its_clerk_and_what_was_asked_before_is_done(book: Book) -> None:
    watched = Watched()
    with ThreadClerk(book.path) as clerk:
        gate = asyncio.create_task(clerk.do(watched.hold))
        asked = [asyncio.create_task(clerk.do(_note(str(n)))) for n in range(100)]
        await asyncio.sleep(0)
        watched.opened.set()

    assert "ledger" not in [thread.name for thread in threading.enumerate()]
    assert len(_notes(book)) == 100
    await asyncio.gather(gate, *asked)


@pytest.mark.anyio
@pytest.mark.parametrize("content", [None, b"no database at all, but long enough to be read as one\n" * 100, b""])
async def test_a_ledger_that_cannot_be_opened_fails_each_request(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "ledger.db").write_bytes(content)
    with ThreadClerk(tmp_path / "ledger.db") as clerk:
        for _ in range(3):
            with pytest.raises(MachineError):
                await clerk.do(_note("never"))

    assert "ledger" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.anyio
async def test_whatever_keeps_a_ledger_from_being_opened_is_told_and_nobody_hangs(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Ledger:
        raise ImportError("half an installation")

    monkeypatch.setattr(Ledger, "open", broken)
    with ThreadClerk(book.path) as clerk, pytest.raises(ImportError, match="half"):
        await asyncio.wait_for(clerk.do(_note("never")), 30)


def test_a_loop_that_is_closed_keeps_neither_the_clerk_nor_its_work(book: Book) -> None:
    watched = Watched()
    with ThreadClerk(book.path) as clerk:

        async def leave() -> None:
            asked = [asyncio.create_task(clerk.do(watched.hold)), asyncio.create_task(clerk.do(_note("kept")))]
            await asyncio.sleep(0)
            for task in asked:
                task.cancel()

        asyncio.run(leave())
        watched.opened.set()

    assert _notes(book) == ["kept"]
    assert "ledger" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.anyio
async def test_the_clerk_without_a_thread_does_the_same_at_once(book: Book) -> None:
    clerk = InlineClerk(book.ledger)

    def fails(ledger: Ledger) -> None:
        _note("never")(ledger)
        raise KeyError("mine")

    assert await clerk.do(_note("a")) == "a"
    with pytest.raises(KeyError):
        await clerk.do(fails)
    assert await clerk.do(lambda _, one, *, two: (one, two), 1, two=2) == (1, 2)
    assert _notes(book) == ["a"]
