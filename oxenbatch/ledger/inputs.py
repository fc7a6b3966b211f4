"""Files of this machine that jobs send along: what they were when they were read, and where the hub keeps them.

A job refers to a file by its bytes; the address comes in when a request is made. What must always hold: no request
leaves with a reference in it, so a sample whose files are not stored yet is not sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.jobs import InputFile, with_addresses

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oxenbatch.ledger.book import Ledger

REMEMBERED: Final = 10_000  # inputs that one staging need not look up again


# -- what the manifest names --------------------------------------------------------------------------------------


def known_file(ledger: Ledger, path: str) -> InputFile | None:
    """What an earlier reading of the manifest found at this path."""
    row = ledger.conn.execute(
        "select i.name, i.bytes, f.mtime_ns, f.inode from input_files f join inputs i on i.id = f.input_id"
        " where f.path = ?",
        (path,),
    ).fetchone()
    if row is None:
        return None
    sha256, _, extension = row["name"].partition(".")
    return InputFile(sha256, extension, row["bytes"], path, (row["bytes"], row["mtime_ns"], row["inode"]))


def files(ledger: Ledger) -> Iterable[tuple[str, tuple[int, int, int]]]:
    """(path, mark) of every file that the manifest named when it was read last."""
    for row in ledger.conn.execute("select path, bytes, mtime_ns, inode from input_files where wanted = 1"):
        yield row["path"], (row["bytes"], row["mtime_ns"], row["inode"])


class Staging:
    """The files of one reading of the manifest."""

    def __init__(self, ledger: Ledger) -> None:
        self._conn = ledger.conn
        self._ids: dict[str, int] = {}
        self._conn.execute("update input_files set wanted = 0 where wanted = 1")

    def add(self, job_id: int, files: Iterable[InputFile]) -> None:
        """The job sends these files along."""
        for file in files:
            self._conn.execute(
                "insert into job_inputs (input_id, job_id) values (?, ?) on conflict do nothing",
                (self.keep(file), job_id),
            )

    def keep(self, file: InputFile) -> int:
        """The file is known, and named by the manifest; its id."""
        if (known := self._ids.get(file.path)) is not None:
            return known
        self._conn.execute(
            "insert into inputs (sha256, name, bytes) values (?, ?, ?) on conflict do nothing",
            (file.sha256, file.name, file.bytes),
        )
        found = int(self._conn.execute("select id from inputs where sha256 = ?", (file.sha256,)).fetchone()[0])
        self._conn.execute(
            "insert into input_files (path, input_id, bytes, mtime_ns, inode, wanted) values (?, ?, ?, ?, ?, 1)"
            " on conflict (path) do update set input_id = excluded.input_id, bytes = excluded.bytes,"
            " mtime_ns = excluded.mtime_ns, inode = excluded.inode, wanted = 1",
            (file.path, found, *file.mark),
        )
        if len(self._ids) >= REMEMBERED:
            self._ids.clear()
        self._ids[file.path] = found
        return found


# -- what the hub keeps -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unstored:
    """A file that has to be at the hub before the jobs that need it are sent."""

    input_id: int
    name: str
    bytes: int
    path: str
    """Of one of the files with these bytes, as the manifest has it."""


_NEEDED: Final = """
select i.id, i.name, i.bytes, (select path from input_files f where f.input_id = i.id order by wanted desc limit 1)
from inputs i
where i.id > :after and (i.address is null or substr(i.address, 1, length(:folder)) <> :folder)
  and exists (select 1 from job_inputs u cross join samples s on s.job_id = u.job_id
              where u.input_id = i.id and s.state = 'pending' and s.wanted = 1)
order by i.id limit :limit
"""


def unstored(ledger: Ledger, folder: str, *, after: int = 0, limit: int = 16) -> list[Unstored]:
    """Files that unsent samples need and that are not in this folder of the hub, in the manifest's order."""
    bound = {"folder": folder, "after": after, "limit": limit}
    return [Unstored(*row) for row in ledger.conn.execute(_NEEDED, bound)]


def stored(ledger: Ledger, input_id: int, address: str, *, at: float) -> None:
    """The hub has the file, at this address."""
    ledger.conn.execute("update inputs set address = ?, stored_at = ? where id = ?", (address, at, input_id))


def are_lacking(ledger: Ledger, job_id: int, folder: str | None) -> bool:
    """Whether the job cannot be sent yet, since a file of it is not in this folder of the hub."""
    lacking = ledger.conn.execute(
        "select 1 from job_inputs u join inputs i on i.id = u.input_id where u.job_id = :job"
        " and (:folder is null or i.address is null or substr(i.address, 1, length(:folder)) <> :folder) limit 1",
        {"job": job_id, "folder": folder},
    ).fetchone()
    return lacking is not None


def addressed(ledger: Ledger, parameters: dict[str, Any], written: Iterable[str]) -> dict[str, Any]:
    """The parameters with the addresses of the files in them; a file that was never stored stays a reference."""

    def address(name: str) -> str | None:
        row = ledger.conn.execute("select address from inputs where sha256 = ?", (name[:64],)).fetchone()
        return row[0] if row else None

    return {**parameters, **{name: with_addresses(parameters[name], address) for name in written if name in parameters}}
