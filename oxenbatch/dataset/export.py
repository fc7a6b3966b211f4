"""The data set in the form that somebody's program reads: a table, shards, a folder with captions."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, get_args

from oxenbatch.account import folder_of
from oxenbatch.dataset import shards, tables
from oxenbatch.dataset.copying import bring
from oxenbatch.dataset.metadata import NAME as METADATA
from oxenbatch.dataset.owned import OwnedFolder, refused
from oxenbatch.dataset.replacing import replaced
from oxenbatch.dataset.selection import UNSPLIT, entries, spooled
from oxenbatch.errors import MachineError, UsageProblem, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from oxenbatch.dataset.selection import Entry, Source, Spool, Wanted

Format = Literal["jsonl", "csv", "parquet", "webdataset", "captions", "folder"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
SUFFIXES: Final[dict[str, Format]] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".pq": "parquet", ".tar": "webdataset",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Terms:
    """How it is to be written."""

    format: Format
    split_by: str | None = None
    """The column whose values name the splits."""
    caption: str = "prompt"
    """The column that captions are of."""
    link: bool = False
    shard_bytes: int = shards.SHARD_BYTES


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    rows: int
    splits: dict[str, int]


def guessed_format(path: Path) -> Format:
    """The format that the name asks for; `UsageProblem` where it names none."""
    found = SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise UsageProblem(f"{printable(path)} does not say in which format: add --format ({', '.join(FORMATS)})")
    return found


def export(sources: Sequence[Source], to: Path | None, wanted: Wanted, terms: Terms) -> Exported:
    """The wanted samples are at `to`, or on standard output (None), in that form.

    `MachineError` where a file that no export has made is in the way, or a result is not as it was.
    """
    _refuse_what_cannot_be_meant(sources, to, terms)
    found = entries(sources, wanted)
    if terms.format not in tables.TABLES:
        found = (entry for entry in found if entry.file)
    with spooled(found, terms.split_by) as spool:
        if to is None or (terms.format in tables.TABLES and terms.split_by is None):
            _table(spool, to, terms)
        elif terms.format in tables.TABLES:
            _tables(spool, to, terms)
        elif terms.format == "webdataset":
            _shards(spool, to, terms)
        else:
            _folder(spool, to, sources, terms)
        return Exported(sum(spool.splits.values()), spool.splits)


def _refuse_what_cannot_be_meant(sources: Sequence[Source], to: Path | None, terms: Terms) -> None:
    if to is None and terms.format not in ("jsonl", "csv"):
        raise UsageProblem(f"{terms.format} is no stream: name a file or folder with -o")
    whole = to is None or (terms.format == "webdataset" and to.suffix.lower() == ".tar")
    if whole and terms.split_by is not None:
        raise UsageProblem("splits are files of their own: name a folder with -o")
    for source in sources:
        ledger = source.ledger.absolute()
        if to is not None and to.absolute() in (ledger, ledger.with_name(METADATA)):
            raise UsageProblem(f"{printable(to)} is the batch's own: choose another name with -o")


def _table(spool: Spool, to: Path | None, terms: Terms) -> None:
    """All of it in one file, or on standard output."""
    table: Callable[..., Any] = tables.TABLES[terms.format]
    with _opened(to) as file, table(file, spool.columns) as add:
        for _, entry in spool:
            add(entry.line)


def _tables(spool: Spool, to: Path, terms: Terms) -> None:
    """A file for each split, all with the same columns."""
    table: Callable[..., Any] = tables.TABLES[terms.format]
    folder = _owned(to)
    with ExitStack() as stack:
        add_to = {}
        for split in spool.splits:
            file = stack.enter_context(replaced(folder.claim(f"{split}.{terms.format}")))
            add_to[split] = stack.enter_context(table(file, spool.columns))
        for split, entry in spool:
            add_to[split](entry.line)
    _readme(folder, {split: f"{split}.{terms.format}" for split in spool.splits})
    folder.finish()


def _opened(to: Path | None) -> Any:
    if to is None:
        return _Standard()
    _refuse_strangers(to, tables.is_ours)
    return replaced(to)


class _Standard:
    """Standard output as a file that is not closed."""

    def __enter__(self) -> BinaryIO:
        return sys.stdout.buffer

    def __exit__(self, *_: object) -> None:
        sys.stdout.buffer.flush()


def _refuse_strangers(to: Path, is_ours: Callable[[Path], bool]) -> None:
    try:
        if not to.exists() and not to.is_symlink():
            to.parent.mkdir(parents=True, exist_ok=True)
            return
        known = to.is_file() and not to.is_symlink() and is_ours(to)
    except (OSError, ValueError) as error:
        raise MachineError(f"cannot write {printable(to)}: {error}") from error
    if not known:
        raise refused(to)


def _owned(to: Path) -> OwnedFolder:
    if to.exists() and not to.is_dir():
        raise refused(to)
    return OwnedFolder(to)


def _shards(spool: Spool, to: Path, terms: Terms) -> None:
    if to.suffix.lower() == ".tar":
        _refuse_strangers(to, shards.is_ours)
        with shards.Shards(lambda: to, shard_bytes=None) as whole:
            for _, entry in spool:
                whole.add(entry)
        return
    folder = _owned(to)
    counts = dict.fromkeys(spool.splits, 0)

    def next_path(split: str) -> Callable[[], Path]:
        def path() -> Path:
            counts[split] += 1
            return folder.claim(f"{split}-{counts[split] - 1:06d}.tar")

        return path

    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(shards.Shards(next_path(split), shard_bytes=terms.shard_bytes))
            for split in spool.splits
        }
        for split, entry in spool:
            writers[split].add(entry)
    folder.finish()


def _folder(spool: Spool, to: Path, sources: Sequence[Source], terms: Terms) -> None:
    """Files with captions beside them, or with a `metadata.jsonl` a split, as Hugging Face's folders have it."""
    beside = terms.format == "captions" and any(to.absolute() == folder_of(s.ledger).absolute() for s in sources)
    if beside and (terms.split_by is not None or len(sources) > 1):
        raise UsageProblem(f"captions of several splits or batches need a folder of their own, not {printable(to)}")
    folder = _owned(to)
    captions = terms.format == "captions"
    with ExitStack() as stack:
        add_to: dict[str, Callable[[dict[str, Any]], None]] = {}
        if not captions:
            for split in spool.splits:
                file = stack.enter_context(replaced(folder.claim(f"{split}/{METADATA}")))
                add_to[split] = stack.enter_context(tables.jsonl(file, spool.columns))
        for split, entry in spool:
            name = entry.line["file_name"]
            place = name if captions and terms.split_by is None else f"{split}/{name}"
            if not beside:
                bring(entry, folder.claim(place), link=terms.link)
            if captions:
                with replaced(folder.claim(f"{place.rpartition('.')[0]}.txt")) as file:
                    file.write(_caption(entry, terms.caption).encode("utf-8", "backslashreplace"))
            else:
                add_to[split](entry.line)
    if not captions and list(spool.splits) != [UNSPLIT]:
        _readme(folder, {split: f"{split}/**" for split in spool.splits})
    folder.finish()


def _caption(entry: Entry, column: str) -> str:
    """The text in one line: trainers read no further."""
    value = entry.line.get(column)
    if value is None:
        raise UsageProblem(f"{printable(entry.line['file_name'])} has no {printable(column, 60)} to be its caption")
    return " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())


def _readme(folder: OwnedFolder, files: dict[str, str]) -> None:
    """`load_dataset(FOLDER)` finds every split, whatever its name."""
    configs = [{"split": split, "path": path} for split, path in files.items()]
    head = json.dumps([{"config_name": "default", "data_files": configs}], ensure_ascii=False)  # JSON is YAML too
    with replaced(folder.claim("README.md")) as file:
        file.write(f"---\nconfigs: {head}\n---\n\nMade by `oxenbatch export`.\n".encode())
