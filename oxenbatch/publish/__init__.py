"""A data set where others can have it: a look at its ledgers, its tables, and every file that they name.

What is published is what the tables name, by the hash that the ledger has: a damaged file stops the publication, and a
run that is under way meanwhile changes nothing in it. Where it goes is `oxen` (a repository on this machine, pushed to
the hub) or `huggingface`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from oxenbatch.account import folder_of
from oxenbatch.dataset.card import NAME as CARD
from oxenbatch.dataset.card import card
from oxenbatch.dataset.metadata import NAME as METADATA
from oxenbatch.dataset.metadata import write_metadata
from oxenbatch.dataset.tables import parquet_of
from oxenbatch.errors import MachineError, TryAgain, printable
from oxenbatch.ledger.book import Ledger
from oxenbatch.ledger.made import Made, made, one_look
from oxenbatch.names import inside

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["CARD", "METADATA", "Part", "Piece", "Publication", "Published", "names_in"]

CHUNK: Final = 1 << 20
PARQUET: Final = "results.parquet"  # not `metadata`: readers of picture folders take only one table of that name


@dataclass(frozen=True, slots=True)
class Part:
    """One batch, and its folder in the data set: nothing where the data set is that batch alone."""

    ledger: Path
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of the data set."""

    path: str
    """In the data set, with forward slashes."""
    source: Path
    sha256: str
    bytes: int


@dataclass(slots=True)
class Published:
    """What a publication changed, or would."""

    to: str
    files: int = 0
    """Results in the data set now."""
    added: int = 0
    added_bytes: int = 0
    removed: int = 0
    commit: str | None = None
    """The new version; None where nothing was new."""
    pushed_to: str | None = None


class Publication:
    """A consistent look at batches, in a folder that is thrown away: their tables, and what those name."""

    def __init__(self, parts: Sequence[Part], scratch: Path) -> None:
        """The tables are written; `TryAgain` where there is nothing to publish yet."""
        self.scratch = scratch
        self._sources: dict[str, Path] = {}
        self.made: dict[str, Made] = {}
        for part in parts:
            with Ledger.open(part.ledger) as ledger, one_look(ledger):
                found = made(ledger)
                if found is None or not found.models:
                    continue
                folder = scratch / part.prefix
                folder.mkdir(parents=True, exist_ok=True)
                write_tables(ledger, folder)
            self.made[part.prefix] = found
            self._sources[part.prefix] = folder_of(part.ledger)
        if not self.made:
            raise TryAgain("nothing to publish: no result is on disk yet; `oxenbatch run` makes some")

    @property
    def missing(self) -> int:
        """Wanted files that are not on disk yet."""
        return sum(one.missing for one in self.made.values())

    def tables(self) -> Iterator[tuple[str, Path]]:
        """(path in the data set, the file) of every table."""
        for prefix in self.made:
            for file in sorted((self.scratch / prefix).iterdir()):
                if file.is_file():
                    yield _joined(prefix, file.name), file

    def pieces(self) -> Iterator[Piece]:
        """Every result that the tables name."""
        for prefix, folder in self._sources.items():
            with (self.scratch / prefix / METADATA).open(encoding="utf-8") as lines:
                for line in lines:
                    row = json.loads(line)
                    try:
                        source = inside(folder, row["file_name"])
                    except ValueError as error:
                        raise MachineError(f"{printable(folder)}: {error}") from error
                    yield Piece(_joined(prefix, row["file_name"]), source, row["sha256"], row["bytes"])

    def card(self, existing: str | None) -> str:
        """The data card, in the place that it has in the one that is there."""
        return card(self.made, existing)


def write_tables(ledger: Ledger, folder: Path) -> None:
    """The data set's tables lie in the folder: the one place that decides which there are.

    Parquet, for programs that read columns, where pyarrow is installed.
    """
    write_metadata(ledger, folder)
    parquet_of(folder / METADATA, folder / PARQUET)


def names_in(metadata: Path) -> Iterator[str]:
    """The files that a table of an earlier publication names; nothing where there was none."""
    try:
        with metadata.open(encoding="utf-8") as lines:
            for line in lines:
                name = json.loads(line).get("file_name")
                if isinstance(name, str):
                    yield name
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError) as error:
        raise MachineError(f"{printable(metadata)} is no table of ours: {error}") from error


def damaged(piece: Piece, why: str) -> MachineError:
    """What a file that is not as the ledger says means."""
    remedy = "`oxenbatch verify --repair` fetches it again, for nothing; then publish again"
    return MachineError(f"{printable(piece.source)} {why}: {remedy}")


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name
