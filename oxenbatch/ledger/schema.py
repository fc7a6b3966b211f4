"""How a ledger comes to have its tables, and how they are known from a stranger's."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Final, cast

from oxenbatch.ledger.steps import STEPS

if TYPE_CHECKING:
    from sqlite_utils import Database

APPLICATION_ID: Final = 0x6F786221  # "oxb!", so that `file` and we ourselves know a ledger from another SQLite file
NANOS: Final = 1_000_000_000  # nanodollars in a dollar
VERSION: Final = len(STEPS)

# How sqlite-utils remembers which steps were taken.
TAKEN = """
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
)
"""
TAKEN_INDEX = """
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name")
"""


def create(connection: sqlite3.Connection) -> None:
    """A new ledger has every table, as if sqlite-utils had taken every step; call inside a transaction.

    A test holds the two against each other. Its import takes 0.1 to 0.9 s, which no first run should wait for.
    """
    for statement in (TAKEN.strip(), TAKEN_INDEX.strip(), *as_of_now().values()):
        connection.execute(statement)
    connection.executemany(
        "insert into _sqlite_migrations (migration_set, name, applied_at) values ('oxenbatch', ?, ?)",
        [(name, str(datetime.now(UTC))) for name, _ in STEPS],
    )


def migrate(connection: sqlite3.Connection) -> None:
    """Every table of an older ledger is as this program knows it; call inside a transaction, with foreign keys off.

    Tables are made anew: where references were followed, the old one's end would be the end of all that refer to it.
    sqlite-utils keeps the list of steps that were taken; it is imported here, since it takes 0.1 to 0.9 s.
    """
    from sqlite_utils import Database, Migrations  # noqa: PLC0415 - only a new or older ledger pays for it

    steps = Migrations("oxenbatch")
    for name, statements in STEPS:
        steps(name=name)(_step(statements))
    steps.apply(Database(connection))


@cache
def schema_of(version: int) -> dict[str, str]:
    """Every table, view and index of ours in that version, and the statement that makes it, as `normal` writes it."""
    made = as_of_now() if version == VERSION else by_steps(version)
    return {name: normal(statement) for name, statement in made.items()}


def by_steps(version: int) -> dict[str, str]:
    """The statements that make what the steps up to that version leave behind, by name."""
    with closing(sqlite3.connect(":memory:")) as memory:
        for _, statements in STEPS[:version]:
            for statement in statements:
                memory.execute(statement)
        made = memory.execute("select name, sql from sqlite_master where sql is not null").fetchall()
    return {name: statement.strip() for name, statement in made}


@cache
def as_of_now() -> dict[str, str]:
    """The statements that make this version's tables, views and indexes, by name.

    They are written down beside us, by `docs/generate.py`: every step once more would cost each command 6 ms.
    """
    text = Path(__file__).with_name("tables.sql").read_text(encoding="utf-8").removeprefix(_HEAD)
    return {_NAME.findall(statement)[0]: statement for statement in text.removesuffix(";\n").split(";\n\n")}


_NAME: Final = re.compile(r'^create (?:unique )?(?:table|index|view) "?(\w+)', re.IGNORECASE)
_HEAD: Final = "-- The ledger's tables in this version: what all of steps.py makes. Written by docs/generate.py.\n\n"


def as_text(statements: dict[str, str]) -> str:
    """What `as_of_now` reads."""
    return _HEAD + ";\n\n".join(statements.values()) + ";\n"


def normal(statement: str) -> str:
    """The statement without what does not matter: spaces and capitals."""
    return " ".join(statement.lower().split())


def _step(statements: tuple[str, ...]) -> FunctionType:
    def step(db: Database) -> None:
        for statement in statements:
            db.conn.execute(statement)

    return cast(FunctionType, step)
