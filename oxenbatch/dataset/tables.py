"""Tables in one file: JSON lines, CSV, Parquet. Each writer is given lines of one and the same set of columns."""

from __future__ import annotations

import csv
import io
import json
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from oxenbatch.dataset.columns import Columns, text_of
from oxenbatch.errors import UsageProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from oxenbatch.dataset.columns import Shape

FIRST: Final = ("file_name", "prompt", "model", "batch", "state", "error")
LAST: Final = (
    "generation_id", "sha256", "bytes", "width", "height", "seconds", "fps", "audio", "cost", "created_at",
)  # fmt: skip
ROWS_A_GROUP: Final = 10_000  # of Parquet: some megabytes in memory, and few enough groups to read fast
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute instead of show


def ordered(columns: Columns) -> list[str]:
    """The names: what a row is, what it was made with, what came of it."""
    names = columns.shapes
    middle = [name for name in names if name not in FIRST and name not in LAST]
    return [name for name in (*FIRST, *middle, *LAST) if name in names]


@contextmanager
def jsonl(file: BinaryIO, _columns: Columns) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A line of JSON for each."""

    def add(line: dict[str, Any]) -> None:
        file.write(f"{json.dumps(line, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace"))

    yield add


@contextmanager
def comma_separated(file: BinaryIO, columns: Columns) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A header and a line for each; text that a spreadsheet would take for a formula has a quote in front."""
    names = ordered(columns) or list(FIRST[:3])
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    try:
        writer.writerow(map(_cell, names))
        yield lambda line: writer.writerow([_cell(line.get(name)) for name in names])
    finally:
        text.detach()  # whose file it is closes it


def _cell(value: Any) -> Any:
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value


@contextmanager
def parquet(file: BinaryIO, columns: Columns) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Groups of rows, compressed; lists and objects as JSON text."""
    pa, pq = _pyarrow()
    kinds = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64()}

    def kind(shape: Shape) -> Any:
        return kinds.get(shape, pa.string()) if isinstance(shape, str) else pa.string()

    names = ordered(columns)
    schema = pa.schema([(name, kind(columns.shapes[name])) for name in names], metadata={"writer": "oxenbatch"})
    texts = {name for name in names if schema.field(name).type == pa.string()}
    rows: list[dict[str, Any]] = []
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:

        def flush() -> None:
            if rows:
                arrays = [pa.array([row.get(name) for row in rows], schema.field(name).type) for name in names]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=ROWS_A_GROUP)
                rows.clear()

        def add(line: dict[str, Any]) -> None:
            rows.append({name: _plain(text_of(v)) if name in texts else v for name, v in line.items()})
            if len(rows) == ROWS_A_GROUP:
                flush()

        yield add
        flush()


def _plain(text: str | None) -> str | None:
    """The text without lone surrogates, which no UTF-8 can hold."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - 0.3 s, and an extra
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise UsageProblem("Parquet needs pyarrow: pip install 'oxenbatch[parquet]'") from None
    return pa, pq


def parquet_of(lines: Path, to: Path) -> bool:
    """What the JSON lines hold is in Parquet at `to`, the same bytes for the same lines; False without pyarrow."""
    if find_spec("pyarrow") is None:
        return False
    columns = Columns()
    with lines.open(encoding="utf-8") as text:
        for line in text:
            columns.see(json.loads(line))
    with lines.open(encoding="utf-8") as text, to.open("wb") as file, parquet(file, columns) as add:
        for line in text:
            add(json.loads(line))
    return True


TABLES: Final = {"jsonl": jsonl, "csv": comma_separated, "parquet": parquet}


def is_ours(path: Path) -> bool:
    """Whether the file is such a table of ours, which may be replaced."""
    with path.open("rb") as file:
        head = file.read(64)
    if head[:4] == b"PAR1":
        _, pq = _pyarrow()
        return (pq.read_schema(path).metadata or {}).get(b"writer") == b"oxenbatch"
    return head.startswith((b'{"file_name": ', b"file_name,prompt,model")) or not head
