"""The ledger itself: how it is opened, how it commits, and how a sample moves.

Rules of residence: everything that decides whether a commit survives a power cut lives here. What must always
hold: write-ahead log and `synchronous=full`, asserted at every opening; a sample's state changes only in `move`,
together with its line in `events`; nobody outside `oxenbatch.ledger` writes SQL.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections import Counter
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

from oxenbatch.errors import ConfigProblem, MachineError, printable
from oxenbatch.jobs import Event, JobState, after
from oxenbatch.ledger.schema import APPLICATION_ID, NANOS, VERSION, create, migrate, normal, schema_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SQLITE: Final = sqlite3.sqlite_version
BUSY_TIMEOUT_S: Final = 30.0  # `status` and `retry` beside a run wait for its commits, which take milliseconds

VALUE_MAX: Final = 128 * 1024**2  # bytes of one value: twice a row with pictures in it, and none that fills the memory


class Ledger:
    """The batch's record of what is true now (`samples`) and how it became so (`events`).

    Bound to the thread that opened it. Times are Unix seconds, given by the caller.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.conn = connection
        self.moved: Counter[JobState] = Counter()
        """How many samples came to (or, below zero, left) each state through this object: for progress only."""

    @classmethod
    def open(cls, path: str | Path, *, create: bool = False) -> Self:
        """The ledger at `path`, migrated to this program's version.

        `MachineError` where there is none (unless `create`), where it is damaged or no ledger; `ConfigProblem`
        where a newer program wrote it.
        """
        path = Path(path)
        if not create and not path.is_file():
            raise MachineError(f"there is no ledger at {printable(path)}")
        _refuse_cut(path)
        try:
            if create:
                _make(path)
            connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, cached_statements=256)
        except (OSError, sqlite3.Error) as error:
            raise MachineError(f"cannot open the ledger {printable(path)}: {error}") from error
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_MAX)
        connection.row_factory = sqlite3.Row
        ledger = cls(path, connection)
        try:
            ledger._check_and_migrate(create=create)
        except BaseException:
            connection.close()
            raise
        return ledger

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The ledger at `path`, only to be looked at: no writer is kept waiting, and nothing in it can be changed.

        An older program's ledger is migrated first. Raises as `open` does.
        """
        path = Path(path)
        if not path.is_file():
            raise MachineError(f"there is no ledger at {printable(path)}")
        _refuse_cut(path)
        address = "file:" + quote(str(path.absolute()))
        # Who may write there clears the log away when he is the last to leave; who may not, reads all the same; and
        # where nobody may, there is no place for the log's index, and nobody who changes anything.
        for mode in ("?mode=rw", "?mode=ro", "?mode=ro&immutable=1"):
            with contextlib.suppress(sqlite3.Error), contextlib.ExitStack() as unless_used:
                connection = sqlite3.connect(address + mode, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
                unless_used.callback(connection.close)
                connection.execute("pragma query_only = on")
                ours = connection.execute("pragma application_id").fetchone()[0] == APPLICATION_ID
                version = connection.execute("pragma user_version").fetchone()[0]
                connection.execute("select 1 from batch").fetchone()
                if ours and version == VERSION:
                    connection.execute("pragma trusted_schema = off")
                    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_MAX)
                    connection.row_factory = sqlite3.Row
                    ledger = cls(path, connection)
                    refuse_strangers(connection, path=path, version=version)
                    unless_used.pop_all()
                    return ledger
        return cls.open(path)  # it is older, newer, damaged or no ledger at all: `open` migrates it, or says which

    def _check_and_migrate(self, *, create: bool) -> None:
        try:
            version = self._pragma("user_version")  # looked at before anything is set: a stranger's file stays as it is
            if self._pragma("application_id") not in (0, APPLICATION_ID) or (
                not version and self.conn.execute("select 1 from sqlite_master limit 1").fetchone()
            ):
                raise MachineError(f"{printable(self.path)} is a database, but not a ledger of oxenbatch")
            if not version and not create:
                raise MachineError(f"the ledger {printable(self.path)} is empty: restore it from a backup")
            if version > VERSION:
                raise ConfigProblem(
                    f"the ledger {printable(self.path)} was written by a newer oxenbatch (version {version}, this one"
                    f" knows {VERSION}): upgrade with `pip install -U oxenbatch`"
                )
            if version:
                refuse_strangers(self.conn, path=self.path, version=version)
            self._set_pragmas()
            if version < VERSION:
                self._migrate(version)
        except OSError as error:
            raise MachineError(f"the ledger {printable(self.path)} cannot be backed up: {error}") from error
        except sqlite3.DatabaseError as error:
            raise MachineError(
                f"the ledger {printable(self.path)} cannot be read ({error}): restore it from a backup, or move the"
                " folder's files elsewhere"
            ) from error

    def _set_pragmas(self) -> None:
        for pragma in (
            "journal_mode = wal",
            "synchronous = full",
            "fullfsync = on",  # macOS keeps an fsync in the drive's cache without it; elsewhere it says nothing
            "foreign_keys = on",
            "trusted_schema = off",
            "cell_size_check = on",
            "temp_store = file",  # a million rows are staged in a temporary table, and memory stays flat
        ):
            self.conn.execute(f"pragma {pragma}")
        # NORMAL lost intents in modelled power cuts and paid 559 generations for 160, so it is never assumed.
        if (
            self._pragma("journal_mode") != "wal"
            or self._pragma("synchronous") != 2
            or not self._pragma("foreign_keys")
        ):
            raise MachineError(
                f"{printable(self.path.parent)} is on a file system where SQLite cannot keep a write-ahead log: put the"
                " output on a local disk, or the ledger alone with --ledger"
            )

    def _pragma(self, name: str) -> Any:
        return self.conn.execute(f"pragma {name}").fetchone()[0]

    def _migrate(self, version: int) -> None:
        """Bring the tables to this program's version, in one transaction, with a backup beside an older ledger."""
        if version:
            self.copy_to(self.path.with_name(f"{self.path.name}.v{version}.bak"))
        self.conn.execute("pragma foreign_keys = off")
        with self.immediate():
            if self._pragma("user_version") == version:  # else another process was faster
                (migrate if version else create)(self.conn)
                self.conn.execute(f"pragma application_id = {APPLICATION_ID}")
                self.conn.execute(f"pragma user_version = {VERSION}")
        self.conn.execute("pragma foreign_keys = on")

    def copy_to(self, path: Path) -> None:
        """A whole and consistent copy of the ledger lies at `path`, in place of what was there."""
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        copy = sqlite3.connect(path)
        try:
            self.conn.backup(copy)
        finally:
            copy.close()

    def close(self) -> None:
        """Nothing of this ledger is open any more."""
        self.conn.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def immediate(self) -> Iterator[None]:
        """All of the block is committed and fsynced, or nothing of it; inside another block, a part of that one."""
        nested = self.conn.in_transaction
        self.conn.execute("savepoint step" if nested else "begin immediate")
        try:
            yield
            if not nested:
                self.conn.execute("commit")
        except BaseException:
            if self.conn.in_transaction:
                self.conn.execute("rollback to step" if nested else "rollback")
            raise
        finally:
            if nested and self.conn.in_transaction:
                self.conn.execute("release step")

    # -- moves ----------------------------------------------------------------------------------------------------

    def state_of(self, sample_id: int) -> JobState:
        """Where the sample stands now."""
        return JobState(self.conn.execute("select state from samples where id = ?", (sample_id,)).fetchone()[0])

    def move(
        self,
        sample_id: int,
        event: Event,
        *,
        at: float,
        note: str | None = None,
        submission_id: int | None = None,
        generation_id: str | None = None,
        columns: Mapping[str, Any] | None = None,
    ) -> JobState:
        """Move the sample, or change nothing where the news is late; `IllegalMove` where the table has no entry.

        `columns` are written in the same guarded update. Call inside `immediate`.
        """
        was = self.state_of(sample_id)
        became = after(was, event)
        if became is was:
            return was
        columns = columns or {}
        sets = "".join(f", {name} = ?" for name in columns)
        moved = self.conn.execute(
            f"update samples set state = ?{sets} where id = ? and state = ?",
            (became, *columns.values(), sample_id, was),
        ).rowcount
        if moved != 1:
            raise RuntimeError(f"sample {sample_id} left {was} while it was being {event}")
        self.conn.execute(
            "insert into events (at, sample_id, submission_id, generation_id, event, was, became, note)"
            " values (?, ?, ?, ?, ?, ?, ?, ?)",
            (at, sample_id, submission_id, generation_id, event, was, became, note and printable(note, 2000)),
        )
        self.moved[was] -= 1
        self.moved[became] += 1
        return became

    # -- money ----------------------------------------------------------------------------------------------------

    def commit_money(self, nanos: int) -> None:
        """What is spent or may yet be spent is `nanos` higher (or lower)."""
        self.conn.execute("update batch set committed_nanos = max(0, committed_nanos + ?)", (nanos,))


def refuse_strangers(conn: sqlite3.Connection, schema: str = "main", *, path: Path, version: int) -> None:
    """`MachineError` where the schema does what ours does not: a trigger, a table that is another, or a view."""
    ours = schema_of(version)
    found: dict[str, str] = {}
    for kind, name, statement in conn.execute(f"select type, name, sql from {schema}.sqlite_master"):
        if kind == "trigger":
            raise MachineError(
                f"the ledger {printable(path)} holds a trigger, {printable(name, 80)}, which is not ours and"
                " would change what we write: take it out with `drop trigger`, if you know why it is there"
            )
        if name in ours:
            found[name] = normal(statement or "")
    if found != ours:
        other = next(name for name, statement in ours.items() if found.get(name) != statement)
        raise MachineError(
            f"the ledger {printable(path)} is not as oxenbatch makes it: {other} is another, or is missing;"
            " restore it from a backup"
        )


def _refuse_cut(path: Path) -> None:
    """`MachineError` where the file is shorter than its own header says: SQLite notices only when it reads that far."""
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            head = file.read(100)
            size = os.fstat(file.fileno()).st_size
        log = path.with_name(f"{path.name}-wal")
        if len(head) < 100 or head[24:28] != head[92:96] or (log.exists() and log.stat().st_size):
            return  # a log may hold what is missing: that is SQLite's to judge
    except OSError:
        return  # whoever opens it says so
    page = int.from_bytes(head[16:18])
    if size < int.from_bytes(head[28:32]) * (65536 if page == 1 else page):
        raise MachineError(f"the ledger {printable(path)} was cut short: restore it from a backup")


def _make(path: Path) -> None:
    """There is a file, the owner's alone from birth; `MachineError` where what is there is a link or no file."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if path.is_symlink():
            raise MachineError(
                f"the ledger {printable(path)} is a link: take it away, or name the place that you mean with --ledger"
            ) from None
        raise error from None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise MachineError(f"{printable(path)} is in the ledger's place, and no file")
        for beside in (path.with_name(path.name + ending) for ending in ("-wal", "-shm", "-journal")):
            # SQLite follows no link there, but it would write into a file that has another name as well.
            if os.path.lexists(beside) and beside.lstat().st_nlink > 1:
                raise MachineError(f"{printable(beside)} is in the way: it is another file's second name; remove it")
    finally:
        os.close(file)


@lru_cache(maxsize=256)  # a manifest's million rows have a few prices
def to_nanos(dollars: Decimal | None) -> int | None:
    """Whole nanodollars, rounded up: what limits are held against is never too low."""
    return None if dollars is None else int((dollars * NANOS).to_integral_value(rounding=ROUND_CEILING))


def to_dollars(nanos: int) -> Decimal:
    """Exact dollars of whole nanodollars."""
    return (Decimal(nanos) / NANOS).normalize() if nanos else Decimal(0)
