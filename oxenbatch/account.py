"""What all batches of this user share: which ledgers there are, and the limits that hold over all of them at once.

One small SQLite file in the user's data folder. Ledgers register in it, so that a send of theirs is never adopted by
another; runs write there how many places at the hub and how much money they hold, before they take them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from platformdirs import user_config_path, user_data_path

from oxenbatch.errors import ConfigProblem, printable
from oxenbatch.ledger.book import BUSY_TIMEOUT_S, to_nanos
from oxenbatch.ledger.runs import is_alive
from oxenbatch.settings import CONFIG, user_config

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

NAME: Final = "account.db"
LOCK: Final = "run.lock"  # every run leaves one in its output folder

_TABLES: Final = """
create table if not exists batches (
  ledger text primary key,
  hub text not null,
  registered_at real not null,
  pid integer,
  active integer not null default 0
) strict;
create table if not exists spending (
  ledger text not null,
  hub text not null,
  day text not null,
  before_nanos integer not null,
  nanos integer not null,
  primary key (day, hub, ledger)
) strict, without rowid;
"""
_PLACES: Final = "create table if not exists places (ledger text primary key, folder text not null unique) strict"


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """What the user's configuration allows all batches together; None: no such limit."""

    concurrency: int | None = None
    max_cost_per_day: Decimal | None = None
    """Dollars in one day of this machine's local time."""


def read_limits(path: Path | None = None) -> AccountLimits:
    """The limits in the user's `config.toml`; `ConfigProblem` where it says what cannot be used."""
    content = user_config(path)
    path = path or user_config_path("oxenbatch") / CONFIG
    concurrency, cost = content.get("concurrency"), content.get("max_cost_per_day")
    if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
        raise ConfigProblem(f"{printable(path)}: concurrency is {concurrency!r}, expected a whole number from 1")
    if cost is not None and (isinstance(cost, bool) or not isinstance(cost, int | Decimal) or cost < 0):
        raise ConfigProblem(f"{printable(path)}: max_cost_per_day is {cost!r}, expected dollars")
    return AccountLimits(concurrency, None if cost is None else Decimal(cost))


def remember_folder(ledger: Path, folder: Path, *, data: Path | None = None) -> None:
    """The files of this ledger, which lies elsewhere, are in this folder: noted where only this user writes.

    Not in the ledger, which may be a stranger's: commands delete and replace files in that folder.
    """
    data = data or user_data_path("oxenbatch")
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.closing(sqlite3.connect(data / NAME, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as conn:
            conn.execute(_PLACES)
            conn.execute("insert or replace into places values (?, ?)", (str(ledger.resolve()), str(folder.resolve())))
    except (OSError, sqlite3.Error) as error:
        log.warning("it cannot be noted in %s where the files of this ledger are: %s", printable(data), error)


def folder_of(ledger: Path, *, data: Path | None = None) -> Path:
    """Where the files of this ledger are: beside it, or where a run of this user has put them."""
    if (ledger.parent / LOCK).exists():
        return ledger.parent
    found = _place("select folder from places where ledger = ?", ledger, data)
    return Path(found) if found and Path(found).is_dir() else ledger.parent


def ledger_of(folder: Path, *, data: Path | None = None) -> Path | None:
    """The ledger of this folder's files, which lies elsewhere; None where this user knows of none."""
    found = _place("select ledger from places where folder = ?", folder, data)
    return Path(found) if found and Path(found).is_file() else None


def _place(query: str, path: Path, data: Path | None) -> str | None:
    register = (data or user_data_path("oxenbatch")) / NAME
    if not register.is_file():
        return None
    with contextlib.suppress(OSError, sqlite3.Error), contextlib.closing(sqlite3.connect(register)) as conn:
        row = conn.execute(query, (str(path.resolve()),)).fetchone()
        return str(row[0]) if row else None
    return None  # there is no such table before the first ledger lies elsewhere


class Account:
    """The register of one user's ledgers at one hub, as one batch sees it. A context manager; bound to its thread."""

    def __init__(
        self,
        hub: str,
        ledger: Path,
        *,
        at: float,
        limits: AccountLimits,
        folder: Path | None = None,
        runs: bool = True,
    ) -> None:
        """`runs`: it takes places at the hub; whoever only asks leaves those of a run that is under way to it."""
        self.hub = hub
        self._runs = runs
        self.limits = limits
        self._ledger = str(ledger.resolve())
        folder = folder or user_data_path("oxenbatch")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._conn = sqlite3.connect(folder / NAME, timeout=BUSY_TIMEOUT_S, isolation_level=None,
                                         check_same_thread=False)  # fmt: skip
            self._conn.execute("pragma journal_mode = wal")
            self._conn.executescript(_TABLES)
            self._conn.execute(
                "insert into batches (ledger, hub, registered_at, pid) values (?, ?, ?, ?) on conflict do "
                + ("update set hub = excluded.hub, pid = excluded.pid" if runs else "nothing"),
                (self._ledger, hub, at, os.getpid() if runs else None),
            )
        except (OSError, sqlite3.Error) as error:
            raise ConfigProblem(f"the register of batches in {printable(folder)} cannot be used: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._runs:
                self._conn.execute("update batches set pid = null where ledger = ?", (self._ledger,))
        self._conn.close()

    def siblings(self) -> list[Path]:
        """The other ledgers of this user at this hub that are still there."""
        rows = self._conn.execute(
            "select ledger from batches where hub = ? and ledger <> ?", (self.hub, self._ledger)
        ).fetchall()
        return [path for row in rows if (path := Path(row[0])).is_file()]

    def forget(self) -> None:
        """This ledger is in the register no more."""
        self._conn.execute("delete from batches where ledger = ?", (self._ledger,))

    @property
    def is_limited(self) -> bool:
        """Whether the configuration sets a limit for all batches together."""
        return self.limits != AccountLimits()

    @contextlib.contextmanager
    def reserving(self, active: int, committed_nanos: int, day: str) -> Iterator[Room]:
        """The room that the account leaves this batch; what is taken in it is kept.

        `active`: generations that this batch has at the hub; `committed_nanos`: what it has cost so far, or may. Other
        runs wait meanwhile (milliseconds), so that two of them never take the same place.
        """
        self._conn.execute("begin immediate")
        try:
            # A batch's spending of a day is what it has committed since its first look that day: money that comes back,
            # and charges that differ from their estimates, are in it by themselves.
            self._conn.execute(
                "insert into spending values (?, ?, ?, ?, 0) on conflict do update set nanos = ? - before_nanos",
                (self._ledger, self.hub, day, committed_nanos, committed_nanos),
            )
            room = Room(self._places(active), self._nanos(day))
            yield room
            self._conn.execute("update batches set active = ? where ledger = ?", (active + room.taken, self._ledger))
            self._conn.execute(
                "update spending set nanos = nanos + ? where ledger = ? and hub = ? and day = ?",
                (room.nanos_taken, self._ledger, self.hub, day),
            )
            self._conn.execute("commit")
        except BaseException:
            self._conn.execute("rollback")
            raise

    def _places(self, active: int) -> int | None:
        if self.limits.concurrency is None:
            return None
        others = self._conn.execute(
            "select pid, active from batches where hub = ? and ledger <> ? and pid is not null and active > 0",
            (self.hub, self._ledger),
        ).fetchall()
        taken: int = active + sum(count for pid, count in others if is_alive(pid))
        return max(0, self.limits.concurrency - taken)

    def _nanos(self, day: str) -> int | None:
        if self.limits.max_cost_per_day is None:
            return None
        spent = self._conn.execute(
            "select coalesce(sum(nanos), 0) from spending where hub = ? and day = ?", (self.hub, day)
        ).fetchone()[0]
        return (to_nanos(self.limits.max_cost_per_day) or 0) - int(spent)


@dataclass(slots=True)
class Room:
    """What may be taken now, and what was; None: no limit."""

    places: int | None
    nanos: int | None
    taken: int = 0
    nanos_taken: int = 0
