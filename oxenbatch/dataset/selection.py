"""Which samples of which batches a table shows, and where their files are."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from oxenbatch.account import folder_of
from oxenbatch.dataset.columns import Columns, text_of
from oxenbatch.dataset.metadata import line_of
from oxenbatch.errors import UsageProblem, printable
from oxenbatch.jobs import JobState
from oxenbatch.ledger import results
from oxenbatch.ledger.book import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ODD: Final = ("blank", "identical", "mismatched")


@dataclass(frozen=True, slots=True)
class Source:
    """One batch of several, or the only one."""

    ledger: Path
    prefix: str = ""
    """What its file names begin with: `2026-11-22/`, or nothing."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which samples are wanted; all that is said must hold."""

    states: tuple[JobState, ...] = (JobState.DOWNLOADED,)
    models: tuple[str, ...] = ()
    """Any of these; none named: any."""
    media: str | None = None
    """`image` or `video`; None: both, and samples without a file."""
    where: tuple[tuple[str, bool, str], ...] = ()
    """(column, whether it is or is not, value as text)."""
    without: tuple[str, ...] = ()
    """Leave these out, of `ODD`; of identical results the first is kept."""
    limit: int | None = None


class Entry(NamedTuple):
    """One sample in the table."""

    line: dict[str, Any]
    folder: str
    """Its batch's, absolutely."""
    file: str | None
    """Its file in there, as the ledger has it; None where there is none."""


def sources_of(ledgers: Sequence[Path], named: Sequence[str]) -> list[Source]:
    """The batches, with names relative to what was named: a folder of nights, or the folder that they share."""
    folders = [folder_of(path).absolute() for path in ledgers]
    root = Path(os.path.commonpath(folders))
    if len(named) == 1 and Path(named[0]).is_dir():
        root = Path(named[0]).absolute()  # so that the second night changes no name of the first
    found = [Source(path, f"{folder.relative_to(root)}/") for path, folder in zip(ledgers, folders, strict=True)]
    return [Source(one.ledger, "" if one.prefix == "./" else one.prefix) for one in found]


def entries(sources: Sequence[Source], wanted: Wanted) -> Iterator[Entry]:
    """The wanted samples, batch after batch, each in its manifest's order."""
    left = wanted.limit
    for source in sources:
        folder = str(folder_of(source.ledger).absolute())
        with Ledger.open(source.ledger) as ledger, results.one_moment(ledger):
            batch = source.prefix.rstrip("/") if len(sources) > 1 else None
            for record in results.records(ledger, wanted.states):
                if left is not None and left <= 0:
                    return
                line = _line(record, source.prefix, batch, with_state=wanted.states != (JobState.DOWNLOADED,))
                if _is_wanted(record, line, wanted):
                    left = None if left is None else left - 1
                    yield Entry(line, folder, record["file"])


def _line(record: dict[str, Any], prefix: str, batch: str | None, *, with_state: bool) -> dict[str, Any]:
    line = line_of(record)
    if record["file"]:
        line["file_name"] = prefix + record["file"]
    more = {} if batch is None else {"batch": batch}
    if with_state:
        more |= {"state": record["state"], "error": record["error"]}
    return line | {name: value for name, value in more.items() if name not in line}


def _is_wanted(record: dict[str, Any], line: dict[str, Any], wanted: Wanted) -> bool:
    if wanted.models and record["model"] not in wanted.models:
        return False
    if wanted.media and (record["media_type"] or "").partition("/")[0] != wanted.media:
        return False
    odd = {
        "blank": record["blank"] == 1,
        "identical": record["same_as"] not in (None, record["file"]),
        "mismatched": bool(record["mismatches"]),
    }
    if any(odd[what] for what in wanted.without):
        return False
    return all((text_of(line.get(name)) == value) is same for name, same, value in wanted.where)


class Spool:
    """The entries as they were at one moment, on disk: read as often as needed, in flat memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - closed by `spooled`
        self.columns = Columns()
        self.splits: dict[str, int] = {}
        """How many entries each split has, in the order of their coming."""

    def close(self) -> None:
        """It is gone."""
        self._file.close()

    def put(self, entry: Entry, split: str) -> None:
        """One entry more."""
        self.columns.see(entry.line)
        self.splits[split] = self.splits.get(split, 0) + 1
        self._file.write(json.dumps([split, *entry]) + "\n")

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        """(split, entry), mixed values as text."""
        self._file.seek(0)
        mixed = self.columns.mixed
        for text in self._file:
            split, line, folder, file = json.loads(text)
            for name in mixed & line.keys():
                line[name] = text_of(line[name])
            yield split, Entry(line, folder, file)


SPLITS_MAX: Final = 100  # each is a file that is open; more are no splits but a column of texts
UNSPLIT: Final = "train"  # what readers call a data set's only part


@contextmanager
def spooled(found: Iterator[Entry], split_by: str | None) -> Iterator[Spool]:
    """The entries, by split where a column is named; `UsageProblem` where that column cannot name splits."""
    spool = Spool()
    try:
        for entry in found:
            split = UNSPLIT if split_by is None else _split_name(entry, split_by)
            spool.put(entry, split)
            if len(spool.splits) > SPLITS_MAX:
                raise UsageProblem(f"{printable(split_by, 60)} has more than {SPLITS_MAX} values: that makes no splits")
        if split_by is not None and spool.splits and split_by not in spool.columns.shapes:
            names = ", ".join(printable(name, 40) for name in list(spool.columns.shapes)[:30])
            raise UsageProblem(f"no row has the column {printable(split_by, 60)}; there are {names}")
        yield spool
    finally:
        spool.close()


def _split_name(entry: Entry, split_by: str) -> str:
    """The value as a word that readers take as a split's name; rows without one are `other`."""
    value = text_of(entry.line.get(split_by))
    word = "".join(c if c.isalnum() else "_" for c in value or "").strip("_")[:60]
    return word or "other"
