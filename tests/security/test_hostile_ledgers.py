"""A ledger from somebody else, or one that was cut, changed, or is of another program: read with care, or refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hostile import PEAK_MB, Desk, Hub, is_quiet

from oxenbatch.ledger.schema import VERSION, normal, schema_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READING = [["status", "out/m"], ["ls", "out/m"], ["show", "out/m", "a"], ["verify", "out/m"], ["audit", "out/m"],
           ["retry", "out/m"], ["resolve", "out/m"], ["cancel", "out/m"]]  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A batch that is done."""
    with Hub() as hub:
        found = Desk(tmp_path, hub)
        assert found.run().code == 0
        yield found


def change(desk: Desk, *statements: str) -> None:
    """Somebody has been at the ledger."""
    with closing(sqlite3.connect(desk.folder / "out/m/ledger.db", isolation_level=None)) as db:
        db.execute("pragma ignore_check_constraints = on")
        db.execute("pragma writable_schema = on")
        for statement in statements:
            db.execute(statement)
        db.execute("pragma journal_mode = delete")


BOMB = "with recursive n(i) as (select 1 union all select i + 1 from n) select i as id, i as key from n"
SCHEMAS: dict[str, list[str]] = {
    "a trigger that writes": ["create trigger t after update on samples begin update batch set hub = 'x'; end"],
    "a trigger that deletes": ["create trigger t after insert on runs begin delete from submissions; end"],
    "a trigger in place of a view's writes": ["create trigger t instead of insert on results begin select 1; end"],
    "a view in a table's place": ["alter table jobs rename to kept", f"create view jobs as {BOMB}"],
    "a view of ours that is another": ["drop view results", f"create view results as {BOMB}"],
    "a table without its rules": [
        "alter table batch rename to kept", "create table batch as select * from kept",
    ],
    "a column that is computed": ["alter table runs add column x text as (hex(zeroblob(100000000)))"],
    "an index that computes": [
        "drop index samples_pending", "create index samples_pending on samples (hex(zeroblob(id)))",
    ],
    "a table that is missing": ["drop view results", "drop table events"],
    "a virtual table": ["alter table runs rename to kept", "create virtual table runs using fts5(id)"],
}  # fmt: skip


@pytest.mark.parametrize("what", SCHEMAS)
def test_a_schema_that_is_not_ours_is_refused_by_every_command_before_it_is_asked_anything(
    desk: Desk, what: str
) -> None:
    change(desk, *SCHEMAS[what])
    before = (desk.folder / "out/m/ledger.db").read_bytes()

    for done in (desk.call("status", "out/m"), desk.call("retry", "out/m"), desk.run()):
        assert done.code == 74, done.said
        assert is_quiet(done.out + done.err)
        assert done.peak_mb < PEAK_MB
    assert (desk.folder / "out/m/ledger.db").read_bytes() == before


def test_somebodys_own_views_and_tables_beside_ours_do_no_harm_and_are_not_asked(desk: Desk) -> None:
    change(desk, f"create view hostile as {BOMB}", "create table notes (text)", "create index mine on jobs (model)")

    assert desk.call("status", "out/m").code == 0
    assert desk.run(rows="a red cube\nanother\n").code == 0


def test_a_schema_is_the_same_however_it_is_spelt() -> None:
    assert normal("CREATE  TABLE\n x") == "create table x"
    assert schema_of(VERSION)
    assert set(schema_of(1)) - set(schema_of(VERSION)) == {"jobs_by_request"}


VALUES: dict[str, str] = {
    "a state that is none": "update samples set state = 'owned'",
    "a file outside": "update samples set file = '../../../etc/passwd'",
    "a name outside": "update samples set state = 'succeeded', name = '../../evil', file = null",
    "a file that is a control": "update samples set file = char(27) || '[2J'",
    "parameters that are no JSON": "update jobs set parameters = '[['",
    "parameters that are a list": "update jobs set parameters = '[1]'",
    "parameters of an abyss": f"update jobs set parameters = '{'[' * 100_000}'",
    "a cost that is none": "update generations set cost = 'NaN'",
    "a cost without end": "update generations set cost = '1e999999999'",
    "times without end": "update events set at = 9e999",
    "a time before all": "update runs set started_at = -1e300, ended_at = null",
    "an id that is a path": "update generations set generation_id = '../../../../../../../../etc/passwd/xx'",
    "an address of this machine": "update generations set state = 'succeeded', result_url = 'file:///etc/passwd'",
    "a megabyte of words": "update samples set error = hex(zeroblob(5000000)), state = 'failed'",
    "a date that is none": "update batch set created_on = 'x', created_at = 1e300",
    "a hub that is none": "update batch set hub = 'https://['",
}


@pytest.mark.parametrize("what", VALUES)
def test_values_that_are_not_ours_lead_nowhere_and_print_nothing_that_acts(desk: Desk, what: str) -> None:
    """A sentence or an exit code is good; a file outside, a hang, a gigabyte or an escape sequence is not."""
    change(desk, "pragma foreign_keys = off", VALUES[what])
    above = sorted(path.name for path in desk.folder.parent.iterdir())
    del desk.env["OXEN_BASE_URL"]

    for command in (["status", "out/m"], ["ls", "out/m", "--json"], ["show", "out/m", "a"], ["verify", "out/m"]):
        done = desk.call(*command, patience_s=20.0)
        assert done.peak_mb < PEAK_MB
        assert is_quiet(done.out + done.err), done.said
        assert b"root:" not in done.out + done.err
    assert sorted(path.name for path in desk.folder.parent.iterdir()) == above


FILES: dict[str, bytes | None] = {
    "empty": b"",
    "text": b"this is no database at all, and longer than a header of one hundred bytes would be, so that it is read "
    * 9,
    "a header alone": b"SQLite format 3\0",
    "a header and nonsense": b"SQLite format 3\0" + b"\xff" * 4000,
    "zeros": bytes(8192),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_no_ledger_is_refused_and_stays_as_it_is(desk: Desk, what: str) -> None:
    path = desk.folder / "out/m/ledger.db"
    path.write_bytes(FILES[what] or b"")

    for done in (desk.call("status", "out/m"), desk.run()):
        assert done.code == 74, done.said
    assert path.read_bytes() == FILES[what]


@pytest.mark.parametrize("kept", [100, 4096, 0.3, 0.7, 0.99])
def test_a_ledger_that_was_cut_is_refused(desk: Desk, kept: float) -> None:
    path = desk.folder / "out/m/ledger.db"
    change(desk)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept if kept > 1 else kept * len(whole))])

    done = desk.run(rows="another row\n")

    assert done.code == 74, done.said
    assert "backup" in done.said


@pytest.mark.parametrize("statement", ["pragma application_id = 252006673", "pragma user_version = 0"])
def test_another_applications_database_is_refused_and_stays_as_it_is(desk: Desk, statement: str) -> None:
    change(desk, statement)
    path = desk.folder / "out/m/ledger.db"
    before = path.read_bytes()

    for done in (desk.call("status", "out/m"), desk.run(), desk.call("retry", "out/m")):
        assert done.code == 74, done.said
    assert path.read_bytes() == before


def test_a_newer_ledger_is_refused_with_the_remedy_and_stays_as_it_is(desk: Desk) -> None:
    change(desk, f"pragma user_version = {VERSION + 1}")
    path = desk.folder / "out/m/ledger.db"
    before = path.read_bytes()

    for done in (desk.call("status", "out/m"), desk.run()):
        assert done.code == 78, done.said
        assert "pip install -U oxenbatch" in done.said
    assert path.read_bytes() == before


def test_no_extension_is_loaded_and_no_file_attached_by_a_ledger(desk: Desk) -> None:
    change(
        desk, "create view v as select load_extension('/tmp/x.so')", "create view w as select writefile('/tmp/x', 1)"
    )

    assert desk.call("status", "out/m").code == 0
    with closing(sqlite3.connect(desk.folder / "out/m/ledger.db")) as db, pytest.raises(sqlite3.Error):
        db.execute("select * from v").fetchall()
