"""The ledger is opened safely or not at all, commits whole blocks, moves samples by the table, and guards itself."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import MODEL, Book, made_by_version, new_id, row

from oxenbatch.errors import ConfigProblem, MachineError
from oxenbatch.jobs import MOVES, Event, IllegalMove, JobState, after
from oxenbatch.ledger import book as books
from oxenbatch.ledger import schema
from oxenbatch.ledger.book import Ledger, to_dollars, to_nanos
from oxenbatch.ledger.schema import APPLICATION_ID, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    found = Book(tmp_path / "ledger.db")
    yield found
    found.close()


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- opening ------------------------------------------------------------------------------------------------------


def test_a_new_ledger_is_durable_and_strict(book: Book) -> None:
    pragmas = {name: book.one(f"pragma {name}") for name in ("journal_mode", "synchronous", "foreign_keys")}

    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    assert book.one("pragma trusted_schema") == 0
    assert book.one("pragma busy_timeout") >= 10_000
    assert book.one("pragma application_id") == APPLICATION_ID
    assert book.one("pragma user_version") == VERSION


def test_an_existing_ledger_is_as_durable_as_a_new_one(book: Book) -> None:
    book.close()
    with Ledger.open(book.path) as ledger:
        asked = [ledger.conn.execute(f"pragma {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        asked += [ledger.conn.execute(f"pragma {name}").fetchone()[0] for name in ("foreign_keys", "trusted_schema")]

    assert asked == ["wal", 2, 1, 0]


def test_the_ledger_and_its_log_are_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
            ledger.conn.execute("insert into batch values (1, 'x', 'h', 1.0, 'd', null, 0, 0)")
            modes = {path.name: _mode(path) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)

    assert modes == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}


def test_a_ledger_is_not_made_where_none_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no ledger"):
        Ledger.open(tmp_path / "ledger.db")

    assert not list(tmp_path.iterdir())


def test_a_ledger_that_became_empty_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").touch()

    with pytest.raises(MachineError, match="empty"):
        Ledger.open(tmp_path / "ledger.db")


def test_a_run_that_was_killed_before_the_tables_were_made_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").touch()

    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        assert ledger.conn.execute("select count(*) from jobs").fetchone()[0] == 0


def test_a_strangers_database_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with sqlite3.connect(path) as stranger:
        stranger.execute("create table accounts (id)")
    stranger.close()
    before = path.read_bytes()

    for create in (False, True):
        with pytest.raises(MachineError, match="not a ledger"):
            Ledger.open(path, create=create)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.db"]


def test_another_programs_database_is_refused_even_without_tables(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as stranger:
        stranger.execute("pragma application_id = 7")
    stranger.close()

    with pytest.raises(MachineError, match="not a ledger"):
        Ledger.open(tmp_path / "ledger.db", create=True)


@pytest.mark.parametrize("content", [b"not a database at all\n" * 100, b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.db").write_bytes(content)

    with pytest.raises(MachineError, match=r"cannot be read|cut short|not a ledger"):
        Ledger.open(tmp_path / "ledger.db")
    assert (tmp_path / "ledger.db").read_bytes() == content


def test_a_ledger_that_was_cut_is_refused(book: Book) -> None:
    book.stage(*(row(f"prompt {n}", number=n) for n in range(1, 300)))
    book.ledger.conn.execute("pragma wal_checkpoint(truncate)")
    book.close()
    with book.path.open("r+b") as file:
        file.truncate(4096)

    with pytest.raises(MachineError), Ledger.open(book.path) as ledger:  # noqa: PT012 - either line may tell
        try:
            ledger.conn.execute("select count(*) from samples").fetchone()
        except sqlite3.DatabaseError as error:
            raise MachineError(str(error)) from None


def test_a_newer_ledger_is_refused_and_not_touched(book: Book) -> None:
    book.ledger.conn.execute(f"pragma user_version = {VERSION + 1}")
    book.close()
    before = book.path.read_bytes()

    with pytest.raises(ConfigProblem, match="newer"):
        Ledger.open(book.path)
    assert book.path.read_bytes() == before


def _with_one_more_version(monkeypatch: pytest.MonkeyPatch, *statements: str) -> None:
    """This program is one version newer, and these statements bring a ledger there."""

    def migrate(connection: sqlite3.Connection) -> None:
        for statement in statements:
            connection.execute(statement)

    monkeypatch.setattr(books, "VERSION", VERSION + 1)
    monkeypatch.setattr(books, "migrate", migrate)


def test_an_older_ledger_is_migrated_with_a_whole_backup_beside_it(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    book.stage(row())
    reader = sqlite3.connect(book.path, isolation_level=None)
    reader.execute("begin")
    reader.execute("select * from samples").fetchall()  # it keeps the log from being put back into the file
    book.accept()
    book.close()
    _with_one_more_version(monkeypatch, "alter table batch add column mood text")

    with Ledger.open(book.path) as ledger:
        columns = [column["name"] for column in ledger.conn.execute("pragma table_info(batch)")]
        assert "mood" in columns
        assert ledger.conn.execute("pragma user_version").fetchone()[0] == VERSION + 1
    reader.close()
    backup = book.path.with_name(f"ledger.db.v{VERSION}.bak")
    assert _mode(backup) == 0o600
    old = sqlite3.connect(backup)
    assert old.execute("select state from samples").fetchall() == [("queued",)]
    assert old.execute("pragma user_version").fetchone()[0] == VERSION
    assert "mood" not in str(old.execute("select sql from sqlite_master where name = 'batch'").fetchone())
    old.close()


@pytest.mark.parametrize("version", range(5, VERSION))
def test_what_an_older_ledger_holds_is_all_there_after_its_migration(tmp_path: Path, version: int) -> None:
    with made_by_version(version):
        Ledger.open(tmp_path / "ledger.db", create=True).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as old:
        old.execute("create view mine as select model, count(*) as n from jobs group by model")
        old.execute("insert into batch values (1, 'b', 'http://hub', 1.0, '2026-11-24', null, 0, 0)")
        old.execute(f"insert into inputs values (1, '{'1' * 64}', '{'1' * 64}.png', 10, null, null)")
        for n in (1, 2):
            old.execute(
                "insert into jobs (id, key, occurrence, request_hash, model, prompt, parameters, metadata, samples,"
                f" position, wanted, source, created_at) values ({n}, 'k{n}', 1, 'r1:{n}', 'm', 'p', '{{}}', '{{}}', 1,"
                f" {n}, 1, 's', 1.0)"
            )
            old.execute(
                "insert into samples (id, job_id, number, model, request_hash, wanted, state, attempts_allowed, name,"
                f" name_key) values ({n}, {n}, 1, 'm', 'r1:{n}', 1, 'pending', 3, 'a{n}', 'a{n}')"
            )
        old.execute("insert into job_inputs values (1, 2)")
        old.commit()

    with Ledger.open(tmp_path / "ledger.db") as ledger:

        def all_of(query: str) -> list[tuple[object, ...]]:
            return [tuple(found) for found in ledger.conn.execute(query)]

        assert all_of("select id, key, position from jobs") == [(1, "k1", 1), (2, "k2", 2)]
        assert all_of("select id, job_id, name from samples") == [(1, 1, "a1"), (2, 2, "a2")]
        assert all_of("select * from job_inputs") == [(1, 2)]
        assert all_of("select * from mine") == [("m", 2)]
        assert all_of("pragma foreign_key_check") == []
        assert all_of("pragma foreign_keys") == [(1,)]


def test_the_tables_of_now_are_what_all_steps_make() -> None:
    assert schema.as_of_now() == schema.by_steps(VERSION), "run `.venv/bin/python docs/generate.py`"


def test_a_migration_that_fails_changes_nothing_and_can_be_tried_again(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.stage(row())
    before = book.dump()
    book.close()
    with monkeypatch.context() as broken:
        _with_one_more_version(broken, "alter table batch add column mood text", "create table batch (id)")
        with pytest.raises(MachineError):
            Ledger.open(book.path)
    with Ledger.open(book.path) as ledger:
        assert list(ledger.conn.iterdump()) == before
    _with_one_more_version(monkeypatch, "alter table batch add column mood text")

    Ledger.open(book.path).close()


def test_a_backup_that_cannot_be_made_stops_the_migration(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    book.close()
    book.path.with_name(f"ledger.db.v{VERSION}.bak").mkdir()
    _with_one_more_version(monkeypatch)

    with pytest.raises(MachineError, match="backed up"):
        Ledger.open(book.path)


@pytest.mark.parametrize("create", [False, True])
def test_a_directory_in_the_ledgers_place_is_refused(tmp_path: Path, create: bool) -> None:
    (tmp_path / "ledger.db").mkdir()

    with pytest.raises(MachineError):
        Ledger.open(tmp_path / "ledger.db", create=create)


def test_a_folder_that_is_not_there_or_cannot_be_written_is_this_machines_fault(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", Path("/proc/self")):
        with pytest.raises(MachineError, match="cannot open"):
            Ledger.open(folder / "ledger.db", create=True)


def test_a_read_only_folder_is_this_machines_fault(tmp_path: Path) -> None:
    """As a user without rights, in a process of its own: root may write anywhere."""
    code = (
        "import os, sys\n"
        "from oxenbatch.errors import MachineError\n"
        "from oxenbatch.ledger.book import Ledger\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "for create in (False, True):\n"
        "    try: Ledger.open('ledger.db', create=create)\n"
        "    except MachineError: print('refused')\n"
    )
    made = Book(tmp_path / "ledger.db")
    made.close()
    tmp_path.chmod(0o555)
    try:
        told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    finally:
        tmp_path.chmod(0o755)

    assert told.stdout.split() == ["refused", "refused"], told.stderr


def test_a_copy_is_whole_and_the_owners_alone(book: Book, tmp_path: Path) -> None:
    book.stage(row())
    (tmp_path / "copy.db").write_text("something older")
    book.ledger.copy_to(tmp_path / "copy.db")

    with Ledger.open(tmp_path / "copy.db") as copy:
        assert copy.conn.execute("select state from samples").fetchone()[0] == "pending"
    assert _mode(tmp_path / "copy.db") == 0o600


# -- blocks -------------------------------------------------------------------------------------------------------


def _names(ledger: Ledger) -> list[str]:
    return [found[0] for found in ledger.conn.execute("select key from jobs order by id")]


def _add(ledger: Ledger, key: str) -> None:
    ledger.conn.execute(
        "insert into jobs (key, occurrence, request_hash, model, prompt, parameters, metadata, samples, position,"
        " wanted, source, created_at) values (?, 1, 'r1:x', 'm', 'p', '{}', '{}', 1, 1, 1, '', 1.0)",
        (key,),
    )


def test_a_block_that_fails_leaves_nothing(book: Book) -> None:
    with pytest.raises(KeyError), book.ledger.immediate():  # noqa: PT012 - the block is the subject
        _add(book.ledger, "a")
        raise KeyError

    assert _names(book.ledger) == []
    assert not book.ledger.conn.in_transaction


def test_a_block_in_a_block_fails_alone_and_the_rest_is_committed(book: Book) -> None:
    with book.ledger.immediate():
        _add(book.ledger, "outer")
        with pytest.raises(KeyError), book.ledger.immediate():  # noqa: PT012 - the block is the subject
            _add(book.ledger, "inner")
            with book.ledger.immediate():
                _add(book.ledger, "innermost")
            raise KeyError
        with book.ledger.immediate():
            _add(book.ledger, "another")

    assert _names(book.ledger) == ["outer", "another"]


def test_an_outer_block_that_fails_takes_its_inner_blocks_with_it(book: Book) -> None:
    with pytest.raises(KeyError), book.ledger.immediate():  # noqa: PT012 - the block is the subject
        with book.ledger.immediate():
            _add(book.ledger, "inner")
        raise KeyError

    assert _names(book.ledger) == []


def test_a_commit_that_fails_leaves_nothing_and_the_ledger_usable(book: Book) -> None:
    book.stage(row())
    with pytest.raises(sqlite3.IntegrityError), book.ledger.immediate():
        book.ledger.conn.execute("update samples set generation_id = ? where id = 1", (new_id(),))  # checked at commit

    assert book.sample()["generation_id"] is None
    book.accept()
    assert book.state() is JobState.QUEUED


def test_a_block_is_seen_by_others_only_when_it_is_over(book: Book) -> None:
    other = sqlite3.connect(book.path)
    with book.ledger.immediate():
        _add(book.ledger, "a")
        assert other.execute("select count(*) from jobs").fetchone() == (0,)

    assert other.execute("select count(*) from jobs").fetchone() == (1,)
    other.close()


def test_whoever_begins_a_block_has_the_ledger_to_himself(book: Book) -> None:
    other = sqlite3.connect(book.path, timeout=0, isolation_level=None)
    with book.ledger.immediate(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("begin immediate")
    other.close()


# -- moves --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(JobState))
def test_a_move_is_made_as_the_table_says_or_refused_and_each_writes_one_line(book: Book, state: JobState) -> None:
    book.stage(row())
    book.bring(state)
    sample = book.sample()
    columns = {
        "submission_id": sample["submission_id"] or 77,
        "generation_id": sample["generation_id"] or new_id(),
        "file": sample["file"] or "x.png",
    }
    for event in Event:
        before, lines = book.sample(), book.one("select count(*) from events")
        try:
            became = after(state, event)
        except IllegalMove:
            with pytest.raises(IllegalMove, match=f"{state} cannot be {event}"):
                book.ledger.move(1, event, at=book.now)
            assert book.sample() == before
            assert book.one("select count(*) from events") == lines
            continue
        with pytest.raises(ZeroDivisionError), book.ledger.immediate():  # noqa: PT012 - the block is the subject
            book.ledger.conn.execute("pragma defer_foreign_keys = on")  # the columns are made up, and rolled back
            moved = book.ledger.move(1, event, at=9.0, note="why", generation_id="g", columns=columns)
            assert moved is became
            if became is state:
                assert book.sample() == before
                assert book.one("select count(*) from events") == lines
            else:
                assert book.sample() == before | columns | {"state": became}
                assert book.one("select count(*) from events") == lines + 1
                told = "select at, sample_id, generation_id, event, was, became, note from events order by id desc"
                assert book.all(told)[0] == (9.0, 1, "g", event, state, became, "why")
            raise ZeroDivisionError  # each event is tried from the same state


def test_late_news_changes_no_column(book: Book) -> None:
    book.stage(row())
    book.bring(JobState.DOWNLOADED)
    before = book.dump()

    assert book.ledger.move(1, Event.SEEN_FAILED, at=9.0, columns={"error": "late"}) is JobState.DOWNLOADED
    assert book.dump() == before


def test_every_state_and_every_event_of_the_table_is_known() -> None:
    assert set(MOVES) == set(JobState)
    assert {event for moves in MOVES.values() for event in moves} == set(Event)


def test_a_note_shows_control_characters_instead_of_holding_them(book: Book) -> None:
    book.stage(row())
    book.ledger.move(1, Event.CANCELLED_HERE, at=1.0, note="\x1b[2Jgone\n")

    assert book.one("select note from events") == "\\u001b[2Jgone\\n"


# -- the database's own guards ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        (
            "insert into generations (generation_id, sample_id, submission_id, model, state, attempt, accepted_at)"
            " values ('{other}', 1, 1, 'm', 'queued', 1, 1.0)"
        ),
        (
            "insert into generations (generation_id, sample_id, submission_id, model, state, attempt, accepted_at)"
            " values ('{other}', 1, 1, 'm', 'unfetchable', 1, 1.0)"
        ),
        (
            "insert into generations (generation_id, sample_id, submission_id, model, state, attempt, accepted_at)"
            " values ('{mine}', null, 1, 'm', 'surplus', 0, 1.0)"
        ),
        (
            "insert into generations (generation_id, sample_id, submission_id, model, state, attempt, accepted_at)"
            " values ('short', null, 1, 'm', 'surplus', 0, 1.0)"
        ),
        (
            "insert into generations (generation_id, sample_id, submission_id, model, state, attempt, accepted_at)"
            " values ('{other}', null, 99, 'm', 'surplus', 0, 1.0)"
        ),
        (
            "insert into generations (generation_id, sample_id, submission_id, model, state, attempt, accepted_at)"
            " values ('{other}', 99, 1, 'm', 'failed', 0, 1.0)"
        ),
        "update generations set state = 'lost'",
        "update samples set attempts = attempts_allowed + 1 where id = 1",
        "update samples set attempts = -1 where id = 1",
        "update samples set state = 'done' where id = 1",
        "update samples set state = 'submitting' where id = 2",
        "update samples set state = 'uncertain' where id = 2",
        "update samples set state = 'queued' where id = 2",
        "update samples set state = 'succeeded' where id = 2",
        "update samples set state = 'downloaded' where id = 1",
        "update samples set name_key = (select name_key from samples where id = 1) where id = 2",
        "update samples set estimate_nanos = -1 where id = 1",
        "update samples set estimate_nanos = 0.5 where id = 1",
        "update samples set wanted = 2 where id = 1",
        "update samples set number = 1, job_id = 1 where id = 2",
        "update samples set submission_id = 99 where id = 2",
        "update samples set generation_id = '{other}' where id = 2",
        "delete from jobs where id = 1",
        "delete from samples where id = 1",
        "delete from submissions",
        "update submissions set state = 'sent'",
        "update submissions set count = 0",
        "update submissions set run_id = 99",
        "update jobs set key = (select key from jobs where id = 1) where id = 2",
        "update jobs set samples = 0",
        "update batch set committed_nanos = -1",
        "insert into batch values (2, 'x', 'h', 1.0, 'd', null, 0, 0)",
    ],
)
def test_the_database_itself_refuses_what_must_never_be(book: Book, statement: str) -> None:
    book.stage(row("one"), row("two"))
    (mine,) = book.accept()

    with pytest.raises(sqlite3.IntegrityError):
        book.ledger.conn.execute(statement.format(mine=mine, other=new_id()))


def test_a_token_is_used_once(book: Book) -> None:
    book.stage(row("one"), row("two"))
    token = book.send().token

    with pytest.raises(sqlite3.IntegrityError):
        book.ledger.conn.execute(
            "insert into submissions (job_id, run_id, state, request_hash, token, count, intent_at)"
            " values (1, 1, 'intent', 'h', ?, 1, 1.0)",
            (token,),
        )


def test_a_schema_that_was_tampered_with_runs_no_functions_of_ours(book: Book) -> None:
    book.ledger.conn.create_function("leak", 0, lambda: 1)  # not marked harmless
    book.ledger.conn.execute("create trigger t after insert on jobs begin select leak(); end")

    with pytest.raises(sqlite3.OperationalError, match="unsafe"):
        book.stage(row(model=MODEL))


# -- dollars ------------------------------------------------------------------------------------------------------


@given(st.decimals(0, 1_000_000, allow_nan=False, places=12))
def test_nanodollars_are_never_too_few_and_never_one_too_many(dollars: Decimal) -> None:
    nanos = to_nanos(dollars)
    assert nanos is not None

    assert dollars <= to_dollars(nanos) < dollars + Decimal("0.000000001")


def test_an_unknown_price_stays_unknown() -> None:
    assert to_nanos(None) is None
    assert str(to_dollars(0)) == "0"
    assert f"{to_dollars(100_000_000_000):f}" == "100"


def test_money_never_goes_below_nothing(book: Book) -> None:
    book.ledger.commit_money(5)
    book.ledger.commit_money(-7)

    assert book.committed() == 0
